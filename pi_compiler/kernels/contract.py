"""Products of two ciphertexts summed over axes, and sums over axes: additions, then rotate-and-add steps.

A product is relinearized once for all ciphertexts that add into it, and folded in double scale before it is rescaled,
which keeps rescaling's rounding out of the sums. Where parts of a sum are rotated back before they are added, each is
rescaled first: they are few, and a sum of products that is rescaled is one call. Turned operands are rotated where they
are first needed: the planner orders groups so that few of them live at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from pi_compiler.ir.circuit import Pair, SumPlan
from pi_compiler.kernels.algebra import Algebra, Value


def contract(alg: Algebra, left: Sequence[Value], right: Sequence[Value], plan: SumPlan, level: int) -> list[Value]:
    """The products of a plan, at ``level``; operands are at ``level + 1`` or above."""
    lefts = [alg.drop_level(x, level + 1) for x in left]
    rights = lefts if left is right else [alg.drop_level(x, level + 1) for x in right]
    results = []
    for pairs in plan.groups:
        parts = []
        for back, members in groupby(pairs, key=lambda p: p.back):
            operands = [_operands(alg, lefts, rights, p) for p in members]
            if plan.steps:
                total = folded(alg, alg.relinearize(alg.sum([alg.mul(a, b) for a, b in operands])), plan.steps)
                part = alg.rescale(total)
            else:
                with alg.product_sum():
                    part = alg.rescale(alg.relinearize(alg.sum([alg.mul(a, b) for a, b in operands])))
            parts.append(alg.rotate(part, back))
        results.append(alg.sum(parts))
    return results


def _operands(alg: Algebra, left: Sequence[Value], right: Sequence[Value], pair: Pair) -> tuple[Value, Value]:
    a = alg.rotated(left[pair.left], pair.left_turn, left[pair.left].level)
    if left[pair.left] is right[pair.right] and pair.left_turn == pair.right_turn:
        return a, a
    return a, alg.rotated(right[pair.right], pair.right_turn, right[pair.right].level)


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
