"""One party's run, from the first connection to the last answer: model owner, data owner or dealer."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import ModuleType

import numpy as np
import torch

from pi_compiler.errors import ParameterError, PiError, ShapeMismatch
from pi_compiler.ir.graph import FloatArray
from pi_compiler.ir.mpc_program import DATA_PARTY, LINEAR, MODEL_PARTY
from pi_compiler.ir.two_party import ELEMENT_BYTES, masked_weights, traffic
from pi_compiler.runtime.mpc import library
from pi_compiler.runtime.mpc.communicator import DealtProvider, DirectCommunicator
from pi_compiler.runtime.mpc.engine import PartyEngine, Weights
from pi_compiler.runtime.mpc.handout import digest, summary
from pi_compiler.runtime.mpc.job import Job, PartyResult, Phase
from pi_compiler.runtime.mpc.linear import linear, tensor
from pi_compiler.runtime.mpc.meeting import Meeting, Terms, meet
from pi_compiler.runtime.mpc.mesh import DEALER, Mesh, party_name
from pi_compiler.runtime.mpc.streams import Stream, fresh_stream
from pi_compiler.runtime.mpc.tuples import DEALT, MASK, Dealer, Hand, weight_mask
from pi_compiler.runtime.mpc.walk import LayerCost, MpcTrace, Progress, Traffic, execute

_READY = bytes(ELEMENT_BYTES)


@dataclass(slots=True)
class _Clock:
    """Measures phases of a mesh."""

    mesh: Mesh
    phases: dict[str, Phase] = field(default_factory=dict)
    _start: tuple[float, int, int, int] = (0.0, 0, 0, 0)

    def begin(self) -> None:
        self._start = self._now()

    def end(self, phase: str) -> Phase:
        now = self._now()
        spent = Phase(now[0] - self._start[0], *(int(b - a) for a, b in zip(self._start[1:], now[1:], strict=True)))
        self.phases[phase] = self.phases.get(phase, Phase()) + spent
        self._start = now
        return spent

    def _now(self) -> tuple[float, int, int, int]:
        links = self.mesh.links.values()
        return time.perf_counter(), self.mesh.rounds, sum(k.sent for k in links), sum(k.received for k in links)


def run_party(
    job: Job,
    *,
    listening: socket.socket | None = None,
    progress: Progress | None = None,
    met: Callable[[], None] | None = None,
) -> PartyResult:
    """Meet the others and do this party's part; every way out closes all connections and tells the others why.

    Args:
        job: what to do.
        listening: a socket that listens already.
        progress: observer of layer changes.
        met: called once all parties are connected.

    Raises:
        ParameterError: the rank does not fit the number of parties.
        ShapeMismatch: inputs do not fit, or the parties do not mean the same run.
        ExecutionError: a port is taken, another party is absent, stopped or silent, or values left the range.
        BackendUnavailable: the library is missing.
    """
    inputs = _checked(job)
    torch.set_num_threads(job.threads)
    library.load()
    samples = len(next(iter(inputs.values()))) if inputs else 0
    terms = Terms(digest(job.program), summary(job.program), job.dealer, samples)
    patience = job.timeout if job.patience is None else job.patience
    meeting = meet(job.rank, job.peers, terms, timeout=job.timeout, patience=patience, listening=listening)
    try:
        if met is not None:
            met()
        result = _deal(job, meeting) if job.rank == DEALER else _Computing(job, meeting, inputs, progress).run()
        meeting.mesh.finish()
        return result
    except PiError as error:
        meeting.mesh.abort(error.what)
        raise
    except BaseException as error:
        # What a foreign exception says may hold values; its type does not.
        meeting.mesh.abort(f"a fault of its own ({type(error).__name__})")
        raise


def _checked(job: Job) -> dict[str, FloatArray]:
    """The data owner's inputs; nobody else may have any."""
    last = DEALER if job.dealer else DATA_PARTY
    if not 0 <= job.rank <= last:
        raise ParameterError(f"there is no party {job.rank} in a run of {last + 1}", f"parties: 0 to {last}")
    if (job.rank == DATA_PARTY) != (job.inputs is not None):
        raise ParameterError(f"{party_name(job.rank)} {'needs' if job.rank == DATA_PARTY else 'must not have'} inputs")
    faults, found = [], dict(job.inputs or {})
    for name, port in job.program.inputs.items() if job.inputs is not None else ():
        shape = job.program.instrs[port.value].shape
        if name not in found:
            faults.append(f"input {name!r} is missing")
        elif found[name].shape[1:] != shape:
            faults.append(f"input {name!r} has shape {list(found[name].shape)}, needed is (N, *{list(shape)})")
    if len({len(x) for x in found.values()}) > 1 or any(not len(x) for x in found.values()):
        faults.append("inputs differ in their number of samples, or have none")
    if faults:
        raise ShapeMismatch("the input does not fit the model", *faults)
    return found


def _deal(job: Job, meeting: Meeting) -> PartyResult:
    """The dealer: corrections to the model's owner, input by input."""
    clock = _Clock(meeting.mesh)
    clock.begin()
    count = int.from_bytes(meeting.mesh.receive(DATA_PARTY, ELEMENT_BYTES), "little")
    dealer = Dealer(job.program, [meeting.streams[MODEL_PARTY], meeting.streams[DATA_PARTY]])
    clock.end("setup")
    for run in range(count):
        for _, correction in dealer.deal(run, 1):
            meeting.mesh.send(MODEL_PARTY, correction.numpy())
        clock.end("offline")
    return PartyResult(job.rank, {}, clock.phases["setup"], clock.phases.get("offline", Phase()), Phase(), None)


class _Computing:
    """A computing party: set-up, then per input an offline and an online phase."""

    def __init__(self, job: Job, meeting: Meeting, inputs: Mapping[str, FloatArray], progress: Progress | None) -> None:
        self.job, self.inputs, self.progress = job, inputs, progress
        self.mesh, self.samples = meeting.mesh, meeting.samples
        self.model = job.rank == MODEL_PARTY
        self.pair = meeting.streams[1 - job.rank]
        self.dealer: Dealer | None = None
        self.dealt = self._dealt_stream(meeting)
        self.provider = DealtProvider()
        self.comm = DirectCommunicator(self.mesh)
        self.crypten: ModuleType = library.bind(self.comm, self.provider)
        self.masked: dict[int, torch.Tensor] = {}

    def _dealt_stream(self, meeting: Meeting) -> Stream:
        if self.job.dealer:
            return meeting.streams[DEALER]
        if not self.model:
            return self.pair
        own = fresh_stream()
        self.dealer = Dealer(self.job.program, [own, self.pair])
        return own

    def run(self) -> PartyResult:
        """All inputs, one after the other."""
        clock = _Clock(self.mesh)
        clock.begin()
        self._set_up()
        clock.end("setup")
        answers: dict[str, list[FloatArray]] = {name: [] for name in self.job.program.outputs}
        layers: dict[str, LayerCost] = {}
        each: list[float] = []
        for run in range(self.samples):
            engine = self._offline(run)
            clock.end("offline")
            given = {name: None if self.model else self.inputs[name][run : run + 1] for name in self.job.program.inputs}
            found, trace = execute(self.job.program, engine, given, progress=self.progress)
            each.append(clock.end("online").seconds)
            layers = {n: layers.get(n, LayerCost(0.0, Traffic())) + cost for n, cost in trace.layers.items()}
            for name, values in found.items():
                if values is not None:
                    answers[name].append(values)
        outputs = {name: np.concatenate(values) for name, values in answers.items() if values}
        phases = clock.phases
        done = (phases["setup"], phases["offline"], phases["online"])
        return PartyResult(self.job.rank, outputs, *done, MpcTrace(layers), tuple(each))

    def _set_up(self) -> None:
        """The model's owner opens its weights, masked; the data owner tells the dealer how many inputs there are."""
        program, consts = self.job.program, masked_weights(self.job.program)
        if not self.model and self.job.dealer:
            self.mesh.send(DEALER, self.samples.to_bytes(ELEMENT_BYTES, "little"))
        if not consts:
            return
        sizes = [program.consts[c].values.size for c in consts]
        if self.model:
            opened = [tensor(program.consts[c].values) - weight_mask(self.dealt, program, c) for c in consts]
            self.mesh.send(DATA_PARTY, torch.cat([w.reshape(-1) for w in opened]).numpy())
            return
        raw = torch.from_numpy(np.frombuffer(self.mesh.receive(MODEL_PARTY, ELEMENT_BYTES * sum(sizes)), np.int64))
        for c, piece in zip(consts, torch.split(raw, sizes), strict=True):
            self.masked[c] = piece.reshape(program.consts[c].values.shape)

    def _offline(self, run: int) -> PartyEngine:
        """Everything about a run that does not need its input."""
        program = self.job.program
        corrections = self._corrections(run) if self.model else {}
        hand = Hand(self.job.rank, self.dealt, run, corrections)
        weights = Weights(
            {c: tensor(program.consts[c].values) for c in masked_weights(program)} if self.model else {},
            {} if self.model else self._halves(hand),
        )
        peer = 1 - self.job.rank
        self.mesh.exchange({peer: _READY}, {peer: len(_READY)})
        return PartyEngine(self.crypten, program, self.comm, self.provider, hand, self.pair, weights, run, 1)

    def _corrections(self, run: int) -> dict[int, torch.Tensor]:
        if self.dealer is not None:
            return dict(self.dealer.deal(run, 1))
        return {
            number: torch.from_numpy(np.frombuffer(self.mesh.receive(DEALER, cost.offline), np.int64))
            for number, cost in enumerate(traffic(self.job.program))
            if cost.offline
        }

    def _halves(self, hand: Hand) -> dict[int, torch.Tensor]:
        """The data owner's share of every linear result: A1 (W - B) + C1."""
        program, found = self.job.program, {}
        for number, instr in enumerate(program.instrs):
            if instr.op in LINEAR and program.private_weight(instr) is not None:
                shape = (1, *program.instrs[instr.args[0]].shape)
                half = linear(program, instr, hand.mask(number, MASK, shape), self.masked[instr.weight])
                found[number] = half + hand.dealt(number, DEALT, tuple(half.shape))
        return found
