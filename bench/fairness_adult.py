"""UCI Adult by sex and race: what fewer ReLUs cost each group: ``python bench/fairness_adult.py [--seeds 5]``.

A perceptron with 128 ReLUs; AutoReP at no more than 13 and at none of them, with identities and with quadratics. The
groups are as unequal as the data are (two thirds men, 85 % white); nothing is subsampled. Drops are from
the all-ReLU network of the same seed, paired row by row, with intervals over seeds and rows. The recipes
are the defaults of their batch size, nothing was tuned. The test split is read once, at the end;
``bench/results/fairness_adult.json`` has the rows.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from rows import Row, write
from torch import nn

from pi_compiler.importer import import_model
from pi_compiler.models.data import Dataset, load
from pi_compiler.models.training.defaults import recipe_for
from pi_compiler.models.training.engine import Settings, fit
from pi_compiler.models.training.fairness import outcomes
from pi_compiler.models.training.graph_module import GraphModule
from pi_compiler.models.training.intervals import crossed_bootstrap
from pi_compiler.models.training.masked import Kind
from pi_compiler.models.training.methods.autorep import autorep
from pi_compiler.models.training.methods.method import Task
from pi_compiler.report.statistics import wilson
from pi_compiler.torch_export import to_onnx

COLUMNS = {"sex": "adult", "race": "adult-race"}
REDUCED: tuple[tuple[Kind, int], ...] = (("identity", 13), ("identity", 0), ("quadratic", 13), ("quadratic", 0))
BASELINE = Settings(
    epochs=8, batch_size=256, optimizer="adamw", learning_rate=3e-3, weight_decay=1e-2, clip_norm=1.0, choose=False
)
Right = NDArray[np.bool_]


def networks(seed: int, data: Dataset, validation: Dataset) -> dict[str, GraphModule]:
    """The all-ReLU network and what AutoReP makes of it."""
    torch.manual_seed(seed)
    layers = (nn.Linear(data.x.shape[1], 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2))
    model = nn.Sequential(*layers)
    fit(model, BASELINE, data, validation, seed=seed)
    graph = import_model(to_onnx(model, data.x[:1])).graph
    found = {"all_relu": GraphModule(graph)}
    recipe = recipe_for(data, 4, 4, batch_size=256, plain=True)
    for kind, budget in REDUCED:
        task = Task(GraphModule(graph), budget, kind, "pixel", data, validation, recipe, seed, GraphModule(graph))
        task.module.normalize(task.batches())
        autorep(task)
        found[f"{kind}_{budget}"] = task.module
        logging.info("seed %d: %s with %d ReLUs", seed, kind, task.module.comparisons)
    return found


def drop(before: Right, after: Right, _: NDArray[np.int64]) -> float:
    return float((before.astype(float) - after).mean())


def rows(right: Mapping[str, Right], column: str, data: Dataset) -> list[Row]:
    """Per group: accuracy of the all-ReLU network, accuracies and drops of the others, in percent."""
    found = []
    for number, name in enumerate(data.group_names):
        members = np.flatnonzero(data.groups == number)
        place = f"{column}_{name.lower()}"
        found.append(Row(f"images_{place}", len(members), "rows"))
        low, high = wilson(float(right["all_relu"][:, members].mean()), len(members))
        found.append(Row(f"accuracy_{place}_all_relu", 100 * float(right["all_relu"][:, members].mean()), "%"))
        found += [Row(f"accuracy_{place}_all_relu_{end}", 100 * v, "%") for end, v in (("low", low), ("high", high))]
        for network, after in right.items():
            if network != "all_relu":
                pair = [right["all_relu"][:, members], after[:, members]]
                e = crossed_bootstrap(drop, pair, np.zeros(len(members), dtype=np.int64), draws=500)
                for end, value in (("", e.value), ("_low", e.low), ("_high", e.high)):
                    found.append(Row(f"drop_{place}_{network}{end}", 100 * value, "points"))
    return found


def table(right: Mapping[str, Right], data: Dataset) -> str:
    """Accuracy in percent by group and network."""
    lines = [f"{'group':22s}{'rows':>6s}" + "".join(f"{name:>14s}" for name in right)]
    for number, name in enumerate(data.group_names):
        members = np.flatnonzero(data.groups == number)
        figures = "".join(f"{100 * r[:, members].mean():14.2f}" for r in right.values())
        lines.append(f"{name:22s}{len(members):6d}" + figures)
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stdout)
    logging.getLogger("pi_compiler").setLevel(logging.WARNING)
    torch.set_num_threads(1)
    data, validation = load("adult", "train"), load("adult", "validation")
    made = [networks(seed, data, validation) for seed in range(given.seeds)]
    tests = {column: load(name, "test") for column, name in COLUMNS.items()}
    right = {name: np.stack([outcomes(m[name], tests["sex"]) for m in made]) for name in made[0]}
    found = [Row("seeds", len(made), "seeds")]
    for name in made[0]:  # AutoReP may end below its budget
        found.append(Row(f"relus_{name}", float(np.mean([m[name].comparisons for m in made])), "ReLUs"))
    for column, test in tests.items():
        found += rows(right, column, test)
    write("fairness_adult", found)
    for test in tests.values():
        sys.stdout.write(table(right, test) + "\n")


if __name__ == "__main__":
    main()
