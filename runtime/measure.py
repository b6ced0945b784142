"""What each instruction costs on this machine: the table behind predictions.

A quiet half minute is enough: per ring degree a handful of levels is measured and the rest
interpolated. Operands alternate, because in a program every rotation reads another key and every
product another plaintext: timing one operand again and again would measure the cache.
"""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import TypeAlias

import numpy as np

from pi_compiler.errors import ParameterError
from pi_compiler.ir.params import MAX_LOG_QP, Params, make_params
from pi_compiler.ir.program import Opcode, Program
from pi_compiler.runtime.backend import Ciphertext, Client, Evaluator, Plaintext, get_backend
from pi_compiler.runtime.executor import execute, prepare
from pi_compiler.runtime.fuse import LinearEvaluator
from pi_compiler.runtime.measure_fused import units

CostJson: TypeAlias = dict[str, str | float | dict[str, list[float]] | dict[str, dict[str, list[float]]]]
"""See ``measure``."""

TOP_LEVEL = {11: 1, 12: 3, 13: 7, 14: 12, 15: 16, 16: 16}
"""Highest level measured per log_n; larger levels are for the cost model to extrapolate."""

_LARGEST_BITS = 49.0
"""Primes that every backend takes, and the native one's fast transforms."""
_LEVELS = (0, 1, 2, 4, 7, 12, 16)
_DISPATCHED = 20_000
_LEAST_ROUNDS, _MOST_ROUNDS = 3, 60


def measure(backend_name: str, log_ns: Sequence[int] = (12, 13, 14, 15), *, seconds: float = 25.0) -> CostJson:
    """Measure a backend.

    Args:
        backend_name: which one.
        log_ns: log2 of the ring degrees.
        seconds: about how long it may take; less only makes the medians noisier.

    Returns:
        JSON values: ``backend``; ``machine``, for people; ``overhead``, the executor's seconds per
        instruction; ``ops``, per log_n and operation the seconds at level 0, 1, 2 ... of the
        operand (``keygen``: of the chain), and of the units of work (``ir/switching.py``) where
        matrix products are one call; ``key_bytes``, per log_n the bytes of a key for a
        chain of level 0, 1, 2 ...

    Raises:
        ParameterError: a ring degree cannot be measured.
        BackendUnavailable: the backend's library is missing.
    """
    unknown = [n for n in log_ns if n not in TOP_LEVEL]
    if unknown or not log_ns:
        raise ParameterError(
            f"cannot measure ring degrees {', '.join(f'2^{n}' for n in unknown) or '(none given)'}",
            f"possible: {', '.join(f'2^{n}' for n in TOP_LEVEL)}",
        )
    share = seconds / sum(2.0 ** (n / 2) for n in log_ns)
    ops: dict[str, dict[str, list[float]]] = {}
    key_bytes: dict[str, list[float]] = {}
    for log_n in sorted(log_ns):
        ops[str(log_n)], key_bytes[str(log_n)] = _ring(backend_name, log_n, share * 2.0 ** (log_n / 2))
    return {
        "backend": backend_name,
        "machine": machine(),
        "overhead": _dispatch(),
        "ops": ops,
        "key_bytes": key_bytes,
    }


def _ring(backend_name: str, log_n: int, seconds: float) -> tuple[dict[str, list[float]], list[float]]:
    top = TOP_LEVEL[log_n]
    params = _params(log_n, top)
    backend = get_backend(backend_name)
    rotations = range(1, 1 + max(2, 17 - log_n))
    client = backend.keygen(params, rotations)
    start = time.perf_counter()
    keys = client.eval_keys
    keygen = (time.perf_counter() - start) / (len(rotations) + 1)
    evaluator = backend.evaluator(params, keys)
    levels = [level for level in _LEVELS if level <= top]
    cases = {level: _cases(params, client, evaluator, level, rotations) for level in levels}
    table = _medians(cases, 0.8 * seconds)
    ops = {name: _interpolate(points, top) for name, points in table.items()}
    # A key holds a pair of polynomials over all primes and the special one, for each prime.
    size = [(level + 1) * (level + 2) / ((top + 1) * (top + 2)) for level in range(top + 1)]
    ops["keygen"] = [keygen * s for s in size]
    if isinstance(evaluator, LinearEvaluator):
        ops |= units(backend, log_n, top)
    return ops, [round(keys.nbytes / (len(rotations) + 1) * s) for s in size]


def _cases(
    params: Params, client: Client, ev: Evaluator, level: int, rotations: Sequence[int]
) -> dict[str, Callable[[int], object]]:
    """Per operation a function that runs it on the i-th operands."""
    rng = np.random.default_rng(0)
    scale = params.scale
    rows = [rng.uniform(-1, 1, params.slots) for _ in range(3)]
    x = [client.encrypt(row, level, scale) for row in rows]
    p: list[Plaintext] = [ev.encode(row, level, scale) for row in rows]
    w: list[Plaintext] = [ev.encode(row[:1], level, scale) for row in rows]
    wide: list[Ciphertext] = [ev.mul(a, b) for a, b in pairwise(x)]
    cases: dict[str, Callable[[int], object]] = {
        "add": lambda i: ev.add(x[i % 3], x[(i + 1) % 3]),
        "sub": lambda i: ev.sub(x[i % 3], x[(i + 1) % 3]),
        "neg": lambda i: ev.neg(x[i % 3]),
        "mul": lambda i: ev.mul(x[i % 3], x[(i + 1) % 3]),
        "square": lambda i: ev.mul(x[i % 3], x[i % 3]),
        "add_plain": lambda i: ev.add_plain(x[i % 3], p[(i + 1) % 3]),
        "mul_plain": lambda i: ev.mul_plain(x[i % 3], p[(i + 1) % 3]),
        "mul_scalar": lambda i: ev.mul_plain(x[i % 3], w[(i + 1) % 3]),
        "rotate": lambda i: ev.rotate(x[i % 3], rotations[i % len(rotations)]),
        "relinearize": lambda i: ev.relinearize(wide[i % 2]),
        "encode": lambda i: ev.encode(rows[i % 3], level, scale),
        "encode_scalar": lambda i: ev.encode(rows[i % 3][:1], level, scale),
        "encrypt": lambda i: client.encrypt(rows[i % 3], level, scale),
        "decrypt": lambda i: client.decrypt(x[i % 3]),
    }
    if level > 0:
        prime = float(params.primes[level])
        tall = [client.encrypt(row, level, scale * prime) for row in rows]
        cases["rescale"] = lambda i: ev.rescale(tall[i % 3], scale)
        cases["drop_level"] = lambda i: ev.drop_level(x[i % 3], level - 1)
    return cases


def _params(log_n: int, top: int) -> Params:
    """As large equal primes as are secure and fast; the scale's square fits one of them."""
    bits = min((MAX_LOG_QP[log_n] - 1) / (top + 2), _LARGEST_BITS)
    params = make_params(log_n, top, bits, log_q0=bits, log_special=bits)
    return replace(params, scale=2.0 ** (int(bits) // 2 - 1))


def _medians(cases: dict[int, dict[str, Callable[[int], object]]], budget: float) -> dict[str, list[tuple[int, float]]]:
    """Per operation (level, seconds). Rounds over everything, so that a slow moment of the
    machine touches a few runs of each operation instead of all runs of one.
    """
    times: dict[tuple[str, int], list[float]] = {}
    end, rounds = time.perf_counter() + budget, 0
    while rounds < _LEAST_ROUNDS or (time.perf_counter() < end and rounds < _MOST_ROUNDS):
        for level, acts in cases.items():
            for name, act in acts.items():
                act(2 * rounds)  # a program's operands are recent: not all memory is cold
                start = time.perf_counter()
                result = act(2 * rounds + 1)
                times.setdefault((name, level), []).append(time.perf_counter() - start)
                del result
        rounds += 1
    table: dict[str, list[tuple[int, float]]] = {}
    for (name, level), seconds in times.items():
        table.setdefault(name, []).append((level, statistics.median(seconds)))
    return table


def _interpolate(points: list[tuple[int, float]], top: int) -> list[float]:
    """Seconds at level 0 .. top. Costs over (level + 2) are close to linear: key switching too."""
    levels, seconds = zip(*points, strict=True)
    every = np.arange(top + 1)
    per = np.interp(every, levels, np.asarray(seconds) / (np.asarray(levels) + 2))
    return [float(f"{s:.4g}") for s in per * (every + 2)]


def _dispatch() -> float:
    """Seconds that the executor adds to an instruction, whatever the backend."""
    params = _params(12, 1)
    backend = get_backend("clear")
    client = backend.keygen(params, ())
    evaluator = backend.evaluator(params, client.eval_keys)
    x = client.encrypt(np.ones(1), 1, params.scale)
    prepared = prepare(_identities(params, _DISPATCHED), evaluator, plaintext_memory=0)
    added = []
    for _ in range(3):
        start = time.perf_counter()
        execute(prepared, {"x": [x]})
        between = time.perf_counter()
        for _ in range(_DISPATCHED):
            evaluator.rotate(x, 0)
        added.append((2 * between - start - time.perf_counter()) / _DISPATCHED)
    return float(f"{max(statistics.median(added), 0.0):.3g}")


def _identities(params: Params, count: int) -> Program:
    """A chain of rotations by zero, which do nothing."""
    zero = np.zeros(count, np.int32)
    return Program(
        op=np.full(count, Opcode.ROTATE, np.uint8),
        a=np.arange(count, dtype=np.int32),
        b=zero - 1,
        imm=zero,
        const=zero - 1,
        plain_scale=np.zeros(count),
        origin=zero,
        level=np.ones(count + 1, np.int16),
        scale=np.full(count + 1, params.scale),
        dimension=np.full(count + 1, 2, np.uint8),
        consts=(),
        inputs={"x": (0,)},
        outputs={"y": (count,)},
        origins=("nothing",),
    )


def machine() -> str:
    """Processor, cores and Python, for people."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        models = [line for line in info.read_text(encoding="utf-8").splitlines() if line.startswith("model name")]
        name = models[0].partition(":")[2].strip() if models else name
    return f"{name}, {os.cpu_count()} cores, Python {platform.python_version()}"
