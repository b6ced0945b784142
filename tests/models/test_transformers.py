"""A transformer's parts exchanged while it is trained: the same function in torch, in the graph and in ONNX."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pi_compiler.errors import ParameterError
from pi_compiler.exporter import export
from pi_compiler.importer import import_model
from pi_compiler.models.data import Dataset, load
from pi_compiler.models.training.attention import Normalization, Softmax
from pi_compiler.models.training.engine import Settings
from pi_compiler.models.training.export import export_onnx
from pi_compiler.models.training.graph_module import GraphModule
from pi_compiler.models.training.transformers import ATTENTION, Bands, Plan, exchange
from pi_compiler.models.zoo import model_path
from pi_compiler.models.zoo.digits_vit import build
from pi_compiler.ops.evaluate import evaluate

ONE = Settings(1, 32, "adamw", 1e-3, clip_norm=1.0, distill=1.0)


@pytest.fixture(scope="module")
def vit(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("vit") / "vit.onnx"
    export_onnx(build(), (1, 8, 8), path)
    return import_model(path).graph


def few(count: int) -> Dataset:
    data = load("digits", "train")
    return replace(data, x=data.x[:count], y=data.y[:count])


def outputs(graph, x):
    return next(iter(evaluate(graph, {"x": x}).values())).reshape(len(x), -1)


def test_untouched_it_computes_what_it_did(vit):
    x = few(5).x
    with torch.no_grad():
        found = GraphModule(vit).eval()(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(found.reshape(5, -1), outputs(vit, x), atol=1e-4)


@pytest.mark.parametrize(
    ("attention", "norms", "degree"),
    [
        ("power2", "batch", 2),
        ("power4", "none", 3),
        ("power6", "layer", 0),
        ("2quad", "batch", 2),
        ("cgf", "batch", 2),
        ("quadratic", "none", 2),
    ],
)
def test_what_training_sees_is_what_is_written(vit, attention, norms, degree, tmp_path: Path):
    """In torch, as a graph, and read back from ONNX; what was exchanged is gone from the graph."""
    data, module = few(64), GraphModule(vit)
    plan = Plan(ONE, attention, norms, degree)
    stages = exchange(module, plan, data, data, teacher=GraphModule(vit), seed=0)
    assert [s.kind for s in stages] == ["attention", "norms", "activations"]
    graph = module.to_graph()
    kinds = {n.op for n in graph.nodes()}
    assert "InnerSoftmax" not in kinds
    assert ("LayerNorm" in kinds) == (norms == "layer")
    assert ("Gelu" in kinds) == (degree == 0)
    with torch.no_grad():
        found = module.eval()(torch.from_numpy(data.x[:8])).numpy().reshape(8, -1)
    scale = np.abs(found).max()
    np.testing.assert_allclose(outputs(graph, data.x[:8]), found, atol=1e-4 * scale)
    export(graph, tmp_path / "vit.onnx")
    np.testing.assert_allclose(outputs(import_model(tmp_path / "vit.onnx").graph, data.x[:8]), found, atol=1e-4 * scale)


@pytest.mark.parametrize(("power", "size"), [(2, 1.0), (6, 1e3), (6, 1e7)])
def test_the_stable_form_is_the_written_one_without_overflow(vit, power, size):
    """The sixth power of 1e7 is beyond float32; divided by the row's largest score first, nothing overflows."""
    module = GraphModule(vit)
    step = next(s for s in module.order if isinstance(s, Softmax))
    plan = Plan(ONE, f"power{power}")
    x = torch.from_numpy(np.random.default_rng(0).normal(size=(2, *step.node.shape)).astype(np.float32) * size)
    form = ATTENTION[plan.attention](step.node)
    found = form(x).numpy()
    exact = x.double().numpy() ** power
    exact = exact / (exact.mean(-1, keepdims=True) + 1e-2) / x.shape[-1]
    np.testing.assert_allclose(found, exact, rtol=1e-4, atol=1e-7)


def test_variances_outside_their_band_are_penalized_and_inside_are_not(vit):
    module = GraphModule(vit).train()
    x = torch.from_numpy(few(16).x)
    module(x)
    variances = torch.cat([s.variance.flatten() for s in module.order if isinstance(s, Normalization)])
    low, high = float(variances.min()), float(variances.max())
    wide = Bands(1e6, (1e-9, 1e9), (0.5 * low, 2.0 * high))
    narrow = Bands(1e6, (1e-9, 1e9), (2.0 * high, 4.0 * high))
    logits = torch.zeros(16, 10)
    assert float(wide.penalty(module, x, x, logits)) == 0.0
    loss = narrow.penalty(module, x, x, logits)
    loss.backward()
    assert float(loss) > 0.0
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in module.parameters())


def test_plans_that_cannot_be_followed_say_all_that_is_wrong():
    with pytest.raises(ParameterError, match=r"(?s)power3.*layers.*degree 1"):
        Plan(ONE, "power3", "layers", 1)


def test_a_network_without_attention_is_sent_elsewhere():
    module, data = GraphModule(import_model(model_path("digits_gelu")).graph), few(64)
    with pytest.raises(ParameterError, match="neither attention nor layer normalization"):
        exchange(module, Plan(ONE), data, data, teacher=None, seed=0)
