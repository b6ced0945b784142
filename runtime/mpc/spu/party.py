"""One party's run on SPU, from the first connection to the last answer: model owner, data owner, under ABY3 a helper.

What a party does not own it enters as an owner's value without content: SPU keeps such values apart from shares and
shares them itself where they meet others. Answers are not opened among all: everybody else sends its share of them to
the data's owner, who alone adds them up.
"""

from __future__ import annotations

import re
import socket
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pi_compiler.errors import ExecutionError, ShapeMismatch
from pi_compiler.ir.graph import FloatArray
from pi_compiler.ir.mpc_program import DATA_PARTY, MODEL_PARTY, MpcProgram, decode, encode
from pi_compiler.ir.spu import owner_of
from pi_compiler.runtime.mpc.job import PartyResult, Phase, SpuJob
from pi_compiler.runtime.mpc.spu import library
from pi_compiler.runtime.mpc.spu.meeting import called, meet, translated
from pi_compiler.runtime.mpc.spu.text import Module, Written, write_modules
from pi_compiler.runtime.mpc.walk import LayerCost, MpcTrace, Traffic

_SENT = re.compile(r"Link details: total send bytes (\d+), recv bytes (\d+), send actions (\d+), recv actions (\d+)")
_SIZE = 4
_WARM_SIDE = 16
"""So many elements, squared, use up what transfers Cheetah makes before its first batch of ten million: see there."""
_WARM = """module @warm { func.func @main(%v0: tensor<16x16xi64>, %c0: tensor<16x16xi64>) -> tensor<16x16xi64> {
  %zero = stablehlo.constant dense<0> : tensor<16x16xi64>
  %small = stablehlo.constant dense<1.52587890625E-5> : tensor<16x16xf64>
  %mixed = stablehlo.add %v0, %c0 : tensor<16x16xi64>
  %product = stablehlo.dot_general %mixed, %c0, contracting_dims = [1] x [0]
    : (tensor<16x16xi64>, tensor<16x16xi64>) -> tensor<16x16xi64>
  %square = stablehlo.multiply %product, %product : tensor<16x16xi64>
  %fixed = stablehlo.bitcast_convert %square : (tensor<16x16xi64>) -> tensor<16x16xf64>
  %less = stablehlo.multiply %fixed, %small : tensor<16x16xf64>
  %ring = stablehlo.bitcast_convert %less : (tensor<16x16xf64>) -> tensor<16x16xi64>
  %bit = stablehlo.compare LT, %ring, %zero : (tensor<16x16xi64>, tensor<16x16xi64>) -> tensor<16x16xi1>
  %kept = stablehlo.select %bit, %ring, %zero : tensor<16x16xi1>, tensor<16x16xi64>
  return %kept : tensor<16x16xi64>
} }"""
"""Every kind of message once, so that keys and base transfers are made before the first input."""


def run_spu_party(
    job: SpuJob, *, listening: socket.socket | None = None, met: Callable[[], None] | None = None
) -> PartyResult:
    """Meet the others and do this party's part.

    Args:
        job: what to do.
        listening: keeps this party's port free until SPU listens there itself.
        met: called once all parties are connected.

    Raises:
        ShapeMismatch: inputs do not fit, or the parties do not mean the same run.
        UnsupportedInstruction: SPU cannot run the program; all layers are named.
        ExecutionError: a port is taken, another party is absent, stopped or silent, or SPU fails.
        BackendUnavailable: the library is missing.
    """
    _check(job)
    library.load()
    written = write_modules(job.program)
    with tempfile.TemporaryDirectory(prefix="spu-") as folder:
        log = Path(folder) / "log"
        library.log_to(log)
        link, samples = meet(job, listening)
        if met is not None:
            met()
        programs = [library.compiled(m.layer, m.text, m.inputs, m.outputs) for m in written.modules]
        result = _Run(job, written, programs, link, _Log(log)).run(samples)
        # After a failure it would wait for messages that nobody answers; the process's end closes the connections.
        link.stop_link()
        return result


def _check(job: SpuJob) -> None:
    """Only the data's owner has inputs, one per port, in its shape."""
    if (job.rank == DATA_PARTY) != (job.inputs is not None):
        what = "needs" if job.rank == DATA_PARTY else "must not have"
        raise ShapeMismatch(f"{called(job, job.rank)} {what} inputs")
    given, program = job.inputs or {}, job.program
    faults = [
        f"input {name!r} has shape {list(given[name].shape) if name in given else 'none'}, "
        f"needed is (N, *{list(program.instrs[port.value].shape)})"
        for name, port in program.inputs.items()
        if job.inputs is not None and (name not in given or given[name].shape[1:] != program.instrs[port.value].shape)
    ]
    if len({len(x) for x in given.values()}) > 1:
        faults.append("inputs differ in their number of samples")
    if faults:
        raise ShapeMismatch("the input does not fit the model", *faults)


@dataclass(slots=True)
class _Log:
    """The library's log, read on: what each run of a module sent."""

    path: Path
    read: int = 0

    def sent(self) -> Phase:
        """Bytes and messages since the last call.

        Raises:
            ExecutionError: the library wrote no counts.
        """
        with self.path.open("rb") as file:
            file.seek(self.read)
            new = file.read()
        self.read += len(new)
        found = _SENT.findall(new.decode(errors="replace"))
        if not found:
            raise ExecutionError("SPU did not say what it sent", hint=library.INSTALL)
        total = Phase()
        for sent, received, messages, answers in found:
            total += Phase(0.0, max(int(messages), int(answers)), int(sent), int(received))
        return total


@dataclass(slots=True)
class _Run:
    """A party after all have met."""

    job: SpuJob
    written: Written
    programs: list[Any]
    link: Any
    log: _Log
    runtime: Any = None
    io: Any = None
    layers: dict[str, LayerCost] = field(default_factory=dict)

    def run(self, samples: int) -> PartyResult:
        """Everything."""
        settings = library.config(self.job.protocol, self.job.threads)
        start = time.perf_counter()
        with translated(self.job, "the set-up"):
            made = library.load()
            self.runtime = made.RuntimeWrapper(self.link, settings)
            self.io = made.IoWrapper(len(self.job.peers), settings)
            setup = self._warm()
            self._constants()
        setup += Phase(time.perf_counter() - start)
        online, each, answers = Phase(), [], []
        for sample in range(samples):
            start = time.perf_counter()
            spent, found = self._sample(sample)
            each.append(time.perf_counter() - start)
            online += Phase(each[-1], spent.rounds, spent.sent, spent.received)
            answers.append(found)
        with translated(self.job, "the end"):
            self.link.barrier()
        outputs = {n: np.stack([a[n] for a in answers]) for n in self.job.program.outputs} if any(answers) else {}
        return PartyResult(self.job.rank, outputs, setup, Phase(), online, MpcTrace(self.layers), tuple(each))

    def _warm(self) -> Phase:
        zeros = np.zeros((_WARM_SIDE, _WARM_SIDE), np.int64)
        program = library.compiled("warm", _WARM, ("v0", "c0"), ("v1",))
        self._enter("v0", zeros, DATA_PARTY)
        self._enter("c0", zeros, MODEL_PARTY)
        self.runtime.Run(program)
        for name in ("v0", "c0", "v1"):
            self.runtime.DelVar(name)
        return self.log.sent()

    def _constants(self) -> None:
        """Weights, of which only their owner has the content, and what everybody knows."""
        used = {name for m in self.written.modules for name in m.inputs}
        for number, const in enumerate(self.job.program.consts):
            if f"c{number}" in used:
                self._enter(f"c{number}", const.values, MODEL_PARTY)
            if f"p{number}" in used:
                self._enter(f"p{number}", const.values, None)
        for name, index in self.written.indices.items():
            self._enter(name, index.astype(np.int64).reshape(-1, 1), None)

    def _enter(self, name: str, values: np.ndarray[Any, Any], owner: int | None) -> None:
        """A variable of the runtime; None is known to all. Whoever is not its owner gives zeros, which are not sent."""
        seen = library.load().Visibility
        array = np.ascontiguousarray(values, np.int64)
        if owner is None:
            parts = self.io.MakeShares(array, seen.VIS_PUBLIC, -1)
        else:
            mine = array if owner == self.job.rank else np.zeros(array.shape, np.int64)
            parts = self.io.MakeShares(mine, seen.VIS_SECRET, owner)
        self.runtime.SetVar(name, parts[self.job.rank])

    def _sample(self, sample: int) -> tuple[Phase, dict[str, FloatArray]]:
        program = self.job.program
        for name, port in program.inputs.items():
            instr = program.instrs[port.value]
            given = None if self.job.inputs is None else self.job.inputs[name][sample]
            values = np.zeros(instr.shape, np.int64) if given is None else encode(given, instr.frac)
            self._enter(f"v{port.value}", values, owner_of(port.owner))
        total = Phase()
        for module, compiled in zip(self.written.modules, self.programs, strict=True):
            total += self._module(module, compiled)
        return self._answers(program, total)

    def _module(self, module: Module, compiled: Any) -> Phase:
        start = time.perf_counter()
        with translated(self.job, f"layer {module.layer!r}"):
            self.runtime.Run(compiled)
        spent = self.log.sent()
        for name in module.spent:
            self.runtime.DelVar(name)
        self._count(module.layer, time.perf_counter() - start, spent.rounds, spent.sent)
        return spent

    def _count(self, layer: str, seconds: float, rounds: int, sent: int) -> None:
        cost = LayerCost(seconds, Traffic(rounds, sent))
        self.layers[layer] = self.layers.get(layer, LayerCost()) + cost

    def _answers(self, program: MpcProgram, total: Phase) -> tuple[Phase, dict[str, FloatArray]]:
        """Answers at the data's owner; the others send their shares of them."""
        found: dict[str, FloatArray] = {}
        for name, port in program.outputs.items():
            instr = program.instrs[port.value]
            start, layer = time.perf_counter(), program.origins[instr.origin]
            variable = f"v{instr.args[0]}"
            share = self.runtime.GetVar(variable)
            with translated(self.job, f"layer {layer!r}"):
                if self.job.rank == DATA_PARTY:
                    found[name] = self._opened(share, instr.frac)
                    spent = Phase(rounds=1)
                else:
                    message = _packed(share)
                    self.link.send(DATA_PARTY, message)
                    spent = Phase(rounds=1, sent=len(message))
            self._count(layer, time.perf_counter() - start, spent.rounds, spent.sent)
            total += spent
        for variable in {f"v{program.instrs[p.value].args[0]}" for p in program.outputs.values()}:
            self.runtime.DelVar(variable)
        return total, found

    def _opened(self, mine: Any, frac: int) -> FloatArray:
        shares = []
        for rank in range(len(self.job.peers)):
            shares.append(mine if rank == self.job.rank else _unpacked(bytes(self.link.recv(rank))))
        return decode(np.asarray(self.io.Reconstruct(shares)).astype(np.int64), frac)


def _packed(share: Any) -> bytes:
    """A share as it is sent: each part with its size in front."""
    return b"".join(len(part).to_bytes(_SIZE, "big") + part for part in (share.meta, *share.share_chunks))


def _unpacked(message: bytes) -> Any:
    parts, place = [], 0
    while place < len(message):
        start = place + _SIZE
        place = start + int.from_bytes(message[place:start], "big")
        parts.append(message[start:place])
    if not parts or place != len(message):
        raise ExecutionError("a share of the answers came damaged")
    share = library.load().Share()
    share.meta, share.share_chunks = parts[0], parts[1:]
    return share
