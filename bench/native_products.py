"""Sums of products on the native backend in one call, against their instructions one by one.

One thread, the fastest instruction set. ``square`` is one square relinearized and rescaled; ``products_8`` a sum of
eight products, whose instructions relinearize once too; ``products_8_each`` compares it with relinearizing and
rescaling each product before adding, which is what lazy relinearization saves; ``polynomial_7`` and
``polynomial_31`` are Chebyshev polynomials of these degrees. ``outside`` is the share of a fused polynomial's time
that is spent outside of the compiled module: what one call for the whole polynomial could save at most. Sides take
turns; medians.

    python bench/native_products.py [--rounds 15]

writes ``results/native_products.json``. Takes about a minute.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import reduce

import numpy as np
import rows

from pi_compiler.approx.plan import make_plan
from pi_compiler.approx.poly import Poly
from pi_compiler.ir.params import Params, make_params
from pi_compiler.ir.program import Program
from pi_compiler.kernels.algebra import Value
from pi_compiler.kernels.poly import polynomial
from pi_compiler.passes.lower import Emit, assemble, number
from pi_compiler.runtime.executor import Prepared, execute, prepare
from pi_compiler.runtime.native import NativeBackend

RINGS = ((13, 3, 33, 2), (15, 13, 40, 7))
"""log_n, levels, log_scale, primes in a digit."""
PRODUCTS = 8


def parameters(log_n: int, levels: int, log_scale: int, digit: int) -> Params:
    """Secure ones, as in ``native_ops``."""
    special = log_scale + 10 / digit
    return make_params(log_n, levels, log_scale, log_q0=log_scale + 4, log_special=special, specials=digit)


def program(params: Params, inputs: int, body: Callable[[Emit, list[Value]], Value]) -> Program:
    """What a kernel writes, as a program of its own."""
    emit = Emit(params)
    emit.enter("body")
    values = [emit.input(params.max_level) for _ in range(inputs)]
    result = body(emit, values)
    return assemble(emit, {"x": tuple(range(inputs))}, {"y": (number(result),)})


def finished(alg: Emit, value: Value) -> Value:
    """Relinearized and rescaled."""
    return alg.rescale(alg.relinearize(value))


def pairs(alg: Emit, x: list[Value]) -> list[Value]:
    """The eight products."""
    return [alg.mul(x[k % len(x)], x[(k + 1 + k // len(x)) % len(x)]) for k in range(PRODUCTS)]


def medians(sides: dict[str, Prepared], x: list[object], rounds: int) -> dict[str, float]:
    """Milliseconds of each side, in turns; the first round warms up."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds + 1):
        for name, prepared in sides.items():
            start = time.perf_counter()
            execute(prepared, {"x": x[: prepared.program.arity]})
            times[name].append(time.perf_counter() - start)
    return {name: 1e3 * statistics.median(found[1:]) for name, found in times.items()}


def ring(params: Params, rounds: int) -> list[rows.Row]:
    """Rows of one ring."""
    backend = NativeBackend(threads=1)
    client = backend.keygen(params, ())
    ev = backend.evaluator(params, client.eval_keys)
    rng = np.random.default_rng(0)
    top = params.max_level
    x: list[object] = [client.encrypt(rng.uniform(-1, 1, params.slots), top, params.scale) for _ in range(4)]
    ending = f"_n{params.log_n}_l{top}"

    def both(p: Program) -> dict[str, float]:
        sides = {name: prepare(p, ev, plaintext_memory=1 << 28, fused=name == "fused") for name in ("fused", "plain")}
        return medians(sides, x, rounds)

    found = []
    bodies: dict[str, tuple[int, Callable[[Emit, list[Value]], Value]]] = {
        "square": (1, lambda alg, v: finished(alg, alg.mul(v[0], v[0]))),
        "products_8": (4, lambda alg, v: finished(alg, alg.sum(pairs(alg, v)))),
    }
    for degree in (7, 31):
        plan = make_plan(Poly("chebyshev", tuple(rng.uniform(-1, 1, degree + 1).tolist()), (-1.0, 1.0)))
        if plan.depth <= top:
            bodies[f"polynomial_{degree}"] = (
                1,
                lambda alg, v, plan=plan: polynomial(alg, v[0], plan, top - plan.depth),
            )
    for name, (inputs, body) in bodies.items():
        ms = both(program(params, inputs, body))
        found.append(rows.cost(name + ending, ms["fused"], "ms", "instruction by instruction", ms["plain"]))
    lazy = prepare(program(params, *bodies["products_8"]), ev, plaintext_memory=0)
    each = program(params, 4, lambda alg, v: reduce(alg.add, [finished(alg, product) for product in pairs(alg, v)]))
    ms = medians({"lazy": lazy, "each": prepare(each, ev, plaintext_memory=0, fused=False)}, x, rounds)
    found.append(rows.cost(f"products_8_each{ending}", ms["lazy"], "ms", "each relinearized", ms["each"]))
    found.append(
        outside(prepare(program(params, *bodies["polynomial_7"]), ev, plaintext_memory=1 << 28), x, rounds, ending)
    )
    return found


def outside(prepared: Prepared, x: list[object], rounds: int, ending: str) -> rows.Row:
    """The share of time outside of the compiled module."""
    ev, inside = prepared.evaluator, [0.0]

    class Timed:
        def __init__(self, core: object) -> None:
            self._core = core

        def __getattr__(self, name: str) -> object:
            act = getattr(self._core, name)

            def call(*args: object) -> object:
                start = time.perf_counter()
                result = act(*args)
                inside[0] += time.perf_counter() - start
                return result

            return call

    core = ev._core  # type: ignore[attr-defined]
    ev._core = Timed(core)  # type: ignore[attr-defined]
    shares = []
    for _ in range(rounds + 1):
        inside[0] = 0.0
        start = time.perf_counter()
        execute(prepared, {"x": x[:1]})
        shares.append(1 - inside[0] / (time.perf_counter() - start))
    ev._core = core  # type: ignore[attr-defined]
    return rows.Row(f"outside{ending}", statistics.median(shares[1:]), "share")


def main() -> None:
    """Measure all rings and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    rows.write("native_products", [row for ring_ in RINGS for row in ring(parameters(*ring_), args.rounds)])
    print(rows.machine())


if __name__ == "__main__":
    main()
