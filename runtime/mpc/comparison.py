"""The sign of a shared value: the carry into the sign bit, by a tree of radix four on bit planes.

See ``ir.two_party`` for the protocol and its counts. ``share`` words are one party's share of bits; whatever is
opened is masked.
"""

from __future__ import annotations

from functools import reduce
from typing import TYPE_CHECKING, Any

import torch

from pi_compiler.ir.mpc_program import MODEL_PARTY
from pi_compiler.ir.two_party import Factors, Level, levels, subsets
from pi_compiler.runtime.mpc.bitplanes import to_planes
from pi_compiler.runtime.mpc.tuples import DEALT, MASK, Hand, level_part

if TYPE_CHECKING:
    from pi_compiler.runtime.mpc.communicator import DirectCommunicator


def sign_bits(comm: DirectCommunicator, hand: Hand, place: int, share: torch.Tensor, low: int) -> torch.Tensor:
    """This party's share (words) of the sign bits of a flat shared tensor.

    Args:
        comm: to the other party.
        hand: what was dealt.
        place: number of the LTZ instruction.
        share: this party's share, flat.
        low: how many of the lowest bits to leave out.
    """
    planes = to_planes(share)
    bits, sign = planes[low:-1], planes[-1]
    generate = _first_and(comm, hand, place, bits)
    propagate = bits
    for depth, level in enumerate(levels(len(bits))):
        generate, propagate = _level(comm, hand, place, depth, level, generate, propagate)
    return sign ^ generate[0]


def _first_and(comm: DirectCommunicator, hand: Hand, place: int, bits: torch.Tensor) -> torch.Tensor:
    """Shares of u and v, bit by bit, where one party knows u and the other v: one masked operand each way."""
    mask = hand.mask(place, MASK, tuple(bits.shape))
    masked = bits ^ mask
    other: torch.Tensor = comm.all_reduce(masked, torch.distributed.ReduceOp.BXOR) ^ masked
    known = bits if comm.rank == MODEL_PARTY else mask
    return (known & other) ^ hand.dealt(place, DEALT, tuple(bits.shape))


def _level(
    comm: DirectCommunicator,
    hand: Hand,
    place: int,
    depth: int,
    level: Level,
    generate: torch.Tensor,
    propagate: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Shares of the groups' generate and propagate bits (groups, words); see ``Level`` for the factors."""
    g, p = (_grouped(x, level) for x in (generate, propagate))
    shares = torch.cat([p, g[:-1]])[list(level.factors)]
    part = level_part(depth)
    masks = hand.mask(place, part, tuple(shares.shape))
    from crypten.mpc.primitives import BinarySharedTensor

    opened = BinarySharedTensor.from_shares(shares ^ masks, precision=0).reveal()
    dealt = hand.dealt(place, part + 1, (len(level.mask_products), *shares.shape[1:]))
    known = _Masked(level, opened, masks, dealt, first=comm.rank == MODEL_PARTY)
    carried = reduce(torch.bitwise_xor, (known.product(f) for f in level.products), g[-1])
    return carried, known.product(level.whole) if level.propagate else carried


def _grouped(x: torch.Tensor, level: Level) -> torch.Tensor:
    """Planes (positions, words) as (radix, groups, words), zeros below the lowest position."""
    missing = level.groups * level.radix - len(x)
    padded = torch.cat([x.new_zeros((missing, *x.shape[1:])), x]) if missing else x
    return padded.reshape(level.groups, level.radix, -1).transpose(0, 1)


class _Masked:
    """Bits V xor M with V opened and M shared: shares of their products."""

    def __init__(
        self, level: Level, opened: torch.Tensor, masks: torch.Tensor, dealt: torch.Tensor, *, first: bool
    ) -> None:
        row = {factor: place for place, factor in enumerate(level.factors)}
        self._opened = {f: opened[i] for f, i in row.items()}
        self._masks: dict[Factors, torch.Tensor] = {(f,): masks[i] for f, i in row.items()}
        self._masks |= {s: dealt[i] for i, s in enumerate(level.mask_products)}
        self._first = first

    def product(self, factors: Factors) -> torch.Tensor:
        """This party's share of a product of factors: the sum over all subsets of whose masks are taken."""
        found = self._public(factors) if self._first else torch.zeros_like(self._opened[factors[0]])
        for taken in subsets(factors):
            rest = tuple(f for f in factors if f not in taken)
            term = self._masks[taken]
            found = found ^ (term & self._public(rest) if rest else term)
        return found

    def _public(self, factors: Factors) -> Any:
        return reduce(torch.bitwise_and, (self._opened[f] for f in factors))
