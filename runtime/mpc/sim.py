"""``mpc-sim``: the ring arithmetic of all parties at once, integer-exact, on whole batches; and its meaning in floats.

The simulator holds the ring elements themselves and draws shares only where they matter: local truncation
splits a value into two random shares, divides both and adds them up, so that its rounding and its rare
wrap-around are those of two parties. Comparisons and products are exact in the ring, as the protocols' are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeAlias

import numpy as np

from pi_compiler.errors import InternalError
from pi_compiler.ir.graph import FloatArray
from pi_compiler.ir.mpc_meaning import float_step, meaning
from pi_compiler.ir.mpc_program import MpcOp, MpcProgram, Ring, decode, encode
from pi_compiler.ir.protocols import protocol_of
from pi_compiler.runtime.mpc.walk import Engine, LayerCost, MpcTrace, Progress, Traffic, execute

Truncation: TypeAlias = Literal["local", "interactive"]


class RingEngine:
    """Ring elements (B, *shape) with the errors of a protocol.

    Args:
        program: what runs.
        truncation: ``"local"`` shares are divided one by one; ``"interactive"`` rounds up or down at random,
            without wrap-around.
        rng: where shares and roundings come from; fresh if None.
    """

    def __init__(
        self, program: MpcProgram, truncation: Truncation = "local", rng: np.random.Generator | None = None
    ) -> None:
        self.program = program
        self.truncation = truncation
        self.rng = np.random.default_rng() if rng is None else rng

    def share(self, number: int, values: FloatArray | None) -> Ring:
        """See ``walk.Engine``; a simulation knows every input."""
        if values is None:
            raise InternalError("a simulation needs the values of every input")
        return encode(values, self.program.instrs[number].frac)

    def reveal(self, number: int, operand: Ring) -> FloatArray:
        """The numbers."""
        return decode(operand, self.program.instrs[number].frac)

    def traffic(self) -> Traffic:
        """Nothing is sent."""
        return Traffic()

    def step(self, number: int, operands: Sequence[Ring]) -> Ring:
        """One instruction on a batch."""
        instr = self.program.instrs[number]
        match instr.op:
            case MpcOp.TRUNCATE:
                return self._truncate(operands[0], instr.attrs["bits"][0])
            case MpcOp.LTZ:
                return self._negative(operands[0], instr.attrs.get("low", (0,))[0])
            case _:
                result = meaning(self.program, number, operands)
                return result.astype(np.int64, copy=False)

    def _truncate(self, x: Ring, bits: int) -> Ring:
        if self.truncation == "interactive":
            up = self.rng.integers(0, 1 << bits, x.shape, dtype=np.int64)
            return (x + up) >> np.int64(bits)
        first = self.rng.integers(-(2**63), 2**63 - 1, x.shape, dtype=np.int64, endpoint=True)
        return _towards_zero(first, bits) + _towards_zero(x - first, bits)

    def _negative(self, x: Ring, low: int) -> Ring:
        negative = x < 0
        if low:
            draw = self.rng.integers(0, 1 << low, x.shape, dtype=np.int64)
            negative = negative | (x < draw)
        return negative.astype(np.int64)


class FloatEngine:
    """The meaning of a program in float64: nothing is rounded but the constants."""

    def __init__(self, program: MpcProgram) -> None:
        self.program = program

    def share(self, number: int, values: FloatArray | None) -> FloatArray:
        """See ``walk.Engine``."""
        if values is None:
            raise InternalError("a simulation needs the values of every input")
        return np.asarray(values, np.float64)

    def reveal(self, number: int, operand: FloatArray) -> FloatArray:
        """The numbers."""
        return operand

    def traffic(self) -> Traffic:
        """Nothing is sent."""
        return Traffic()

    def step(self, number: int, operands: Sequence[FloatArray]) -> FloatArray:
        """One instruction on a batch."""
        return float_step(self.program, number, operands)


class SimMpc:
    """Backend ``mpc-sim``: see the module."""

    name = "mpc-sim"

    def available(self) -> str | None:
        """Always."""
        return None

    def run(
        self, program: MpcProgram, inputs: Mapping[str, FloatArray], *, progress: Progress | None = None
    ) -> tuple[dict[str, FloatArray], MpcTrace]:
        """A batch, a part at a time so that memory stays small."""
        truncation = protocol_of(program.protocol).truncation
        return _in_parts(program, lambda: RingEngine(program, truncation), inputs, progress)


class ClearMpc:
    """Backend ``mpc-clear``: the meaning of the program in floats."""

    name = "mpc-clear"

    def available(self) -> str | None:
        """Always."""
        return None

    def run(
        self, program: MpcProgram, inputs: Mapping[str, FloatArray], *, progress: Progress | None = None
    ) -> tuple[dict[str, FloatArray], MpcTrace]:
        """A batch, a part at a time."""
        return _in_parts(program, lambda: FloatEngine(program), inputs, progress)


_PART_BYTES = 1 << 26


def _in_parts(
    program: MpcProgram,
    engine: Callable[[], Engine[Any]],
    inputs: Mapping[str, FloatArray],
    progress: Progress | None,
) -> tuple[dict[str, FloatArray], MpcTrace]:
    count = min((len(x) for x in inputs.values()), default=0)
    each = 8 * 4 * max(i.size for i in program.instrs)
    size = max(1, min(count, _PART_BYTES // each))
    parts: dict[str, list[FloatArray]] = {name: [] for name in program.outputs}
    costs: dict[str, LayerCost] = {}
    for start in range(0, count, size):
        few = {name: x[start : start + size] for name, x in inputs.items()}
        found, trace = execute(program, engine(), few, progress=progress)
        for name, values in found.items():
            if values is not None:
                parts[name].append(values)
        for layer, cost in trace.layers.items():
            costs[layer] = costs.get(layer, LayerCost()) + cost
    return {name: np.concatenate(p) for name, p in parts.items()}, MpcTrace(costs)


def _towards_zero(share: Ring, bits: int) -> Ring:
    """A share divided by 2^bits, rounded towards zero."""
    lift = (share >> np.int64(63)) & np.int64((1 << bits) - 1)
    return (share + lift) >> np.int64(bits)
