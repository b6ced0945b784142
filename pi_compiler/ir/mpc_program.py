"""What the parties do under secure multi-party computation: opcodes on tensors of additive shares.

A program is backend-neutral and in static single assignment: instruction i defines value i, operands are
earlier values. A value is a tensor of elements of the ring Z_2^64 (two's complement, sums and products
wrap around) that the parties hold in shares; with ``frac`` fractional bits the ring element r means the
number r / 2^frac. Shapes are those of one sample, ONNX's batch dimension included; an executor may put
dimensions in front. Nobody learns anything but what REVEAL hands out; opcodes, shapes, indices and
``"public"`` constants are known to all parties.

Every opcode, exactly. x, y are operands, W = constant ``weight``, b = constant ``bias`` (at ``frac`` of the
result, broadcast, added by whoever owns it, always local; missing: 0).

=========  =====================================================================================  ==============
opcode     result                                                                                  frac of result
=========  =====================================================================================  ==============
INPUT      the port's tensor, round(value 2^frac), shared by its owner                             as given
CONV       conv(x, W) + b; x (N, C, *spatial), W (O, C/group, *kernel), attributes strides,        x + W
           pads (all in front, then all behind), dilations, group; ONNX's meaning, zero padding
MATMUL     x @ W + b, numpy's matmul: x (..., m, K) or (K,), W (K, n) or (stack..., K, n)          x + W
SCALE      W * x + b element by element, W and b broadcast to x; without W just x + b              x + W
DOT        x @ y of two shared values, numpy's matmul, ranks at least 2                            x + y
ADD, SUB   x + y, x - y; equal shapes and frac                                                     x
MUL        x * y element by element, numpy broadcasting between x and y                            x + y
SQUARE     x * x element by element                                                                2 x
TRUNCATE   x / 2^bits, attribute bits; off by at most one unit; see below                          x - bits
LTZ        1 where x < 0, else 0: the sign bit of the ring element; attribute low, see below       0
GATHER     result.flat[i] = concatenation of all flattened operands [index[i]], 0 where the        x
           index is -1; ``index`` is public; covers every data movement, scatter (inverse index),
           stacking and splitting; without ``index`` a reshape of its only operand
SUM        sum over the attribute axes (counted in x's shape), reshaped to the result's shape      x
REVEAL     x as numbers, to the party in attribute to (a party number)                             x
=========  =====================================================================================  ==============

A linear opcode (CONV, MATMUL, SCALE) with a ``"public"`` weight is local. With a weight owned by
``"model"`` it is a product of shares; the weight's mask is opened once at set-up and serves every run, so
that a run sends the mask of x only. A bit (frac 0) times a value (frac f) keeps f and needs no truncation:
that is how values are selected.

TRUNCATE of two-party shares is local: each party divides its own share, as a signed number, and rounds
towards zero. The result is off by at most one unit, except with probability |x| / 2^64 (|x| the ring
element's size), when it is off by 2^(64 - bits). Protocols that truncate interactively have the first
error only. LTZ with low = k > 0 may compare shares without their lowest k bits: then 0 <= x < 2^k is taken
for negative with probability (2^k - x) / 2^k (Ghodsi et al., Circa, 2021, section 4).

Independent comparisons and products are stacked into one instruction by the compiler, so that rounds
simply add up over instructions.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from types import MappingProxyType
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pi_compiler.errors import InternalError
from pi_compiler.ir.front import input_shapes
from pi_compiler.ir.graph import FloatArray, Graph, Shape

Ring: TypeAlias = NDArray[np.int64]
Index: TypeAlias = NDArray[np.int32] | NDArray[np.int64]
Owner: TypeAlias = Literal["public", "model", "data"]
Attrs: TypeAlias = Mapping[str, tuple[int, ...]]

MODEL_PARTY, DATA_PARTY = 0, 1
"""Party numbers: who owns the weights, and who owns inputs and answers."""

_NO_ATTRS: Attrs = MappingProxyType({})


class MpcOp(enum.StrEnum):
    """The opcodes; their exact meaning is in the module's text."""

    INPUT = "input"
    CONV = "conv"
    MATMUL = "matmul"
    SCALE = "scale"
    DOT = "dot"
    ADD = "add"
    SUB = "sub"
    MUL = "mul"
    SQUARE = "square"
    TRUNCATE = "truncate"
    LTZ = "ltz"
    GATHER = "gather"
    SUM = "sum"
    REVEAL = "reveal"


LINEAR = frozenset({MpcOp.CONV, MpcOp.MATMUL, MpcOp.SCALE})
"""Opcodes with a constant weight."""


@dataclass(frozen=True, slots=True, eq=False)
class MpcConst:
    """A constant tensor of ring elements, ``values / 2^frac``.

    Attributes:
        values: int64.
        frac: fractional bits.
        owner: ``"public"``, or ``"model"``: known to the model's owner only.
    """

    values: Ring
    frac: int
    owner: Owner

    @property
    def numbers(self) -> FloatArray:
        """The constant as numbers."""
        return np.ldexp(self.values.astype(np.float64), -self.frac)


@dataclass(frozen=True, slots=True, eq=False)
class MpcInstr:
    """One instruction.

    Attributes:
        op: opcode.
        args: value numbers of the operands.
        shape: of the result, one sample.
        frac: fractional bits of the result.
        origin: index into ``MpcProgram.origins``: the layer.
        weight: index into ``consts``, -1 if none.
        bias: index into ``consts``, -1 if none.
        index: index into ``indices`` (GATHER), -1 if none.
        attrs: what the opcode's line in the module's text names.
    """

    op: MpcOp
    args: tuple[int, ...]
    shape: Shape
    frac: int
    origin: int
    weight: int = -1
    bias: int = -1
    index: int = -1
    attrs: Attrs = field(default_factory=lambda: _NO_ATTRS)

    @property
    def size(self) -> int:
        """Elements of the result, one sample."""
        return prod(self.shape)


@dataclass(frozen=True, slots=True, eq=False)
class MpcPort:
    """A network input or output as its owner sees it.

    Attributes:
        value: number of its INPUT or REVEAL instruction.
        shape: of one sample, as the user gives or gets it.
        owner: whose data it is.
        classes: inputs only: more than 0 if the owner gives class numbers (tokens) and shares their
            one-hot rows, so that the instruction's shape is (*shape, classes).
    """

    value: int
    shape: Shape
    owner: Owner = "data"
    classes: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class MpcProgram:
    """What the parties do.

    Attributes:
        instrs: instruction i defines value i.
        consts: weights, biases, factors.
        indices: public index vectors of GATHER.
        inputs: by ONNX name.
        outputs: by ONNX name; their values are REVEAL instructions.
        origins: layer names.
        protocol: the protocol that the plan was made for, a key of ``cost_mpc.PROTOCOLS``.
        client_ops: per output what its owner applies in clear after the reveal, see ``ir.client_ops``.
        front: what the owner of the inputs computes in clear before sharing, from the model's inputs to ``inputs``;
            None if these are the same.
    """

    instrs: tuple[MpcInstr, ...]
    consts: tuple[MpcConst, ...]
    indices: tuple[Index, ...]
    inputs: Mapping[str, MpcPort]
    outputs: Mapping[str, MpcPort]
    origins: tuple[str, ...]
    protocol: str
    client_ops: Mapping[str, tuple[tuple[str, Mapping[str, object]], ...]] = field(default_factory=dict)
    front: Graph | None = None

    @property
    def shapes(self) -> dict[str, Shape]:
        """Shape per input of the model, as its user gives it."""
        return {n: p.shape for n, p in self.inputs.items()} if self.front is None else input_shapes(self.front)

    def __len__(self) -> int:
        return len(self.instrs)

    def last_uses(self) -> list[int]:
        """Per value the last instruction that reads it; len(self) for outputs, -1 if unread."""
        last = [-1] * len(self.instrs)
        for number, instr in enumerate(self.instrs):
            for value in instr.args:
                last[value] = number
        for port in self.outputs.values():
            last[port.value] = len(self.instrs)
        return last

    def private_weight(self, instr: MpcInstr) -> MpcConst | None:
        """The weight of a linear instruction if only the model's owner knows it."""
        if instr.op not in LINEAR or instr.weight < 0:
            return None
        weight = self.consts[instr.weight]
        return weight if weight.owner == "model" else None


def encode(values: ArrayLike, frac: int) -> Ring:
    """Numbers as ring elements, rounded to the nearest multiple of 2^-frac.

    Raises:
        InternalError: a number is beyond the ring; range analysis has to refuse it earlier.
    """
    scaled = np.ldexp(np.asarray(values, dtype=np.float64), frac)
    if not (np.abs(scaled) < 2.0**63).all():
        raise InternalError(
            f"numbers up to {np.abs(values).max():g} do not fit into 64 bits, {frac} of them fractional"
        )
    return np.rint(scaled).astype(np.int64)


def decode(ring: Ring, frac: int) -> FloatArray:
    """Ring elements as numbers."""
    return np.ldexp(ring.astype(np.float64), -frac)


def check(program: MpcProgram) -> None:
    """Shapes, fractional bits and operands fit together.

    Raises:
        InternalError: naming the first instruction that is malformed.
    """
    for number, instr in enumerate(program.instrs):
        why = _fault(program, number, instr)
        if why:
            origin = program.origins[instr.origin] if 0 <= instr.origin < len(program.origins) else "?"
            raise InternalError(f"instruction {number} ({instr.op}) of layer {origin!r} is malformed: {why}")


def _fault(program: MpcProgram, number: int, instr: MpcInstr) -> str:
    if any(not 0 <= a < number for a in instr.args):
        return "an operand is not defined before it"
    args = [program.instrs[a] for a in instr.args]
    if len(args) != _ARITY.get(instr.op, len(args)) or (instr.op is MpcOp.GATHER and not args):
        return f"{len(args)} operands"
    for place, count in ((instr.weight, len(program.consts)), (instr.bias, len(program.consts))):
        if place >= count:
            return "a constant is missing"
    frac = _frac(program, instr, args)
    if frac is not None and frac != instr.frac:
        return f"{instr.frac} fractional bits, needed are {frac}"
    if len({a.frac for a in args}) > 1 and instr.op not in (MpcOp.MUL, MpcOp.DOT):
        return "its operands differ in fractional bits"
    if instr.bias >= 0 and program.consts[instr.bias].frac != instr.frac:
        return "its bias has other fractional bits"
    shape = _shape(program, instr, args)
    return "" if shape is None or shape == instr.shape else f"shape {list(instr.shape)}, needed is {list(shape)}"


_ARITY = {
    **dict.fromkeys((MpcOp.ADD, MpcOp.SUB, MpcOp.MUL, MpcOp.DOT), 2),
    **dict.fromkeys((*LINEAR, MpcOp.SQUARE, MpcOp.TRUNCATE, MpcOp.LTZ, MpcOp.SUM, MpcOp.REVEAL), 1),
    MpcOp.INPUT: 0,
}


def _frac(program: MpcProgram, instr: MpcInstr, args: Sequence[MpcInstr]) -> int | None:
    """Fractional bits that the result must have; None where the instruction says."""
    match instr.op:
        case MpcOp.INPUT:
            return None
        case MpcOp.CONV | MpcOp.MATMUL | MpcOp.SCALE:
            return args[0].frac + (program.consts[instr.weight].frac if instr.weight >= 0 else 0)
        case MpcOp.MUL | MpcOp.DOT:
            return args[0].frac + args[1].frac
        case MpcOp.SQUARE:
            return 2 * args[0].frac
        case MpcOp.TRUNCATE:
            return args[0].frac - instr.attrs["bits"][0]
        case MpcOp.LTZ:
            return 0
        case _:
            return args[0].frac


def _shape(program: MpcProgram, instr: MpcInstr, args: Sequence[MpcInstr]) -> Shape | None:
    """The result's shape, where operands alone say it."""
    match instr.op:
        case MpcOp.ADD | MpcOp.SUB:
            return args[0].shape if args[0].shape == args[1].shape else ()
        case MpcOp.MUL:
            return np.broadcast_shapes(args[0].shape, args[1].shape)
        case MpcOp.SQUARE | MpcOp.TRUNCATE | MpcOp.LTZ | MpcOp.REVEAL | MpcOp.SCALE:
            return args[0].shape
        case MpcOp.DOT:
            stack = np.broadcast_shapes(args[0].shape[:-2], args[1].shape[:-2])
            return (*stack, args[0].shape[-2], args[1].shape[-1])
        case MpcOp.MATMUL:
            weight, x = program.consts[instr.weight].values.shape, args[0].shape
            stack = np.broadcast_shapes(x[:-2], weight[:-2])
            return (*stack, *x[-2:-1], weight[-1])
        case MpcOp.GATHER if instr.index >= 0:
            return instr.shape if program.indices[instr.index].size == instr.size else (-1,)
        case MpcOp.GATHER:
            return instr.shape if args[0].size == instr.size else args[0].shape
        case _:
            return None
