"""The folded network: affine maps and activations on flat vectors, nothing else.

Between two nonlinearities every linear operator and data movement of the graph has been composed
into one sparse affine map, and every activation is in the form its kernel evaluates: a square
``z -> z^2`` or a polynomial on [-1, 1], whose own scaling already sits in the maps around it. All
values are normalized to about [-1, 1] by calibration.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from scipy import sparse

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


Stage: TypeAlias = InputStage | Affine | Square | Polynomial | Product


def sources_of(stage: Stage) -> tuple[int, ...]:
    """Numbers of the stages that a stage reads."""
    match stage:
        case InputStage():
            return ()
        case Affine():
            return stage.sources
        case Product():
            return (stage.left, stage.right)
        case _:
            return (stage.source,)


@dataclass(frozen=True, slots=True, eq=False)
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
        return {name: (values[n] * gain).reshape(-1, *self.stages[n].shape) for name, (n, gain) in self.outputs.items()}
