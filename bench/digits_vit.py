"""The small vision transformer on digits: plain, and exchanged for forms that run encrypted; accuracy of every step.

``python bench/digits_vit.py [--seeds 5] [--folder DIR]``: four minutes a seed on one core. For each seed the plain
network is trained, then its softmax (Power-Softmax, p = 2), LayerNorm (BatchNorm) and GELU (a quadratic) are
exchanged one after the other, each followed by training. The train split trains, the validation split chooses the
epochs, the test split is read once per network. DIR gets every network as ONNX; seeds it has are not trained again.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path

import rows
import torch

from pi_compiler.exporter import export
from pi_compiler.importer import import_model
from pi_compiler.models.data import load
from pi_compiler.models.training.augment import Augmentation
from pi_compiler.models.training.engine import Settings
from pi_compiler.models.training.export import export_onnx
from pi_compiler.models.training.graph_module import GraphModule
from pi_compiler.models.training.measure import accuracy
from pi_compiler.models.training.recipes import Recipe
from pi_compiler.models.training.train import fit
from pi_compiler.models.training.transformers import Kind, Plan, exchange
from pi_compiler.models.zoo.digits_vit import build

_AUGMENTATION = Augmentation(degrees=8.0, shift=0.5, zoom=0.05)
PLAIN = Recipe(epochs=150, batch_size=64, augmentation=_AUGMENTATION)
EXCHANGED = Plan(
    Settings(
        epochs=40,
        batch_size=64,
        optimizer="adamw",
        learning_rate=2e-3,
        weight_decay=1e-2,
        clip_norm=1.0,
        augmentation=_AUGMENTATION,
        distill=1.0,
        temperature=2.0,
    )
)
"""Chosen on the validation split of seed 0."""
STEPS = ("plain", *EXCHANGED.order)


def trained(seed: int, folder: Path) -> dict[str, dict[str, float]]:
    """Validation and test accuracy of every step of one seed."""
    record = folder / f"digits_vit-{seed}.json"
    if record.is_file():
        found: dict[str, dict[str, float]] = json.loads(record.read_text())
        return found
    train, validation, test = (load("digits", split) for split in ("train", "validation", "test"))
    torch.manual_seed(seed)
    network = build()
    fit(network, PLAIN, train, validation, seed)
    path = folder / f"digits_vit-{seed}-plain.onnx"
    export_onnx(network, (1, 8, 8), path)
    graph = import_model(path).graph
    teacher, module = GraphModule(graph), GraphModule(graph)
    results: dict[str, dict[str, float]] = {}

    def score(step: str, network: GraphModule) -> None:
        # What is scored is what the file computes.
        scored = GraphModule(import_model(folder / f"digits_vit-{seed}-{step}.onnx").graph)
        results[step] = {"validation": accuracy(scored, validation)[0], "test": accuracy(scored, test)[0]}
        print(f"seed {seed}, {step}: {results[step]}", flush=True)

    def after(kind: Kind, network: GraphModule) -> None:
        export(network.eval().to_graph(), folder / f"digits_vit-{seed}-{kind}.onnx")
        score(kind, network)

    score("plain", teacher)
    exchange(module, EXCHANGED, train, validation, teacher=teacher, seed=seed, after=after)
    record.write_text(json.dumps(results, indent=1) + "\n")
    return results


def main() -> None:
    """Train the seeds and write the rows."""
    parser = argparse.ArgumentParser(description="the vision transformer on digits, step by step")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=Path("bench/results/digits_vit"))
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    results = [trained(seed, given.folder) for seed in range(given.seeds)]
    found = []
    for step in STEPS:
        mean = {split: statistics.mean(r[step][split] for r in results) for split in ("validation", "test")}
        found += [rows.Row(f"{step}: {split} accuracy", value, "fraction") for split, value in mean.items()]
    drops = [100.0 * (r["plain"]["test"] - r[STEPS[-1]]["test"]) for r in results]
    found.append(rows.Row("seeds", len(drops), "networks"))
    found.append(rows.Row("paired drop of the test accuracy, mean", statistics.mean(drops), "points", "at most", 1.0))
    if len(drops) > 1:
        found.append(rows.Row("paired drop, standard deviation", statistics.stdev(drops), "points"))
    rows.write("digits_vit", found)


if __name__ == "__main__":
    main()
