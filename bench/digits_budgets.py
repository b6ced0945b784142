"""Every budget method on the digits, many seeds: ``python bench/digits_budgets.py [--seeds 10] [--output DIR]``.

A CNN with 1,536 ReLUs is trained anew for every seed; each method then reduces it to 50, 25, 10, 5, 2, 1 and 0
percent of its ReLUs. All runs of a seed share its network, so methods are compared by paired differences. The
test split (355 images) is read once per reduced network. Finished runs are kept in ``--output``; an
interrupted bench goes on. Results: ``bench/results/digits_budgets.json`` (rows) and ``digits_budgets_table.json``
(mean, standard deviation and worst class per method and budget).

One thread, about four seconds a run, some 900 runs for ten seeds.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import sys
from pathlib import Path

import numpy as np
import torch
from rows import RESULTS, Row, quality, write
from scipy import stats

from pi_compiler.errors import BudgetError
from pi_compiler.importer import import_model
from pi_compiler.ir.graph import Graph
from pi_compiler.models.data import load
from pi_compiler.models.training.defaults import recipe_for
from pi_compiler.models.training.engine import fit
from pi_compiler.models.training.export import export_onnx
from pi_compiler.models.training.graph_module import GraphModule
from pi_compiler.models.training.methods import METHODS
from pi_compiler.models.training.reduction import Job, Splits, reduce
from pi_compiler.models.training.score import score
from pi_compiler.models.zoo.digits_wide import build

SHARES = (0.5, 0.25, 0.1, 0.05, 0.02, 0.01, 0.0)
SEARCH, FINETUNE, BASELINE = 6, 6, 30
EVERY_KIND = {
    "autorep": ("quadratic", "identity", "linear"),
    "snl": ("identity", "quadratic"),
    "vanilla": ("identity",),
}
Json = dict[str, object]


def baseline(splits: Splits, seed: int, path: Path) -> Graph:
    """The all-ReLU network of a seed."""
    if not path.is_file():
        torch.manual_seed(seed)
        model = build()
        settings = recipe_for(splits.train, 0, BASELINE).finetune
        settings = dataclasses.replace(settings, learning_rate=0.1, distill=0.0, choose=False)
        fit(model, settings, splits.train, splits.validation, seed=seed)
        export_onnx(model, (1, 8, 8), path)
    return dataclasses.replace(import_model(str(path)).graph, name="digits_wide")


def jobs(splits: Splits, total: int, seed: int) -> list[Job]:
    """All methods, all budgets."""
    recipe = recipe_for(splits.train, SEARCH, FINETUNE)
    found = []
    for name, method in METHODS.items():
        if method.transformers:
            continue
        for kind in EVERY_KIND.get(name, ("quadratic",) if "quadratic" in method.kinds else method.kinds[:1]):
            for share in SHARES if not method.only_zero else (0.0,):
                found.append(Job(int(share * total), name, kind, method.granularities[0], seed, recipe))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--output", type=Path, default=Path("digits-budgets"), help="where runs are kept")
    given = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, stream=sys.stdout)
    torch.set_num_threads(1)
    given.output.mkdir(parents=True, exist_ok=True)
    splits = Splits(load("digits", "train"), load("digits", "validation"), lambda: load("digits", "test"))
    records: list[Json] = []
    for seed in range(given.seeds):
        graph = baseline(splits, seed, given.output / f"digits_wide-seed{seed}.onnx")
        module = GraphModule(graph)
        records.append(
            {"method": "all_relu", "kind": "", "budget": module.comparisons, "relu_count": module.comparisons}
            | {"relu_total": module.comparisons, "seed": seed, "test": score(module, splits.test())}
        )
        for job in jobs(splits, module.comparisons, seed):
            folder = given.output / job.name
            try:
                records.append(reduce(graph, splits, job, folder, command="python bench/digits_budgets.py"))
            except BudgetError as error:  # channels alone cannot meet every budget
                print(f"{job.name}: {error.what}")
        print(f"seed {seed}: {len(records)} runs", flush=True)
        report(records)


def report(records: list[Json]) -> None:
    """The table, and the rows that were asked for."""
    accuracies: dict[tuple[str, str, int], dict[int, float]] = {}
    worst: dict[tuple[str, str, int], list[float]] = {}
    counts: dict[tuple[str, str, int], list[int]] = {}
    for r in records:
        key = (str(r["method"]), str(r["kind"]), int(r["budget"]))  # type: ignore[call-overload]
        test: Json = r["test"]  # type: ignore[assignment]
        accuracies.setdefault(key, {})[int(r["seed"])] = 100.0 * float(test["accuracy"])  # type: ignore[arg-type,call-overload]
        classes: list[Json] = test["classes"]  # type: ignore[assignment]
        worst.setdefault(key, []).append(100.0 * min(float(c["correct"]) / float(c["images"]) for c in classes))  # type: ignore[arg-type]
        counts.setdefault(key, []).append(int(r["relu_count"]))  # type: ignore[call-overload]
    total = int(records[0]["relu_total"])  # type: ignore[call-overload]
    table = [
        {
            "method": method,
            "kind": kind,
            "budget": budget,
            "share": budget / total,
            "relu_count_max": max(counts[method, kind, budget]),
            "seeds": len(values),
            "mean": float(np.mean(list(values.values()))),
            "sd": float(np.std(list(values.values()), ddof=1)) if len(values) > 1 else 0.0,
            "worst_class_mean": float(np.mean(worst[method, kind, budget])),
            "worst_class_min": float(np.min(worst[method, kind, budget])),
        }
        for (method, kind, budget), values in accuracies.items()
    ]
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "digits_budgets_table.json").write_text(json.dumps(table, indent=1) + "\n")
    reference = float(np.mean(list(accuracies["all_relu", "", total].values())))
    rows = [Row("all_relu", reference, "% test accuracy")]
    for entry in table[1:]:
        name = f"{entry['method']}_{entry['kind']}_{100 * float(entry['share']):.3g}%"
        rows.append(quality(name, float(entry["mean"]), "% test accuracy", "all_relu", reference))
    for share in (0.02, 0.01):
        budget = int(share * total)
        ours, theirs = accuracies["autorep", "quadratic", budget], accuracies["autorep", "identity", budget]
        differences = np.array([ours[s] - theirs[s] for s in ours if s in theirs])
        if len(differences) > 1:
            p = float(stats.wilcoxon(differences, alternative="greater").pvalue)
            name = f"quadratic_minus_identity_{100 * share:g}%"
            rows.append(Row(name, float(differences.mean()), "points", "p-value, one-sided Wilcoxon", p))
    write("digits_budgets", rows)


if __name__ == "__main__":
    main()
