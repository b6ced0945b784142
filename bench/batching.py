"""Seconds per input where one run answers several: the same networks on our evaluator, alone and in batches.

``python bench/batching.py [--case mlp ...] [--batch 16 auto ...] [--runs 2]``: a few minutes on two idle cores. A case
that the machine's memory does not hold is to be left out; ``auto`` is predicted, not measured, to cost least per input.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import rows

from pi_compiler import api, arrays
from pi_compiler.answers import stacked, timed_run
from pi_compiler.models.zoo import model_path
from pi_compiler.options import Activation, Batch, Options

CASES = {
    "digits_cnn": ("digits", "quadratic"),
    "mlp": ("mnist", "quadratic"),
    "lenet": ("mnist", "quadratic"),
    "digits_vit_he": ("digits", "auto"),
    "text_classifier_he": ("sentiment", "auto"),
}
"""Network: data set, activation."""


def measured(case: str, batch: Batch, runs: int, alone: float | None) -> Iterator[rows.Row]:
    """A network's rows for one batch; ``alone`` are the seconds of an input without batches."""
    data, activation = CASES[case]
    calibration, _ = arrays.read(f"{data}:calibration")
    options = Options(activation=Activation(activation), backend="native", batch=batch)
    compiled = api.compile(model_path(case), calibration=calibration, options=options)
    samples, _ = arrays.labeled(f"{data}:test")
    size = compiled.signature.batch
    inputs = {name: x[: size * runs] for name, x in stacked(compiled, samples).items()}
    report, found, exact = timed_run(compiled, inputs, "native")
    name = next(iter(found.logits))
    scores, wanted = (a.logits[name].reshape(len(a.logits[name]), -1).argmax(axis=1) for a in (found, exact))
    title = f"{case}, batch {size}"
    seconds = float(str(report["seconds"]))
    if alone is None:
        yield rows.Row(f"{title}: seconds an input", seconds, "s")
    else:
        yield rows.cost(f"{title}: seconds an input", seconds, "s", "one by one", alone)
    yield rows.Row(f"{title}: predicted seconds", float(str(report["predicted_seconds"])), "s")
    yield rows.Row(f"{title}: seconds a run", float(str(report["batch_seconds"])), "s")
    yield rows.Row(f"{title}: inputs", len(scores), "inputs")
    yield rows.Row(f"{title}: answers as in clear", float((scores == wanted).mean()), "fraction")
    yield rows.Row(f"{title}: precision", float(str(report["precision_bits"])), "bits")
    yield rows.Row(f"{title}: peak memory", float(str(report["peak_memory_bytes"])), "bytes")


def main() -> None:
    """Measure and write the rows."""
    parser = argparse.ArgumentParser(description="networks alone and in batches")
    parser.add_argument("--case", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--batch", nargs="+", default=["16", "auto"], help="besides 1")
    parser.add_argument("--runs", type=int, default=3, help="runs to take the mean of, as far as there are test inputs")
    given = parser.parse_args()
    found: list[rows.Row] = []
    for case in given.case:
        first = list(measured(case, 1, 5 * given.runs, None))
        found += first
        for text in given.batch:
            found += measured(case, "auto" if text == "auto" else int(text), given.runs, first[0].value)
    rows.write("batching", found)


if __name__ == "__main__":
    main()
