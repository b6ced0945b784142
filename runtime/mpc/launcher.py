"""Starts the parties of a run as processes of this machine, watches them, and ends them all, whatever happens.

Each is a fresh interpreter that is handed its own part only: the model owner's process the weights, the data
owner's the inputs, the dealer's neither. A party that fails tells the others, who stop by themselves; what is
still there a grace period later is killed.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import permutations
from types import TracebackType
from typing import Any

from pi_compiler import errors
from pi_compiler.errors import ExecutionError, ParameterError, PiError
from pi_compiler.ir.graph import FloatArray
from pi_compiler.ir.mpc_program import DATA_PARTY, MODEL_PARTY, MpcProgram
from pi_compiler.ir.protocols import protocol_of
from pi_compiler.runtime.mpc.handout import Arrays, pack_program
from pi_compiler.runtime.mpc.job import Address, PartyResult, Phase
from pi_compiler.runtime.mpc.mesh import party_name
from pi_compiler.runtime.mpc.walk import LayerCost, MpcTrace, Traffic
from pi_compiler.runtime.mpc.worker import read_frame, write_frame

_PATIENCE = 60.0
"""Seconds that parties wait for each other to start, at least: importing takes long on a busy machine."""
_THREADS = ("OMP_NUM_THREADS", "OMP_THREAD_LIMIT", "YACL_NUM_THREADS")
"""What libraries read; SPU asks for more threads than the first allows, and waits for them longer than it computes."""
_SPU_GAVE_UP = 255
"""How SPU ends a process when what it sends arrives nowhere."""
_SPU_CRASHES = (-signal.SIGSEGV, -signal.SIGABRT)
"""How its process ends then now and then."""
_GRACE = 10.0
"""Seconds beyond the time-out that a party gets to end by itself."""


@dataclass(frozen=True, slots=True)
class Link:
    """An emulated network between the parties.

    Attributes:
        latency: seconds one way.
        rate: bytes per second in each direction.
    """

    latency: float
    rate: float


@dataclass(frozen=True, slots=True)
class Place:
    """Where a party runs if it is not simply this machine's loopback interface.

    Attributes:
        command: what comes before the interpreter's command, such as ``ip netns exec NAME``.
        address: where it listens; ignored for the dealer.
    """

    command: tuple[str, ...]
    address: Address


@dataclass(frozen=True, slots=True)
class Plan:
    """How parties are started.

    Attributes:
        parties: computing parties.
        dealer: whether a third party deals; nobody does on SPU.
        timeout: seconds that a party waits for another's message.
        threads: per process.
        link: an emulated network; None is the loopback interface.
        places: per rank where it runs; empty: here, on free ports.
        spu: the protocol under which SPU runs the program; empty: it runs on CrypTen.
    """

    parties: int = 2
    dealer: bool = True
    timeout: float = 60.0
    threads: int = 1
    link: Link | None = None
    places: tuple[Place, ...] = ()
    spu: str = ""

    def __post_init__(self) -> None:
        faults, needed = [], protocol_of(self.spu).parties if self.spu else 2
        if self.parties != needed:
            wanted = "three, model owner, data owner and helper" if needed == 3 else "two, model owner and data owner"
            faults.append(f"{self.parties} parties; the protocol is one of {wanted}")
        if not self.timeout > 0:
            faults.append(f"timeout={self.timeout} must be positive")
        if self.threads < 1:
            faults.append(f"threads={self.threads} must be positive")
        if faults:
            raise ParameterError("the parties cannot be started like this", *faults, hint=f"--parties {needed}")

    @property
    def seats(self) -> int:
        """Processes: whoever computes, and the dealer."""
        return self.parties + (self.dealer and not self.spu)

    @property
    def listening(self) -> int:
        """How many of them listen: on SPU everybody."""
        return self.parties if self.spu else 2

    def name(self, rank: int) -> str:
        """A party for people."""
        return party_name(rank, helper=bool(self.spu))


@dataclass(slots=True)
class _Party:
    """A process and what it has said."""

    rank: int
    process: subprocess.Popen[bytes]
    result: PartyResult | None = None
    error: Mapping[str, Any] | None = None
    reader: threading.Thread | None = None
    met: bool = False


@dataclass(slots=True)
class Parties:
    """The processes of one run; a context manager that leaves none behind.

    Attributes:
        program: what runs, the model owner's constants included.
        inputs: per input (N, *shape) of its INPUT instruction.
        plan: how.
        only: start this party alone; the others run elsewhere, at the plan's places.
    """

    program: MpcProgram
    inputs: Mapping[str, FloatArray]
    plan: Plan = field(default_factory=Plan)
    only: int | None = None
    met: threading.Event = field(default_factory=threading.Event)
    """Set when all parties are connected."""
    _parties: dict[int, _Party] = field(default_factory=dict)
    _relay: subprocess.Popen[bytes] | None = None
    _ended: queue.Queue[int] = field(default_factory=queue.Queue)

    def __enter__(self) -> Parties:
        try:
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def processes(self) -> list[subprocess.Popen[bytes]]:
        """By rank."""
        return [party.process for party in self._parties.values()]

    def _start(self) -> None:
        with contextlib.ExitStack() as stack:
            listening = [
                stack.enter_context(_listening()) for _ in range(0 if self.plan.places else self.plan.listening)
            ]
            views = self._views(listening, stack)
            for rank in range(self.plan.seats) if self.only is None else (self.only,):
                mine = listening[rank] if rank < len(listening) else None
                self._parties[rank] = self._spawn(rank, mine, views[rank])
        for party in self._parties.values():
            party.reader = threading.Thread(target=self._read, args=(party,), daemon=True)
            party.reader.start()

    def _views(self, listening: Sequence[socket.socket], stack: contextlib.ExitStack) -> list[list[tuple[str, int]]]:
        """Where each party sees those that listen; with an emulated network, behind the relay."""
        if self.plan.places:
            return [[(p.address.host, p.address.port) for p in self.plan.places[: self.plan.listening]]] * 3
        real = [s.getsockname()[:2] for s in listening]
        if self.plan.link is None:
            return [list(real) for _ in range(3)]
        # SPU's parties connect to each other both ways, ours once.
        pairs = list(permutations(range(self.plan.parties), 2)) if self.plan.spu else [(1, 0), (2, 0), (2, 1)]
        entries = [stack.enter_context(_listening()) for _ in pairs]
        links = [f"{s.fileno()}:{real[to][0]}:{real[to][1]}" for s, (_, to) in zip(entries, pairs, strict=True)]
        command = [sys.executable, "-m", "pi_compiler.runtime.mpc.relay"]
        command += [repr(self.plan.link.latency), repr(self.plan.link.rate), *links]
        self._relay = subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=[s.fileno() for s in entries])
        views = [list(real) for _ in range(3)]
        for entry, (viewer, to) in zip(entries, pairs, strict=True):
            views[viewer][to] = entry.getsockname()[:2]
        return views

    def _spawn(self, rank: int, listening: socket.socket | None, view: list[tuple[str, int]]) -> _Party:
        quiet = None if os.environ.get("PI_DEBUG") == "1" else subprocess.DEVNULL
        number = None if listening is None else listening.fileno()
        before = self.plan.places[rank].command if self.plan.places else ()
        process = subprocess.Popen(
            [*before, sys.executable, "-m", "pi_compiler.runtime.mpc.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=quiet,
            pass_fds=[] if number is None else [number],
            env={**os.environ, **dict.fromkeys(_THREADS, str(self.plan.threads))},
        )
        head, arrays = self._handed(rank)
        head |= {"peers": view, "listening": number}
        if process.stdin is None:
            raise ExecutionError(f"{self.plan.name(rank)} has no standard input")
        # A process that is gone already is reported when its output is read.
        with contextlib.suppress(BrokenPipeError):
            write_frame(process.stdin, head, arrays)
        return _Party(rank, process)

    def _handed(self, rank: int) -> tuple[dict[str, object], Arrays]:
        """What a process gets: the weights only the model's owner, the inputs only the data's owner."""
        import numpy as np

        program = pack_program(self.program, private=rank == MODEL_PARTY)
        arrays: Arrays = {"program": np.frombuffer(program, np.uint8)}
        if rank == DATA_PARTY:
            arrays |= {f"input/{name}": np.asarray(x, np.float64) for name, x in self.inputs.items()}
        head: dict[str, object] = {
            "rank": rank,
            "dealer": self.plan.dealer,
            "timeout": self.plan.timeout,
            "threads": self.plan.threads,
            # Others, elsewhere, are started by people.
            "patience": self.plan.timeout if self.only is not None else max(_PATIENCE, self.plan.timeout),
            "spu": self.plan.spu,
        }
        return head, arrays

    def _read(self, party: _Party) -> None:
        """Everything that a process says until it ends."""
        stream = party.process.stdout
        try:
            while stream is not None and (frame := read_frame(stream)) is not None:
                head, arrays = frame
                if "result" in head:
                    party.result = _result(head["result"], arrays)
                elif "error" in head:
                    party.error = head["error"]
                else:
                    party.met = True
                    if all(p.met for p in self._parties.values()):
                        self.met.set()
        except (PiError, OSError, ValueError, KeyError):
            party.error = party.error or {"type": "InternalError", "what": "its report is damaged"}
        party.process.wait()
        self._ended.put(party.rank)

    def wait(self) -> list[PartyResult]:
        """What every party has at the end, by rank.

        Raises:
            PiError: a party failed; the message has what each of them said.
        """
        deadline = None
        running = set(self._parties)
        while running:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            try:
                rank = self._ended.get(timeout=left)
            except queue.Empty:
                break
            running.discard(rank)
            if self._parties[rank].result is None and deadline is None:
                deadline = time.monotonic() + self.plan.timeout + _GRACE
                self._warn(rank, running)
        self.close()
        parties = list(self._parties.values())
        results = [party.result for party in parties if party.result is not None]
        if len(results) < len(parties):
            raise _failure(self.plan, parties, running)
        return results

    def _warn(self, failed: int, running: set[int]) -> None:
        """Tell parties that would wait in vain: all on SPU, which has no line for it, else those not connected yet."""
        for party in (self._parties[rank] for rank in running):
            if (party.met and not self.plan.spu) or party.process.stdin is None:
                continue
            when = "" if party.met else " before all were connected"
            with contextlib.suppress(OSError, ValueError):
                write_frame(party.process.stdin, {"stop": f"{self.plan.name(failed)} failed{when}"})

    def close(self) -> None:
        """End every process that is still there."""
        started = self.processes + ([self._relay] if self._relay is not None else [])
        for process in started:
            if process.poll() is None:
                process.kill()
        for process in started:
            process.wait()
            for stream in (process.stdin, process.stdout):
                with contextlib.suppress(OSError):
                    if stream is not None and process is not self._relay:
                        stream.close()


def _listening() -> socket.socket:
    try:
        return socket.create_server(("127.0.0.1", 0))
    except OSError as error:
        raise ExecutionError(f"cannot listen on the loopback interface: {error.strerror or error}") from error


def _result(head: Mapping[str, Any], arrays: Arrays) -> PartyResult:
    setup, offline, online = (Phase(*phase) for phase in head["phases"])
    layers = {name: LayerCost(seconds, Traffic(rounds, sent)) for name, seconds, rounds, sent in head["layers"]}
    trace = MpcTrace(layers) if layers else None
    return PartyResult(head["rank"], arrays, setup, offline, online, trace, tuple(head["each"]))


def _failure(plan: Plan, parties: Sequence[_Party], stuck: set[int]) -> PiError:
    """One error for all: the first cause in front, then what every party said."""
    said = {party.rank: _said(plan, party, party.rank in stuck) for party in parties if party.result is None}
    alone = len(parties) == 1
    causes = [p for p in parties if p.error is not None and (alone or not p.error.get("peer"))]
    lines = [] if alone and causes else [f"{plan.name(rank)}: {text}" for rank, text in said.items()]
    if not causes:
        return ExecutionError("the run was not finished", *lines)
    first = causes[0].error or {}
    kind = getattr(errors, str(first.get("type")), ExecutionError)
    kind = kind if isinstance(kind, type) and issubclass(kind, PiError) else ExecutionError
    details = [str(d) for d in first.get("details", ())]
    return kind(str(first.get("what")), *details, *lines, hint=first.get("hint"))


def _said(plan: Plan, party: _Party, stuck: bool) -> str:
    if party.error is not None:
        return str(party.error.get("what"))
    code = party.process.returncode
    if stuck:
        return "did not end within the time-out and was killed"
    if plan.spu and code == _SPU_GAVE_UP:
        return "another party is gone; SPU ended the process"
    if plan.spu and code in _SPU_CRASHES:
        return f"SPU crashed (signal {-code}), which it may when another party is gone or does not answer"
    if code is not None and code < 0:
        return f"its process was killed by signal {-code}"
    return f"its process ended without a report, exit code {code}"


def run_parties(program: MpcProgram, inputs: Mapping[str, FloatArray], plan: Plan | None = None) -> list[PartyResult]:
    """Run a program between processes of this machine.

    Args:
        program: with the model owner's constants.
        inputs: per input (N, *shape) of its INPUT instruction.
        plan: how to start the parties.

    Returns:
        Per party, by rank, what it has at the end; the data owner's has the answers.

    Raises:
        PiError: a party failed.
    """
    with Parties(program, inputs, plan or Plan()) as parties:
        return parties.wait()


def run_seat(
    rank: int, program: MpcProgram, inputs: Mapping[str, FloatArray] | None, peers: Sequence[Address], plan: Plan
) -> PartyResult:
    """Be one party of a run, in a process of its own, which SPU may end as it likes.

    Args:
        rank: which party.
        program: with the model owner's constants at rank 0.
        inputs: at rank 1 per input (N, *shape) of its INPUT instruction.
        peers: where all parties listen.
        plan: protocol and time-out.

    Raises:
        PiError: this party failed.
    """
    places = tuple(Place((), address) for address in peers)
    with Parties(program, inputs or {}, replace(plan, places=places), only=rank) as parties:
        return parties.wait()[0]
