"""Runs and accuracy of models compiled for MPC."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from pi_compiler.accuracy import classes
from pi_compiler.importer import import_model
from pi_compiler.ir.graph import FloatArray
from pi_compiler.mpc import CompiledMpc
from pi_compiler.ops.evaluate import evaluate
from pi_compiler.report.precision import Values, bits_kept
from pi_compiler.report.text import entries
from pi_compiler.runtime.mpc.backend import MpcBackend, MpcResult, get_mpc_backend, run_batch

Json = dict[str, object]
Progress = Callable[[str, int, int], None]

_BATCH = 64


def silent(what: str, done: int, total: int) -> None:
    """Progress that nobody looks at."""


def timed_mpc_run(
    compiled: CompiledMpc, inputs: Values, backend: str | MpcBackend = "auto", *, progress: Progress = silent
) -> tuple[Json, MpcResult]:
    """Run samples; compare rounds and bytes with what was predicted.

    Args:
        compiled: the model.
        inputs: samples (B, *shape) by input name.
        backend: where to run; ``"auto"`` is the report's.
        progress: observer.

    Returns:
        The report (seconds are those of one input, the mean of all), and the answers.
    """
    if isinstance(backend, str):
        backend = get_mpc_backend(str(compiled.report["backend"]) if backend == "auto" else backend)
    name = backend.name
    found = run_batch(compiled.program, backend, inputs, progress=progress)
    exact = run_batch(compiled.program, get_mpc_backend("mpc-clear"), inputs)
    samples = min(len(v) for v in inputs.values())
    bits = bits_kept(exact.logits, found.logits)
    planned = {str(e["name"]): e for e in entries(compiled.report["layers"])}
    layers = [
        {
            "name": layer,
            "seconds": cost.seconds / samples,
            "rounds": cost.traffic.rounds,
            "bytes_sent": cost.traffic.bytes_sent / samples,
            "predicted_rounds": planned.get(layer, {}).get("rounds"),
            "predicted_bytes": _planned_bytes(planned.get(layer, {})),
        }
        for layer, cost in found.trace.layers.items()
    ]
    report: Json = {
        "backend": name,
        "simulated": name.startswith("mpc-"),
        "samples": samples,
        "seconds": found.seconds / samples,
        "predicted_seconds": compiled.report["predicted_seconds"],
        "peak_memory_bytes": None,
        "precision_bits": bits if math.isfinite(bits) else None,
        "rounds": found.trace.total.traffic.rounds,
        "bytes_sent": found.trace.total.traffic.bytes_sent / samples,
        "threat_model": compiled.report["threat_model"],
        "layers": layers,
    }
    return report, found


def _planned_bytes(entry: object) -> float | None:
    if not isinstance(entry, dict) or "bytes_to_model" not in entry:
        return None
    return float(str(entry["bytes_to_model"])) + float(str(entry["bytes_to_data"]))


def evaluate_mpc(
    compiled: CompiledMpc,
    inputs: Values,
    labels: NDArray[np.integer],
    backend: str = "auto",
    limit: int | None = None,
    progress: Progress = silent,
) -> Json:
    """Accuracy of the original, of the program in floats, simulated on shares, and on a backend.

    Args:
        compiled: the model; its first output holds one score per class.
        inputs: samples (B, *shape) by input name.
        labels: class numbers (B,).
        backend: where ``encrypted`` runs; simulations run on all samples anyway.
        limit: how many samples run there; None for all.
        progress: observer.

    Raises:
        ShapeMismatch: scores and labels do not fit together.
    """
    output = next(iter(compiled.program.outputs))
    name = str(compiled.report["backend"]) if backend == "auto" else backend
    clear, sim = get_mpc_backend("mpc-clear"), get_mpc_backend("mpc-sim")
    scores = {
        "original": _original(compiled, inputs, output, progress),
        "polynomial": run_batch(compiled.program, clear, inputs, progress=progress).logits[output],
        "simulated": run_batch(compiled.program, sim, inputs, progress=progress).logits[output],
    }
    if name == "mpc-sim":
        scores["encrypted"] = scores["simulated"]
    else:
        few = {n: x[:limit] for n, x in inputs.items()}
        scores["encrypted"] = run_batch(compiled.program, get_mpc_backend(name), few, progress=progress).logits[output]
    predicted = {what: classes(values, labels) for what, values in scores.items()}
    tried = len(predicted["encrypted"])
    right = {what: found == labels[: len(found)] for what, found in predicted.items()}
    return {
        "backend": name,
        "samples": len(labels),
        "encrypted_samples": tried,
        "accuracy": {what: float(r.mean()) for what, r in right.items()},
        "accuracy_encrypted_samples": {what: float(r[:tried].mean()) for what, r in right.items()},
        "agreement": float((predicted["encrypted"] == predicted["polynomial"][:tried]).mean()),
        "out_of_range": [],
        "threat_model": compiled.report["threat_model"],
        "notes": [
            "polynomial: the program in floats, with kept comparisons exact; simulated: in 64-bit fixed point",
            *(["encrypted: simulated too; --backend runs it between parties"] if name == "mpc-sim" else []),
        ],
    }


def _original(compiled: CompiledMpc, inputs: Values, output: str, progress: Progress) -> FloatArray:
    shapes = compiled.program.shapes
    graph = import_model(compiled.models["model.onnx"], input_shapes=shapes, target="mpc").graph
    count = min(len(v) for v in inputs.values())
    parts = []
    for start in range(0, count, _BATCH):
        progress("original", start, count)
        parts.append(evaluate(graph, {n: x[start : start + _BATCH] for n, x in inputs.items()})[output])
    return np.concatenate(parts)
