"""The network on slot vectors: stages, a layout per value, a plan per matrix.

Nothing here knows levels or primes; ``schedule`` adds those, ``lower`` writes the program by
running the kernels over what this holds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pi_compiler.ir.graph import FloatArray, IntArray
from pi_compiler.ir.layout import Layout
from pi_compiler.ir.params import Params
from pi_compiler.ir.stages import Stages


@dataclass(frozen=True, slots=True, eq=False)
class MatVecPlan:
    """How one affine map is evaluated: baby steps, diagonals, giant steps, folds.

    Term k multiplies the source ciphertext rotated by its baby step with one diagonal, sums into
    its giant step's accumulator, which is rotated by the giant step. Afterwards each fold adds
    the vector to its own rotation.

    Attributes:
        sources: stage numbers of the operands.
        terms: (terms, 6) columns: output ciphertext, index into ``sources``, input ciphertext,
            baby step, giant step, diagonal (their sum up to periods). Sorted by output
            ciphertext, then giant step.
        numbers: per term whether its diagonal is one number in all slots that matter; it is encoded as that.
        folds: rotations of the rotate-and-add steps, in order.
        span: factor by which the folds multiply a vector that is periodic already.
        bias: (ciphertexts, period) of the output layout.
    """

    sources: tuple[int, ...]
    terms: IntArray
    numbers: NDArray[np.bool_]
    folds: tuple[int, ...]
    span: int
    bias: FloatArray

    @property
    def plain_products(self) -> int:
        """Number of ciphertext-plaintext products."""
        return len(self.terms)


class Pair(NamedTuple):
    """Two operand ciphertexts, each rotated by its turn, and the rotation of what their product adds to.

    Pairs of a group with the same ``back`` are added first and rotated together.
    """

    left: int
    right: int
    left_turn: int = 0
    right_turn: int = 0
    back: int = 0


@dataclass(frozen=True)
class SumPlan:
    """How a product or a sum over axes is evaluated on slots.

    Attributes:
        groups: per output ciphertext the pairs of operand ciphertexts whose products are added, those of one ``back``
            behind each other; for a sum over axes the pair names one ciphertext twice, and it is added itself.
        steps: rotations of the rotate-and-add steps after that, in order.
    """

    groups: tuple[tuple[Pair, ...], ...]
    steps: tuple[int, ...]

    @cached_property
    def turned(self) -> int:
        """Rotations of operands, each made once."""
        left = {(p.left, p.left_turn) for g in self.groups for p in g if p.left_turn}
        right = {(p.right, p.right_turn) for g in self.groups for p in g if p.right_turn}
        return len(left) + len(right)

    @cached_property
    def parts(self) -> int:
        """Sums of products, each relinearized once."""
        return sum(len({p.back for p in g}) for g in self.groups)

    @property
    def switches(self) -> int:
        """Rotations and relinearizations, without those of ``steps``."""
        return self.turned + self.backs + self.parts

    @cached_property
    def backs(self) -> int:
        """Rotations of sums of products."""
        return sum(len({p.back for p in g if p.back}) for g in self.groups)


@dataclass(frozen=True, slots=True, eq=False)
class Circuit:
    """Stages with layouts and matrix plans.

    Attributes:
        stages: the folded network.
        slots: slots of one sample; a ciphertext has as many for each of a batch.
        layouts: per stage the layout of its value.
        plans: per affine stage its plan.
        sums: per product with axes and per sum over axes its plan.
    """

    stages: Stages
    slots: int
    layouts: tuple[Layout, ...]
    plans: Mapping[int, MatVecPlan]
    sums: Mapping[int, SumPlan] = field(default_factory=dict)

    def batch(self, params: Params) -> int:
        """Samples that one run answers under these parameters."""
        return params.slots // self.slots
