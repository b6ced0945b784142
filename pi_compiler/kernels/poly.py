"""Polynomials on ciphertexts: walks an evaluation plan with exact scales.

Every addition meets equal scales by construction: a wanted scale is passed down the tree, and
the plain products at the leaves are encoded at whatever scale makes it come out (Bossuat,
Mouchet, Troncoso-Pastoriza and Hubaux, EUROCRYPT 2021, section 3). Sums are formed in double
scale, rescaled and relinearized once.
"""

from __future__ import annotations

from pi_compiler.approx.plan import EvalPlan, Leaf, Split
from pi_compiler.errors import InternalError
from pi_compiler.kernels.algebra import Algebra, Value


def polynomial(alg: Algebra, x: Value, plan: EvalPlan, level: int) -> Value:
    """Evaluate a plan; the result is at ``level``, at the nominal scale unless the plan adds a basis element.

    Args:
        alg: a reading.
        x: the argument, already mapped to [-1, 1] for the Chebyshev basis, at ``level + plan.depth`` or above.
        plan: from ``approx.plan.make_plan``, with ``scale`` 1.
        level: level of the result.
    """
    walk = _Walk(alg, x, plan, level)
    if plan.root is None and plan.unit is None:
        raise InternalError("a polynomial that is zero has no ciphertext")
    if plan.unit is None:
        return walk.finish(_node(plan.root), level, alg.nominal)
    top = alg.drop_level(walk.basis[plan.unit], level)
    if plan.root is None:
        return top
    if isinstance(plan.root, Leaf) and not plan.root.terms:
        return alg.add_plain(top, plan.root.constant)
    return alg.add(walk.finish(plan.root, level, top.scale), top)


def _node(root: Split | Leaf | None) -> Split | Leaf:
    if root is None or (isinstance(root, Leaf) and not root.terms):
        raise InternalError("a constant polynomial has no ciphertext")
    return root


class _Walk:
    def __init__(self, alg: Algebra, x: Value, plan: EvalPlan, level: int) -> None:
        self.alg = alg
        self.basis: dict[int, Value] = {1: alg.drop_level(x, level + plan.depth)}
        top = level + plan.depth
        for step in plan.steps:
            self.basis[step.index] = self.product(step.left, step.right, top - step.depth + 1, plan.basis)

    def product(self, left: int, right: int, level: int, basis: str) -> Value:
        """B_(left + right) from its parts, at ``level - 1``."""
        alg = self.alg
        with alg.product_sum():
            return alg.rescale(alg.relinearize(self._product(left, right, level, basis)))

    def _product(self, left: int, right: int, level: int, basis: str) -> Value:
        alg = self.alg
        a = alg.drop_level(self.basis[left], level)
        b = a if left == right else alg.drop_level(self.basis[right], level)
        value = alg.mul(a, b)
        if basis == "chebyshev":
            value = alg.add(value, value)
            if left == right:
                value = alg.add_plain(value, -1.0)
            else:
                rest = alg.drop_level(self.basis[left - right], level)
                value = alg.sub(value, alg.mul_plain(rest, 1.0, value.scale / rest.scale))
        return value

    def finish(self, node: Split | Leaf, level: int, scale: float) -> Value:
        """The node's value at a level and scale, rescaled and relinearized."""
        with self.alg.product_sum():
            raised = self.raised(node, level + 1, scale * self.alg.primes[level + 1])
            return self.alg.rescale(self.alg.relinearize(raised))

    def raised(self, node: Split | Leaf, level: int, scale: float) -> Value:
        """The node's value in double scale, before rescaling."""
        alg = self.alg
        if isinstance(node, Leaf):
            terms = []
            for index, c in node.terms:
                b = alg.drop_level(self.basis[index], level)
                terms.append(alg.mul_plain(b, c, scale / b.scale))
            total = alg.sum(terms)
            return alg.add_plain(total, node.constant) if node.constant else total
        giant = alg.drop_level(self.basis[node.index], level)
        if isinstance(node.high, Leaf) and not node.high.terms:
            total = alg.mul_plain(giant, node.high.constant, scale / giant.scale)
        else:
            total = alg.mul(self.finish(node.high, level, scale / giant.scale), giant)
        if node.low is None:
            return total
        if isinstance(node.low, Leaf) and not node.low.terms:
            return alg.add_plain(total, node.low.constant)
        return alg.add(total, self.raised(node.low, level, scale))
