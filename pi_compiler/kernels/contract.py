"""Products of two ciphertexts summed over axes, and sums over axes: additions, then rotate-and-add steps.

A product is relinearized once for all ciphertexts that add into it, and rotated and folded in double scale before it is
rescaled, which keeps rescaling's rounding out of the sums. Turned operands are rotated where they are first needed: the
planner orders groups so that few of them live at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from itertools import groupby

from pi_compiler.ir.circuit import Pair, SumPlan
from pi_compiler.kernels.algebra import Algebra, Value


def contract(alg: Algebra, left: Sequence[Value], right: Sequence[Value], plan: SumPlan, level: int) -> list[Value]:
    """The products of a plan, at ``level``; operands are at ``level + 1`` or above."""
    return [_product(alg, left, right, pairs, plan.steps, level) for pairs in plan.groups]


def _product(
    alg: Algebra, left: Sequence[Value], right: Sequence[Value], pairs: Sequence[Pair], steps: Sequence[int], level: int
) -> Value:
    operands = []
    for p in pairs:
        a = alg.rotated(left[p.left], p.left_turn, level + 1)
        same = left[p.left] is right[p.right] and p.left_turn == p.right_turn
        operands.append((a, a if same else alg.rotated(right[p.right], p.right_turn, level + 1), p.back))
    with ExitStack() as stack:
        if not steps and not any(p.back for p in pairs):
            stack.enter_context(alg.product_sum())
        parts = []
        for back, members in groupby(operands, key=lambda o: o[2]):
            total = alg.relinearize(alg.sum([alg.mul(a, b) for a, b, _ in members]))
            parts.append(alg.rotate(total, back))
        return alg.rescale(folded(alg, alg.sum(parts), steps))


def reduce(alg: Algebra, source: Sequence[Value], plan: SumPlan, level: int) -> list[Value]:
    """The sums of a plan, at ``level``; no level is consumed."""
    lowered = [alg.drop_level(x, level) for x in source]
    results = []
    for pairs in plan.groups:
        parts = [
            alg.rotate(alg.sum([lowered[p.left] for p in members]), back)
            for back, members in groupby(pairs, key=lambda p: p.back)
        ]
        results.append(folded(alg, alg.sum(parts), plan.steps))
    return results


def folded(alg: Algebra, value: Value, steps: Sequence[int]) -> Value:
    """The value after each rotate-and-add step."""
    for step in steps:
        value = alg.add(value, alg.rotate(value, step))
    return value
