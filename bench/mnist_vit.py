"""The small vision transformer on MNIST: plain, then in forms that run encrypted, and encrypted.

``python bench/mnist_vit.py [--seeds 3] [--images 5] [--folder DIR]``: about half an hour a seed on one core. DIR gets
every step's network as ONNX; seeds it has are not trained again. The recipe is that of ``digits_vit``, with fewer
epochs. The last network of seed 0 runs encrypted.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import rows
import torch
from digits_vit import EXCHANGED
from encrypted import encrypted_rows
from steps import Case, accuracy_rows, put_into_zoo, trained

from pi_compiler.models.training.augment import Augmentation
from pi_compiler.models.training.recipes import Recipe
from pi_compiler.models.zoo.mnist_vit import build

_AUGMENTATION = Augmentation(degrees=10.0, shift=1.5, zoom=0.1)
_SETTINGS = replace(EXCHANGED.settings, epochs=3, batch_size=128, augmentation=_AUGMENTATION)
CASE = Case(
    "mnist_vit",
    "mnist",
    (1, 28, 28),
    build,
    Recipe(epochs=12, augmentation=_AUGMENTATION),
    replace(EXCHANGED, settings=_SETTINGS),
)


def main() -> None:
    """Train, run encrypted, and write the rows."""
    parser = argparse.ArgumentParser(description="the vision transformer on MNIST, step by step and encrypted")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--images", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=Path("bench/results/mnist_vit"))
    parser.add_argument("--zoo", action="store_true", help="put the networks of the first seed into the zoo")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    found = accuracy_rows(CASE, [trained(CASE, seed, given.folder) for seed in range(given.seeds)], allowed=1.0)
    last = given.folder / f"mnist_vit-0-{CASE.steps[-1]}.onnx"
    found += encrypted_rows(last, "mnist", given.images)
    rows.write("mnist_vit", found)
    if given.zoo:
        put_into_zoo(CASE, 0, given.folder, "python bench/mnist_vit.py --zoo")


if __name__ == "__main__":
    main()
