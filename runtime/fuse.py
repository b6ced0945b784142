"""Finds matrix products and sums of products in a program, for evaluators that do one in a single call.

A baby-step giant-step product is a tree of additions over rotations (giant steps) of trees of
additions over plaintext products of rotations (baby steps). Nothing is marked in the program: the
pattern is found where every inner value is used once, so any kernel that writes it profits. What
remains is executed instruction by instruction, which is also the oracle for this.

A sum of products is what is relinearized and then rescaled: a tree of sums and differences over products of
ciphertexts, products with constants, and whatever else. So are squares, and the nodes of a polynomial's
evaluation plan. Relinearization and rescaling divide one after the other; in one call they divide once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Protocol, TypeAlias, runtime_checkable

from pi_compiler.ir.graph import FloatArray
from pi_compiler.ir.program import Opcode, Program
from pi_compiler.runtime.backend import Ciphertext, Evaluator, Plaintext

Giant: TypeAlias = tuple[int, Sequence[tuple[Ciphertext, Plaintext]]]
"""A rotation amount, and the products whose sum it rotates."""


_HEAVIEST = 1 << 20
"""Weights that are multiplied out; doubling more often than that is left as it stands."""

_TOGETHER = 32
"""Sums over the same values that are made in one call: reading these weighs little then, and few results wait."""


@runtime_checkable
class LinearEvaluator(Evaluator, Protocol):
    """What an evaluator has besides ``Evaluator`` if it fuses matrix products."""

    def linear_bytes(self, period: int, level: int) -> int:
        """Memory of such a constant with everything done beforehand."""

    def encode_linear(self, values: FloatArray, level: int, scale: float, *, late: bool) -> Plaintext:
        """Encode a constant that ``linear_sum`` multiplies by; ``late``: leave to it what takes memory."""

    def rotate_linear(self, a: Ciphertext, by: int) -> Ciphertext:
        """A rotation that only ``linear_sum`` reads, in the form for constants that are not late."""

    def linear_sum(self, giants: Sequence[Giant]) -> Ciphertext:
        """The sum over all giant steps of the rotated sums of products."""

    def linear_sums(self, values: Sequence[Ciphertext], weights: Sequence[Sequence[Plaintext]]) -> Sequence[Ciphertext]:
        """Per row of weights, which are numbers, the sum of its products with the values."""


Term: TypeAlias = tuple[int, Ciphertext | None, Ciphertext | None, Plaintext | None]
"""A weight, and what it multiplies: a product of two ciphertexts, of one with a constant, or either alone."""


@runtime_checkable
class ProductEvaluator(Evaluator, Protocol):
    """What an evaluator has besides ``Evaluator`` if it fuses sums of products."""

    def product_sum(self, terms: Sequence[Term], scale: float) -> Ciphertext:
        """The sum of the terms, relinearized and rescaled; ``scale`` is the exact one of the result."""


@dataclass(frozen=True, slots=True)
class Addend:
    """One term of a fused sum of products; where there is none of a kind, -1.

    Attributes:
        weight: what it is multiplied by.
        a: a value.
        b: another value, its factor.
        plain: the instruction whose constant multiplies it, or is the term itself.
    """

    weight: int
    a: int
    b: int = -1
    plain: int = -1


@dataclass(frozen=True, slots=True)
class ProductSum:
    """One fused sum of products, at the instruction that rescales it.

    Attributes:
        terms: what is summed.
        covered: the instructions that are not executed by themselves, the root left out.
    """

    terms: tuple[Addend, ...]
    covered: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Sum:
    """One fused matrix product.

    Attributes:
        giants: per giant step its rotation and the MUL_PLAIN instructions that it sums.
        addends: further values, added to the result.
        covered: the instructions that are not executed by themselves, the root left out.
    """

    giants: tuple[tuple[int, tuple[int, ...]], ...]
    addends: tuple[int, ...]
    covered: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Group:
    """Fused matrix products over the same values, with numbers for constants; made together, when the first is due.

    Attributes:
        values: what they multiply.
        roots: their instructions in order.
        products: per root its MUL_PLAIN instructions, in the order of the values.
    """

    values: tuple[int, ...]
    roots: tuple[int, ...]
    products: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Fusion:
    """The matrix products and sums of products of a program.

    Attributes:
        sums: per root instruction what it sums.
        skipped: instructions that a sum stands for.
        babies: rotations that only sums read, and that take another form for them.
        products: MUL_PLAIN instructions inside sums.
        late: whether sums get late constants.
        groups: per root that comes first, the sums that are made with it.
        product_sums: per root instruction, which rescales, what it sums.
    """

    sums: dict[int, Sum]
    skipped: frozenset[int]
    babies: frozenset[int]
    products: frozenset[int]
    late: bool = False
    product_sums: Mapping[int, ProductSum] = field(default_factory=dict)
    groups: Mapping[int, Group] = field(default_factory=dict)

    @cached_property
    def waiting(self) -> frozenset[int]:
        """Roots whose sums were made with an earlier one."""
        return frozenset(root for group in self.groups.values() for root in group.roots[1:])

    def postponed(self) -> Fusion:
        """The same products with late constants.

        Double hoisting multiplies over the special primes too, which saves transforms of baby steps; with
        constants that are made as they are used it would add more transforms than that.
        """
        return replace(self, babies=frozenset(), late=True)

    def reads(self, program: Program, at: int) -> tuple[int, ...]:
        """The values that executing an instruction reads; nothing for a skipped one."""
        if at in self.skipped:
            return ()
        if at in self.sums:
            found = self.sums[at]
            if at in self.waiting:
                return found.addends
            terms = (int(program.a[k]) for _, products in found.giants for k in products)
            return (*terms, *found.addends)
        if at in self.product_sums:
            return tuple(v for t in self.product_sums[at].terms for v in (t.a, t.b) if v >= 0)
        a, b = int(program.a[at]), int(program.b[at])
        return (a,) if b < 0 else (a, b)

    def last_uses(self, program: Program) -> list[int]:
        """Like ``Program.last_uses``, when sums read all their operands at their root."""
        last = [-1] * len(program.level)
        for at in range(len(program)):
            for value in self.reads(program, at):
                last[value] = at
        for values in program.outputs.values():
            for value in values:
                last[value] = len(program)
        return last


NO_FUSION = Fusion({}, frozenset(), frozenset(), frozenset())
"""Every instruction by itself."""


def fuse(program: Program, *, linear: bool = True, products: bool = True) -> Fusion:
    """Find what can be fused, last ones first, so that a root is the top of its tree.

    Args:
        program: where to look.
        linear: find matrix products.
        products: find sums of products.
    """
    finder = _Finder(program)
    sums: dict[int, Sum] = {}
    product_sums: dict[int, ProductSum] = {}
    skipped: set[int] = set()
    for at in reversed(range(len(program))):
        if at in skipped:
            continue
        if products and finder.op[at] == Opcode.RESCALE and (terms := finder.product_sum_at(at)) is not None:
            product_sums[at] = terms
            skipped.update(terms.covered)
        elif linear and finder.op[at] == Opcode.ADD and (found := finder.sum_at(at)) is not None:
            sums[at] = found
            skipped.update(found.covered)
    inside = frozenset(k for found in sums.values() for _, ks in found.giants for k in ks)
    babies = finder.babies(inside)
    groups = finder.groups(sums, babies)
    return Fusion(sums, frozenset(skipped), babies, inside, product_sums=product_sums, groups=groups)


class _Finder:
    def __init__(self, program: Program) -> None:
        self.program, self.first = program, program.arity
        self.op, self.a, self.b = program.op.tolist(), program.a.tolist(), program.b.tolist()
        self.imm, self.dimension = program.imm.tolist(), program.dimension.tolist()
        self.uses = [0] * len(self.dimension)
        for value in (*self.a, *(v for v in self.b if v >= 0), *(v for vs in program.outputs.values() for v in vs)):
            self.uses[value] += 1

    def inner(self, value: int, op: Opcode) -> int | None:
        """The instruction that makes a value of dimension 2 that is read once, if it is of this kind."""
        at = value - self.first
        once = at >= 0 and self.op[at] == op and self.uses[value] == 1 and self.dimension[value] == 2
        return at if once else None

    def leaves(self, values: Sequence[int]) -> tuple[list[int], list[int]]:
        """Below a tree of additions: the values that are no additions themselves; the additions."""
        found, additions, todo = [], [], list(values)
        while todo:
            value = todo.pop()
            at = self.inner(value, Opcode.ADD)
            if at is None:
                found.append(value)
            else:
                additions.append(at)
                todo += (self.a[at], self.b[at])
        return found, additions

    def sum_at(self, root: int) -> Sum | None:
        if self.dimension[self.first + root] != 2:
            return None
        values, covered = self.leaves((self.a[root], self.b[root]))
        giants: dict[int, list[int]] = {}
        addends: list[int] = []
        for value in values:
            if (product := self.inner(value, Opcode.MUL_PLAIN)) is not None:
                giants.setdefault(0, []).append(product)
                covered.append(product)
            elif (rotated := self.giant(value)) is not None:
                giants.setdefault(rotated[0], []).extend(rotated[1])
                covered += rotated[2]
            else:
                addends.append(value)
        if sum(map(len, giants.values())) < 2:
            return None
        return Sum(tuple((step, tuple(ks)) for step, ks in sorted(giants.items())), tuple(addends), tuple(covered))

    def giant(self, value: int) -> tuple[int, list[int], list[int]] | None:
        """A rotated sum of products: the rotation, the products, all instructions."""
        rotation = self.inner(value, Opcode.ROTATE)
        if rotation is None:
            return None
        values, covered = self.leaves((self.a[rotation],))
        products = [self.inner(v, Opcode.MUL_PLAIN) for v in values]
        if any(k is None for k in products):
            return None
        found = [k for k in products if k is not None]
        return self.imm[rotation], found, [rotation, *covered, *found]

    def product_sum_at(self, root: int) -> ProductSum | None:
        """What a rescaling sums, if it divides what was relinearized for it alone."""
        switched = self.inner(self.a[root], Opcode.RELINEARIZE)
        if switched is None:
            return None
        terms: list[Addend] = []
        covered = [switched]
        todo = [(self.a[switched], 1, 1)]  # value, its weight, how often it is read here
        while todo:
            value, weight, reads = todo.pop()
            at = value - self.first
            if at < 0 or self.uses[value] != reads or abs(weight) > _HEAVIEST:
                terms.append(Addend(weight, value))
                continue
            a, b = self.a[at], self.b[at]
            match self.op[at]:
                case Opcode.MUL:
                    terms.append(Addend(weight, a, b))
                case Opcode.MUL_PLAIN if self.dimension[a] == 2:
                    terms.append(Addend(weight, a, plain=at))
                case Opcode.ADD if a == b:
                    todo.append((a, 2 * weight, 2))
                case Opcode.ADD | Opcode.SUB as op:
                    todo += [(a, weight, 1), (b, weight if op == Opcode.ADD else -weight, 1)]
                case Opcode.NEG:
                    todo.append((a, -weight, 1))
                case Opcode.ADD_PLAIN:
                    terms.append(Addend(weight, -1, plain=at))
                    todo.append((a, weight, 1))
                case _:
                    terms.append(Addend(weight, value))
                    continue
            covered.append(at)
        return ProductSum(tuple(terms), tuple(covered))

    def babies(self, products: frozenset[int]) -> frozenset[int]:
        """Rotations that nothing but these products reads."""
        read = [0] * len(self.uses)
        for k in products:
            read[self.a[k]] += 1
        at = range(len(self.op))
        return frozenset(
            i for i in at if self.op[i] == Opcode.ROTATE and self.uses[self.first + i] == read[self.first + i] > 0
        )

    def groups(self, sums: Mapping[int, Sum], babies: frozenset[int]) -> dict[int, Group]:
        """Sums of unrotated products with numbers over the same values, some at a time."""
        found: dict[tuple[int, ...], list[tuple[int, tuple[int, ...]]]] = {}
        for root in sorted(sums):
            if len(sums[root].giants) > 1 or sums[root].giants[0][0] != 0:
                continue
            products = tuple(sorted(sums[root].giants[0][1], key=lambda k: self.a[k]))
            values = tuple(self.a[k] for k in products)
            numbers = all(self.program.consts[self.program.const[k]].size == 1 for k in products)
            if numbers and not any(v - self.first in babies for v in values):
                found.setdefault(values, []).append((root, products))
        groups = {}
        for values, members in found.items():
            for at in range(0, len(members), _TOGETHER):
                roots, parts = zip(*members[at : at + _TOGETHER], strict=True)
                if len(roots) > 1:
                    groups[roots[0]] = Group(values, roots, parts)
        return groups
