"""Seconds of what SPU's parties do on this machine, a table per protocol: what predictions are made of.

One program that holds every kind of work at several sizes runs between real processes on the loopback interface;
each instruction is a layer and so a module, and the slower party's seconds count. Waiting for the other party is in
them, because during a run it is too; a network's latency and bandwidth are added by the cost model.

What a module costs by itself is what the smallest local ones take, and is taken off everything else. Under Cheetah
some comparison now and then waits for the next batch of oblivious transfers: what comparisons took beyond their
median, over the transfers of so many batches, is the price of a transfer.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls

from pi_compiler.ir.cheetah import LTZ_TRANSFERS, TRANSFERS
from pi_compiler.ir.mpc_program import MODEL_PARTY, MpcOp, MpcProgram
from pi_compiler.ir.protocols import protocol_of
from pi_compiler.ir.spu import held
from pi_compiler.ir.spu_work import MODULE, TRANSFER, Work, spu_work
from pi_compiler.runtime.measure import machine
from pi_compiler.runtime.mpc.launcher import Plan
from pi_compiler.runtime.mpc.measure import Samples, SecondsJson
from pi_compiler.runtime.mpc.spu.backend import SpuMpc

_REPEATS = 3
_SMALL = 64
_SIZES = (_SMALL, 2048, 8192, 32768)
_CONVOLUTIONS = ((1, 8, 8), (4, 8, 16), (16, 16, 32), (32, 16, 32), (64, 8, 64))
"""Input channels, side, output channels."""
_PRODUCTS = ((1, 64, 10), (1, 784, 128), (32, 128, 128), (128, 64, 32))
_BATCHES = 1.4
"""Of transfers that comparisons use up, beyond those of the set-up."""
_FLOOR = 1e-6


@dataclass(frozen=True, slots=True)
class _Point:
    """Layers of equal work: the work, and the seconds of each."""

    work: Work
    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


def measure(protocol: str, repeats: int = _REPEATS) -> SecondsJson:
    """Measure; takes ten seconds on a quiet machine, a minute under Cheetah.

    Args:
        protocol: one of SPU's.
        repeats: how often every instruction runs.

    Returns:
        JSON values: ``backend``, ``protocol``, ``machine``, and ``seconds`` per kind of work and unit, see
        ``ir.spu_work``.

    Raises:
        PiError: a party failed.
    """
    program = samples_of(protocol, repeats)
    zeros = {n: np.zeros((1, *p.shape)) for n, p in program.inputs.items()}
    plan = Plan(protocol_of(protocol).parties, spu=protocol, timeout=300.0)
    _, trace = SpuMpc(plan).run(program, zeros)
    layers = {name: cost.seconds for name, cost in trace.layers.items()}
    table = fitted(program, protocol, layers)
    return {"backend": "spu", "protocol": protocol, "machine": machine(), "seconds": table}


def samples_of(protocol: str, repeats: int = _REPEATS) -> MpcProgram:
    """The program that is measured, a layer per instruction."""
    samples = Samples()
    for size in _SIZES:
        x = _share(samples, (size,))
        for _ in range(repeats):
            _elementwise(samples, x, size)
    for channels, side, filters in _CONVOLUTIONS:
        x, weight = _share(samples, (1, channels, side, side)), samples.weight((filters, channels, 3, 3))
        attrs = {"strides": (1, 1), "pads": (1, 1, 1, 1), "dilations": (1, 1), "group": (1,)}
        for _ in range(repeats):
            samples.op(MpcOp.CONV, x, shape=(1, filters, side, side), weight=weight, attrs=attrs)
    for rows, inner, columns in _PRODUCTS:
        x, y = _share(samples, (rows, inner)), _share(samples, (inner, columns))
        weight, public = samples.weight((inner, columns)), samples.weight((inner, columns), "public")
        for _ in range(repeats):
            samples.op(MpcOp.MATMUL, x, shape=(rows, columns), weight=weight)
            samples.op(MpcOp.MATMUL, x, shape=(rows, columns), weight=public)
            samples.op(MpcOp.DOT, x, y, shape=(rows, columns))
    if protocol == "cheetah":
        _compare_on(samples)
    return samples.program()


def _share(s: Samples, shape: tuple[int, ...]) -> int:
    """Numbers that no party knows."""
    return s.op(MpcOp.SCALE, s.input(shape), shape=shape, bias=s.weight(shape))


def _elementwise(s: Samples, x: int, size: int) -> None:
    shape = (size,)
    s.op(MpcOp.SCALE, x, shape=shape, weight=s.weight(shape))
    s.op(MpcOp.ADD, x, x, shape=shape)
    s.op(MpcOp.SUB, x, x, shape=shape)
    s.op(MpcOp.MUL, x, x, shape=shape)
    s.op(MpcOp.TRUNCATE, x, shape=shape, attrs={"bits": (1,)})
    s.op(MpcOp.GATHER, x, shape=shape, index=s.index(np.arange(size)[::-1]))
    s.op(MpcOp.SUM, x, shape=(1,), attrs={"axes": (0,)})
    s.op(MpcOp.MUL, s.op(MpcOp.LTZ, x, shape=shape), x, shape=shape)
    s.op(MpcOp.REVEAL, x, shape=shape, attrs={"to": (1,)})


def _compare_on(s: Samples) -> None:
    """Comparisons until a batch of transfers has been made."""
    size = _SIZES[-1]
    x, compared = _share(s, (size,)), sum(i.size for i in s.instrs if i.op is MpcOp.LTZ)
    while compared * LTZ_TRANSFERS[MODEL_PARTY] < _BATCHES * TRANSFERS:
        s.op(MpcOp.LTZ, x, shape=(size,))
        compared += size


def _points(program: MpcProgram, protocol: str, seconds: Mapping[str, float]) -> list[_Point]:
    groups: dict[tuple[object, ...], tuple[Work, list[float]]] = {}
    works = spu_work(program, protocol, held(program))
    for instr, work in zip(program.instrs, works, strict=True):
        layer = program.origins[instr.origin]
        if layer in seconds and work.kind not in ("input", "own"):
            key = (work.kind, *sorted(work.amounts.items()))
            groups.setdefault(key, (work, []))[1].append(seconds[layer])
    return [_Point(work, tuple(times)) for work, times in groups.values()]


def fitted(program: MpcProgram, protocol: str, seconds: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """Rates per kind of work, none negative, by least squares of relative errors over the medians of equal layers.

    Args:
        program: what ``samples_of`` gave.
        protocol: under which it ran.
        seconds: per layer.
    """
    points = _points(program, protocol, seconds)
    module = min(p.median for p in points if p.work.kind == MpcOp.ADD)
    found = {MODULE: {"call": module}, TRANSFER: {"call": _per_transfer(points)}}
    for kind in dict.fromkeys(p.work.kind for p in points):
        found[kind] = _rates([p for p in points if p.work.kind == kind], module)
    # What one party does by itself is as local as a product with public weights.
    return found | {"own": found["public"]}


def _rates(points: Sequence[_Point], module: float) -> dict[str, float]:
    names = list(dict.fromkeys(name for p in points for name in p.work.amounts))
    rows = np.array([[p.work.amounts.get(name, 0.0) for name in names] for p in points])
    taken = np.array([max(p.median - p.work.modules * module, _FLOOR) for p in points])
    rates, _ = nnls(rows / taken[:, None], np.ones(len(points)))
    return {name: float(rate) for name, rate in zip(names, rates, strict=True)}


def _per_transfer(points: Sequence[_Point]) -> float:
    """Seconds beyond the median, over the transfers of the batches that were made."""
    compared = [p for p in points if p.work.kind == MpcOp.LTZ]
    used = sum(p.work.transfers * len(p.seconds) for p in compared)
    # Only those that the model's owner offers run out here.
    batches = int(used * LTZ_TRANSFERS[MODEL_PARTY] / sum(LTZ_TRANSFERS) / TRANSFERS)
    beyond = sum(sum(p.seconds) - len(p.seconds) * p.median for p in compared)
    return max(0.0, beyond) / (batches * TRANSFERS) if batches else 0.0
