"""Softmax alone on our evaluator: Power-Softmax against three ways of computing softmax itself, at equal error.

Rows of 32, 64, 128 and 256 scores, as many rows as scores, one head; scores are normal with deviation 2, cut at 6.
Softmax proper is computed three ways. ``taylor``: (1 + x / 2^t)^(2^t) divided by Goldschmidt's iteration, as is usual;
``squared``: normalize and square (Cho et al., CCS 2024); ``fitted``: a polynomial for the exponential and over-relaxed
Goldschmidt, this compiler's choice. Of each the cheapest setting whose weights differ from softmax by at most 1 % of
the largest weight, on matrices that calibrated nothing. Power-Softmax (p = 2, 4, 6) is no approximation of softmax.
``cgf`` (arXiv 2602.01621) takes mean and variance of a row for its distribution: nothing is divided by, and how far its
weights are from softmax's no setting changes, so that distance stands beside its costs.

    python bench/attention.py [--tokens 32 64 128 256] [--rounds 3]

writes ``results/attention.json``. The published ratio (Zimerman et al., AISTATS 2026; seconds of the softmax of
Pythia-70M on one A100) stands beside ours: at 128 tokens 7.42 s (Cho) and 3.6 s (Taylor, Goldschmidt) against 2.7 s, at
1024 tokens 173.4 and 83.9 s against 8.6 s, all heads and layers together.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
import rows
from onnx import TensorProto, helper, numpy_helper

from pi_compiler import api
from pi_compiler.errors import BudgetError, PiError
from pi_compiler.ir.graph import FloatArray
from pi_compiler.options import Activation, Options

WANTED = 0.01
"""Largest difference from softmax, relative to the largest weight."""
COMMON: dict[str, Any] = {"backend": "native", "margin": 1.05}
"""Scores are cut, so that no interval has to be wider than what calibration shows."""
DEVIATIONS = (0.5, 1.0, 2.0)
"""Of scores by which the distance of two cumulants from softmax is told."""
ERRORS = tuple(2.0**-bits for bits in range(5, 17))
PRECISIONS = (10.0, 14.0, 18.0, 20.0)
"""Bits asked of the plan, until noise is a quarter of the error at most or no parameters have more: squaring normalized
weights amplifies it."""
PUBLISHED = {"squared": {128: 7.42 / 2.7, 1024: 173.4 / 8.6}, "taylor": {128: 3.6 / 2.7, 1024: 83.9 / 8.6}}
"""Seconds relative to Power-Softmax."""


FIXED = ("power2", "power4", "power6", "cgf")
"""One setting each."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One way to compute weights: what the compiler is told."""

    name: str
    options: Options


def network(tokens: int) -> onnx.ModelProto:
    """A softmax and a product with one, so that it is inside of the network."""
    nodes = [helper.make_node("Softmax", ["x"], ["w"], "softmax"), helper.make_node("Mul", ["w", "one"], ["y"], "out")]
    shape = [1, tokens, tokens]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)
    graph = helper.make_graph(nodes, "softmax", [x], [y], [numpy_helper.from_array(np.float32(1.0), "one")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def scores(tokens: int, count: int, seed: int) -> FloatArray:
    """(count, tokens, tokens)."""
    return np.clip(2.0 * np.random.default_rng(seed).normal(size=(count, tokens, tokens)), -6.0, 6.0)


def softmax(x: FloatArray) -> FloatArray:
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return np.asarray(e / e.sum(axis=-1, keepdims=True))


def settings(name: str) -> Iterator[Setting]:
    """What to try, cheapest first."""
    if name in FIXED:
        form = name.replace("power", "power:")
        yield Setting(name, Options(softmax=form, backend="native", activation_error=2.0**-7))
        return
    for error in ERRORS:
        if name == "fitted":
            yield Setting(f"fitted, {error:g}", Options(activation_error=error, **COMMON))
        elif name == "squared":
            yield Setting(f"squared, {error:g}", Options(softmax="normalize-square", activation_error=error, **COMMON))
    if name == "taylor":
        for squarings in range(5, 11):
            for iterations in range(4, 12):
                chosen = {
                    "softmax/exp": Activation("exp_limit", squarings),
                    "softmax/inverse": Activation("reciprocal_goldschmidt", iterations),
                }
                yield Setting(f"taylor, {squarings}, {iterations}", Options(activations=chosen, **COMMON))


def error_of(setting: Setting, source: onnx.ModelProto, tokens: int) -> float:
    """The replaced graph's largest difference from softmax relative to the largest weight, in clear."""
    from pi_compiler.ops.evaluate import evaluate
    from pi_compiler.pipelines import CKKS, run

    c, _ = api.prepare(source, scores(tokens, 8, 0), setting.options)
    c = run(c, CKKS, stop_after="approximate")
    x = scores(tokens, 2, 1)
    if c.replaced is None:
        raise RuntimeError("the graph was not replaced")
    found, exact = evaluate(c.replaced, {"x": x})["y"][:, 0], softmax(x)
    return float(np.abs(found - exact).max() / exact.max())


def expansion_error(tokens: int, deviation: float) -> float:
    """The largest difference of ``cgf`` before any polynomial from softmax, relative to the largest weight."""
    x = scores(tokens, 2, 1) * deviation / 2.0
    found = np.exp(x - x.mean(axis=-1, keepdims=True) - x.var(axis=-1, keepdims=True) / 2.0) / tokens
    return float(np.abs(found - softmax(x)).max() / softmax(x).max())


def chosen(name: str, source: onnx.ModelProto, tokens: int) -> tuple[Setting, float]:
    """The first setting with the wanted error; Taylor's settings by predicted seconds."""
    if name in FIXED:
        setting = next(settings(name))
        return setting, error_of(setting, source, tokens) if name == "cgf" else 0.0
    best: tuple[int, Setting, float] | None = None
    for setting in settings(name):
        try:
            error = error_of(setting, source, tokens)
        except PiError:
            continue
        if error > WANTED:
            continue
        depth = sum(a.degree or 0 for a in setting.options.activations.values())
        if best is None or depth < best[0]:
            best = depth, setting, error
        if name != "taylor":
            break
    if best is None:
        raise RuntimeError(f"no setting of {name} has an error of {WANTED}")
    return best[1], best[2]


def ran(setting: Setting, source: onnx.ModelProto, tokens: int, rounds: int) -> tuple[api.CompiledModel, float, float]:
    """The compiled model, its seconds, and its noise relative to the largest weight."""
    model = api.compile(source, calibration=scores(tokens, 8, 0), options=setting.options)
    session, x = model.session("native"), scores(tokens, 1, 1)
    exact = model.run(x, backend="clear").outputs["y"]
    runs = [session.run({"x": x}) for _ in range(rounds + 1)]
    noise = max(float(np.abs(r.outputs["y"] - exact).max()) for r in runs) / float(exact.max())
    return model, statistics.median(r.trace.seconds for r in runs[1:]), noise


def measured(name: str, tokens: int, rounds: int) -> dict[str, float]:
    """Seconds, levels, operations and errors of one way."""
    source = network(tokens)
    setting, error = chosen(name, source, tokens)
    found: tuple[api.CompiledModel, float, float] | None = None
    for bits in PRECISIONS:
        try:
            found = ran(replace(setting, options=replace(setting.options, precision_bits=bits)), source, tokens, rounds)
        except BudgetError:
            break
        if found[2] <= WANTED / 4:
            break
    if found is None:
        raise RuntimeError(f"no parameters for {setting.name}")
    model, seconds, noise = found
    sys.stdout.write(f"{tokens} tokens: {setting.name}: error {error:.3g}, noise {noise:.2g}\n")
    sys.stdout.flush()
    return {
        "seconds": seconds,
        "levels": float(str(model.report["levels"])),
        "log_n": float(str(model.report["log_n"])),
        "rotations": float(str(model.report["rotations"])),
        "products": float(str(model.report["products"])),
        "plain products": float(str(model.report["plain_products"])),
        "error": error,
        "noise": noise,
    }


UNITS = {"seconds": "s", "log_n": "", "error": "of the largest weight", "noise": "of the largest weight"}


def table(tokens: int, rounds: int) -> list[rows.Row]:
    """Rows of one length; costs beside those of Power-Softmax with p = 4."""
    found = {name: measured(name, tokens, rounds) for name in (*FIXED, "fitted", "taylor", "squared")}
    base, made = found["power4"], []
    for name, figures in found.items():
        for what, value in figures.items():
            label, unit = f"{name}, {tokens} tokens: {what}", UNITS.get(what, "")
            compared = what in ("seconds", "levels") and not name.startswith("power")
            made.append(
                rows.cost(label, value, unit, "power4", base[what]) if compared else rows.Row(label, value, unit)
            )
        if name in PUBLISHED:
            ratio = figures["seconds"] / base["seconds"]
            published = PUBLISHED[name].get(tokens)
            label = f"{name}, {tokens} tokens: seconds relative to power4"
            made.append(
                rows.Row(label, ratio, "", "published, one A100", published, ratio / published)
                if published
                else rows.Row(label, ratio, "")
            )
    for deviation in DEVIATIONS:
        label = f"cgf, {tokens} tokens: error without polynomials, scores of deviation {deviation:g}"
        made.append(rows.Row(label, expansion_error(tokens, deviation), UNITS["error"]))
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, nargs="+", default=[32, 64, 128, 256])
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args(arguments)
    rows.write("attention", [row for tokens in given.tokens for row in table(tokens, given.rounds)])


if __name__ == "__main__":
    main()
