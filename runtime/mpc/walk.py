"""Walks an MPC program: calls an engine per instruction, frees values after their last use, keeps count.

An engine is what a party can do. The simulator's holds values themselves; that of a real party holds its
own shares and talks to the others. Everything about order, liveness, time and errors is here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeAlias, TypeVar

from pi_compiler.errors import BackendError, ExecutionError, InternalError
from pi_compiler.ir.graph import FloatArray
from pi_compiler.ir.mpc_program import MpcOp, MpcProgram

V = TypeVar("V")
Progress: TypeAlias = Callable[[str, int, int], None]
"""Called as (layer, instructions done, instructions in all) whenever the layer changes."""


@dataclass(frozen=True, slots=True)
class Traffic:
    """What a party has put on the wire.

    Attributes:
        rounds: messages that had to be waited for, one after the other.
        bytes_sent: bytes that this party sent.
    """

    rounds: int = 0
    bytes_sent: int = 0

    def __add__(self, other: Traffic) -> Traffic:
        return Traffic(self.rounds + other.rounds, self.bytes_sent + other.bytes_sent)

    def __sub__(self, other: Traffic) -> Traffic:
        return Traffic(self.rounds - other.rounds, self.bytes_sent - other.bytes_sent)


@dataclass(frozen=True, slots=True)
class LayerCost:
    """Seconds and traffic of one layer."""

    seconds: float = 0.0
    traffic: Traffic = Traffic()

    def __add__(self, other: LayerCost) -> LayerCost:
        return LayerCost(self.seconds + other.seconds, self.traffic + other.traffic)


@dataclass(frozen=True, slots=True)
class MpcTrace:
    """What a run cost, per layer in program order."""

    layers: Mapping[str, LayerCost]

    @property
    def total(self) -> LayerCost:
        """Everything together."""
        return sum(self.layers.values(), LayerCost())


class Engine(Protocol, Generic[V]):
    """One party's half of every opcode, or a simulation of all parties at once."""

    def share(self, number: int, values: FloatArray | None) -> V:
        """INPUT: the instruction's number, and the numbers to share; None at the party that does not own them."""

    def step(self, number: int, operands: Sequence[V]) -> V:
        """Any opcode but INPUT and REVEAL."""

    def reveal(self, number: int, operand: V) -> FloatArray | None:
        """REVEAL: the numbers, or None at a party that does not learn them."""

    def traffic(self) -> Traffic:
        """What went over the wire so far; zero for simulations."""


def execute(
    program: MpcProgram,
    engine: Engine[V],
    inputs: Mapping[str, FloatArray | None],
    *,
    progress: Progress | None = None,
) -> tuple[dict[str, FloatArray | None], MpcTrace]:
    """Run a program.

    Args:
        program: what to run.
        engine: this party, or a simulation.
        inputs: per input name the numbers to share (one-hot rows for ports with classes), None where
            another party owns them.
        progress: observer of layer changes.

    Returns:
        Per output name the numbers, None where this party does not learn them; and what the run cost.

    Raises:
        ExecutionError: inputs are missing, or an instruction fails; the message names the layer.
    """
    ports = {port.value: name for name, port in program.inputs.items()}
    missing = [name for name in program.inputs if name not in inputs]
    if missing:
        raise ExecutionError(f"inputs are missing: {', '.join(missing)}")
    last = program.last_uses()
    live: dict[int, V] = {}
    revealed: dict[int, FloatArray | None] = {}
    costs: dict[str, LayerCost] = {}
    layer = ""
    for number, instr in enumerate(program.instrs):
        origin = program.origins[instr.origin]
        if origin != layer and progress is not None:
            progress(origin, number, len(program))
        layer = origin
        start, before = time.perf_counter(), engine.traffic()
        try:
            operands = [live[a] for a in instr.args]
            if instr.op is MpcOp.INPUT:
                live[number] = engine.share(number, inputs[ports[number]])
            elif instr.op is MpcOp.REVEAL:
                revealed[number] = engine.reveal(number, operands[0])
            else:
                live[number] = engine.step(number, operands)
        except InternalError:
            raise
        except BackendError as error:
            where = f"instruction {number} of {len(program)}: {instr.op}"
            raise ExecutionError(f"layer {layer!r}: {error.what}", *error.details, where, hint=error.hint) from error
        del operands
        spent = LayerCost(time.perf_counter() - start, engine.traffic() - before)
        costs[layer] = costs.get(layer, LayerCost()) + spent
        for value in {*instr.args, number}:
            if last[value] <= number:
                live.pop(value, None)
    return {name: revealed[port.value] for name, port in program.outputs.items()}, MpcTrace(costs)
