"""Train a network of the zoo: ``python -m pi_compiler.models.training.train NAME --seed 0 --output FILE.onnx``.

The train split trains, the validation split chooses the epoch, and the test split is read once, at
the end. Beside the ONNX file goes ``FILE.json`` with what it took and what it reached.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import hashlib
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from pi_compiler.errors import InternalError, ParameterError
from pi_compiler.models.data import Dataset, load
from pi_compiler.models.training.command import exit_code
from pi_compiler.models.training.export import export_onnx, fold_batch_norm
from pi_compiler.models.training.losses import training_loss
from pi_compiler.models.training.measure import accuracy, largest_inputs, with_quadratics
from pi_compiler.models.training.recipes import RECIPES, Recipe
from pi_compiler.models.zoo import ZOO, Entry

__all__ = ["fit", "train"]

_log = logging.getLogger(__name__)


def fit(model: nn.Module, recipe: Recipe, data: Dataset, validation: Dataset, seed: int) -> int:
    """Train in place; the model ends with the weights of the best validation epoch, which is returned.

    Args:
        model: any network from ``data``'s samples to logits.
        recipe: how.
        data: what trains.
        validation: what chooses the epoch: highest accuracy, then lowest loss.
        seed: of order and augmentation; initial weights are the caller's.
    """
    generator = torch.Generator().manual_seed(seed)
    x, y = torch.from_numpy(data.x), torch.from_numpy(data.labels)
    steps = len(x) // recipe.batch_size
    if steps == 0:
        raise ParameterError(f"batch size {recipe.batch_size} exceeds the {len(x)} training samples")
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.learning_rate, total_steps=recipe.epochs * steps)
    best, best_epoch, best_weights = (-1.0, 0.0), 0, model.state_dict()
    for epoch in range(1, recipe.epochs + 1):
        model.train()
        order = torch.randperm(len(x), generator=generator)[: steps * recipe.batch_size]
        for rows in torch.split(order, recipe.batch_size):
            loss = training_loss(model, recipe, recipe.augmentation(x[rows], generator), y[rows])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(model.parameters(), recipe.clip_norm)
            optimizer.step()
            schedule.step()
        right, entropy = accuracy(model, validation)
        _log.info("epoch %d: validation accuracy %.4f, loss %.4f", epoch, right, entropy)
        if (right, -entropy) > best:
            best, best_epoch = (right, -entropy), epoch
            best_weights = copy.deepcopy(model.state_dict())
    model.load_state_dict(best_weights)
    return best_epoch


def train(name: str, seed: int, output: Path, epochs: int | None = None) -> dict[str, object]:
    """Train a network of the zoo, write ``output`` and its JSON record, and return the record.

    Args:
        name: one of ``RECIPES``.
        seed: of initial weights, order and augmentation.
        output: the ONNX file; the record goes to the same name with ``.json``.
        epochs: fewer or more than the recipe's.

    Raises:
        ParameterError: no recipe of that name.
        CalibrationError: the data are not to be had.
    """
    if name not in RECIPES:
        raise ParameterError(f"no recipe trains '{name}'", f"there are: {', '.join(RECIPES)}")
    entry, recipe = ZOO[name], RECIPES[name]
    if epochs is not None:
        recipe = dataclasses.replace(recipe, epochs=epochs)
    data = {split: load(entry.dataset, split) for split in ("train", "validation", "calibration")}
    torch.manual_seed(seed)
    model = entry.build()
    if not isinstance(model, nn.Sequential):
        raise InternalError(f"network '{name}' has a recipe and is not a sequence of layers")
    epoch = fit(model, recipe, data["train"], data["validation"], seed)
    folded = fold_batch_norm(model)
    export_onnx(folded, entry.input_shape, output)
    record = _record(entry, recipe, seed, epoch, folded, data) | {"sha256": _sha256(output)}
    record["test_accuracy"] = accuracy(folded, load(entry.dataset, "test"))[0]
    output.with_suffix(".json").write_text(json.dumps(record, indent=2) + "\n")
    return record


def _record(
    entry: Entry, recipe: Recipe, seed: int, epoch: int, model: nn.Sequential, data: dict[str, Dataset]
) -> dict[str, object]:
    record: dict[str, object] = {
        "name": entry.name,
        "command": f"python -m pi_compiler.models.training.train {entry.name} --seed {seed} --epochs {recipe.epochs}"
        f" --output models/zoo/weights/{entry.name}.onnx",
        "seed": seed,
        "recipe": dataclasses.asdict(recipe),
        "epoch": epoch,
        "torch": torch.__version__,
        "validation_accuracy": accuracy(model, data["validation"])[0],
        "largest_activation_inputs": largest_inputs(model, data["train"]),
    }
    if any(isinstance(layer, nn.ReLU) for layer in model):
        quadratic = with_quadratics(model, data["calibration"])
        record["validation_accuracy_with_quadratics"] = accuracy(quadratic, data["validation"])[0]
    return record


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m pi_compiler.models.training.train", description="train a network")
    parser.add_argument("name", choices=sorted(RECIPES))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, help="instead of the recipe's")
    parser.add_argument("--output", type=Path, required=True, help="the ONNX file; a JSON record goes beside it")
    given = parser.parse_args(arguments)
    return exit_code(lambda: train(given.name, given.seed, given.output, given.epochs))


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
