"""Products of two ciphertexts summed over axes, and sums over axes: additions, then rotate-and-add steps.

A product is relinearized once for all ciphertexts that add into it, and folded in double scale before it is rescaled,
which keeps rescaling's rounding out of the sums.
"""

from __future__ import annotations

from collections.abc import Sequence

from pi_compiler.ir.circuit import SumPlan
from pi_compiler.kernels.algebra import Algebra, Value


def contract(alg: Algebra, left: Sequence[Value], right: Sequence[Value], plan: SumPlan, level: int) -> list[Value]:
    """The products of a plan, at ``level``; operands are at ``level + 1`` or above."""
    results = []
    for pairs in plan.groups:
        products = []
        for i, j in pairs:
            a, b = alg.drop_level(left[i], level + 1), alg.drop_level(right[j], level + 1)
            products.append(alg.mul(a, a if left[i] is right[j] else b))
        total = folded(alg, alg.relinearize(alg.sum(products)), plan.steps)
        results.append(alg.rescale(total))
    return results


def reduce(alg: Algebra, source: Sequence[Value], plan: SumPlan, level: int) -> list[Value]:
    """The sums of a plan, at ``level``; no level is consumed."""
    lowered = [alg.drop_level(x, level) for x in source]
    return [folded(alg, alg.sum([lowered[i] for i, _ in pairs]), plan.steps) for pairs in plan.groups]


def folded(alg: Algebra, value: Value, steps: Sequence[int]) -> Value:
    """The value after each rotate-and-add step."""
    for step in steps:
        value = alg.add(value, alg.rotate(value, step))
    return value
