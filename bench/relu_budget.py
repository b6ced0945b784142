"""Accuracy against ReLU budget on real images, our own baselines: ``python bench/relu_budget.py [--data NAME]``.

ResNet-20 on CIFAR-10 (JPEG) and ResNet-8 on Fashion-MNIST: all ReLUs replaced by quadratics, and AutoReP at
two budgets with identity, linear and quadratic replacement. Test images are read once per network,
when its training is over. ``cifar10-lossless`` fine-tunes the published ResNet-20 on the few exact images
there are. Finished runs are kept in ``--output``, interrupted ones go on, so that this may run
for hours in the background; rows appear in ``bench/results/relu_budget_<data>.json`` for what is finished.
Checked shape (AutoReP's own log of a small network): quadratic above identity by about four points
at one percent of the ReLUs.
"""

from __future__ import annotations

import argparse
import logging
import sys
from dataclasses import replace
from pathlib import Path

import torch
from rows import Row, quality, write

from pi_compiler.importer import import_model
from pi_compiler.models.data import load
from pi_compiler.models.training.defaults import recipe_for
from pi_compiler.models.training.graph_module import GraphModule
from pi_compiler.models.training.masked import Kind
from pi_compiler.models.training.reduction import Job, Splits, reduce
from pi_compiler.models.training.score import score
from pi_compiler.models.zoo import ZOO

NETWORKS = {
    "cifar10-jpeg": "resnet20_cifar10_jpeg",
    "fashion_mnist": "resnet8_fashion",
    "cifar10-lossless": "resnet20",  # the published weights; 3,000 images train, 100 test: a sanity check only
}
KINDS: tuple[Kind, ...] = ("quadratic", "identity", "linear")


def jobs(splits: Splits, total: int, epochs: int, search: int, finetune: int) -> list[Job]:
    """All quadratic first, then both budgets: quadratic against identity, at last linear."""
    whole = recipe_for(splits.train, 0, epochs)
    whole = replace(whole, finetune=replace(whole.finetune, learning_rate=0.02), options={"until": 0.4})
    some = recipe_for(splits.train, search, finetune)
    found = [Job(0, "gradual", "quadratic", "layer", 0, whole)]
    budgets = [round(share * total) for share in (1_800 / 188_416, 12_900 / 188_416)]
    for kinds in (KINDS[:2], KINDS[2:]):
        found += [Job(budget, "autorep", kind, "pixel", 0, some) for budget in budgets for kind in kinds]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", choices=sorted(NETWORKS), default="cifar10-jpeg")
    parser.add_argument("--output", type=Path, default=Path("relu-budget"), help="where runs are kept")
    parser.add_argument("--epochs", type=int, default=12, help="of the all-quadratic network")
    parser.add_argument("--search-epochs", type=int, default=3)
    parser.add_argument("--finetune-epochs", type=int, default=2)
    parser.add_argument("--only", default="", help="runs whose names contain this")
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stdout)
    graph = import_model(str(ZOO[NETWORKS[given.data]].path)).graph
    graph = replace(graph, name=NETWORKS[given.data])
    splits = Splits(load(given.data, "train"), load(given.data, "validation"), lambda: load(given.data, "test"))
    module = GraphModule(graph)
    total = module.comparisons
    baseline: dict[str, object] = {
        "relu_count": total,
        "validation": score(module, splits.validation),
        "test": score(module, splits.test()),
    }
    command = "python bench/relu_budget.py " + " ".join(sys.argv[1:])
    records = []
    for job in jobs(splits, total, given.epochs, given.search_epochs, given.finetune_epochs):
        folder = given.output / given.data / job.name
        if given.only in job.name or (folder / "record.json").is_file():
            logging.info("run %s", job.name)
            torch.compiler.reset()
            records.append(reduce(graph, splits, job, folder, command=command, baseline=baseline))
            write(f"relu_budget_{given.data}", rows(records, baseline))


def rows(records: list[dict[str, object]], baseline: dict[str, object]) -> list[Row]:
    """One row a network: test accuracy in percent beside the all-ReLU network's."""
    reference = 100.0 * float(baseline["test"]["accuracy"])  # type: ignore[index]
    found = [Row("all_relu", reference, "% test accuracy")]
    for r in records:
        value = 100.0 * float(r["test"]["accuracy"])  # type: ignore[index]
        name = f"{r['method']}_{r['kind']}_{r['relu_count']}_relus"
        found.append(quality(name, value, "% test accuracy", "all_relu", reference))
    return found


if __name__ == "__main__":
    main()
