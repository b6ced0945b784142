"""Seconds of every opcode of backend ``crypten`` on this machine: the table behind predictions.

One program that holds every opcode at several sizes runs between real processes on the loopback interface; each
instruction is a layer, and the slower party's seconds count. Waiting for the other party is in them, because
during a run it is too; a network's latency and bandwidth are added by the cost model.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import prod
from typing import TypeAlias

import numpy as np
from scipy.optimize import nnls

from pi_compiler.ir.graph import Shape
from pi_compiler.ir.mpc_program import Attrs, Index, MpcConst, MpcInstr, MpcOp, MpcPort, MpcProgram, Owner
from pi_compiler.runtime.measure import machine
from pi_compiler.runtime.mpc.crypten import CryptenMpc
from pi_compiler.runtime.mpc.launcher import Plan

SecondsJson: TypeAlias = dict[str, object]
_SIZES = (64, 2048, 16384, 65536)
_CONVOLUTIONS = ((4, 8), (16, 32), (32, 16), (64, 8))
_PRODUCTS = ((1, 64, 10), (1, 784, 128), (32, 128, 128), (128, 128, 64))
_REPEATS = 5
_RATES = ("call", "element", "product")


@dataclass(slots=True)
class Samples:
    """A program in the making, a layer per instruction, and what its layers stand for."""

    instrs: list[MpcInstr] = field(default_factory=list)
    consts: list[MpcConst] = field(default_factory=list)
    indices: list[Index] = field(default_factory=list)
    inputs: dict[str, MpcPort] = field(default_factory=dict)
    layers: list[str] = field(default_factory=lambda: ["input"])
    meaning: dict[str, tuple[MpcOp, int, int]] = field(default_factory=dict)

    def input(self, shape: Shape) -> int:
        self.inputs[f"x{len(self.inputs)}"] = MpcPort(len(self.instrs), shape)
        self.instrs.append(MpcInstr(MpcOp.INPUT, (), shape, 0, 0))
        return len(self.instrs) - 1

    def index(self, values: Index) -> int:
        self.indices.append(values)
        return len(self.indices) - 1

    def weight(self, shape: Shape, owner: Owner = "model") -> int:
        self.consts.append(MpcConst(np.ones(shape, np.int64), 0, owner))
        return len(self.consts) - 1

    def op(
        self,
        op: MpcOp,
        *args: int,
        shape: Shape,
        weight: int = -1,
        bias: int = -1,
        index: int = -1,
        products: int = 0,
        attrs: Attrs | None = None,
    ) -> int:
        name = f"{op} {len(self.layers)}"
        self.layers.append(name)
        touched = sum(self.instrs[a].size for a in args) + prod(shape)
        self.meaning[name] = (op, touched, products)
        frac = -1 if op is MpcOp.TRUNCATE else 0
        made = MpcInstr(op, args, shape, frac, len(self.layers) - 1, weight, bias, index, attrs or {})
        self.instrs.append(made)
        return len(self.instrs) - 1

    def program(self) -> MpcProgram:
        """Nothing but one element is revealed."""
        shown = self.op(MpcOp.REVEAL, 0, shape=self.instrs[0].shape, attrs={"to": (1,)})
        outputs = {"y": MpcPort(shown, self.instrs[0].shape)}
        return MpcProgram(
            tuple(self.instrs),
            tuple(self.consts),
            tuple(self.indices),
            self.inputs,
            outputs,
            tuple(self.layers),
            "crypten-ttp",
        )


def measure(repeats: int = _REPEATS) -> SecondsJson:
    """Measure; takes about ten seconds on a quiet machine.

    Args:
        repeats: how often every instruction runs.

    Returns:
        JSON values: ``backend``, ``machine``, and ``seconds`` per opcode: per ``call``, per ``element``
        touched (operands and result), per scalar ``product``.

    Raises:
        PiError: a party failed.
    """
    samples = Samples()
    for size in _SIZES:
        x = samples.input((size,))
        for _ in range(repeats):
            _elementwise(samples, x, size)
    for channels, side in _CONVOLUTIONS:
        x = samples.input((1, channels, side, side))
        weight = samples.weight((channels, channels, 3, 3))
        for _ in range(repeats):
            _convolution(samples, x, weight, channels)
    for rows, inner, columns in _PRODUCTS:
        x, y = samples.input((rows, inner)), samples.input((inner, columns))
        weight, count = samples.weight((inner, columns)), rows * inner * columns
        for _ in range(repeats):
            samples.op(MpcOp.MATMUL, x, shape=(rows, columns), weight=weight, products=count)
            samples.op(MpcOp.DOT, x, y, shape=(rows, columns), products=count)
    program = samples.program()
    zeros = {n: np.zeros((1, *p.shape)) for n, p in program.inputs.items()}
    _, trace = CryptenMpc(Plan(timeout=300.0)).run(program, zeros)
    seconds = {name: cost.seconds for name, cost in trace.layers.items()}
    return {"backend": "crypten", "machine": machine(), "seconds": _fitted(samples, seconds)}


def _elementwise(s: Samples, x: int, size: int) -> None:
    shape = (size,)
    s.op(MpcOp.SCALE, x, shape=shape, weight=s.weight(shape), products=size)
    s.op(MpcOp.ADD, x, x, shape=shape)
    s.op(MpcOp.SUB, x, x, shape=shape)
    s.op(MpcOp.MUL, x, x, shape=shape)
    s.op(MpcOp.SQUARE, x, shape=shape)
    s.op(MpcOp.TRUNCATE, x, shape=shape, attrs={"bits": (1,)})
    s.op(MpcOp.GATHER, x, shape=(1, size))
    s.op(MpcOp.SUM, x, shape=(1,), attrs={"axes": (0,)})
    # Bits that select only, as ReLU's do.
    s.op(MpcOp.MUL, s.op(MpcOp.LTZ, x, shape=shape), x, shape=shape)
    s.op(MpcOp.REVEAL, x, shape=shape, attrs={"to": (1,)})


def _convolution(s: Samples, x: int, weight: int, channels: int) -> None:
    shape = s.instrs[x].shape
    attrs = {"strides": (1, 1), "pads": (1, 1, 1, 1), "dilations": (1, 1), "group": (1,)}
    s.op(MpcOp.CONV, x, shape=shape, weight=weight, products=9 * channels * prod(shape), attrs=attrs)


def _fitted(samples: Samples, seconds: dict[str, float]) -> dict[str, dict[str, float]]:
    """Rates per opcode, none negative, by least squares of relative errors over the medians of equal layers."""
    found: dict[str, dict[str, float]] = {}
    for op in dict.fromkeys(op for op, _, _ in samples.meaning.values()):
        points = list(_medians(samples, seconds, op))
        rows = np.array([(1.0, touched, products) for touched, products, _ in points])
        taken = np.array([max(s, 1e-7) for _, _, s in points])
        rates, _ = nnls(rows / taken[:, None], np.ones(len(points)))
        found[op.value] = {name: float(rate) for name, rate in zip(_RATES, rates, strict=True)}
    return found


def _medians(samples: Samples, seconds: dict[str, float], op: MpcOp) -> Iterator[tuple[int, int, float]]:
    groups: dict[tuple[int, int], list[float]] = {}
    for name, (kind, touched, products) in samples.meaning.items():
        if kind is op and name in seconds:
            groups.setdefault((touched, products), []).append(seconds[name])
    for (touched, products), times in groups.items():
        yield touched, products, statistics.median(times)
