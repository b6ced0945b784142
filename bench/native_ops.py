"""Single operations of the native backend against SEAL through TenSEAL, one thread each.

Same ring degree, same chain of primes, same levels; each with the key switching that suits it: SEAL
one special prime, native as many as ``SPECIALS`` says (the security table holds for both). Batches of
calls alternate, so that both see the same noise of the machine; the first call of a batch, which
finds the other side's data in the caches, is not counted; medians. Operands change from call to
call: in a program every rotation reads another key.

Transforms are compared with a bound too: a butterfly of eight pairs takes nine 512-bit
instructions (three products, a mask, and five for sums and lazy reduction), a processor with two
512-bit ports starts two a cycle, so N/16 log2 N butterflies take 9 N log2 N / 32 cycles. The clock is
what a compiled chain of dependent 64-bit products shows, three cycles each.

    python bench/native_ops.py [rounds]

writes bench/results/native_ops.json: per row ``value`` and ``peer_value`` in ``unit``, ``ratio`` = peer / ours.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np

from pi_compiler.ir.params import Params, make_params
from pi_compiler.runtime.native import NativeBackend
from pi_compiler.runtime.native._core import Polys
from pi_compiler.runtime.tenseal import TensealBackend

SPECIALS = {(13, 3): 1, (14, 6): 2, (15, 13): 4}
LOG_SCALE = {13: 40, 14: 42, 15: 42, 16: 42}
KEYS = 8
BATCH = 5
RESULT = Path(__file__).parent / "results" / "native_ops.json"

Operand = TypeVar("Operand")


def parameters(log_n: int, level: int, specials: int) -> Params:
    bits = LOG_SCALE[log_n]
    return make_params(log_n, level, bits, log_q0=bits + 4, log_special=bits + 6, specials=specials)


def cases(backend: NativeBackend | TensealBackend, params: Params, level: int) -> dict[str, Callable[[int], object]]:
    """Per operation a function of the call's number."""
    client = backend.keygen(params, range(1, KEYS + 1))
    ev = backend.evaluator(params, client.eval_keys)
    rng = np.random.default_rng(0)
    rows = [rng.uniform(-1, 1, params.slots) for _ in range(4)]
    x = [client.encrypt(row, level, params.scale) for row in rows]
    wide = [ev.mul(a, a) for a in x]
    plain = [ev.encode(row, level, params.scale) for row in rows]
    scale = params.scale**2 / params.primes[level]

    return {
        # Native keeps the decompositions of two ciphertexts; of four in turn, none is found again.
        "rotate": lambda i: ev.rotate(x[i % 4], 1 + i % KEYS),
        "mul_relinearize": lambda i: ev.relinearize(ev.mul(x[i % 4], x[(i + 1) % 4])),
        "rescale": lambda i: ev.rescale(wide[i % 4], scale),
        "mul_plain": lambda i: ev.mul_plain(x[i % 4], plain[(i + 1) % 4]),
        "encode": lambda i: ev.encode(rows[i % 4], level, params.scale),
    }


def seconds(act: Callable[[Operand], object], i: Operand) -> float:
    start = time.perf_counter()
    result = act(i)
    spent = time.perf_counter() - start
    del result
    return spent


def compare(log_n: int, level: int, rounds: int) -> list[dict[str, str | float]]:
    specials = SPECIALS[log_n, level]
    ours = cases(NativeBackend(threads=1), parameters(log_n, level, specials), level)
    peer = cases(TensealBackend(), parameters(log_n, level, 1), level)
    rows: list[dict[str, str | float]] = []
    for name, act in ours.items():
        times: tuple[list[float], list[float]] = ([], [])
        for _ in range(rounds):
            for side, call in zip(times, (act, peer[name]), strict=True):
                side += [seconds(call, i) for i in range(BATCH)][1:]
        value, peer_value = (1e3 * statistics.median(side) for side in times)
        rows.append(
            {
                "name": f"{name}_n{log_n}_l{level}",
                "value": round(value, 4),
                "unit": "ms",
                "peer": "SEAL (TenSEAL)",
                "peer_value": round(peer_value, 4),
                "ratio": round(peer_value / value, 2),
                "specials": specials,
            }
        )
    return rows


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


def transforms(rounds: int) -> list[dict[str, str | float]]:
    rows: list[dict[str, str | float]] = []
    hertz = clock()
    for log_n in (13, 14, 15, 16):
        params = parameters(log_n, 3, 1)
        ring = NativeBackend(threads=1)._ring(params, insecure=False).core
        transform: Callable[[Polys], object] = ring.ntt
        polys = ring.empty(1, 3, False)
        times = [seconds(transform, polys) for _ in range(10 * rounds)]
        value = 1e6 * statistics.median(times) / 4
        bound = 1e6 * 9 * (1 << log_n) * log_n / 32 / hertz
        rows.append(
            {
                "name": f"ntt_n{log_n}",
                "value": round(value, 2),
                "unit": "us",
                "peer": f"two instructions a cycle at {hertz / 1e9:.1f} GHz",
                "peer_value": round(bound, 2),
                "ratio": round(bound / value, 2),
            }
        )
    return rows


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 7
    rows = transforms(rounds)
    for log_n, level in SPECIALS:
        rows += compare(log_n, level, rounds)
    for row in rows:
        print(f"{row['name']:26} {row['value']:9} {row['unit']}  peer {row['peer_value']:9}  ratio {row['ratio']}")
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps({"rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
