"""Iterations on ciphertexts: walks a formula's plan, each operand waiting for the other.

Products take any scales and keep the exact one; a sum of several values takes one of them as it is and brings the
others to its scale, by a plain product at whatever scale makes them meet.
"""

from __future__ import annotations

from collections.abc import Sequence

from pi_compiler.approx.formula import FormulaPlan, pivot
from pi_compiler.approx.plan import make_plan
from pi_compiler.approx.poly import Apply, Sum, Times
from pi_compiler.errors import InternalError
from pi_compiler.kernels.algebra import Algebra, Value
from pi_compiler.kernels.poly import polynomial


def formula(alg: Algebra, x: Value, plan: FormulaPlan, level: int) -> Value:
    """Evaluate a plan; the result is at ``level``, near the nominal scale.

    Args:
        alg: a reading.
        x: the argument, at ``level + plan.depth`` or above.
        plan: from ``approx.formula.plan_formula``.
        level: level of the result.
    """
    top = level + plan.depth
    values = [alg.drop_level(x, top)]
    for step, depth in zip(plan.inner.steps, plan.depths[1:], strict=True):
        at = top - depth
        match step:
            case Apply(poly, arg):
                values.append(polynomial(alg, values[arg], make_plan(poly), at))
            case Times(left, right):
                a = alg.drop_level(values[left], at + 1)
                b = a if left == right else alg.drop_level(values[right], at + 1)
                values.append(alg.rescale(alg.relinearize(alg.mul(a, b))))
            case Sum():
                values.append(_sum(alg, values, step, plan.depths, at))
    return alg.drop_level(values[-1], level)


def _sum(alg: Algebra, values: Sequence[Value], step: Sum, depths: Sequence[int], at: int) -> Value:
    free = pivot(step.terms, depths)
    total: Value | None = None
    if free is not None:
        factor, index = step.terms[free]
        own = alg.drop_level(values[index], at)
        total = own if factor == 1.0 else alg.neg(own)
    scale = alg.nominal if total is None else total.scale
    for place, (factor, index) in enumerate(step.terms):
        if place == free:
            continue
        raised = alg.drop_level(values[index], at + 1)
        term = alg.rescale(alg.mul_plain(raised, factor, scale * alg.primes[at + 1] / raised.scale))
        total = term if total is None else alg.add(total, term)
    if total is None:
        raise InternalError("a sum without terms has no ciphertext")
    return alg.add_plain(total, step.constant) if step.constant else total
