"""BERT-tiny, trained on sentences, of three public exporters: what it means, its answers under MPC, its CKKS plans.

``bench/export_bert.py`` trains it and writes the files, in an environment of its own; ``reduce`` retrains it to what
runs encrypted, in place of softmax, layer normalization, GELU and tanh::

    python bench/export_bert.py FOLDER
    pi-compiler reduce FOLDER/words.onnx --data sentiment --softmax power:2 --norm batch --activation poly:2
        --finetune-epochs 8 --backend none --output REDUCED
    python bench/bert.py FOLDER [--reduced REDUCED] [--sentences 4]

writes ``results/bert.json``. Per exporter: the largest difference of the imported graph's scores from those of the
torch model on the test split; the accuracy there in the clear and in simulated fixed point; and for a few sentences the
error, rounds, bytes and seconds of two parties and a dealer (CrypTen, processes of this machine). Under CKKS plans for
``native``, of which seconds, keys and memory of bootstraps are estimates (``cost.Prices.bootstrap``,
``report/bootstrap.py``), and the accuracy of the network that would run: as exported, with softmax proper by
normalizing and squaring, and retrained.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rows
from numpy.typing import NDArray

from pi_compiler import api
from pi_compiler.accuracy_mpc import evaluate_mpc
from pi_compiler.importer import import_model
from pi_compiler.ir.graph import FloatArray
from pi_compiler.ops.evaluate import evaluate
from pi_compiler.ops.front import joined
from pi_compiler.options import Options
from pi_compiler.passes.compilation import Compilation
from pi_compiler.pipelines import CKKS, run
from pi_compiler.report.plan import plan_report

EXPORTERS = ("legacy", "dynamo", "optimum")
WANTED = 1e-2
"""Largest error of the scores under MPC."""
COUNTS = (
    "depth",
    "levels",
    "log_n",
    "bootstraps",
    "rotations",
    "plain_products",
    "products",
    "key_bytes",
    "estimated_bootstrap_key_bytes",
    "estimated_bootstrap_memory_bytes",
    "peak_memory_bytes",
)
_BATCH = 64

Inputs = Mapping[str, NDArray[np.generic]]


@dataclass(frozen=True, slots=True)
class Split:
    """Inputs by name (B, tokens), and classes (B,)."""

    x: Inputs
    y: NDArray[np.int64]

    @staticmethod
    def read(path: Path) -> Split:
        """What ``export_bert.py`` wrote."""
        with np.load(path) as npz:
            return Split({name: npz[name] for name in npz.files if name != "y"}, npz["y"])

    @property
    def words(self) -> Split:
        """For the network that takes numbers of words alone."""
        return Split({"x": self.x["input_ids"]}, self.y)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """One sample's, with an axis for it."""
        return {name: (1, *v.shape[1:]) for name, v in self.x.items()}


def imported(path: Path, test: Split, exact: FloatArray) -> Iterator[rows.Row]:
    """What the file means to us."""
    graph = import_model(path, input_shapes=test.shapes).graph
    (found,) = evaluate(graph, {k: np.asarray(v, np.float64)[:, None] for k, v in test.x.items()}).values()
    yield rows.Row(f"{path.stem}: imported, error", float(np.abs(found[:, 0] - exact).max()), "of the scores")
    right = {name: float((s.argmax(-1) == test.y).mean()) for name, s in (("graph", found[:, 0]), ("torch", exact))}
    yield rows.quality(f"{path.stem}: imported, accuracy", right["graph"], "", "torch", right["torch"])


def secure(path: Path, calibration: Split, test: Split, exact: FloatArray, count: int) -> Iterator[rows.Row]:
    """Between two parties: simulated on all sentences, and as processes on a few."""
    name = path.stem
    options = Options(target="mpc", activation_error=2.0**-10)
    compiled = api.compile_secure(path, calibration=calibration.x, options=options, input_shapes=test.shapes)
    accuracy = evaluate_mpc(compiled, compiled.stacked(test.x), test.y, "mpc-sim")["accuracy"]
    if not isinstance(accuracy, dict):
        raise TypeError("no accuracies")
    yield rows.quality(f"{name}: mpc simulated, accuracy", accuracy["simulated"], "", "graph", accuracy["original"])
    few = {k: v[:count] for k, v in test.x.items()}
    done = compiled.run(few, backend="crypten")
    found = done.logits["logits"][:, 0]
    error = float(np.abs(found - exact[:count]).max())
    yield rows.cost(f"{name}: mpc, error", error, "of the scores", "at most", WANTED)
    equal = float((found.argmax(-1) == exact[:count].argmax(-1)).sum())
    yield rows.quality(f"{name}: mpc, equal predictions", equal, "sentences", "tried", float(count))
    traffic, report = done.trace.total.traffic, compiled.report
    sent = traffic.bytes_sent / count
    yield rows.cost(f"{name}: mpc, rounds", float(traffic.rounds), "rounds", "predicted", float(str(report["rounds"])))
    yield rows.cost(f"{name}: mpc, bytes sent", sent, "bytes", "predicted", float(str(report["bytes_sent"])))
    yield rows.Row(f"{name}: mpc, seconds", done.seconds / count, "s")


def plan(title: str, path: Path, calibration: Split, test: Split, softmax: str) -> Iterator[rows.Row]:
    """A plan under CKKS, and the accuracy of the polynomial network that it is for."""
    options = Options(backend="native", activation_error=2.0**-6, softmax=softmax, bootstraps=True)
    c, _ = api.prepare(path, calibration.x, options, None, test.shapes)
    c = run(c, CKKS, stop_after="schedule")
    graph = joined(c.front, Compilation.require(c.replaced, "bench", "approximate"))
    inputs = {k: np.asarray(v, np.float64)[:, None] for k, v in test.x.items()}
    scores = np.concatenate([next(iter(evaluate(graph, few).values())) for few in api.batches(inputs, _BATCH)])
    yield rows.Row(f"{title}: polynomial network, accuracy", float((scores[:, 0].argmax(-1) == test.y).mean()), "")
    found = plan_report(c)
    for name in COUNTS:
        yield rows.Row(f"{title}: {name}", float(str(found[name])), "bytes" if name.endswith("bytes") else "")
    yield rows.Row(f"{title}: predicted seconds without bootstraps", float(str(found["predicted_seconds"])), "s")
    yield rows.Row(f"{title}: estimated seconds of bootstraps", float(str(found["estimated_bootstrap_seconds"])), "s")
    blocks: dict[str, list[float]] = {}
    for entry in found["blocks"] if isinstance(found["blocks"], list) else []:
        spent = blocks.setdefault(str(entry["block"]), [0.0, 0.0, 0.0])
        for place, key in enumerate(("predicted_seconds", "bootstraps", "estimated_bootstrap_seconds")):
            spent[place] += float(entry[key])
    for block, (seconds, count, estimated) in blocks.items():
        yield rows.Row(f"{title}, {block}: predicted seconds", seconds, "s")
        yield rows.Row(f"{title}, {block}: bootstraps", count, "")
        yield rows.Row(f"{title}, {block}: estimated seconds of bootstraps", estimated, "s")


def retrained(folder: Path, calibration: Split, test: Split) -> Iterator[rows.Row]:
    """What ``reduce`` made of it: accuracy before and after, and the plan."""
    (made,) = (p.parent for p in folder.glob("*/record.json"))
    before = json.loads((folder / "reduction.json").read_text())["baseline"]["test"]["accuracy"]
    after = json.loads((made / "record.json").read_text())["test"]["accuracy"]
    yield rows.quality("retrained: accuracy", after, "", "as exported", before)
    yield from plan("retrained, ckks plan", made / "model.onnx", calibration.words, test.words, "max-exp")


def main() -> None:
    """Measure and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--reduced", type=Path, help="what pi-compiler reduce wrote")
    parser.add_argument("--sentences", type=int, default=4, help="between processes")
    given = parser.parse_args()
    calibration, test = (Split.read(given.folder / f"{name}.npz") for name in ("calibration", "test"))
    exact = np.load(given.folder / "scores.npy")
    found = []
    for name in EXPORTERS:
        path = given.folder / f"{name}.onnx"
        found += [*imported(path, test, exact), *secure(path, calibration, test, exact, given.sentences)]
    found += imported(given.folder / "words.onnx", test.words, exact)
    found += plan("ckks plan", given.folder / "legacy.onnx", calibration, test, "normalize-square")
    if given.reduced is not None:
        found += retrained(given.reduced, calibration, test)
    rows.write("bert", found)


if __name__ == "__main__":
    main()
