"""How the parties of a run on SPU meet, and what stops them: absent parties, taken ports, runs that differ.

SPU connects by itself, but takes nine seconds to notice that nobody listens. So every party holds its port, looks
whether all others hold theirs, and hands the port over to SPU only then.
"""

from __future__ import annotations

import contextlib
import json
import socket
import time
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from pi_compiler.errors import ExecutionError, PiError, ShapeMismatch
from pi_compiler.ir.mpc_program import DATA_PARTY
from pi_compiler.runtime.mpc.handout import digest, summary
from pi_compiler.runtime.mpc.job import Address, SpuJob
from pi_compiler.runtime.mpc.meeting import listen
from pi_compiler.runtime.mpc.mesh import PeerStopped, party_name
from pi_compiler.runtime.mpc.spu import library

WIRE = 1
"""Version of what is said over the wire besides SPU's messages."""
_LOOK = 0.1
_ATTEMPT = 9.0
"""Seconds that one of SPU's attempts to connect takes."""


def meet(job: SpuJob, listening: socket.socket | None = None) -> tuple[Any, int]:
    """Connect to all other parties and agree on the run.

    Args:
        job: what this party takes the run to be.
        listening: keeps this party's port, as others keep theirs; default is to listen, and to look for the others.

    Returns:
        SPU's connections, and how many inputs the data's owner brings.

    Raises:
        ShapeMismatch: the parties do not mean the same run.
        ExecutionError: a port is taken, or another party is absent.
    """
    with listening if listening is not None else listen(job.peers[job.rank]):
        if listening is None:
            _look_for_others(job)
    link = _connect(job)
    return link, _agree(job, link)


def called(job: SpuJob, rank: int) -> str:
    """A party for people."""
    return party_name(rank, helper=len(job.peers) > 2)


def _patience(job: SpuJob) -> float:
    return job.timeout if job.patience is None else job.patience


def _look_for_others(job: SpuJob) -> None:
    deadline = time.monotonic() + _patience(job)
    missing = [rank for rank in range(len(job.peers)) if rank != job.rank]
    while True:
        missing = [rank for rank in missing if not _listens(job.peers[rank], deadline)]
        if not missing:
            return
        if time.monotonic() > deadline:
            raise _absent(job, missing)
        time.sleep(_LOOK)


def _listens(address: Address, deadline: float) -> bool:
    with contextlib.suppress(OSError):
        patience = max(_LOOK, deadline - time.monotonic())
        socket.create_connection((address.host, address.port), patience).close()
        return True
    return False


def _absent(job: SpuJob, ranks: list[int]) -> PeerStopped:
    who = " and ".join(f"{called(job, rank)} at {job.peers[rank]}" for rank in ranks)
    verb = "does" if len(ranks) == 1 else "do"
    return PeerStopped(
        f"{who} {verb} not answer within {_patience(job):g} seconds", hint="start all parties with the same --peers"
    )


def _connect(job: SpuJob) -> Any:
    """SPU's connections; each party listens, and each opens its own to every other."""
    description = library.load().link.Desc()
    description.id = "pi-compiler"
    description.connect_retry_times = max(1, round(_patience(job) / _ATTEMPT))
    description.recv_timeout_ms = description.http_timeout_ms = round(job.timeout * 1000)
    for rank, address in enumerate(job.peers):
        description.add_party(f"party{rank}", str(address))
    try:
        return library.load().link.create_brpc(description, job.rank)
    except RuntimeError as error:
        if "connect" in str(error).lower():
            raise _absent(job, [r for r in range(len(job.peers)) if r != job.rank]) from error
        mine = job.peers[job.rank]
        raise ExecutionError(f"cannot listen on {mine}", hint="another port, or ending what uses it") from error


def _agree(job: SpuJob, link: Any) -> int:
    """Compare what the parties are about to run; returns the number of samples."""
    mine = {"wire": WIRE, "spu": _version(), "digest": digest(job.program), "protocol": job.protocol}
    told = json.dumps({**mine, "samples": job.samples, "summary": summary(job.program)})
    others = [r for r in range(len(job.peers)) if r != job.rank]
    faults, samples = [], job.samples
    with translated(job, "the first message"):
        for rank in others:
            link.send(rank, told)
        for rank in others:
            theirs = json.loads(bytes(link.recv(rank)))
            samples = theirs["samples"] if rank == DATA_PARTY else samples
            if (theirs["wire"], theirs["spu"]) != (WIRE, mine["spu"]):
                faults.append(
                    f"{called(job, rank)} has spu {theirs['spu']} and version {theirs['wire']} of our messages"
                )
            if theirs["digest"] != mine["digest"]:
                faults.append(f"{called(job, rank)} runs {theirs['summary']}")
            if theirs["protocol"] != mine["protocol"]:
                faults.append(f"{called(job, rank)} runs under {theirs['protocol']}")
    if faults:
        raise ShapeMismatch(
            "the parties do not mean the same run",
            f"{called(job, job.rank)}, this one, runs {summary(job.program)} under {job.protocol}, "
            f"with spu {mine['spu']} and version {WIRE} of our messages",
            *faults,
            hint="the same compiled model everywhere: pi-compiler handout",
        )
    return int(samples)


@dataclass(slots=True)
class translated:
    """What the library raises, as an error of this project; its text may hold values and stays out."""

    job: SpuJob
    where: str

    def __enter__(self) -> None:
        """Nothing to prepare."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if error is None or isinstance(error, PiError) or not isinstance(error, Exception):
            return
        text = str(error).lower()
        if any(word in text for word in ("timeout", "time out", "recv", "send", "channel", "link", "rpc")):
            raise PeerStopped(
                f"another party is gone, or sent nothing for {self.job.timeout:g} seconds, in {self.where}",
                hint="a longer --timeout, if its machine is only slow",
            ) from error
        raise ExecutionError(f"SPU failed in {self.where}", hint="PI_DEBUG=1 shows its log") from error


def _version() -> str:
    try:
        return version("spu")
    except PackageNotFoundError:
        return "of no known version"
