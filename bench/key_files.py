"""Evaluation keys at a second start: mapped from a file, against expanded from their seeded form, against made anew.

A set of middling size: N = 2^15, 13 levels, digits of seven primes, 32 rotations and relinearization, 0.7 GB. Each
way of having keys runs in a process of its own: it opens them, uses every key once in a rotation, and says how
long each took and what memory the process then holds that is its own, and that is the file's, which the
system shares between processes and takes back when it needs it. The rotations that check mapped keys on the way
are compared with those that come after.

    python bench/key_files.py [--folder FOLDER]

writes ``results/key_files.json``. Takes a minute and 1.1 GB of disk.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import rows

from pi_compiler.ir.params import Params, make_params
from pi_compiler.runtime.native import NativeBackend

LEVEL, DIGIT, KEYS = 13, 7, 32
WAYS = ("made", "expanded", "mapped")


def parameters() -> Params:
    """About the largest scale that is secure."""
    return make_params(15, LEVEL, 40, log_q0=44, log_special=41.5, specials=DIGIT)


def resident() -> tuple[int, int]:
    """Bytes of memory of this process: its own, and of files."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    own, of_files = (1024 * int(fields[name].split()[0]) for name in ("RssAnon", "RssFile"))
    return own, of_files


def worker(way: str, folder: Path) -> None:
    """Have keys in one way; print what that took."""
    p, backend = parameters(), NativeBackend()
    client = backend.load_client(p, folder / "secret", range(1, KEYS + 1))
    x = client.encrypt(np.ones(1), LEVEL, p.scale)
    before = resident()
    start = time.perf_counter()
    if way == "made":
        keys = client.eval_keys
    else:
        keys = backend.map_keys(p, folder / "keys") if way == "mapped" else backend.load_keys(p, folder / "keys")
    opened = time.perf_counter() - start
    ev = backend.evaluator(p, keys)
    ev.rotate(x, 1)
    rounds = []
    for _ in range(3):
        start = time.perf_counter()
        for step in range(2, KEYS + 1):
            ev.rotate(x, step)
        ev.relinearize(ev.mul(x, x))
        rounds.append(time.perf_counter() - start)
    after = resident()
    own, of_files = (max(a - b, 0) for a, b in zip(after, before, strict=True))
    found = {"opened": opened, "first": rounds[0], "later": statistics.median(rounds[1:]), "own": own, "file": of_files}
    print(json.dumps({**found, "bytes": keys.nbytes}))


def measured(way: str, folder: Path) -> dict[str, float]:
    """What a process of its own found."""
    command = [sys.executable, __file__, "--worker", way, "--folder", str(folder)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def main() -> None:
    """Make keys, have them in each way, write the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--worker", choices=WAYS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        worker(args.worker, args.folder)
        return
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder, p, backend = Path(name), parameters(), NativeBackend()
        client = backend.keygen(p, range(1, KEYS + 1))
        client.save(folder / "secret")
        sent = client.save_eval_keys(folder / "keys")
        start = time.perf_counter()
        backend.map_keys(p, folder / "keys")
        once = time.perf_counter() - start
        found = {way: measured(way, folder) for way in WAYS}
    mapped, expanded, made = found["mapped"], found["expanded"], found["made"]
    rows.write(
        "key_files",
        [
            rows.Row("key_bytes", mapped["bytes"], "bytes"),
            rows.cost("sent_bytes", sent, "bytes", "in memory", mapped["bytes"]),
            rows.Row("write_mapped_once", once, "s"),
            rows.cost("open_mapped", mapped["opened"], "s", "expanded from seeds", expanded["opened"]),
            rows.cost("open_mapped_against_making", mapped["opened"], "s", "made anew", made["opened"]),
            rows.cost("first_rotations", mapped["first"], "s", "keys in memory", expanded["first"]),
            rows.cost("later_rotations", mapped["later"], "s", "keys in memory", expanded["later"]),
            rows.cost("own_memory", mapped["own"], "bytes", "expanded from seeds", expanded["own"]),
            rows.Row("file_memory", mapped["file"], "bytes"),
        ],
    )
    print(rows.machine())


if __name__ == "__main__":
    main()
