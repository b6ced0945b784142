"""BERT-tiny of three public exporters: what it means, its plan under CKKS, and its answers under MPC.

``bench/export_bert.py`` writes the files, in an environment of its own::

    python bench/export_bert.py FOLDER
    python bench/bert.py FOLDER [--samples 4]

writes ``results/bert.json``; about three minutes. Per exporter: the largest difference of the imported graph's scores
from those of the torch model, and of the scores that two parties and a dealer compute (CrypTen, processes of this
machine). For ``legacy`` also the plan under CKKS without retraining: depth, bootstraps, and seconds by block, of which
those of bootstraps are estimates (``cost.Prices.bootstrap``).
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import rows

from pi_compiler import api
from pi_compiler.importer import import_model
from pi_compiler.ops.evaluate import evaluate
from pi_compiler.options import Options

EXPORTERS = ("legacy", "dynamo", "optimum")
CALIBRATION = 32
WANTED = 1e-2
"""Largest error of the scores under MPC."""


def exporter(
    folder: Path, name: str, samples: dict[str, np.ndarray], exact: np.ndarray, count: int
) -> Iterator[rows.Row]:
    """Import and MPC of one file."""
    path, shapes = folder / f"{name}.onnx", {k: (1, *v.shape[1:]) for k, v in samples.items()}
    graph = import_model(path, input_shapes=shapes).graph
    (found,) = evaluate(graph, {k: v[:, None] for k, v in samples.items()}).values()
    yield rows.Row(f"{name}: imported, error", float(np.abs(found[:, 0] - exact).max()), "of the scores")
    calibration = {k: v[:CALIBRATION] for k, v in samples.items()}
    options = Options(target="mpc", activation_error=2.0**-10)
    secure = api.compile_secure(path, calibration=calibration, options=options, input_shapes=shapes)
    few = {k: v[CALIBRATION : CALIBRATION + count] for k, v in samples.items()}
    done = secure.run(few, backend="crypten")
    error = float(np.abs(done.logits["logits"][:, 0] - exact[CALIBRATION : CALIBRATION + count]).max())
    yield rows.cost(f"{name}: mpc, error", error, "of the scores", "at most", WANTED)
    traffic = done.trace.total.traffic
    yield rows.Row(f"{name}: mpc, rounds", float(traffic.rounds), "rounds")
    yield rows.Row(f"{name}: mpc, bytes sent", traffic.bytes_sent / count, "bytes")
    yield rows.Row(f"{name}: mpc, seconds", done.seconds / count, "s")


def plan(folder: Path, samples: dict[str, np.ndarray]) -> Iterator[rows.Row]:
    """The plan under CKKS."""
    calibration = {k: v[:CALIBRATION] for k, v in samples.items()}
    options = Options(backend="native", activation_error=2.0**-6, bootstraps=True)
    found = api.plan(folder / "legacy.onnx", calibration=calibration, options=options)
    for name in ("depth", "levels", "log_n", "bootstraps", "rotations", "plain_products", "products"):
        yield rows.Row(f"ckks plan: {name}", float(str(found[name])), "")
    yield rows.Row("ckks plan: predicted seconds without bootstraps", float(str(found["predicted_seconds"])), "s")
    yield rows.Row("ckks plan: estimated seconds of bootstraps", float(str(found["estimated_bootstrap_seconds"])), "s")
    blocks: dict[str, list[float]] = {}
    for entry in found["blocks"] if isinstance(found["blocks"], list) else []:
        spent = blocks.setdefault(str(entry["block"]), [0.0, 0.0, 0.0])
        for place, key in enumerate(("predicted_seconds", "bootstraps", "estimated_bootstrap_seconds")):
            spent[place] += float(entry[key])
    for block, (seconds, count, estimated) in blocks.items():
        yield rows.Row(f"ckks plan, {block}: predicted seconds", seconds, "s")
        yield rows.Row(f"ckks plan, {block}: bootstraps", count, "")
        yield rows.Row(f"ckks plan, {block}: estimated seconds of bootstraps", estimated, "s")


def main() -> None:
    """Measure and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--samples", type=int, default=4)
    given = parser.parse_args()
    with np.load(given.folder / "samples.npz") as npz:
        samples = {name: npz[name] for name in npz.files}
    exact = np.load(given.folder / "scores.npy")
    found = [row for name in EXPORTERS for row in exporter(given.folder, name, samples, exact, given.samples)]
    rows.write("bert", [*found, *plan(given.folder, samples)])


if __name__ == "__main__":
    main()
