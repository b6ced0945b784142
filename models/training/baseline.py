"""All-ReLU baselines: ``python -m pi_compiler.models.training.baseline NAME --seed 0 --output FILE.onnx``.

A run may be interrupted and started again: it goes on after its last whole epoch. The train split
trains; one-cycle schedules end at their best, so the last epoch is kept; the test split is read
once, at the end.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

import torch

from pi_compiler.models.data import load
from pi_compiler.models.training.augment import Augmentation
from pi_compiler.models.training.command import exit_code
from pi_compiler.models.training.engine import Settings, fit
from pi_compiler.models.training.export import export_onnx
from pi_compiler.models.training.measure import accuracy, largest_inputs
from pi_compiler.models.zoo import ZOO

__all__ = ["BASELINES", "Baseline", "train"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Baseline:
    """A network of the zoo and how it is trained from scratch.

    Attributes:
        network: a name of ``ZOO``.
        dataset: what it is trained on.
        settings: how.
    """

    network: str
    dataset: str
    settings: Settings


_IMAGES = Augmentation(crop=4, mirror=True)

BASELINES: Final[Mapping[str, Baseline]] = MappingProxyType(
    {
        "resnet20_cifar10_jpeg": Baseline(
            "resnet20_cifar10_jpeg",
            "cifar10-jpeg",
            Settings(epochs=24, learning_rate=0.2, augmentation=_IMAGES, bfloat16=True, compiled=True, choose=False),
        ),
        "resnet8_fashion": Baseline(
            "resnet8_fashion",
            "fashion_mnist",
            Settings(
                epochs=10,
                learning_rate=0.2,
                augmentation=Augmentation(crop=2, mirror=True),
                bfloat16=True,
                compiled=True,
                choose=False,
            ),
        ),
    }
)
"""By the name of the network that they make."""


def train(name: str, seed: int, output: Path, epochs: int | None = None) -> dict[str, object]:
    """Train, write ``output`` and its JSON record, and return the record.

    Args:
        name: one of ``BASELINES``.
        seed: of initial weights, order and augmentation.
        output: the ONNX file; the record goes to the same name with ``.json``, checkpoints into ``.run``.
        epochs: fewer or more than the recipe's.

    Raises:
        CalibrationError: the data are not to be had.
    """
    baseline = BASELINES[name]
    settings = baseline.settings if epochs is None else dataclasses.replace(baseline.settings, epochs=epochs)
    data, validation = load(baseline.dataset, "train"), load(baseline.dataset, "validation")
    torch.manual_seed(seed)
    entry = ZOO[baseline.network]
    model = entry.build()
    history = fit(model, settings, data, validation, seed=seed, folder=output.with_suffix(".run"))
    export_onnx(model, entry.input_shape, output)
    record: dict[str, object] = {
        "name": name,
        "command": f"python -m pi_compiler.models.training.baseline {name} --seed {seed} --epochs {settings.epochs}"
        f" --output models/zoo/weights/{name}.onnx",
        "seed": seed,
        "dataset": baseline.dataset,
        "settings": dataclasses.asdict(settings),
        "torch": torch.__version__,
        "history": [dataclasses.asdict(e) for e in history],
        "validation_accuracy": accuracy(model, validation)[0],
        "largest_activation_inputs": largest_inputs(model, validation),
        "sha256": hashlib.sha256(output.read_bytes()).hexdigest(),
        "test_accuracy": accuracy(model, load(baseline.dataset, "test"))[0],
    }
    output.with_suffix(".json").write_text(json.dumps(record, indent=2) + "\n")
    return record


def _main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m pi_compiler.models.training.baseline", description=__doc__)
    parser.add_argument("name", choices=sorted(BASELINES))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, help="instead of the recipe's")
    parser.add_argument("--output", type=Path, required=True, help="the ONNX file; a JSON record goes beside it")
    given = parser.parse_args(arguments)
    return exit_code(lambda: train(given.name, given.seed, given.output, given.epochs))


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
