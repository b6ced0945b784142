"""Chains of layers and scales without an activation between them: equal when fused, untouched where that is inexact."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("torch")

from pi_compiler.ir.graph import Graph, Node
from pi_compiler.models.training.fusion import fuse_layers
from pi_compiler.ops.evaluate import evaluate

RANDOM = np.random.default_rng(0)


def conv(x: Node, out: int, kernel: int = 1, stride: int = 1, pad: int = 0, dilation: int = 1, group: int = 1) -> Node:
    size = [(n + 2 * pad - (kernel - 1) * dilation - 1) // stride + 1 for n in x.shape[2:]]
    attrs = {
        "weight": RANDOM.normal(size=(out, x.shape[1] // group, kernel, kernel)),
        "bias": RANDOM.normal(size=out),
        "strides": (stride, stride),
        "dilations": (dilation, dilation),
        "pads": (pad,) * 4,
        "group": group,
    }
    return Node("Conv", (x,), (1, out, *size), attrs, f"conv{out}")


def affine(x: Node, *shape: int) -> Node:
    attrs = {"scale": RANDOM.normal(size=shape), "shift": RANDOM.normal(size=shape)}
    return Node("Affine", (x,), x.shape, attrs, "affine")


def gemm(x: Node, out: int) -> Node:
    attrs = {"weight": RANDOM.normal(size=(x.shape[1], out)), "bias": RANDOM.normal(size=out)}
    return Node("Gemm", (x,), (1, out), attrs, f"gemm{out}")


def source(*shape: int) -> Node:
    return Node("Input", (), shape, {}, "x")


def check(y: Node, ops: list[str] | None = None) -> None:
    x = next(n for n in Graph((), (y,), ("y",)).nodes() if n.op == "Input")
    before = Graph((x,), (y,), ("y",))
    after = fuse_layers(before)
    if ops is not None:
        assert [n.op for n in after.nodes()] == ["Input", *ops]
    samples = RANDOM.normal(size=(3, *x.shape))
    wanted, found = (evaluate(g, {"x": samples})["y"] for g in (before, after))
    np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-9)


geometry = st.tuples(st.integers(1, 3), st.integers(1, 2), st.integers(0, 2), st.integers(1, 2))


@given(geometry, st.tuples(st.integers(1, 3), st.integers(1, 2), st.integers(1, 2)), st.integers(15, 17))
@settings(max_examples=40, deadline=None)
def test_kernels_strides_and_dilations_compose(
    first: tuple[int, int, int, int], second: tuple[int, int, int], size: int
) -> None:
    kernel, stride, pad, dilation = first
    # Many channels between few: the fused layer is always cheaper.
    y = conv(source(1, 2, size, size), 30, kernel, stride, pad, dilation)
    check(conv(y, 2, second[0], second[1], 0, second[2]), ["Conv"])


def test_a_chain_with_scales_is_one_convolution() -> None:
    y = conv(affine(conv(source(1, 2, 8, 8), 6, 3, pad=1), 6, 1, 1), 4)
    check(affine(conv(y, 2), 1, 2, 1, 1), ["Conv"])


def test_a_chain_of_matrix_products_and_scales_is_one() -> None:
    check(affine(gemm(affine(gemm(source(1, 5), 7), 7), 3), 1, 3), ["Gemm"])


def test_a_scale_before_a_layer_goes_into_it() -> None:
    check(conv(affine(source(1, 2, 6, 6), 2, 1, 1), 3, 3), ["Conv"])


def test_a_scale_behind_a_grouped_convolution_goes_into_it() -> None:
    check(affine(conv(source(1, 4, 6, 6), 4, 3, group=2), 4, 1, 1), ["Conv"])


@pytest.mark.parametrize(
    ("second", "ops"),
    [
        (lambda y: affine(y, 4, 6, 6), ["Conv", "Affine"]),
        (lambda y: affine(y, 6), ["Conv", "Affine"]),
        (lambda y: conv(Node("Relu", (y,), y.shape), 2), ["Conv", "Relu", "Conv"]),
        (lambda y: conv(y, 4, 1, group=2), ["Conv", "Conv"]),
    ],
    ids=["scales of elements", "scales of columns", "an activation between", "groups"],
)
def test_what_cannot_be_fused_exactly_stays(second: Callable[[Node], Node], ops: list[str]) -> None:
    check(second(conv(source(1, 2, 6, 6), 4)), ops)


def test_a_shift_before_padding_stays() -> None:
    check(conv(affine(source(1, 2, 6, 6), 2, 1, 1), 3, 3, pad=1), ["Affine", "Conv"])
