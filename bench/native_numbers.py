"""A dense layer on a ciphertext per feature on the native backend: constants as numbers, and as vectors.

64 results of 64 ciphertexts each; one thread, the fastest instruction set, not rescaled. ``together`` makes up to 32
sums in one call, as the executor does; its peers are the same sums one by one, with numbers and with vectors that are
the same in all slots. Vectors of one result are used for all: 64 times as many would not fit. ``constants`` is the
memory of all. Sides take turns; medians.

    python bench/native_numbers.py [--rounds 5]

writes ``results/native_numbers.json``. Takes about two minutes and 2 GB.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import rows

from pi_compiler.ir.params import Params, make_params
from pi_compiler.runtime.native import NativeBackend

RINGS = ((13, 3, 33, 2), (15, 13, 40, 7))
"""log_n, levels, log_scale, primes in a digit, as in ``native_products``."""
FEATURES, TOGETHER = 64, 32


def parameters(log_n: int, levels: int, log_scale: int, digit: int) -> Params:
    """Secure ones."""
    special = log_scale + 10 / digit
    return make_params(log_n, levels, log_scale, log_q0=log_scale + 4, log_special=special, specials=digit)


def ring(params: Params, rounds: int) -> list[rows.Row]:
    """Rows of one ring."""
    backend = NativeBackend(threads=1)
    client = backend.keygen(params, (), relinearize=False)
    ev = backend.evaluator(params, client.eval_keys)
    rng = np.random.default_rng(0)
    top, scale = params.max_level, float(params.primes[-1])
    x = [client.encrypt(rng.uniform(-1, 1, params.slots), top, params.scale) for _ in range(FEATURES)]
    weights = rng.uniform(-1, 1, (FEATURES, FEATURES))
    numbers = [[ev.encode_linear(np.array([w]), top, scale, late=False) for w in row] for row in weights]
    vectors = [ev.encode_linear(np.full(params.slots, w), top, scale, late=False) for w in weights[0]]
    sides: dict[str, Callable[[], object]] = {
        "together": lambda: [ev.linear_sums(x, numbers[i : i + TOGETHER]) for i in range(0, FEATURES, TOGETHER)],
        "numbers": lambda: [ev.linear_sum([(0, list(zip(x, row, strict=True)))]) for row in numbers],
        "vectors": lambda: [ev.linear_sum([(0, list(zip(x, vectors, strict=True)))]) for _ in numbers],
    }
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds + 1):
        for name, act in sides.items():
            start = time.perf_counter()
            act()
            times[name].append(time.perf_counter() - start)
    ms = {name: 1e3 * statistics.median(found[1:]) for name, found in times.items()}
    held = sum(ev.plaintext_bytes(w) for row in numbers for w in row)
    as_vectors = FEATURES * sum(map(ev.plaintext_bytes, vectors))
    ending = f"_n{params.log_n}_l{top}"
    return [
        rows.cost(f"together{ending}", ms["together"], "ms", "numbers, sum by sum", ms["numbers"]),
        rows.cost(f"together_vectors{ending}", ms["together"], "ms", "vectors, sum by sum", ms["vectors"]),
        rows.cost(f"constants{ending}", held, "bytes", "vectors", as_vectors),
    ]


def main() -> None:
    """Measure all rings and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    rows.write("native_numbers", [row for ring_ in RINGS for row in ring(parameters(*ring_), args.rounds)])
    print(rows.machine())


if __name__ == "__main__":
    main()
