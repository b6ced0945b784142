"""A party is killed at a random moment, a thousand times: do the others say so, in time, and is nobody left?

Every run starts three processes on the loopback interface and kills one of them, chosen at random: in half of the
runs at a moment between the start and the meeting of all parties, in the other half between their meeting and a
little after the end of an undisturbed run. Survivors must each report an error within the time-out, or have finished
already; no process may be left. Runs are kept as they come in: the benchmark can be stopped, and goes on from there.

    python bench/mpc_kill.py                    # 1,000 runs, about an hour on two cores
    python bench/mpc_kill.py --runs 100 --minutes 5
"""

from __future__ import annotations

import argparse
import json
import random
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import psutil
import rows

from pi_compiler.errors import PiError
from pi_compiler.ir.mpc_program import MpcConst, MpcInstr, MpcOp, MpcPort, MpcProgram, encode
from pi_compiler.runtime.mpc.launcher import Parties, Plan

_KEPT = rows.RESULTS / "mpc_kill.partial.json"
_TIMEOUT = 20.0
_SIZE, _LAYERS, _IMAGES = 64, 12, 6
_BEYOND = 1.1
"""A little after the end, where one party may have finished and another not."""
_ROLES = ("model owner", "data owner", "dealer")


@dataclass(frozen=True, slots=True)
class Run:
    """One run.

    Attributes:
        killed: rank of the party that was killed.
        moment: seconds after the start, or after the parties' meeting.
        connected: all parties had met by then.
        finished: the run was over before, so that nothing was disturbed.
        silent: survivors without a report.
        left: processes still there afterwards.
        seconds: from the kill to the launcher's error.
    """

    killed: int
    moment: float
    connected: bool
    finished: bool
    silent: int
    left: int
    seconds: float


def program() -> MpcProgram:
    """Dense layers with ReLU: every kind of message, many times."""
    shape = (1, _SIZE)
    rng = np.random.default_rng(0)
    weight = MpcConst(encode(rng.normal(size=(_SIZE, _SIZE)) / _SIZE**0.5, 16), 16, "model")
    instrs = [MpcInstr(MpcOp.INPUT, (), shape, 16, 0)]
    for _ in range(_LAYERS):
        x = len(instrs) - 1
        instrs += [
            MpcInstr(MpcOp.MATMUL, (x,), shape, 32, 0, weight=0),
            MpcInstr(MpcOp.TRUNCATE, (x + 1,), shape, 16, 0, attrs={"bits": (16,)}),
            MpcInstr(MpcOp.LTZ, (x + 2,), shape, 0, 0),
            MpcInstr(MpcOp.MUL, (x + 3, x + 2), shape, 16, 0),
            MpcInstr(MpcOp.SUB, (x + 2, x + 4), shape, 16, 0),
        ]
    last = len(instrs)
    instrs.append(MpcInstr(MpcOp.REVEAL, (last - 1,), shape, 16, 0, attrs={"to": (1,)}))
    ports = {"x": MpcPort(0, shape)}, {"y": MpcPort(last, shape)}
    return MpcProgram(tuple(instrs), (weight,), (), *ports, ("layer",), "crypten-ttp")


def undisturbed(made: MpcProgram, x: np.ndarray) -> tuple[float, float]:
    """Seconds of a whole run until all parties have met, and after that."""
    start = time.monotonic()
    with Parties(made, {"x": x}, Plan(timeout=_TIMEOUT)) as parties:
        parties.met.wait(120)
        met = time.monotonic()
        parties.wait()
    return met - start, time.monotonic() - met


def disturbed(made: MpcProgram, x: np.ndarray, rank: int, moment: float, *, late: bool) -> Run:
    """One run, a party of which is killed."""
    with Parties(made, {"x": x}, Plan(timeout=_TIMEOUT)) as parties:
        processes = [psutil.Process(p.pid) for p in parties.processes]
        if late:
            parties.met.wait(120)
        time.sleep(moment)
        connected = parties.met.is_set()
        parties.processes[rank].kill()
        start = time.monotonic()
        silent, finished = _outcome(parties, rank)
        seconds = time.monotonic() - start
    left = sum(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in processes)
    return Run(rank, moment, connected, finished, silent, left, seconds)


def _outcome(parties: Parties, rank: int) -> tuple[int, bool]:
    """Survivors that neither finished nor said why they stopped, and whether nobody was disturbed."""
    try:
        parties.wait()
        return 0, True
    except PiError as error:
        said = [line for line in error.details if line.startswith("party ") and not line.startswith(f"party {rank} ")]
        mute = ("ended without a report", "did not end within", "was killed by signal")
        return sum(any(words in line for words in mute) for line in said), False


def main() -> None:
    """Run until there are enough runs, or no time is left; write ``results/mpc_kill.json``."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--minutes", type=float, default=90.0)
    given = parser.parse_args()
    made, x = program(), np.zeros((_IMAGES, 1, _SIZE))
    done = [Run(**r) for r in json.loads(_KEPT.read_text())] if _KEPT.exists() else []
    until, after = (max(times) for times in zip(*(undisturbed(made, x) for _ in range(2)), strict=True))
    deadline = time.monotonic() + 60 * given.minutes
    chance = random.SystemRandom()
    while len(done) < given.runs and time.monotonic() < deadline:
        late = chance.random() < 0.5
        moment = chance.uniform(0.0, _BEYOND * after if late else until)
        done.append(disturbed(made, x, chance.randrange(len(_ROLES)), moment, late=late))
        keep(done, _KEPT)
        if len(done) % 50 == 0:
            print(f"{len(done)} runs", flush=True)
    rows.write("mpc_kill", summed(done))
    if len(done) >= given.runs:
        _KEPT.unlink(missing_ok=True)
    print(rows.machine())


def keep(done: list[Run], path: Path) -> None:
    """Runs so far."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps([asdict(r) for r in done]))


def summed(done: list[Run]) -> list[rows.Row]:
    """All rows."""
    hit = [r for r in done if not r.finished]
    found = [
        rows.quality("runs", len(done), "runs", "asked", 1000.0),
        rows.Row("runs_disturbed", len(hit), "runs"),
        rows.Row("runs_disturbed_after_connecting", sum(r.connected for r in hit), "runs"),
        rows.Row("survivors_without_a_clear_error", sum(r.silent for r in hit), "parties", "asked", 0.0),
        rows.Row("processes_left", sum(r.left for r in done), "processes", "asked", 0.0),
        rows.cost("slowest_error", max((r.seconds for r in hit), default=0.0), "s", "time-out", _TIMEOUT),
    ]
    for rank, role in enumerate(_ROLES):
        found.append(rows.Row(f"killed_{role.replace(' ', '_')}", sum(r.killed == rank for r in hit), "runs"))
    return found


if __name__ == "__main__":
    main()
