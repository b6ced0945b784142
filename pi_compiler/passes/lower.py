"""Lower: run the kernels once more, this time writing instructions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from pi_compiler.ir.circuit import Circuit
from pi_compiler.ir.params import Params
from pi_compiler.ir.program import CtType, Opcode, Port, Program, Signature
from pi_compiler.ir.stages import Affine, InputStage
from pi_compiler.kernels.algebra import Algebra, Constant, Value, resolve
from pi_compiler.kernels.circuit import evaluate
from pi_compiler.kernels.matvec import diagonals
from pi_compiler.passes.compilation import Compilation


class Emit(Algebra):
    """Values are numbers of program values; instructions are written down."""

    def __init__(self, params: Params, batch: int = 1) -> None:
        super().__init__(params.primes, params.scale, params.slots // batch)
        self.batch = batch
        self.types: list[CtType] = []
        self.rows: list[tuple[int, int, int, int, int, float, int]] = []
        self.consts: list[NDArray[np.float64] | NDArray[np.float32]] = []
        self.origins: dict[str, int] = {}
        self.origin = 0
        self._numbers: dict[float, int] = {}
        self._dropped: dict[tuple[int, int], _Register] = {}

    def enter(self, origin: str) -> None:
        """Instructions from here on belong to this layer."""
        self.origin = self.origins.setdefault(origin, len(self.origins))

    def input(self, level: int) -> Value:
        """A further input ciphertext; all inputs come before the first instruction."""
        self.types.append(CtType(level, self.nominal))
        return Value(self.types[-1], _Register(len(self.types) - 1))

    def apply(
        self, op: Opcode, a: Value, b: Value | None, imm: int, const: Constant | None, plain_scale: float, out: CtType
    ) -> object:
        first = number(a)
        if op is Opcode.DROP_LEVEL and (first, imm) in self._dropped:
            return self._dropped[first, imm]
        second = number(b) if b is not None else -1
        index = self.constant(const) if const is not None else -1
        step = imm * self.batch if op is Opcode.ROTATE else imm
        self.rows.append((int(op), first, second, step, index, plain_scale, self.origin))
        self.types.append(out)
        register = _Register(len(self.types) - 1)
        if op is Opcode.DROP_LEVEL:
            self._dropped[first, imm] = register
        return register

    def constant(self, const: Constant) -> int:
        """Number of a constant; equal scalars share one."""
        if isinstance(const, float | int):
            if const not in self._numbers:
                self._numbers[const] = len(self.consts)
                self.consts.append(np.array([const], dtype=np.float64))
            return self._numbers[const]
        vector = const() if callable(const) else const
        self.consts.append(vector if vector.dtype == np.float32 else resolve(vector))
        return len(self.consts) - 1


class _Outline(Emit):
    """Instructions without their constants."""

    def constant(self, const: Constant) -> int:
        return 0


class _Register:
    """Number of a program value, as an object that lives as long as its value."""

    __slots__ = ("number",)

    def __init__(self, number: int) -> None:
        self.number = number


def number(value: Value) -> int:
    """The program value that an emitted value stands for."""
    register = value.data
    if not isinstance(register, _Register):
        raise TypeError(f"not an emitted value: {value!r}")
    return register.number


def lower(c: Compilation) -> Compilation:
    """Circuit, levels and parameters -> program and signature."""
    circuit = Compilation.require(c.circuit, "lower", "schedule")
    params = Compilation.require(c.params, "lower", "schedule")
    levels = Compilation.require(c.levels, "lower", "schedule")
    program, ports = write(circuit, levels, params)
    client = dict(zip(c.graph.output_names, c.graph.client_ops, strict=False))
    signature = Signature(ports[0], ports[1], client, batch=program.batch)
    return replace(c, program=program, signature=signature)


def outline(circuit: Circuit, levels: Sequence[int], params: Params) -> Program:
    """The instructions of a circuit without constants: who lives how long, before anything is lowered."""
    emit = _Outline(params, circuit.batch(params))
    inputs: dict[int, list[Value]] = {}
    names: dict[str, tuple[int, ...]] = {}
    for n, stage in enumerate(circuit.stages.stages):
        if isinstance(stage, InputStage):
            inputs[n] = [emit.input(levels[n]) for _ in range(circuit.layouts[n].ciphertexts)]
            names[stage.name] = tuple(number(v) for v in inputs[n])

    def constants(n: int) -> Sequence[Constant]:
        plan = circuit.plans[n]
        return [np.broadcast_to(0.0, (plan.span,))] * len(plan.terms)

    values = evaluate(emit, circuit, levels, inputs, constants, emit.enter)
    results = {name: tuple(number(v) for v in values[n]) for name, (n, _) in circuit.stages.outputs.items()}
    return assemble(emit, names, results)


def write(
    circuit: Circuit, levels: Sequence[int], params: Params
) -> tuple[Program, tuple[Mapping[str, Port], Mapping[str, Port]]]:
    """The program of a circuit, and its input and output ports."""
    emit = Emit(params, circuit.batch(params))
    stages = circuit.stages
    inputs: dict[int, list[Value]] = {}
    entering: dict[str, Port] = {}
    names: dict[str, tuple[int, ...]] = {}
    for n, stage in enumerate(stages.stages):
        if isinstance(stage, InputStage):
            layout = circuit.layouts[n]
            inputs[n] = [emit.input(levels[n]) for _ in range(layout.ciphertexts)]
            entering[stage.name] = Port(layout, stage.gain, levels[n], params.scale)
            names[stage.name] = tuple(number(v) for v in inputs[n])

    def constants(n: int) -> Sequence[Constant]:
        stage = stages.stages[n]
        if not isinstance(stage, Affine):
            return []
        sources = [circuit.layouts[s] for s in stage.sources]
        return diagonals(circuit.plans[n], stage.matrices, sources, circuit.layouts[n])

    values = evaluate(emit, circuit, levels, inputs, constants, emit.enter)
    leaving: dict[str, Port] = {}
    results: dict[str, tuple[int, ...]] = {}
    for name, (n, gain) in stages.outputs.items():
        final = values[n]
        leaving[name] = Port(circuit.layouts[n], gain, final[0].level, final[0].scale)
        results[name] = tuple(number(v) for v in final)
    return assemble(emit, names, results), (entering, leaving)


def assemble(emit: Emit, inputs: Mapping[str, tuple[int, ...]], outputs: Mapping[str, tuple[int, ...]]) -> Program:
    """Columns from rows."""
    op, a, b, imm, const, plain_scale, origin = (
        zip(*emit.rows, strict=True) if emit.rows else ((), (), (), (), (), (), ())
    )
    return Program(
        np.array(op, np.uint8),
        np.array(a, np.int32),
        np.array(b, np.int32),
        np.array(imm, np.int32),
        np.array(const, np.int32),
        np.array(plain_scale, np.float64),
        np.array(origin, np.int32),
        np.array([t.level for t in emit.types], np.int16),
        np.array([t.scale for t in emit.types], np.float64),
        np.array([t.dimension for t in emit.types], np.uint8),
        tuple(emit.consts),
        inputs,
        outputs,
        tuple(emit.origins),
        emit.batch,
    )
