"""The folded network: affine maps, activations and products of two values, on flat vectors.

Between two nonlinearities every linear operator and data movement of the graph has been composed
into one sparse affine map, and every activation is in the form its kernel evaluates: a square
``z -> z^2`` or a polynomial on [-1, 1], whose own scaling already sits in the maps around it. All
values are normalized to about [-1, 1] by calibration.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from scipy import sparse

from pi_compiler.approx.formula import FormulaPlan
from pi_compiler.approx.poly import Poly
from pi_compiler.ir.graph import FloatArray, Shape

Matrix: TypeAlias = sparse.csr_array


@dataclass(frozen=True, slots=True, eq=False)
class InputStage:
    """A network input, divided by ``gain`` by the client before encryption."""

    name: str
    shape: Shape
    gain: float
    origin: str


@dataclass(frozen=True, slots=True, eq=False)
class Affine:
    """sum_i matrices[i] @ values[sources[i]] + bias; one level."""

    sources: tuple[int, ...]
    matrices: tuple[Matrix, ...]
    bias: FloatArray
    shape: Shape
    origin: str


@dataclass(frozen=True, slots=True, eq=False)
class Square:
    """Element-wise square; one level."""

    source: int
    shape: Shape
    origin: str


@dataclass(frozen=True, slots=True, eq=False)
class Polynomial:
    """Element-wise polynomial on [-1, 1], the same for every element."""

    source: int
    poly: Poly
    shape: Shape
    origin: str


@dataclass(frozen=True, slots=True, eq=False)
class Product:
    """Element-wise product of two encrypted values; one level."""

    left: int
    right: int
    shape: Shape
    origin: str


@dataclass(frozen=True, slots=True, eq=False)
class Contract:
    """The product of two encrypted values, summed over the axes that the result does not have; one level.

    Axes are letters, as in Einstein's summation: ``("hik", "hkj", "hij")`` is a product of matrices per head, and
    ``("hij", "hi", "hij")`` multiplies rows by a factor. Only axes longer than one have a letter.

    Attributes:
        left: number of the operand whose layout is chosen first.
        right: number of the operand that is laid out to meet it.
        axes: letters of the left operand's axes, the right one's and the result's.
        sizes: length of each axis.
        shape: of the result, with axes of length one.
        origin: the layer.
    """

    left: int
    right: int
    axes: tuple[str, str, str]
    sizes: Mapping[str, int]
    shape: Shape
    origin: str


@dataclass(frozen=True, slots=True, eq=False)
class Reduce:
    """A value summed over some of its axes by rotations alone: no level.

    Attributes:
        source: number of the operand.
        axes: letters of the operand's axes and of the result's, as in ``Contract``.
        sizes: length of each axis.
        shape: of the result.
        origin: the layer.
    """

    source: int
    axes: tuple[str, str]
    sizes: Mapping[str, int]
    shape: Shape
    origin: str


@dataclass(frozen=True, slots=True, eq=False)
class Iterated:
    """An element-wise function that is computed by an iteration: reciprocals and inverse square roots.

    Attributes:
        source: number of the operand, which is the plan's argument.
        plan: what to compute; its ``slope`` and ``gain`` sit in the stages around.
        shape: of the result.
        origin: the layer.
    """

    source: int
    plan: FormulaPlan
    shape: Shape
    origin: str


@dataclass(frozen=True, slots=True, eq=False)
class Refresh:
    """The same value at the highest level again, and zero elsewhere: a bootstrap. No backend has it; plans count it.

    Attributes:
        source: number of the operand.
        level: levels that it leaves.
        shape: of the result.
        origin: the layer.
    """

    source: int
    level: int
    shape: Shape
    origin: str


Stage: TypeAlias = InputStage | Affine | Square | Polynomial | Product | Contract | Reduce | Iterated | Refresh


def sources_of(stage: Stage) -> tuple[int, ...]:
    """Numbers of the stages that a stage reads."""
    match stage:
        case InputStage():
            return ()
        case Affine():
            return stage.sources
        case Product() | Contract():
            return (stage.left, stage.right)
        case _:
            return (stage.source,)


def _axes(value: FloatArray, stage: Contract | Reduce, operand: int) -> FloatArray:
    """A flat value (B, size) with the axes that a stage names."""
    return value.reshape(-1, *(stage.sizes[a] for a in stage.axes[operand]))


def _flat(value: FloatArray) -> FloatArray:
    return value.reshape(len(value), -1)


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Stages:
    """The folded network; stage i defines value i.

    Attributes:
        stages: operands before users.
        outputs: per output name the number of its value and the gain that the client multiplies
            the decrypted value by.
    """

    stages: tuple[Stage, ...]
    outputs: dict[str, tuple[int, float]]

    def consumers(self) -> tuple[tuple[int, ...], ...]:
        """Per value the stages that read it."""
        readers: list[list[int]] = [[] for _ in self.stages]
        for number, stage in enumerate(self.stages):
            for source in dict.fromkeys(sources_of(stage)):
                readers[source].append(number)
        return tuple(tuple(r) for r in readers)

    def evaluate(self, inputs: dict[str, FloatArray]) -> dict[str, FloatArray]:
        """Exact values; the oracle of the slot circuit.

        Args:
            inputs: per input name (B, *shape) or (B, size).

        Returns:
            per output name (B, *shape).
        """
        values: list[FloatArray] = []
        for stage in self.stages:
            match stage:
                case InputStage():
                    x = np.asarray(inputs[stage.name], dtype=np.float64)
                    values.append(x.reshape(x.shape[0], -1) / stage.gain)
                case Affine():
                    total = sum(
                        (m @ values[s].T for s, m in zip(stage.sources, stage.matrices, strict=True)),
                        start=np.zeros((1, 1)),
                    )
                    values.append(np.asarray(total).T + stage.bias)
                case Square():
                    values.append(values[stage.source] ** 2)
                case Polynomial():
                    values.append(stage.poly(values[stage.source]))
                case Product():
                    values.append(values[stage.left] * values[stage.right])
                case Contract():
                    a, b = _axes(values[stage.left], stage, 0), _axes(values[stage.right], stage, 1)
                    left, right, out = stage.axes
                    values.append(_flat(np.einsum(f"Z{left},Z{right}->Z{out}", a, b, optimize=True)))
                case Reduce():
                    x = _axes(values[stage.source], stage, 0)
                    values.append(_flat(np.einsum(f"Z{stage.axes[0]}->Z{stage.axes[1]}", x)))
                case Iterated():
                    values.append(stage.plan.inner(values[stage.source]))
                case Refresh():
                    values.append(values[stage.source])
        return {name: (values[n] * gain).reshape(-1, *self.stages[n].shape) for name, (n, gain) in self.outputs.items()}
