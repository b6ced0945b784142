"""Any graph as a torch module and back; ReLU counts of the architectures that papers speak of."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from null.test_onnx_conformance import cases
from null.test_ops import GENERATORS, batch_of, model_of
from torch import nn

from pi_compiler.errors import PiError
from pi_compiler.exporter import export
from pi_compiler.importer import import_model
from pi_compiler.ir.graph import Graph
from pi_compiler.models.training.export import export_onnx
from pi_compiler.models.training.graph_module import GraphModule
from pi_compiler.models.training.operations import FUNCTIONS, OPERATIONS
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
    check_round_trip(graph, tmp_path, np.random.default_rng(0).random((3, *graph.inputs[0].shape[1:])))


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
    layers = {"Conv", "ConvTranspose", "Gemm", "MatMul", "Affine", "Poly"}
    # Everything else becomes one gather, which only data movement is.
    assert set(OPS) - layers - set(FUNCTIONS) - set(OPERATIONS) == {"Slice", "Gather", "Concat", "Expand"}


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


class Block(nn.Module):
    """A basic residual block with convolution shortcuts; activations as many as the papers count."""

    def __init__(self, before: int, channels: int, stride: int, first: bool = False) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, channels, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.shortcut = nn.Identity() if (before, stride) == (channels, 1) else nn.Conv2d(before, channels, 1, stride)
        self.first = nn.ReLU() if first else nn.Identity()
        self.relu1, self.relu2 = nn.ReLU(), nn.Identity() if first else nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        y: torch.Tensor = self.relu2(self.conv2(self.relu1(self.conv1(x))) + self.shortcut(x))
        return y


def resnet(widths: tuple[int, ...], blocks: tuple[int, ...], stem: bool, preact: bool = False) -> nn.Module:
    layers: list[nn.Module] = [nn.Conv2d(3, 16 if preact else widths[0], 3, 1, 1, bias=False)]
    layers += [nn.ReLU()] if stem else []
    before = 16 if preact else widths[0]
    for stage, (width, count) in enumerate(zip(widths, blocks, strict=True)):
        for i in range(count):
            layers.append(Block(before, width, 2 if stage and not i else 1, preact))
            before = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, 10))


def vgg16() -> nn.Module:
    """Average pooling in the maximum's place; two hidden layers of 4,096 as in the original."""
    layers: list[nn.Module] = []
    before = 3
    for width, count in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(count):
            layers += [nn.Conv2d(before, width, 3, 1, 1), nn.ReLU()]
            before = width
        layers.append(nn.AvgPool2d(2))
    layers += [nn.Flatten(), nn.Linear(512, 4096), nn.ReLU(), nn.Linear(4096, 4096), nn.ReLU(), nn.Linear(4096, 10)]
    return nn.Sequential(*layers)


@pytest.mark.parametrize(
    ("build", "count"),
    [
        (lambda: resnet((64, 128, 256, 512), (2, 2, 2, 2), stem=False), 491_520),
        (lambda: resnet((64, 128, 256, 512), (2, 2, 2, 2), stem=True), 557_056),
        (lambda: resnet((16, 32, 64), (3, 3, 3), stem=True), 188_416),
        (lambda: resnet((16, 32, 64), (5, 5, 5), stem=True), 303_104),
        pytest.param(
            lambda: resnet((128, 256, 512), (3, 3, 3), stem=False, preact=True), 1_359_872, marks=pytest.mark.slow
        ),
        pytest.param(vgg16, 284_672, marks=pytest.mark.slow),
    ],
    ids=["resnet18-without-stem", "resnet18", "resnet20", "resnet32", "wrn-22-8", "vgg16"],
)
def test_relus_are_counted_as_the_papers_count_them(build: Callable[[], nn.Module], count: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    export_onnx(build(), (3, 32, 32), tmp_path / "network.onnx")
    graph = import_model(str(tmp_path / "network.onnx")).graph
    assert GraphModule(graph).comparisons == count
    assert sum(n.size for n in graph.nodes() if n.op == "Relu") == count
