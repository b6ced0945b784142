"""Fused layers and networks of other widths compute what they should."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("torch")

from networks import Builder

from pi_compiler.errors import ModelError
from pi_compiler.importer import import_model
from pi_compiler.ir.graph import Graph
from pi_compiler.models.training.fusion import fuse_layers, multiplications
from pi_compiler.models.training.methods.reshape import Shape, best_first, shapes
from pi_compiler.models.training.widths import Channels, with_widths
from pi_compiler.models.zoo import model_path
from pi_compiler.ops.evaluate import evaluate


def run(graph: Graph, x: np.ndarray) -> np.ndarray:
    return next(iter(evaluate(graph, {graph.inputs[0].origin: x}).values()))


def test_convolutions_with_nothing_between_them_become_one() -> None:
    b = Builder((1, 3, 9, 9))
    x = b.conv("x", 4, kernel=3, stride=2, pad=1)
    x = b.conv(x, 4, kernel=1, pad=0)
    graph = import_model(b.model(x)).graph
    samples = np.random.default_rng(0).normal(size=(5, 3, 9, 9))
    fused = fuse_layers(graph)
    assert [n.op for n in fused.nodes()] == ["Input", "Conv"]
    np.testing.assert_allclose(run(fused, samples), run(graph, samples), atol=1e-9)
    before = sum(multiplications(n) for n in graph.nodes() if n.op == "Conv")
    assert sum(multiplications(n) for n in fused.nodes() if n.op == "Conv") <= before


def test_strides_and_kernels_compose() -> None:
    b = Builder((1, 2, 12, 11))
    x = b.conv("x", 8, kernel=2, stride=2, pad=0)
    x = b.conv(x, 8, kernel=2, stride=1, pad=0)
    graph = import_model(b.model(x)).graph
    fused = fuse_layers(graph)
    samples = np.random.default_rng(0).normal(size=(5, 2, 12, 11))
    assert [n.op for n in fused.nodes()].count("Conv") == 1
    np.testing.assert_allclose(run(fused, samples), run(graph, samples), atol=1e-9)


def test_a_padded_second_convolution_is_left_alone() -> None:
    b = Builder((1, 3, 8, 8))
    graph = import_model(b.model(b.conv(b.conv("x", 4, kernel=1, pad=0), 4, kernel=3, pad=1))).graph
    assert fuse_layers(graph) is graph


def test_layers_that_others_need_or_that_would_cost_more_are_left_alone() -> None:
    b = Builder((1, 20))
    narrow = b.linear(b.linear("x", 2), 20)
    graph = import_model(b.model(narrow)).graph
    assert fuse_layers(graph) is graph
    b = Builder((1, 6))
    first = b.linear("x", 6)
    graph = import_model(b.model(b.linear(first, 3), first)).graph
    assert fuse_layers(graph) is graph


def test_gemms_multiply() -> None:
    b = Builder((1, 6))
    graph = import_model(b.model(b.linear(b.linear("x", 8), 3))).graph
    fused, samples = fuse_layers(graph), np.random.default_rng(0).normal(size=(5, 6))
    assert [n.op for n in fused.nodes()].count("Gemm") == 1
    np.testing.assert_allclose(run(fused, samples), run(graph, samples), atol=1e-9)


@pytest.mark.parametrize("name", ["digits_cnn", "resnet20", "resnet8_fashion"])
def test_more_channels_are_the_same_function(name: str) -> None:
    graph = import_model(str(model_path(name))).graph
    widths = {leader: n + n // 2 for leader, n in Channels(graph).widths().items()}
    wider = with_widths(graph, widths, seed=0, noise=0.0)
    x = np.random.default_rng(1).random((2, *graph.inputs[0].shape[1:]))
    np.testing.assert_allclose(run(wider, x), run(graph, x), rtol=1e-6, atol=1e-6)
    convs = [n.shape[1] for n in wider.nodes() if n.op == "Conv"]
    assert convs == [n.shape[1] * 3 // 2 for n in graph.nodes() if n.op == "Conv"]


@pytest.mark.parametrize("name", ["digits_cnn", "resnet20", "resnet8_fashion"])
def test_the_same_channels_are_the_same_graph(name: str) -> None:
    graph = import_model(str(model_path(name))).graph
    same = with_widths(graph, Channels(graph).widths(), seed=0)
    x = np.random.default_rng(1).random((2, *graph.inputs[0].shape[1:]))
    np.testing.assert_allclose(run(same, x), run(graph, x), rtol=1e-9, atol=1e-9)


def test_fewer_channels_are_those_with_the_largest_weights() -> None:
    graph = import_model(str(model_path("digits_cnn"))).graph
    first = next(n for n in graph.nodes() if n.op == "Conv")
    channels = Channels(graph)
    made = with_widths(graph, {channels.find(first): 3}, seed=0)
    weight = np.asarray(first.attrs["weight"])
    kept = np.sort(np.argsort(-np.abs(weight).sum((1, 2, 3)))[:3])
    new = next(n for n in made.nodes() if n.op == "Conv")
    np.testing.assert_array_equal(np.asarray(new.attrs["weight"]), weight[kept])
    assert run(made, np.zeros((1, 1, 8, 8))).shape == (1, 1, 10)


def test_outputs_keep_their_channels_and_shortcuts_drop_none() -> None:
    graph = import_model(str(model_path("resnet20"))).graph
    channels = Channels(graph)
    with pytest.raises(ModelError, match="cannot have other channels"):
        with_widths(graph, {channels.find(graph.outputs[0]): 5}, seed=0)
    stem = next(n for n in graph.nodes() if n.op == "Conv")
    with pytest.raises(ModelError, match="shortcut"):
        with_widths(graph, {channels.find(stem): 40}, seed=0)


def test_candidates_keep_both_budgets_and_follow_the_order_of_criticality() -> None:
    graph = import_model(str(model_path("digits_cnn"))).graph
    relus = [n for n in graph.nodes() if n.op == "Relu"]
    total = sum(multiplications(n) for n in graph.nodes() if n.op in ("Conv", "Gemm"))
    found = shapes(graph, [[r.origin] for r in relus], 300, total // 2)
    assert found
    for s in found[::7]:
        made = with_widths(graph, s.widths, seed=0)
        assert sum(s.relus) == sum(n.size for n in made.nodes() if n.op == "Relu") <= 300
        assert s.flops == sum(multiplications(n) for n in made.nodes() if n.op in ("Conv", "Gemm")) <= total // 2
    later = best_first(found, [0.1, 0.2])[0]
    assert later.relus[1] >= later.relus[0]
    two = [Shape((1.0, 1.0), (5, 9), 10, {}), Shape((1.0, 1.0), (9, 5), 99, {})]
    assert best_first(two, [0.1, 0.2])[0] is two[0]
    assert best_first([replace(two[0], flops=11), two[0]], [0.1, 0.2])[0].flops == 11
