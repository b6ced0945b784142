"""Linear opcodes and products on ring elements, as torch computes them: int64, wrapping around."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F

from pi_compiler.errors import InternalError
from pi_compiler.ir.mpc_program import Index, MpcInstr, MpcOp, MpcProgram, Ring

_CONVOLUTIONS = {1: torch.conv1d, 2: torch.conv2d, 3: torch.conv3d}


def tensor(values: Ring | Index) -> torch.Tensor:
    """Ring elements as a tensor, copied only if they may not be written (memory maps)."""
    found = np.asarray(values, np.int64)
    return torch.from_numpy(found if found.flags.writeable else found.copy())


def linear(program: MpcProgram, instr: MpcInstr, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """CONV, MATMUL or SCALE of a batch (B, *shape) with a weight, without bias and truncation."""
    match instr.op:
        case MpcOp.CONV:
            return _conv(instr, x, weight)
        case MpcOp.MATMUL:
            rank = len(program.instrs[instr.args[0]].shape)
            return torch.matmul(x if rank == 1 else lifted(x, len(instr.shape) + 1), weight)
        case MpcOp.SCALE:
            return x * weight
        case _:
            raise InternalError(f"{instr.op} has no weight")


def _conv(instr: MpcInstr, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    strides, dilations, pads = (instr.attrs[name] for name in ("strides", "dilations", "pads"))
    rank = len(strides)
    around = [p for axis in reversed(range(rank)) for p in (pads[axis], pads[axis + rank])]
    images = F.pad(x.reshape(-1, *x.shape[2:]), around) if any(around) else x.reshape(-1, *x.shape[2:])
    convolve = _CONVOLUTIONS[rank]
    found = convolve(images, weight, stride=strides, dilation=dilations, groups=instr.attrs["group"][0])
    return found.reshape(len(x), *instr.shape)


def lifted(x: torch.Tensor, rank: int) -> torch.Tensor:
    """(B, *shape) with ones behind B, up to a rank."""
    return x.reshape(len(x), *(1,) * (rank - x.dim()), *x.shape[1:])


def aligned(instr: MpcInstr, shapes: Sequence[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """Batched shapes of MUL's or DOT's operands, with ones behind the batch so that they broadcast."""
    rank = max(len(s) for s in shapes)
    return [(s[0], *(1,) * (rank - len(s)), *s[1:]) for s in shapes]


def product(op: MpcOp, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """MUL or DOT of aligned operands."""
    return torch.matmul(a, b) if op is MpcOp.DOT else a * b
