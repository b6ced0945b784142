"""A ``torch.nn.Module`` compiles like the ONNX file that it exports to."""

from __future__ import annotations

import numpy as np
import pytest

from pi_compiler.api import compile
from pi_compiler.errors import ModelError, ParameterError

torch = pytest.importorskip("torch")


def network() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(1, 3, 3, padding=1),
        torch.nn.BatchNorm2d(3),
        torch.nn.Sigmoid(),
        torch.nn.Flatten(),
        torch.nn.Linear(48, 4),
    )


def test_a_module_answers_as_torch_does() -> None:
    module = network().train()
    x = np.random.default_rng(0).normal(size=(50, 1, 4, 4)).astype(np.float32)
    compiled = compile(module, calibration=x, example_input=torch.zeros(2, 1, 4, 4))
    assert module.training, "compiling must not change the module"
    with torch.no_grad():
        wanted = module.eval()(torch.as_tensor(x[:1])).numpy()
    (found,) = compiled.run(x[:1], backend="clear").logits.values()
    np.testing.assert_allclose(found, wanted, atol=0.05)


def test_reports_speak_in_names_of_modules() -> None:
    x = np.random.default_rng(0).normal(size=(50, 1, 4, 4))
    compiled = compile(network(), calibration=x, example_input=np.zeros((1, 1, 4, 4)))
    layers = compiled.report["layers"]
    assert isinstance(layers, list)
    assert "/4/Gemm" in [entry["name"] for entry in layers]


def test_a_module_needs_an_example() -> None:
    with pytest.raises(ParameterError, match="example_input"):
        compile(network(), calibration=np.zeros((4, 1, 4, 4)))


def test_an_example_that_does_not_fit_names_the_module() -> None:
    with pytest.raises(ModelError, match="Sequential"):
        compile(network(), calibration=np.zeros((4, 1, 4, 4)), example_input=np.zeros((1, 7)))


def test_other_objects_are_no_models() -> None:
    with pytest.raises(ModelError, match="dict"):
        compile({}, calibration=np.zeros((4, 4)))  # type: ignore[arg-type]
