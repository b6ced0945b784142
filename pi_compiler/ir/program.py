"""What the machine does: a flat, numbered, serialisable list of instructions.

A program is in static single assignment: values 0 .. k-1 are the input ciphertexts, instruction
i defines value k+i. It is backend-neutral: ``clear`` gives its meaning, every other backend
approximates it. Columns of arrays hold the instructions, because a network easily has 10^5.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pi_compiler.ir import batching
from pi_compiler.ir.front import input_shapes
from pi_compiler.ir.graph import FloatArray, Graph, Shape
from pi_compiler.ir.layout import Layout

DEFAULT_PLAINTEXT_MEMORY = 2 << 30
"""Bytes that encoded constants may take if the user does not say."""


class Opcode(enum.IntEnum):
    """The instructions. ``a`` and ``b`` are operands, ``imm`` and ``const`` immediate ones."""

    ADD = 0  # a + b, same level and scale
    SUB = 1  # a - b
    NEG = 2  # -a
    MUL = 3  # a * b, same level; the result has dimension 3 and the product of the scales
    ADD_PLAIN = 4  # a + const, encoded at a's level and scale
    MUL_PLAIN = 5  # a * const, encoded at a's level and plain_scale
    ROTATE = 6  # slot i receives slot i + imm; dimension 2 only
    RELINEARIZE = 7  # dimension 3 -> 2
    RESCALE = 8  # divide by q_level, one level less
    DROP_LEVEL = 9  # level becomes imm, scale stays
    CONJUGATE = 10
    BOOTSTRAP = 11


@dataclass(frozen=True, slots=True)
class Instr:
    """One instruction, for people and for executors."""

    op: Opcode
    a: int
    b: int
    out: int
    imm: int
    const: int
    plain_scale: float
    origin: int


@dataclass(frozen=True, slots=True)
class CtType:
    """Level (counts down to 0), scale and number of polynomials of a ciphertext value."""

    level: int
    scale: float
    dimension: int = 2

    @property
    def log_scale(self) -> float:
        """log2 of the scale."""
        return float(np.log2(self.scale))


@dataclass(frozen=True, slots=True, eq=False)
class Program:
    """Instructions as columns, all of the same length n; k is the number of input values.

    Attributes:
        op: Opcode per instruction.
        a: first operand (value number).
        b: second operand, -1 if none.
        imm: rotation amount or target level, 0 if none.
        const: index into ``consts``, -1 if none.
        plain_scale: scale at which a MUL_PLAIN constant is encoded; 0 otherwise.
        origin: index into ``origins``: the layer that an instruction belongs to.
        level: level of each of the k + n values.
        scale: scale of each of the k + n values.
        dimension: polynomials of each of the k + n values (2, or 3 before relinearization).
        consts: slot vectors of one sample; one of length p stands for its periodic continuation.
        inputs: per network input the numbers of its ciphertexts.
        outputs: per network output the value numbers of its ciphertexts.
        origins: layer names.
        batch: samples that one run answers, see ``batching``; rotations are those of the ciphertext.
    """

    op: NDArray[np.uint8]
    a: NDArray[np.int32]
    b: NDArray[np.int32]
    imm: NDArray[np.int32]
    const: NDArray[np.int32]
    plain_scale: NDArray[np.float64]
    origin: NDArray[np.int32]
    level: NDArray[np.int16]
    scale: NDArray[np.float64]
    dimension: NDArray[np.uint8]
    consts: tuple[NDArray[np.float64] | NDArray[np.float32], ...]
    inputs: Mapping[str, tuple[int, ...]]
    outputs: Mapping[str, tuple[int, ...]]
    origins: tuple[str, ...]
    batch: int = 1

    def __len__(self) -> int:
        return len(self.op)

    @property
    def arity(self) -> int:
        """Number of input values, k."""
        return len(self.level) - len(self.op)

    def type(self, value: int) -> CtType:
        """Level, scale and dimension of a value."""
        return CtType(int(self.level[value]), float(self.scale[value]), int(self.dimension[value]))

    def __iter__(self) -> Iterator[Instr]:
        k = self.arity
        columns = zip(
            self.op.tolist(),
            self.a.tolist(),
            self.b.tolist(),
            self.imm.tolist(),
            self.const.tolist(),
            self.plain_scale.tolist(),
            self.origin.tolist(),
            strict=True,
        )
        for i, (op, a, b, imm, const, plain_scale, origin) in enumerate(columns):
            yield Instr(Opcode(op), a, b, k + i, imm, const, plain_scale, origin)

    def rotations(self) -> frozenset[int]:
        """The distinct rotation amounts: one key each."""
        return frozenset(self.imm[self.op == Opcode.ROTATE].tolist())

    def rotation_levels(self) -> dict[int, int]:
        """Per distinct rotation amount the highest level at which it is used: how large its key has to be."""
        at = np.flatnonzero(self.op == Opcode.ROTATE)
        found: dict[int, int] = {}
        for step, level in zip(self.imm[at].tolist(), self.level[self.a[at]].tolist(), strict=True):
            found[step] = max(level, found.get(step, 0))
        return found

    def period(self, const: int) -> int:
        """Period of a constant in the ciphertext."""
        return batching.real_period(self.consts[const].size, self.batch)

    def slot_values(self, const: int) -> FloatArray:
        """One period of a constant in the ciphertext: what is encoded."""
        return batching.spread(np.asarray(self.consts[const], np.float64), self.batch)

    def count(self, op: Opcode) -> int:
        """How many instructions have this opcode."""
        return int((self.op == op).sum())

    def last_uses(self) -> NDArray[np.int64]:
        """Per value the index of the last instruction that reads it; len(self) for outputs, -1 if unread."""
        last = np.full(len(self.level), -1, np.int64)
        index = np.arange(len(self))
        np.maximum.at(last, self.a, index)
        two = self.b >= 0
        np.maximum.at(last, self.b[two], index[two])
        for values in self.outputs.values():
            last[list(values)] = len(self)
        return last


@dataclass(frozen=True, slots=True)
class Port:
    """One network input or output as the client sees it.

    Attributes:
        layout: where each element sits among the slots of one sample.
        gain: the client multiplies decrypted values by this (outputs), or divides the values
            by it before encryption (inputs).
        level: level of the ciphertexts.
        scale: scale of the ciphertexts.
    """

    layout: Layout
    gain: float
    level: int
    scale: float


@dataclass(frozen=True, slots=True)
class Signature:
    """What goes in and what comes out, by ONNX name.

    Attributes:
        inputs: per network input.
        outputs: per network output.
        client_ops: names of the operators that the client applies to each output after
            decryption, with their attributes (Softmax, ArgMax ...).
        front: what the client computes before encryption: from the model's inputs to ``inputs``; None if these are the
            same.
        batch: samples that one run answers, see ``batching``.
    """

    inputs: Mapping[str, Port]
    outputs: Mapping[str, Port]
    client_ops: Mapping[str, tuple[tuple[str, Mapping[str, object]], ...]]
    front: Graph | None = None
    batch: int = 1

    @property
    def shapes(self) -> dict[str, Shape]:
        """Shape per input of the model, as its user gives it."""
        return {n: p.layout.shape for n, p in self.inputs.items()} if self.front is None else input_shapes(self.front)
