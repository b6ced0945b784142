"""Units of work of a backend that does matrix products in one call, fitted to measured operations.

Rotations, whole matrix products and squares are timed with different digits and at different levels. What is in each is
known (``ir/switching.py``), so that seconds of the units follow by least squares on relative errors.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence

import numpy as np
from scipy.optimize import nnls

from pi_compiler.ir import switching
from pi_compiler.ir.graph import FloatArray
from pi_compiler.ir.params import Params, make_params
from pi_compiler.runtime.backend import Backend, Client
from pi_compiler.runtime.fuse import LinearEvaluator, ProductEvaluator

_DIGITS = {16: (4, 12)}
"""Primes in a digit by log_n: narrow ones and wide ones, as far as keys fit in a few gigabytes."""
_OTHER_DIGITS = (1, 4)
_BITS = 45.0
_STEPS = 4
_ROUNDS = 5

Case = tuple[Callable[[int], object], FloatArray]
"""What is timed, as a function of the call's number, and the work in it."""


def units(backend: Backend, log_n: int, top: int) -> dict[str, list[float]]:
    """Seconds of each of ``switching.UNITS`` at a ring degree, for chains of at most ``top`` levels."""
    cases: list[Case] = []
    for digit in _DIGITS.get(log_n, _OTHER_DIGITS):
        # Nothing secret is encrypted: the chain may be longer than is secure.
        params = make_params(log_n, top, _BITS, log_q0=_BITS, log_special=_BITS, specials=digit, insecure=True)
        client = backend.keygen(params, range(1, 2 * _STEPS + 1), insecure=True)
        evaluator = backend.evaluator(params, client.eval_keys)
        if not isinstance(evaluator, LinearEvaluator):
            return {}
        for level in sorted({params.max_level, params.max_level // 2}):
            cases += _cases(params, client, evaluator, level)
    seconds = _medians([act for act, _ in cases])
    relative = np.stack([work for _, work in cases]) / np.asarray(seconds)[:, None]
    found, _ = nnls(relative, np.ones(len(seconds)))
    return {name: [float(f"{s:.4g}")] for name, s in zip(switching.UNITS, found, strict=True)}


def _cases(params: Params, client: Client, ev: LinearEvaluator, level: int) -> list[Case]:
    rng = np.random.default_rng(0)
    rows = [rng.uniform(-1, 1, params.slots) for _ in range(_STEPS * _STEPS)]
    scale = 2.0 ** (params.log_scale / 2)
    x = [client.encrypt(row, level, scale) for row in rows[:_STEPS]]
    steps = range(1, _STEPS + 1)
    cases: list[Case] = [(lambda i: ev.rotate(x[i % _STEPS], 1 + i % (2 * _STEPS)), switching.rotate(params, level))]
    for late in (True, False):
        move = ev.rotate if late else ev.rotate_linear
        babies = [move(x[0], by) for by in steps]
        plain = [ev.encode_linear(row, level, scale, late=late) for row in rows]
        # A program reads every constant once: none is still in a cache.
        giants = [(by + _STEPS, list(zip(babies, plain[(by - 1) * _STEPS :], strict=False))) for by in steps]
        shared = _STEPS * switching.baby(params, level, late=late) + switching.decompose(params, level)
        products = _STEPS * _STEPS * switching.product(params, level, params.slots, late=late)
        sums = _STEPS * switching.giant(params, level, late=late) + products + switching.finish(params, level)

        def all_babies(i: int, move: Callable[[object, int], object] = move) -> Sequence[object]:
            return [move(x[i % _STEPS], by) for by in steps]

        def product(_: int, giants: Sequence[tuple[int, list[tuple[object, object]]]] = giants) -> object:
            return ev.linear_sum(giants)

        cases += [(all_babies, shared), (product, sums)]
    values = x * _STEPS
    numbers = [[ev.encode_linear(row[k : k + 1], level, scale, late=False) for k in range(len(values))] for row in rows]
    dense = len(rows) * len(values) * switching.product(params, level, 1, late=False)
    cases.append((lambda _: ev.linear_sums(values, numbers), dense))
    if isinstance(ev, ProductEvaluator):
        left = scale**2 / params.primes[level]
        work = switching.tensor(params, level) + switching.relinearize_rescale(params, level)
        cases.append((lambda i: ev.product_sum([(1, x[i % _STEPS], x[i % _STEPS], None)], left), work))
    return cases


def _medians(acts: Sequence[Callable[[int], object]]) -> list[float]:
    """Seconds of each call, in turns: a program's instructions find little of what they read in a cache."""
    times: list[list[float]] = [[] for _ in acts]
    for i in range(_ROUNDS):
        for act, spent in zip(acts, times, strict=True):
            start = time.perf_counter()
            result = act(i)
            spent.append(time.perf_counter() - start)
            del result
    return [statistics.median(spent) for spent in times]
