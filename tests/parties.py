"""Parties of an MPC run as threads of the test's process, over real sockets."""

from __future__ import annotations

import socket
import threading
from collections.abc import Mapping
from typing import Any

import numpy as np

from pi_compiler.ir.mpc_program import MpcProgram
from pi_compiler.runtime.mpc.handout import public_view
from pi_compiler.runtime.mpc.job import Address, Job, PartyResult
from pi_compiler.runtime.mpc.party import run_party


def sockets(count: int = 2) -> tuple[list[socket.socket], list[Address]]:
    """Listening sockets on free ports of the loopback interface."""
    made = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    return made, [Address("127.0.0.1", s.getsockname()[1]) for s in made]


def in_threads(
    program: MpcProgram, inputs: Mapping[str, np.ndarray], *, dealer: bool = True, timeout: float = 20.0, **views: Any
) -> list[PartyResult | BaseException]:
    """All parties of a run, each in a thread: what each has at the end, or why it stopped.

    ``views`` gives a party another program: ``data=...`` or ``dealt=...``.
    """
    listening, peers = sockets()
    public = public_view(program)
    programs = [program, views.get("data", public), views.get("dealt", public)]
    found: list[PartyResult | BaseException] = [RuntimeError("never ran")] * (3 if dealer else 2)

    def run(rank: int) -> None:
        job = Job(rank, programs[rank], peers, inputs if rank == 1 else None, dealer, timeout)
        try:
            found[rank] = run_party(job, listening=listening[rank] if rank < 2 else None)
        except BaseException as error:
            found[rank] = error

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(len(found))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout + 30)
    return found


def answers(found: list[PartyResult | BaseException]) -> Mapping[str, np.ndarray]:
    """The data owner's outputs; any party's error is raised."""
    for party in found:
        if isinstance(party, BaseException):
            raise party
    return found[1].outputs
