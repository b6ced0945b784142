"""Single operations of the native backend: against SEAL, against OpenFHE, on two threads, against the processor.

Same ring degree, same number of primes in the chain, same scale, each with the key switching that suits
it: SEAL one special prime and one prime a digit; native the digits and special primes that the planner
takes for so many levels at the default precision of ten bits, and the scale that they leave under the
security table (``passes/schedule.py``): at N = 2^13, 3 levels, digits of 3 primes, 2 special ones, scale
2^29.1; at 2^14, 6 levels, 5, 4, 2^35.3; at 2^15, 13 levels, 7, 6, 2^39.5; 128 bits for both. OpenFHE has its
own choice of digits, and the scale to the nearest bit. Calls of all sides take turns in batches, so that
they see the same noise of the machine; the first call of a batch, which finds another side's data in the
caches, is not counted; medians. Operands change from call to call: in a program every rotation reads
another key.

Rows are named ``rotate_n15_l13`` and so on: the fastest instruction set, one thread, against SEAL through
TenSEAL. With ``_avx2`` and ``_portable`` that instruction set is forced. ``_two_threads`` compares with
one thread. ``_openfhe`` and ``_openfhe_two_threads`` compare rotations with OpenFHE on as many threads,
in an environment that is made for Python 3.10, the only one that its package is built for; without such
an interpreter they are left out.

``ntt_n15`` and ``ntt_n16`` compare a transform with what the arithmetic ports allow. It has N/2 log2 N
butterflies.

    AVX-512-IFMA  A butterfly of eight pairs takes six instructions: three 52-bit products and three sums.
                  Two 512-bit ports: 3 cycles for 8. (Reducing the results and the transpositions of the
                  last six stages, which the bound leaves out, are another sixth.)
    AVX2          Six floating-point instructions for the product of four pairs and two for sums; every
                  three stages half of the values are centered by three: nine in all. Three ports: 3
                  cycles for 4.
    portable      Three 64-bit products on one port: 3 cycles for 1.

The clock is what a compiled chain of dependent 64-bit products shows, three cycles each.

    python bench/native_ops.py [--rounds 7] [--parts transforms,seal,threads,openfhe] [--openfhe-python PATH]

writes ``results/native_ops.json``. Takes about three minutes.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

import numpy as np
import rows

from pi_compiler.ir.params import Params, make_params
from pi_compiler.options import Options
from pi_compiler.passes.compilation import Limits
from pi_compiler.passes.schedule import HEADROOM_BITS, SPECIAL_BITS, candidates
from pi_compiler.runtime.native import NativeBackend
from pi_compiler.runtime.native._core import instruction_sets
from pi_compiler.runtime.tenseal import TensealBackend

SHAPES = ((13, 3), (14, 6), (15, 13))
"""log2 N and levels."""
KEYS = 8
BATCH = 5
OPENFHE = "openfhe==1.6.1.0.22.4"
WORKER = Path(__file__).parent / "openfhe_worker.py"
# Cycles for one butterfly, see above.
CYCLES = {"avx512ifma": 3 / 8, "avx2": 3 / 4, "portable": 3.0}

Timed: TypeAlias = Callable[[int], float]
"""Seconds of a call, by its number."""


def planned(log_n: int, level: int) -> Params:
    """What the planner takes for so many levels on the native backend."""
    can = NativeBackend.capabilities
    bits = can.fast_prime_bits or can.max_prime_bits
    limits = Limits(can.max_log_n, bits, can.specials, can.any_specials, can.fused)
    return candidates(level, Options(log_n=log_n), limits)[0]


def for_seal(params: Params) -> Params:
    """The same chain and scale, with one special prime."""
    bits = params.log_scale
    return make_params(
        params.log_n, params.max_level, bits, log_q0=bits + HEADROOM_BITS, log_special=bits + SPECIAL_BITS
    )


def timed(act: Callable[[int], object]) -> Timed:
    def call(i: int) -> float:
        start = time.perf_counter()
        result = act(i)
        spent = time.perf_counter() - start
        del result
        return spent

    return call


def cases(backend: NativeBackend | TensealBackend, params: Params, level: int) -> dict[str, Timed]:
    """Per operation its seconds."""
    client = backend.keygen(params, range(1, KEYS + 1))
    ev = backend.evaluator(params, client.eval_keys)
    rng = np.random.default_rng(0)
    values = [rng.uniform(-1, 1, params.slots) for _ in range(4)]
    x = [client.encrypt(v, level, params.scale) for v in values]
    wide = [ev.mul(a, a) for a in x]
    plain = [ev.encode(v, level, params.scale) for v in values]
    scale = params.scale**2 / params.primes[level]
    # Native keeps the decompositions of two ciphertexts; of four in turn, none is found again.
    return {
        "rotate": timed(lambda i: ev.rotate(x[i % 4], 1 + i % KEYS)),
        "mul_relinearize": timed(lambda i: ev.relinearize(ev.mul(x[i % 4], x[(i + 1) % 4]))),
        "rescale": timed(lambda i: ev.rescale(wide[i % 4], scale)),
        "mul_plain": timed(lambda i: ev.mul_plain(x[i % 4], plain[(i + 1) % 4])),
        "encode": timed(lambda i: ev.encode(values[i % 4], level, params.scale)),
    }


def medians(sides: Mapping[str, Timed], rounds: int) -> dict[str, float]:
    """Milliseconds of each side, in turns."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, call in sides.items():
            times[name] += [call(i) for i in range(BATCH)][1:]
    return {name: 1e3 * statistics.median(side) for name, side in times.items()}


def suffix(kernels: str) -> str:
    return "" if kernels == instruction_sets()[0] else f"_{kernels}"


def against_seal(rounds: int) -> list[rows.Row]:
    found = []
    for log_n, level in SHAPES:
        params = planned(log_n, level)
        sides = {"SEAL": cases(TensealBackend(), for_seal(params), level)}
        for kernels in instruction_sets():
            backend = NativeBackend(threads=1, kernels=kernels)
            sides[kernels] = cases(backend, params, level)
        for op in sides["SEAL"]:
            ms = medians({name: calls[op] for name, calls in sides.items()}, rounds)
            for kernels in instruction_sets():
                name = f"{op}_n{log_n}_l{level}{suffix(kernels)}"
                found.append(rows.cost(name, ms[kernels], "ms", "SEAL (TenSEAL), one thread", ms["SEAL"]))
    return found


def two_threads(rounds: int) -> list[rows.Row]:
    found = []
    for log_n, level in ((13, 3), (14, 6), (15, 13), (16, 13)):
        params = planned(log_n, level)
        sides = {n: cases(NativeBackend(threads=n), params, level) for n in (1, 2)}
        for op in ("rotate", "mul_relinearize", "rescale", "encode"):
            ms = medians({str(n): calls[op] for n, calls in sides.items()}, rounds)
            name = f"{op}_n{log_n}_l{level}_two_threads"
            found.append(rows.cost(name, ms["2"], "ms", "native, one thread", ms["1"]))
    return found


# ---- OpenFHE ----


def interpreter(given: str | None) -> str | None:
    """A Python 3.10, from the command line, the search path, or pyenv."""
    candidates = [given, shutil.which("python3.10")]
    if pyenv := shutil.which("pyenv"):
        root = subprocess.run([pyenv, "root"], capture_output=True, text=True, check=False).stdout.strip()
        candidates += [str(p) for p in sorted(Path(root).glob("versions/3.10*/bin/python3.10"))]
    question = "import sys; raise SystemExit(sys.version_info[:2] != (3, 10))"
    for path in candidates:
        if path and subprocess.run([path, "-c", question], capture_output=True, check=False).returncode == 0:
            return path
    return None


@contextmanager
def worker(python: Path, params: Params, threads: int) -> Iterator[Timed]:
    """OpenFHE's rotations, each timed inside its own process."""
    process = subprocess.Popen(
        [python, WORKER, str(params.log_n), str(params.max_level), str(round(params.log_scale))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": str(threads)},
    )
    if process.stdin is None or process.stdout is None:
        raise RuntimeError("the worker has no pipes")
    ask, answers = process.stdin, process.stdout

    def call(i: int) -> float:
        print(i, file=ask, flush=True)
        return float(answers.readline())

    try:
        if answers.readline().strip() != "ready":
            raise RuntimeError("OpenFHE did not start")
        yield call
    finally:
        ask.close()
        process.wait()


def against_openfhe(rounds: int, given: str | None) -> list[rows.Row]:
    base = interpreter(given)
    if base is None:
        print("OpenFHE is left out: there is no Python 3.10 (--openfhe-python PATH)")
        return []
    found = []
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([base, "-m", "venv", folder], check=True)
        python = Path(folder) / "bin" / "python"
        subprocess.run([python, "-m", "pip", "install", "-q", "--disable-pip-version-check", OPENFHE], check=True)
        for log_n, level in SHAPES:
            params = planned(log_n, level)
            for threads, ending in ((1, ""), (2, "_two_threads")):
                ours = cases(NativeBackend(threads=threads), params, level)["rotate"]
                with worker(python, params, threads) as theirs:
                    ms = medians({"native": ours, "OpenFHE": theirs}, rounds)
                name = f"rotate_n{log_n}_l{level}_openfhe{ending}"
                peer = f"OpenFHE {OPENFHE.partition('==')[2]}, {threads} thread{'s' * (threads > 1)}"
                found.append(rows.cost(name, ms["native"], "ms", peer, ms["OpenFHE"]))
    return found


# ---- The processor ----

CHAIN = """
#include <stdio.h>
#include <time.h>
int main(void) {
    double best = 1e9;
    volatile unsigned long seed = 3;
    for (int round = 0; round < 20; ++round) {
        struct timespec a, b;
        unsigned long x = seed, y = seed;
        clock_gettime(CLOCK_MONOTONIC, &a);
        for (int i = 0; i < 1000000; ++i) __asm__ volatile("imul %1, %0" : "+r"(x) : "r"(y));
        clock_gettime(CLOCK_MONOTONIC, &b);
        double spent = (b.tv_sec - a.tv_sec) + 1e-9 * (b.tv_nsec - a.tv_nsec);
        if (spent < best) best = spent;
    }
    printf("%f", 3e6 / best);
    return 0;
}
"""


def clock() -> float:
    """Cycles a second."""
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "chain"
        subprocess.run(["cc", "-O2", "-x", "c", "-", "-o", program], input=CHAIN.encode(), check=True)
        return float(subprocess.run([program], capture_output=True, check=True).stdout)


def transforms(rounds: int) -> list[rows.Row]:
    found = []
    hertz = clock()
    for log_n in (13, 14, 15, 16):
        sides: dict[str, Timed] = {}
        for kernels in instruction_sets():
            core = NativeBackend(threads=1, kernels=kernels)._ring(planned(log_n, 3), insecure=False).core
            # Four transforms a call, so that calling costs next to nothing.
            polys = core.empty(1, 3, False)
            sides[kernels] = timed(lambda _, core=core, polys=polys: core.ntt(polys))
        for kernels, ms in medians(sides, 10 * rounds).items():
            bound = 1e6 * CYCLES[kernels] * (1 << log_n) / 2 * log_n / hertz
            peer = f"arithmetic ports at {hertz / 1e9:.1f} GHz"
            found.append(rows.cost(f"ntt_n{log_n}{suffix(kernels)}", 1e3 * ms / 4, "us", peer, bound))
            print(f"ntt_n{log_n} {kernels}: {100 * bound / (1e3 * ms / 4):.0f} % of the bound")
    return found


def main() -> None:
    """Run the parts and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--parts", default="transforms,seal,threads,openfhe")
    parser.add_argument("--openfhe-python", metavar="PATH")
    args = parser.parse_args()
    parts: dict[str, Callable[[], list[rows.Row]]] = {
        "transforms": lambda: transforms(args.rounds),
        "seal": lambda: against_seal(args.rounds),
        "threads": lambda: two_threads(args.rounds),
        "openfhe": lambda: against_openfhe(args.rounds, args.openfhe_python),
    }
    found: list[rows.Row] = []
    for part in args.parts.split(","):
        if part not in parts:
            sys.exit(f"there is no part {part!r}; known: {', '.join(parts)}")
        start = time.perf_counter()
        found += parts[part]()
        print(f"{part}: {time.perf_counter() - start:.0f} s", flush=True)
    rows.write("native_ops", found)
    print(rows.machine())


if __name__ == "__main__":
    main()
