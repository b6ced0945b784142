"""One party's half of every opcode, on CrypTen's tensors: an engine for ``walk.execute``.

Shares carry no scale of the library's: the program says where the fractional bits are. Values are (B, *shape).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, TypeAlias

import numpy as np
import torch

from pi_compiler.errors import ExecutionError, InternalError
from pi_compiler.ir.graph import FloatArray
from pi_compiler.ir.mpc_program import DATA_PARTY, MODEL_PARTY, MpcInstr, MpcOp, MpcProgram, decode, encode
from pi_compiler.ir.two_party import kept_bits, words
from pi_compiler.runtime.mpc.bitplanes import pack, unpack
from pi_compiler.runtime.mpc.communicator import DealtProvider, DirectCommunicator
from pi_compiler.runtime.mpc.comparison import sign_bits
from pi_compiler.runtime.mpc.linear import aligned, linear, tensor
from pi_compiler.runtime.mpc.streams import Stream
from pi_compiler.runtime.mpc.tuples import DEALT, MASK, OTHER_DEALT, OTHER_MASK, Hand
from pi_compiler.runtime.mpc.walk import Traffic

Shape: TypeAlias = tuple[int, ...]

LARGEST = 2.0**22
"""Inputs and answers from here on are refused. A truncation that wraps around is off by far more, and a product
of numbers this large wraps around once in a thousand."""


@dataclass(frozen=True, slots=True, eq=False)
class Bits:
    """Bits shared by exclusive or, packed into words.

    Attributes:
        share: this party's share.
        shape: batched shape of the tensor.
    """

    share: torch.Tensor
    shape: Shape

    @property
    def size(self) -> int:
        """How many."""
        return int(torch.Size(self.shape).numel())


Value: TypeAlias = Any
"""An ``ArithmeticSharedTensor`` of the library, or ``Bits``."""


@dataclass(frozen=True, slots=True, eq=False)
class Weights:
    """A party's side of the private weights after set-up.

    Attributes:
        own: the weights themselves, at the model's owner; empty elsewhere.
        halves: at the data's owner, per linear instruction its share of the result, which no input enters.
    """

    own: Mapping[int, torch.Tensor]
    halves: Mapping[int, torch.Tensor]


class PartyEngine:
    """A computing party.

    Args:
        crypten: the library, bound to ``comm`` and ``provider``.
        program: what runs; private constants may be blank at the data's owner.
        comm: to the other party.
        provider: where the library takes its tuples.
        hand: what was dealt for this run.
        pair: stream shared with the other party, for sharing inputs.
        weights: see there.
        run: number of the run.
        batch: inputs that run together.
    """

    def __init__(
        self,
        crypten: ModuleType,
        program: MpcProgram,
        comm: DirectCommunicator,
        provider: DealtProvider,
        hand: Hand,
        pair: Stream,
        weights: Weights,
        run: int,
        batch: int,
    ) -> None:
        self._shares = crypten.mpc.primitives.ArithmeticSharedTensor
        self._beaver = crypten.mpc.primitives.beaver
        self.program, self._comm, self._provider, self._hand = program, comm, provider, hand
        self._pair, self._weights, self._run, self._batch = pair, weights, run, batch
        self._bits = kept_bits(program)
        self._first = comm.rank == MODEL_PARTY

    def traffic(self) -> Traffic:
        """What this party sent so far."""
        return Traffic(self._comm.mesh.rounds, self._comm.mesh.sent)

    # --- inputs and answers ---------------------------------------------------------------------

    def share(self, number: int, values: FloatArray | None) -> Value:
        """The other party's share is drawn from a stream that both have, so nothing is sent."""
        instr = self.program.instrs[number]
        mask = self._pair.ring(self._run, number, 0, (self._batch, *instr.shape))
        if values is None:
            return self._wrap(mask)
        if not np.isfinite(values).all() or np.abs(values).max(initial=0) >= LARGEST:
            raise ExecutionError(
                "the input has values that are not finite or beyond the fixed-point range",
                f"values must be below {LARGEST:,.0f} in size",
            )
        return self._wrap(tensor(encode(values, instr.frac)) - mask)

    def reveal(self, number: int, operand: Value) -> FloatArray | None:
        """One share is sent to the party that learns the numbers."""
        instr = self.program.instrs[number]
        found = operand.reveal(dst=instr.attrs["to"][0])
        if found is None:
            return None
        numbers = decode(found.numpy(), instr.frac)
        if np.abs(numbers).max(initial=0) >= LARGEST:
            raise ExecutionError(
                "a result is beyond the fixed-point range: a value wrapped around on the way",
                hint="inputs inside the calibrated ranges; or the run again, if they are",
            )
        return numbers

    # --- the other opcodes ----------------------------------------------------------------------

    def step(self, number: int, operands: Sequence[Value]) -> Value:
        """Any opcode but INPUT and REVEAL."""
        instr, x = self.program.instrs[number], operands[0]
        self._provider.at(self._hand, number)
        match instr.op:
            case MpcOp.CONV | MpcOp.MATMUL | MpcOp.SCALE:
                return self._linear(number, instr, x)
            case MpcOp.ADD:
                return self._wrap(x.share + operands[1].share)
            case MpcOp.SUB:
                return self._wrap(x.share - operands[1].share)
            case MpcOp.SQUARE:
                return self._beaver.square(x)
            case MpcOp.MUL if isinstance(x, Bits) or isinstance(operands[1], Bits):
                return self._select(number, instr, operands)
            case MpcOp.MUL | MpcOp.DOT:
                return self._product(instr, operands)
            case MpcOp.TRUNCATE:
                # Both parties' shares are divided one by one; the library's own interactive way needs three.
                return x.div(1 << instr.attrs["bits"][0])
            case MpcOp.LTZ:
                return self._negative(number, instr, x)
            case MpcOp.GATHER:
                return self._gather(number, instr, operands)
            case MpcOp.SUM:
                axes = tuple(axis + 1 for axis in instr.attrs["axes"])
                return self._wrap(x.share.sum(dim=axes).reshape(self._batch, *instr.shape))
            case _:
                raise InternalError(f"no party executes {instr.op}")

    def _wrap(self, share: torch.Tensor) -> Value:
        return self._shares.from_shares(share, precision=0)

    def _linear(self, number: int, instr: MpcInstr, x: Value) -> Value:
        if isinstance(x, Bits):  # the only linear opcode that leaves bits as they are is 1 - x
            ones = torch.ones(x.size, dtype=torch.int64)
            return Bits(x.share ^ pack(ones) if self._first else x.share, x.shape)
        if self.program.private_weight(instr) is not None:
            share = self._private(number, instr, x.share)
        elif instr.weight >= 0:
            weight = tensor(self.program.consts[instr.weight].values)
            share = linear(self.program, instr, x.share, weight)
        else:
            share = x.share
        if instr.bias >= 0 and self._first:
            share = share + tensor(self.program.consts[instr.bias].values)
        return self._wrap(share)

    def _private(self, number: int, instr: MpcInstr, share: torch.Tensor) -> torch.Tensor:
        """The data owner sends its share, masked; only the model's owner multiplies."""
        if not self._first:
            self._comm.mesh.send(MODEL_PARTY, (share - self._hand.mask(number, MASK, tuple(share.shape))).numpy())
            return self._weights.halves[number]
        raw = self._comm.mesh.receive(DATA_PARTY, share.numel() * share.element_size())
        whole = share + torch.from_numpy(np.frombuffer(raw, np.int64)).reshape(share.shape)
        found = linear(self.program, instr, whole, self._weights.own[instr.weight])
        return found + self._hand.dealt(number, DEALT, tuple(found.shape))

    def _product(self, instr: MpcInstr, operands: Sequence[Value]) -> Value:
        shapes = aligned(instr, [tuple(v.share.shape) for v in operands])
        a, b = (self._wrap(v.share.reshape(s)) for v, s in zip(operands, shapes, strict=True))
        return self._beaver.matmul(a, b) if instr.op is MpcOp.DOT else self._beaver.mul(a, b)

    def _select(self, number: int, instr: MpcInstr, operands: Sequence[Value]) -> Value:
        """A bit times a value in one round: z = bit xor R and e = x - A are opened at once."""
        place = 0 if isinstance(operands[0], Bits) else 1
        bits, x = operands[place], operands[1 - place].share
        shapes = aligned(instr, [v.shape if isinstance(v, Bits) else tuple(v.share.shape) for v in operands])
        mask = self._hand.mask(number, OTHER_MASK, shapes[1 - place])
        x = x.reshape(shapes[1 - place])
        message = torch.cat([bits.share ^ self._hand.bits(number, MASK, bits.size), (x - mask).reshape(-1)])
        count = words(bits.size)
        raw = self._comm.mesh.exchange({self._comm.peer: message.numpy()}, {self._comm.peer: 8 * message.numel()})
        other = torch.from_numpy(np.frombuffer(raw[self._comm.peer], np.int64))
        z = unpack(message[:count] ^ other[:count], bits.size).reshape(shapes[place])
        e = (message[count:] + other[count:]).reshape(x.shape)
        r = self._hand.dealt(number, DEALT, shapes[place])
        shape = np.broadcast_shapes(tuple(z.shape), tuple(x.shape))
        masked = self._hand.dealt(number, OTHER_DEALT, shape)
        return self._wrap(z * x + (1 - 2 * z) * (e * r + masked))

    def _negative(self, number: int, instr: MpcInstr, x: Value) -> Value:
        shape = tuple(x.share.shape)
        low = instr.attrs.get("low", (0,))[0]
        found = Bits(sign_bits(self._comm, self._hand, number, x.share.reshape(-1), low), shape)
        return found if number in self._bits else self._converted(number, found)

    def _converted(self, number: int, bits: Bits) -> Value:
        """Bits as ring elements: z = bit xor R is opened, R + z - 2 z R is linear in shares of R."""
        masked = bits.share ^ self._hand.bits(number, OTHER_MASK, bits.size)
        z = unpack(self._comm.all_reduce(masked, torch.distributed.ReduceOp.BXOR), bits.size)
        r = self._hand.dealt(number, OTHER_DEALT, (bits.size,))
        share = r - 2 * z * r
        return self._wrap((share + z if self._first else share).reshape(bits.shape))

    def _gather(self, number: int, instr: MpcInstr, operands: Sequence[Value]) -> Value:
        if number in self._bits:
            flat = torch.cat([unpack(v.share, v.size).reshape(self._batch, -1) for v in operands], dim=1)
            return Bits(pack(self._picked(instr, flat).reshape(-1)), (self._batch, *instr.shape))
        flat = torch.cat([v.share.reshape(self._batch, -1) for v in operands], dim=1)
        return self._wrap(self._picked(instr, flat).reshape(self._batch, *instr.shape))

    def _picked(self, instr: MpcInstr, flat: torch.Tensor) -> torch.Tensor:
        if instr.index < 0:
            return flat
        index = tensor(self.program.indices[instr.index])
        if (index < 0).any():
            flat = torch.cat([flat, flat.new_zeros(len(flat), 1)], dim=1)
            index = torch.where(index < 0, flat.shape[1] - 1, index)
        return flat[:, index]
