"""Correlated randomness for every opcode: what the dealer makes, and what the parties take.

Both sides of each kind of tuple stand next to each other. A mask's two shares grow from the streams that the
dealer shares with each party; a product of masks is the data owner's stream plus a correction, which only the
model's owner is sent. Tensors of an instruction are told apart by ``part`` numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import reduce

import torch

from pi_compiler.errors import InternalError
from pi_compiler.ir.mpc_program import LINEAR, MODEL_PARTY, MpcInstr, MpcOp, MpcProgram
from pi_compiler.ir.two_party import Factors, Level, carry_bits, kept_bits, levels, masked_weights, words
from pi_compiler.runtime.mpc.bitplanes import unpack
from pi_compiler.runtime.mpc.linear import aligned, linear, product
from pi_compiler.runtime.mpc.streams import SETUP_RUN, Stream

MASK, OTHER_MASK, DEALT, OTHER_DEALT = range(4)
"""Parts of an instruction: masks of its operands, and what is dealt about them."""
_LEVELS = 8
WEIGHT = 1 << 30
"""Added to a constant's number, so that its mask has a place of its own."""

Shape = tuple[int, ...]


def level_part(depth: int) -> int:
    """Part of the masks in the tree of carries at a depth; what is dealt about them follows."""
    return _LEVELS + 2 * depth


def weight_mask(stream: Stream, program: MpcProgram, const: int) -> torch.Tensor:
    """The mask of a private weight, from the stream of the dealer and the model's owner."""
    return stream.ring(SETUP_RUN, WEIGHT + const, MASK, program.consts[const].values.shape)


class Hand:
    """What one party was dealt for one run.

    Args:
        party: whose.
        stream: shared with the dealer.
        run: number of the run.
        corrections: per instruction what the dealer sent; the model's owner's only.
    """

    def __init__(self, party: int, stream: Stream, run: int, corrections: Mapping[int, torch.Tensor]) -> None:
        self._party, self._stream, self._run = party, stream, run
        self._corrections = corrections
        self._taken: dict[int, int] = {}

    def mask(self, place: int, part: int, shape: Shape) -> torch.Tensor:
        """This party's share of a uniform mask, or a mask of its own."""
        return self._stream.ring(self._run, place, part, shape)

    def bits(self, place: int, part: int, size: int) -> torch.Tensor:
        """This party's share of uniform bits, in words."""
        return self._stream.bits(self._run, place, part, size)

    def dealt(self, place: int, part: int, shape: Shape) -> torch.Tensor:
        """This party's share of what the dealer computed; parts of an instruction in the order of dealing."""
        if self._party != MODEL_PARTY:
            return self._stream.ring(self._run, place, part, shape)
        start = self._taken.get(place, 0)
        size = int(torch.Size(shape).numel())
        self._taken[place] = start + size
        found = self._corrections[place][start : start + size]
        if found.numel() != size:
            raise InternalError(f"instruction {place} wants more than it was dealt")
        return found.reshape(shape)


class Dealer:
    """Makes the corrections of a program; knows shapes and public indices, no weight and no input.

    Args:
        program: what will run; private constants may be blank.
        streams: those shared with the model's owner and with the data's owner.
    """

    def __init__(self, program: MpcProgram, streams: Sequence[Stream]) -> None:
        self._program, self._streams = program, tuple(streams)
        self._bits = kept_bits(program)
        self._weights = {c: weight_mask(streams[0], program, c) for c in masked_weights(program)}

    def deal(self, run: int, batch: int) -> Iterator[tuple[int, torch.Tensor]]:
        """Per instruction that needs any: its number and the correction, flat."""
        for number, instr in enumerate(self._program.instrs):
            pieces = [piece.reshape(-1) for piece in self._pieces(run, number, instr, batch)]
            if pieces:
                yield number, torch.cat(pieces)

    def _pieces(self, run: int, number: int, instr: MpcInstr, batch: int) -> Iterator[torch.Tensor]:
        program = self._program
        shapes = [(batch, *program.instrs[a].shape) for a in instr.args]
        if instr.op in LINEAR and program.private_weight(instr) is not None:
            masked = self._streams[1].ring(run, number, MASK, shapes[0])
            yield self._minus(linear(program, instr, masked, self._weights[instr.weight]), run, number, DEALT)
        elif instr.op is MpcOp.SQUARE:
            r = self._mask(run, number, MASK, shapes[0])
            yield self._minus(r * r, run, number, DEALT)
        elif instr.op is MpcOp.MUL and any(a in self._bits for a in instr.args):
            place = next(i for i, a in enumerate(instr.args) if a in self._bits)
            yield from self._select(run, number, instr, shapes, place)
        elif instr.op in (MpcOp.MUL, MpcOp.DOT):
            a, b = aligned(instr, shapes)
            x, y = self._mask(run, number, MASK, a), self._mask(run, number, OTHER_MASK, b)
            yield self._minus(product(instr.op, x, y), run, number, DEALT)
        elif instr.op is MpcOp.LTZ:
            yield from self._compare(run, number, instr, batch * instr.size)

    def _mask(self, run: int, place: int, part: int, shape: Shape) -> torch.Tensor:
        return self._streams[0].ring(run, place, part, shape) + self._streams[1].ring(run, place, part, shape)

    def _minus(self, value: torch.Tensor, run: int, place: int, part: int) -> torch.Tensor:
        """A value less the data owner's share."""
        return value - self._streams[1].ring(run, place, part, tuple(value.shape))

    def _select(self, run: int, number: int, instr: MpcInstr, shapes: list[Shape], bit: int) -> Iterator[torch.Tensor]:
        where = aligned(instr, shapes)
        r = self._bit_mask(run, number, MASK, where[bit])
        x = self._mask(run, number, OTHER_MASK, where[1 - bit])
        yield self._minus(r, run, number, DEALT)
        yield self._minus(r * x, run, number, OTHER_DEALT)

    def _bit_mask(self, run: int, place: int, part: int, shape: Shape) -> torch.Tensor:
        size = int(torch.Size(shape).numel())
        first, second = (s.bits(run, place, part, size) for s in self._streams)
        return unpack(first ^ second, size).reshape(shape)

    def _compare(self, run: int, number: int, instr: MpcInstr, size: int) -> Iterator[torch.Tensor]:
        count, positions = words(size), carry_bits(instr)
        both = [s.ring(run, number, MASK, (positions, count)) for s in self._streams]
        yield self._xor(both[0] & both[1], run, number, DEALT)
        for depth, level in enumerate(levels(positions)):
            part, shape = level_part(depth), (len(level.factors), level.groups, count)
            masks = self._streams[0].ring(run, number, part, shape) ^ self._streams[1].ring(run, number, part, shape)
            yield self._xor(mask_products(level, masks), run, number, part + 1)
        if number not in self._bits:
            r = self._bit_mask(run, number, OTHER_MASK, (size,))
            yield self._minus(r, run, number, OTHER_DEALT)

    def _xor(self, value: torch.Tensor, run: int, place: int, part: int) -> torch.Tensor:
        return value ^ self._streams[1].ring(run, place, part, tuple(value.shape))


def mask_products(level: Level, masks: torch.Tensor) -> torch.Tensor:
    """Products (sets, groups, words) of the masks (factors, groups, words) of a level's factors."""
    row = {factor: place for place, factor in enumerate(level.factors)}

    def of(factors: Factors) -> torch.Tensor:
        return reduce(torch.bitwise_and, (masks[row[f]] for f in factors))

    return torch.stack([of(s) for s in level.mask_products])
