"""Small programs, built instruction by instruction with the types that CKKS gives them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from pi_compiler.ir.params import Params, make_params
from pi_compiler.ir.program import Opcode, Program


class Builder:
    """Appends instructions; values are numbers. Inputs come first."""

    def __init__(self, params: Params, inputs: int = 1, level: int | None = None) -> None:
        self.params = params
        self.types: list[tuple[int, float, int]] = []
        self.rows: list[tuple[int, int, int, int, int, float, int]] = []
        self.consts: list[NDArray[np.float64]] = []
        self.origins: list[str] = ["layer 0"]
        self.inputs = inputs
        start = params.max_level if level is None else level
        self.types += [(start, params.scale, 2)] * inputs

    def layer(self, name: str) -> None:
        self.origins.append(name)

    def emit(
        self,
        op: Opcode,
        a: int,
        type_: tuple[int, float, int],
        b: int = -1,
        imm: int = 0,
        const: int = -1,
        s: float = 0.0,
    ) -> int:
        self.rows.append((op, a, b, imm, const, s, len(self.origins) - 1))
        self.types.append(type_)
        return len(self.types) - 1

    def constant(self, values: NDArray[np.float64]) -> int:
        self.consts.append(np.asarray(values, np.float64))
        return len(self.consts) - 1

    def add(self, a: int, b: int) -> int:
        wide = max(self.types[a][2], self.types[b][2])
        return self.emit(Opcode.ADD, a, (*self.types[a][:2], wide), b)

    def sub(self, a: int, b: int) -> int:
        wide = max(self.types[a][2], self.types[b][2])
        return self.emit(Opcode.SUB, a, (*self.types[a][:2], wide), b)

    def neg(self, a: int) -> int:
        return self.emit(Opcode.NEG, a, self.types[a])

    def mul(self, a: int, b: int) -> int:
        (level, s, _), (_, t, _) = self.types[a], self.types[b]
        return self.emit(Opcode.MUL, a, (level, s * t, 3), b)

    def add_plain(self, a: int, values: NDArray[np.float64]) -> int:
        return self.emit(Opcode.ADD_PLAIN, a, self.types[a], const=self.constant(values))

    def mul_plain(self, a: int, values: NDArray[np.float64], scale: float | None = None) -> int:
        level, s, d = self.types[a]
        scale = float(self.params.primes[level]) if scale is None else scale
        return self.emit(Opcode.MUL_PLAIN, a, (level, s * scale, d), const=self.constant(values), s=scale)

    def rotate(self, a: int, by: int) -> int:
        return self.emit(Opcode.ROTATE, a, self.types[a], imm=by)

    def relinearize(self, a: int) -> int:
        return self.emit(Opcode.RELINEARIZE, a, (*self.types[a][:2], 2))

    def rescale(self, a: int) -> int:
        level, s, d = self.types[a]
        return self.emit(Opcode.RESCALE, a, (level - 1, s / self.params.primes[level], d))

    def drop_level(self, a: int, level: int) -> int:
        return self.emit(Opcode.DROP_LEVEL, a, (level, *self.types[a][1:]), imm=level)

    def program(self, *outputs: int) -> Program:
        columns = list(zip(*self.rows, strict=True)) if self.rows else [()] * 7
        levels, scales, dimensions = zip(*self.types, strict=True)
        return Program(
            op=np.array(columns[0], np.uint8),
            a=np.array(columns[1], np.int32),
            b=np.array(columns[2], np.int32),
            imm=np.array(columns[3], np.int32),
            const=np.array(columns[4], np.int32),
            plain_scale=np.array(columns[5], np.float64),
            origin=np.array(columns[6], np.int32),
            level=np.array(levels, np.int16),
            scale=np.array(scales, np.float64),
            dimension=np.array(dimensions, np.uint8),
            consts=tuple(self.consts),
            inputs={"x": tuple(range(self.inputs))},
            outputs={"y": outputs},
            origins=tuple(self.origins),
        )


@pytest.fixture(scope="session")
def build() -> Callable[..., Builder]:
    return Builder


@pytest.fixture(scope="session")
def small() -> Params:
    """The smallest ring with a few levels: 4096 slots, scale 2^26, five levels."""
    return make_params(13, 5, 26, log_q0=36, log_special=50)
