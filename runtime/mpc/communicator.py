"""CrypTen's communicator and its provider of tuples, on our connections and what our dealer dealt.

The library's own all-reduce costs one to two round trips; here both parties send at once, so that a round is one
one-way latency. Its third-party provider asks the dealer for every tuple while the parties wait; ours were dealt
before the input was there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.distributed import ReduceOp

from pi_compiler.errors import InternalError
from pi_compiler.ir.mpc_program import MpcOp
from pi_compiler.runtime.mpc.mesh import Mesh
from pi_compiler.runtime.mpc.tuples import DEALT, MASK, OTHER_MASK, Hand

if TYPE_CHECKING:
    from crypten.mpc.primitives import ArithmeticSharedTensor

_PARTIES = 2


class DirectCommunicator:
    """What CrypTen's tensors call: two parties, exchanging both ways at once."""

    def __init__(self, mesh: Mesh) -> None:
        self.mesh, self.rank = mesh, mesh.rank
        self.peer = 1 - mesh.rank

    def get_rank(self) -> int:
        """This party."""
        return self.rank

    def get_world_size(self) -> int:
        """Computing parties."""
        return _PARTIES

    def all_reduce(self, input: Any, op: Any = ReduceOp.SUM, batched: bool = False) -> Any:
        """Sum or exclusive or of both parties' tensors, which both learn: one message each way.

        Args:
            input: a tensor, or a list of them if ``batched``.
            op: ``ReduceOp.SUM`` or ``ReduceOp.BXOR``.
            batched: whether it is a list.
        """
        tensors = list(input) if batched else [input]
        mine = torch.cat([t.reshape(-1) for t in tensors])
        raw = self.mesh.exchange({self.peer: mine.numpy()}, {self.peer: mine.numel() * mine.element_size()})
        total = _combined(mine, raw[self.peer], op)
        pieces = torch.split(total, [t.numel() for t in tensors])
        found = [piece.reshape(t.shape) for piece, t in zip(pieces, tensors, strict=True)]
        return found if batched else found[0]

    def reduce(self, input: torch.Tensor, dst: int, op: Any = ReduceOp.SUM, batched: bool = False) -> Any:
        """The same, for one party only: one message one way; None at the other."""
        if batched:
            raise InternalError("reduce takes one tensor")
        flat = input.reshape(-1)
        if self.rank != dst:
            self.mesh.send(dst, flat.numpy())
            return None
        raw = self.mesh.receive(self.peer, flat.numel() * flat.element_size())
        return _combined(flat, raw, op).reshape(input.shape)

    def __getattr__(self, name: str) -> Any:
        raise InternalError(f"crypten wants its communicator's {name}, which no opcode needs")


def _combined(mine: torch.Tensor, raw: bytearray, op: Any) -> torch.Tensor:
    theirs = torch.from_numpy(np.frombuffer(raw, np.int64))
    if op == ReduceOp.SUM:
        return mine + theirs
    if op == ReduceOp.BXOR:
        return mine ^ theirs
    raise InternalError(f"no reduction {op}")


class DealtProvider:
    """What CrypTen's Beaver protocols call: tuples of the instruction at hand."""

    def __init__(self) -> None:
        self._hand: Hand | None = None
        self._place = 0

    def at(self, hand: Hand, place: int) -> None:
        """Tuples are from now on those of an instruction."""
        self._hand, self._place = hand, place

    def _share(self, part: int, size: Any, dealt: bool) -> ArithmeticSharedTensor:
        from crypten.mpc.primitives import ArithmeticSharedTensor

        if self._hand is None:
            raise InternalError("there is no run")
        take = self._hand.dealt if dealt else self._hand.mask
        return ArithmeticSharedTensor.from_shares(take(self._place, part, tuple(size)), precision=0)

    def square(self, size: Any, device: object = None) -> tuple[Any, Any]:
        """Shares of R and R^2."""
        return self._share(MASK, size, False), self._share(DEALT, size, True)

    def generate_additive_triple(
        self, size0: Any, size1: Any, op: str, device: object = None, *args: Any, **kwargs: Any
    ) -> tuple[Any, Any, Any]:
        """Shares of A, B and their product."""
        if op not in ("mul", "matmul") or args or kwargs:
            raise InternalError(f"no triple for {op}")
        kind = MpcOp.DOT if op == "matmul" else MpcOp.MUL
        return self._share(MASK, size0, False), self._share(OTHER_MASK, size1, False), self._product(kind, size0, size1)

    def _product(self, kind: MpcOp, size0: Any, size1: Any) -> Any:
        if kind is MpcOp.MUL:
            return self._share(DEALT, np.broadcast_shapes(size0, size1), True)
        stack = np.broadcast_shapes(size0[:-2], size1[:-2])
        return self._share(DEALT, (*stack, size0[-2], size1[-1]), True)
