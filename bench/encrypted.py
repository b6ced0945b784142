"""A network compiled for our own evaluator and run on encrypted test samples, as rows of a bench."""

from __future__ import annotations

from pathlib import Path

import rows

from pi_compiler import api, arrays
from pi_compiler.accuracy import evaluate_model
from pi_compiler.answers import stacked, timed_run
from pi_compiler.options import Options


def encrypted_rows(
    path: Path, data: str, count: int, options: Options | None = None, title: str = "encrypted"
) -> list[rows.Row]:
    """Levels, rotations, seconds, bits and answers of the first ``count`` test samples.

    Args:
        path: the network.
        data: a known data set; its calibration split calibrates.
        count: samples that run encrypted.
        options: default is the native backend's.
        title: of the rows.
    """
    calibration, _ = arrays.read(f"{data}:calibration")
    compiled = api.compile(path, calibration=calibration, options=options or Options(backend="native"))
    samples, labels = arrays.labeled(f"{data}:test")
    inputs = {name: x[:count] for name, x in stacked(compiled, samples).items()}
    measured, found, _ = timed_run(compiled, inputs, "native")
    scored = evaluate_model(compiled, inputs, labels[:count], found.logits)
    plan = compiled.report
    reported = {
        f"{title}: samples": (scored["encrypted_samples"], "samples"),
        f"{title}: predictions equal to the polynomial network's": (scored["agreement"], "fraction"),
        f"{title}: accuracy on these samples": (_part(scored["accuracy"], "encrypted"), "fraction"),
        f"{title}: precision": (measured["precision_bits"], "bits"),
        f"{title}: seconds a sample": (measured["seconds"], "s"),
        f"{title}: predicted seconds": (measured["predicted_seconds"], "s"),
        f"{title}: peak memory": (measured["peak_memory_bytes"], "bytes"),
        f"{title}: seconds a run": (measured["batch_seconds"], "s"),
        f"{title}: samples a run answers": (plan["batch"], "samples"),
        f"{title}: levels": (plan["levels"], "levels"),
        f"{title}: rotations": (plan["rotations"], "rotations"),
        f"{title}: products of ciphertexts": (plan["products"], "products"),
        f"{title}: log2 of the ring degree": (plan["log_n"], "bits"),
        f"{title}: security": (plan["security_bits"], "bits"),
    }
    return [rows.Row(name, float(str(value)), unit) for name, (value, unit) in reported.items()]


def _part(value: object, name: str) -> object:
    if not isinstance(value, dict):
        raise TypeError(f"no mapping: {value!r}")
    return value[name]
