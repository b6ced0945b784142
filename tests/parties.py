"""Parties of an MPC run as threads of the test's process, over real sockets."""

from __future__ import annotations

import socket
import threading
from collections.abc import Mapping
from typing import Any

import numpy as np
import psutil

from pi_compiler.ir.mpc_program import MpcConst, MpcInstr, MpcOp, MpcPort, MpcProgram, encode
from pi_compiler.runtime.mpc.handout import public_view
from pi_compiler.runtime.mpc.job import Address, Job, PartyResult
from pi_compiler.runtime.mpc.party import run_party


def sockets(count: int = 2) -> tuple[list[socket.socket], list[Address]]:
    """Listening sockets on free ports of the loopback interface."""
    made = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    return made, [Address("127.0.0.1", s.getsockname()[1]) for s in made]


def free_ports(count: int) -> list[int]:
    """Ports of the loopback interface that were free a moment ago."""
    held, peers = sockets(count)
    for one in held:
        one.close()
    return [peer.port for peer in peers]


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


LAYERS = ("input", "dense", "relu", "answer")


def dense_relu(size: int = 24, repeats: int = 1) -> MpcProgram:
    """A dense layer with private weights, and ReLU, several times over."""
    rng = np.random.default_rng(2)
    shape = (1, size)
    weight = MpcConst(encode(rng.normal(size=(size, size)) / np.sqrt(size), 16), 16, "model")
    instrs = [MpcInstr(MpcOp.INPUT, (), shape, 16, 0)]
    for _ in range(repeats):
        x = len(instrs) - 1
        instrs += [
            MpcInstr(MpcOp.MATMUL, (x,), shape, 32, 1, weight=0),
            MpcInstr(MpcOp.TRUNCATE, (x + 1,), shape, 16, 1, attrs={"bits": (16,)}),
            MpcInstr(MpcOp.LTZ, (x + 2,), shape, 0, 2),
            MpcInstr(MpcOp.MUL, (x + 3, x + 2), shape, 16, 2),
            MpcInstr(MpcOp.SUB, (x + 2, x + 4), shape, 16, 2),
        ]
    last = len(instrs)
    instrs.append(MpcInstr(MpcOp.REVEAL, (last - 1,), shape, 16, 3, attrs={"to": (1,)}))
    ports = {"x": MpcPort(0, shape)}, {"y": MpcPort(last, shape)}
    return MpcProgram(tuple(instrs), (weight,), (), *ports, LAYERS, "crypten-ttp")


def workers() -> list[psutil.Process]:
    """Processes of parties and relays that this process started and that still run."""
    return [
        p
        for p in psutil.Process().children(recursive=True)
        if p.status() != psutil.STATUS_ZOMBIE and "pi_compiler.runtime.mpc" in " ".join(p.cmdline())
    ]
