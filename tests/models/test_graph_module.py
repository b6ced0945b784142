"""Any graph as a torch module and back computes the same."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from null.test_onnx_conformance import cases
from null.test_ops import GENERATORS, batch_of, model_of

from pi_compiler.errors import PiError
from pi_compiler.exporter import export
from pi_compiler.importer import import_model
from pi_compiler.ir.graph import Graph
from pi_compiler.models.training.attention import STEPS
from pi_compiler.models.training.graph_module import GraphModule
from pi_compiler.models.training.operations import FUNCTIONS, MOVEMENTS, OPERATIONS
from pi_compiler.models.zoo import ZOO
from pi_compiler.ops import OPS
from pi_compiler.ops.evaluate import as_batch, evaluate


def check_round_trip(graph: Graph, folder: Path, x: np.ndarray) -> None:
    """Graph, torch, graph, ONNX, graph: all compute the same, in training mode's module too."""
    expected = next(iter(evaluate(graph, {graph.inputs[0].origin: x}).values()))
    scale = max(1.0, float(np.abs(expected).max()))
    module = GraphModule(graph).eval()
    with torch.no_grad():
        found = module(torch.from_numpy(x.astype(np.float32))).numpy()
    np.testing.assert_allclose(found.reshape(expected.shape), expected, rtol=1e-3, atol=2e-5 * scale)
    module.normalize([torch.from_numpy(x.astype(np.float32))])
    back = import_model(export(module.to_graph(), folder / "back.onnx")).graph
    again = next(iter(evaluate(back, {back.inputs[0].origin: x}).values()))
    np.testing.assert_allclose(again.reshape(expected.shape), expected, rtol=1e-3, atol=1e-4 * scale)
    assert GraphModule(back).comparisons == module.comparisons


@pytest.mark.parametrize("name", sorted(n for n, e in ZOO.items() if e.path.is_file()))
def test_every_zoo_model_goes_to_torch_and_back(name: str, tmp_path: Path) -> None:
    graph = import_model(str(ZOO[name].path)).graph
    # Nearly plain images: noise is far from any photograph, and a network of quadratics explodes on it.
    x = 0.4 + 0.1 * np.random.default_rng(0).random((3, *graph.inputs[0].shape[1:]))
    check_round_trip(graph, tmp_path, x)


def test_a_model_from_elsewhere_goes_to_torch_and_back(tmp_path: Path) -> None:
    path = Path(os.environ.get("PI_DATA_DIR", "")) / "weights" / "resnet20_cifar10_pre.onnx"
    if not path.is_file():
        pytest.skip("the published ONNX model is not in PI_DATA_DIR")
    graph = import_model(str(path)).graph
    check_round_trip(graph, tmp_path, np.random.default_rng(0).random((2, *graph.inputs[0].shape[1:])))


@pytest.mark.parametrize("op", sorted(GENERATORS))
@given(data=st.data())
@settings(max_examples=5, deadline=None, suppress_health_check=list(HealthCheck))
def test_every_operator_is_in_torch_what_it_is_in_the_graph(op: str, data: st.DataObject) -> None:
    case = GENERATORS[op](data.draw)
    graph = import_model(model_of(op, case)).graph
    assume(len(graph.inputs) == 1)
    batch = batch_of(case)
    expected = list(evaluate(graph, batch).values())
    x = torch.from_numpy(np.asarray(as_batch(graph.inputs[0], batch[graph.inputs[0].origin]), np.float32))
    with torch.no_grad():
        found = GraphModule(graph).eval().every_output(x)
    for ours, theirs in zip(found, expected, strict=True):
        close = np.isclose(ours.numpy().reshape(theirs.shape), theirs, rtol=1e-3, atol=1e-4)
        assert (close | ~np.isfinite(theirs)).all()


def test_training_knows_every_operator_of_the_compiler() -> None:
    layers = {"Conv", "ConvTranspose", "Gemm", "MatMul", "Affine", "Poly", "Embedding"}
    for_mpc = {"MaxPool", "ReduceMax", "Maximum", "InnerArgMax", "Approximant"}
    assert set(OPS) - layers - set(FUNCTIONS) - set(OPERATIONS) - set(STEPS) - MOVEMENTS == for_mpc


@pytest.mark.slow
def test_onnx_models_of_the_onnx_project_go_to_torch() -> None:
    """Whole small modules exported by others; those that the importer reads with one input and float values."""
    tried, compared = 0, 0
    for case in cases("pytorch-converted"):
        try:
            graph = import_model(case.model).graph
        except PiError:
            continue
        if len(graph.inputs) != 1 or case.inputs[0] is None:
            continue
        tried += 1
        x = np.asarray(case.inputs[0], np.float64).reshape(1, *graph.inputs[0].shape)
        expected = next(iter(evaluate(graph, {graph.inputs[0].origin: x}).values()))
        with torch.no_grad():
            found = GraphModule(graph).eval().every_output(torch.from_numpy(x.astype(np.float32)))[0]
        scale = max(1.0, float(np.abs(expected).max()))
        np.testing.assert_allclose(found.numpy().reshape(expected.shape), expected, rtol=1e-3, atol=1e-4 * scale)
        compared += 1
    assert compared == tried >= 40
