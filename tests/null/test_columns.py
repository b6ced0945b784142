"""Products of matrices over any number of ciphertexts: operands are turned, and every term is there once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from pi_compiler.ir.circuit import SumPlan
from pi_compiler.ir.graph import FloatArray
from pi_compiler.ir.layout import Layout, next_power, place
from pi_compiler.ir.stages import Contract, Reduce
from pi_compiler.kernels.algebra import Numbers, Value
from pi_compiler.kernels.contract import contract, reduce
from pi_compiler.kernels.summing import contracted, reduced
from pi_compiler.passes.spaces import columns, projected, pulled


def axes_of(letters: str, sizes: dict[str, int]) -> str:
    return "".join(a for a in letters if sizes[a] > 1)


def product(left: str, right: str, out: str, sizes: dict[str, int]) -> Contract:
    used = {a: n for a, n in sizes.items() if n > 1 and a in left + right}
    names = axes_of(left, sizes), axes_of(right, sizes), axes_of(out, sizes)
    return Contract(0, 1, names, used, tuple(sizes[a] for a in out), "product")


def in_columns(letters: str, sizes: dict[str, int], slots: int, inside: str) -> Layout:
    """The layout of a value with some axes in slots and the others over ciphertexts."""
    axes = axes_of(letters, sizes)
    wanted = f"{axes_of(inside, sizes)} in slots"
    space = next(s for s in columns(axes, sizes, slots) if s.name == wanted)
    found = projected(space, axes, sizes, tuple(sizes[a] for a in letters), slots)
    assert found is not None
    return found


def packed(alg: Numbers, layout: Layout, value: FloatArray, level: int = 1) -> list[Value]:
    return [alg.input(v, level) for v in layout.pack(value)]


def unpacked(alg: Numbers, layout: Layout, values: Sequence[Value]) -> FloatArray:
    full = np.stack([alg.of(v) for v in values])
    if layout.zero:
        there = np.tile(layout.index, (1, layout.slots // layout.period)) >= 0
        assert not full[~there].any()
    return layout.unpack(full)


def every(alg: Numbers, stage: Contract, a: Layout, b: Layout, x: FloatArray, y: FloatArray, exact: FloatArray) -> None:
    """Each way in which two layouts meet gives the exact product."""
    for layout, plan in contracted(stage, a, b):
        assert layout.ciphertexts == len(plan.groups)
        got = unpacked(alg, layout, contract(alg, packed(alg, a, x), packed(alg, b, y), plan, 0))
        np.testing.assert_allclose(got, exact, atol=1e-9)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 3), st.integers(2, 9), st.integers(1, 4), st.booleans())
def test_attention_over_columns_is_numpys(heads: int, tokens: int, size: int, beside: bool) -> None:
    """Scores are diagonals, sums over keys and mixed values need no other layout; tokens may be no power of two."""
    sizes = {"h": heads, "i": tokens, "j": tokens, "k": size}
    inside = "h" if beside and next_power(heads) == heads else ""
    slots = next_power(tokens) * (heads if inside else 1)
    rng = np.random.default_rng(0)
    q, k, v = (rng.normal(size=(heads, tokens, size)) for _ in range(3))
    alg = Numbers((1, 1, 1), 1.0, slots)
    first = in_columns("hik", sizes, slots, "i" + inside)
    second = in_columns("hjk", sizes, slots, "j" + inside)
    scores = q @ k.transpose(0, 2, 1)
    stage = product("hik", "hjk", "hij", sizes)
    ways = contracted(stage, first, second)
    assert ways
    every(alg, stage, first, second, q, k, scores)
    if next_power(tokens) == tokens:
        assert ways[0][0].ciphertexts * slots == scores.size
    mixing = product("hij", "hjk", "hik", sizes)
    summing = Reduce(0, (axes_of("hij", sizes), axes_of("hi", sizes)), sizes, (heads, tokens, 1), "sums")
    scaling = product("hik", "hi", "hik", sizes)
    for layout, _ in ways:
        mixed = contracted(mixing, layout, second)
        assert mixed
        every(alg, mixing, layout, second, scores, v, scores @ v)
        ((sums, plan),) = reduced(summing, layout)
        got = unpacked(alg, sums, reduce(alg, packed(alg, layout, scores), plan, 1))
        np.testing.assert_allclose(got, scores.sum(axis=-1, keepdims=True), atol=1e-9)
        assert contracted(scaling, mixed[0][0], sums)
        every(alg, scaling, mixed[0][0], sums, scores @ v, got, (scores @ v) * got)


def turns(plan: SumPlan) -> tuple[int, int]:
    return plan.turned, plan.backs


def test_turns_are_baby_steps_and_giant_steps() -> None:
    """32 tokens, 2 heads of 8: 3 of 4 giant steps turn queries, 7 of 8 baby steps keys; not 31 turns of every key."""
    sizes = {"h": 2, "i": 32, "j": 32, "k": 8}
    first, second = in_columns("hik", sizes, 32, "i"), in_columns("hjk", sizes, 32, "j")
    layout, plan = contracted(product("hik", "hjk", "hij", sizes), first, second)[0]
    assert (layout.ciphertexts, sum(map(len, plan.groups))) == (64, 512)
    assert turns(plan) == (16 * (3 + 7), 0)
    ((_, sums),) = reduced(Reduce(0, ("hij", "hi"), sizes, (2, 32, 1), "sums"), layout)
    assert turns(sums) == (0, 2 * 3) or turns(sums) == (0, 2 * 7)
    mixed = contracted(product("hij", "hjk", "hik", sizes), layout, second)
    assert min(p.switches for _, p in mixed) <= 16 * (3 + 7) + 16 * 8


def test_a_weight_of_rows_is_not_rotated() -> None:
    """A factor per row meets every column of its head as it is."""
    sizes = {"h": 2, "i": 8, "k": 4}
    rows, factor = in_columns("hik", sizes, 8, "i"), in_columns("hi", sizes, 8, "i")
    layout, plan = contracted(product("hik", "hi", "hik", sizes), rows, factor)[0]
    assert turns(plan) == (0, 0)
    assert not plan.steps
    np.testing.assert_array_equal(layout.index, rows.index)


@pytest.mark.parametrize("slots", [8, 16])
def test_half_empty_layouts_are_not_offered(slots: int) -> None:
    """Columns that leave half of the slots or more cost twice what others do."""
    sizes = {"i": 8, "k": 6}
    for space in columns("ik", sizes, slots):
        count, period = next(iter(space.where.values())).shape
        assert count * slots < 2 * 48
        assert period <= slots


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 6), st.integers(1, 6), st.integers(2, 8), st.booleans(), st.integers(0, 1 << 30))
def test_a_pulled_operand_has_every_element_where_it_is_needed(rows, width, tokens, shared, seed):
    """So the map that reads it rotates nothing: all its diagonals are zero. Weights per token, or for all of them."""
    rng = np.random.default_rng(seed)
    weights = rng.integers(0, 2, (rows, width))
    weights[rng.integers(rows)] = 1
    matrix = sparse.csr_array(sparse.kron(weights, np.ones((tokens, 1)) if shared else sparse.eye_array(tokens)))
    slots = next_power(tokens)
    slot = (np.arange(rows)[:, None] * slots + np.arange(tokens)).ravel()
    result = place((rows, tokens), slots, slot)
    found = pulled(matrix, (width, 1 if shared else tokens), result)
    assert found is not None
    there = np.tile(found.index, (1, slots // found.period))
    for row, column in zip(*matrix.nonzero(), strict=True):
        assert (there[:, row % tokens] == column).any()


def test_operands_with_too_many_places_are_not_pulled():
    """Elements times slots of 256 x 256 scores in whole ciphertexts would take a gigabyte for every candidate."""
    size, slots = 1 << 12, 1 << 13
    few = place((64,), 64, np.arange(64))
    assert pulled(sparse.eye_array(64, format="csr"), (64,), few) is not None
    many = place((size,), slots, np.arange(size), period=slots)
    assert pulled(sparse.eye_array(size, format="csr"), (size,), many) is None
