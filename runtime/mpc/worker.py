"""The process of one party that ``launcher`` starts: a job on standard input, frames on standard output.

A fresh interpreter, not a fork: it holds nothing but what it was handed. It ends with whoever started it, because
its standard input closes then.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
from collections.abc import Callable
from dataclasses import astuple
from typing import IO, Any

import numpy as np

from pi_compiler.errors import PiError
from pi_compiler.ir.mpc_program import DATA_PARTY, MpcProgram
from pi_compiler.runtime.mpc.handout import Arrays, pack_arrays, unpack_arrays, unpack_program
from pi_compiler.runtime.mpc.job import Address, Job, PartyResult, SpuJob

_SIZE = 8


def write_frame(stream: IO[bytes], head: object, arrays: Arrays | None = None) -> None:
    """A frame: its size and its content."""
    body = pack_arrays(head, arrays or {})
    stream.write(len(body).to_bytes(_SIZE, "big"))
    stream.write(body)
    stream.flush()


def read_frame(stream: IO[bytes]) -> tuple[Any, Arrays] | None:
    """The inverse; None at the stream's end."""
    size = stream.read(_SIZE)
    if len(size) < _SIZE:
        return None
    body = stream.read(int.from_bytes(size, "big"))
    return unpack_arrays(body) if len(body) == int.from_bytes(size, "big") else None


def main() -> int:
    """Read the job, do it, write what came of it."""
    out = os.fdopen(os.dup(1), "wb")
    # Whatever a library prints must not end up among the frames.
    os.dup2(2, 1)
    job = read_frame(sys.stdin.buffer)
    if job is None:
        return 1
    threading.Thread(target=_obey, args=(out,), daemon=True).start()
    try:
        head, arrays = _work(*job, out)
        write_frame(out, head, arrays)
        return 0
    except PiError as error:
        write_frame(out, {"error": _described(error)})
    except Exception as error:
        # What a foreign exception says may hold values; its type does not.
        where = _place(error)
        write_frame(out, {"error": {"type": "InternalError", "what": f"{type(error).__name__} in {where}"}})
    return 1


def _work(head: Any, arrays: Arrays, out: IO[bytes]) -> tuple[object, Arrays]:
    done = (_on_spu if head["spu"] else _on_crypten)(head, arrays, lambda: write_frame(out, {"event": "met"}))
    layers = {} if done.trace is None else done.trace.layers
    found = {
        "result": {
            "rank": done.rank,
            "phases": [astuple(p) for p in (done.setup, done.offline, done.online)],
            "each": done.each,
            "layers": [[n, c.seconds, c.traffic.rounds, c.traffic.bytes_sent] for n, c in layers.items()],
        }
    }
    return found, {name: np.asarray(values) for name, values in done.outputs.items()}


# Imports only now: the launcher imports this module too, and needs no library.


def _on_crypten(head: Any, arrays: Arrays, met: Callable[[], None]) -> PartyResult:
    from pi_compiler.runtime.mpc.party import run_party

    rank, program, peers, inputs = _mine(head, arrays)
    job = Job(rank, program, peers, inputs, head["dealer"], head["timeout"], head["threads"], head["patience"])
    return run_party(job, listening=_listening(head), met=met)


def _on_spu(head: Any, arrays: Arrays, met: Callable[[], None]) -> PartyResult:
    from pi_compiler.runtime.mpc.spu.party import run_spu_party

    rank, program, peers, inputs = _mine(head, arrays)
    job = SpuJob(rank, program, head["spu"], peers, inputs, head["timeout"], head["threads"], head["patience"])
    return run_spu_party(job, listening=_listening(head), met=met)


def _mine(head: Any, arrays: Arrays) -> tuple[int, MpcProgram, list[Address], Arrays | None]:
    program = unpack_program(arrays.pop("program").tobytes())
    peers = [Address(host, port) for host, port in head["peers"]]
    inputs = {name.removeprefix("input/"): x for name, x in arrays.items()} if head["rank"] == DATA_PARTY else None
    return head["rank"], program, peers, inputs


def _listening(head: Any) -> socket.socket | None:
    return socket.socket(fileno=head["listening"]) if head["listening"] is not None else None


def _described(error: PiError) -> dict[str, object]:
    from pi_compiler.runtime.mpc.mesh import PeerStopped

    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, PeerStopped):
        cause = cause.__cause__
    return {
        "type": type(error).__name__,
        "what": error.what,
        "details": list(error.details),
        "hint": error.hint,
        "peer": cause is not None,
    }


def _place(error: Exception) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "?" if trace is None else f"{os.path.basename(trace.tb_frame.f_code.co_filename)}:{trace.tb_lineno}"


def _obey(out: IO[bytes]) -> None:
    """End with whoever started this process, or when told that another party is gone before all were connected."""
    told = read_frame(sys.stdin.buffer)
    if told is not None:
        head, _ = told
        write_frame(out, {"error": {"type": "ExecutionError", "what": str(head["stop"]), "peer": True}})
    os._exit(1)


if __name__ == "__main__":
    code = main()
    # Not by way of the interpreter's end: it waits for the thread that reads, and libraries' threads outlive it.
    os._exit(code)
