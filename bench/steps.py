"""A transformer trained step by step: plain, then kind after kind exchanged, with the accuracy of each step's file."""

from __future__ import annotations

import hashlib
import json
import shutil
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import rows
import torch
from torch import nn

from pi_compiler.exporter import export
from pi_compiler.importer import import_model
from pi_compiler.models.data import load
from pi_compiler.models.training.export import export_onnx
from pi_compiler.models.training.graph_module import GraphModule
from pi_compiler.models.training.measure import accuracy
from pi_compiler.models.training.recipes import Recipe
from pi_compiler.models.training.score import score
from pi_compiler.models.training.train import fit
from pi_compiler.models.training.transformers import Kind, Plan, exchange
from pi_compiler.models.zoo import ZOO

Results = dict[str, dict[str, float]]
"""Per step the accuracy by split."""


@dataclass(frozen=True, slots=True)
class Case:
    """A network and how it is trained.

    Attributes:
        name: of the files.
        data: a known data set.
        sample: shape of its samples.
        build: the network, untrained.
        plain: recipe of the plain network.
        whole: samples are integers, to be looked up.
        plan: what is exchanged.
    """

    name: str
    data: str
    sample: tuple[int, ...]
    build: Callable[[], nn.Module]
    plain: Recipe
    plan: Plan
    whole: bool = False

    @property
    def steps(self) -> tuple[str, ...]:
        """Names of the steps, the plain network first."""
        return ("plain", *self.plan.order)


def plain_network(case: Case, seed: int, folder: Path) -> Path:
    """Where a seed's network is before anything is exchanged; it is trained if it is not there."""
    path = folder / f"{case.name}-{seed}-plain.onnx"
    if not path.is_file():
        torch.manual_seed(seed)
        network = case.build()
        fit(network, case.plain, load(case.data, "train"), load(case.data, "validation"), seed)
        export_onnx(network, case.sample, path, whole=case.whole)
    return path


def trained(case: Case, seed: int, folder: Path) -> Results:
    """Validation and test accuracy of every step of one seed; a seed with a record is not trained again."""
    record = folder / f"{case.name}-{seed}.json"
    if record.is_file():
        found: Results = json.loads(record.read_text())
        return found
    train, validation, test = (load(case.data, split) for split in ("train", "validation", "test"))
    graph = import_model(plain_network(case, seed, folder)).graph
    teacher, module = GraphModule(graph), GraphModule(graph)
    results: Results = {}

    def score(step: str) -> None:
        # What is scored is what the file computes.
        scored = GraphModule(import_model(folder / f"{case.name}-{seed}-{step}.onnx").graph)
        results[step] = {"validation": accuracy(scored, validation)[0], "test": accuracy(scored, test)[0]}
        print(f"seed {seed}, {step}: {results[step]}", flush=True)

    def after(kind: Kind, network: GraphModule) -> None:
        export(network.eval().to_graph(), folder / f"{case.name}-{seed}-{kind}.onnx")
        score(kind)

    score("plain")
    checkpoints = folder / f"{case.name}-{seed}-run"
    exchange(module, case.plan, train, validation, teacher=teacher, seed=seed, folder=checkpoints, after=after)
    record.write_text(json.dumps(results, indent=1) + "\n")
    return results


def put_into_zoo(case: Case, seed: int, folder: Path, command: str) -> None:
    """The first and the last network of a seed become ``NAME`` and ``NAME_he`` of the zoo, with their records."""
    results: Results = json.loads((folder / f"{case.name}-{seed}.json").read_text())
    train = load(case.data, "train")
    for step, name in ((case.steps[0], case.name), (case.steps[-1], f"{case.name}_he")):
        target = ZOO[name].path
        shutil.copyfile(folder / f"{case.name}-{seed}-{step}.onnx", target)
        seen = score(GraphModule(import_model(target).graph), train)["layers"]
        record = {
            "name": name,
            "command": command,
            "seed": seed,
            "step": step,
            "recipe": asdict(case.plain),
            "exchange": None if step == case.steps[0] else _told(case.plan),
            "torch": torch.__version__,
            "validation_accuracy": results[step]["validation"],
            "test_accuracy": results[step]["test"],
            "largest_activation_inputs": {x["name"]: x["max_abs"] for x in seen} if isinstance(seen, list) else {},
            "sha256": hashlib.sha256(target.read_bytes()).hexdigest(),
        }
        target.with_suffix(".json").write_text(json.dumps(record, indent=2) + "\n")


def _told(plan: Plan) -> dict[str, object]:
    told = {f.name: getattr(plan, f.name) for f in fields(plan) if f.name not in ("settings", "bands")}
    return told | {"settings": asdict(plan.settings), "bands": vars(plan.bands)}


def accuracy_rows(case: Case, results: Sequence[Results], allowed: float) -> list[rows.Row]:
    """Means over seeds, and the paired drop of the test accuracy from the first step to the last."""
    found = []
    for step in case.steps:
        mean = {split: statistics.mean(r[step][split] for r in results) for split in ("validation", "test")}
        found += [rows.Row(f"{step}: {split} accuracy", value, "fraction") for split, value in mean.items()]
    drops = [100.0 * (r["plain"]["test"] - r[case.steps[-1]]["test"]) for r in results]
    found.append(rows.Row("seeds", len(drops), "networks"))
    found.append(
        rows.Row("paired drop of the test accuracy, mean", statistics.mean(drops), "points", "at most", allowed)
    )
    if len(drops) > 1:
        found.append(rows.Row("paired drop, standard deviation", statistics.stdev(drops), "points"))
    return found
