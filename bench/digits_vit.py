"""The small vision transformer on digits: plain, and exchanged for forms that run encrypted; accuracy of every step.

``python bench/digits_vit.py [--seeds 5] [--folder DIR]``: four minutes a seed on one core. For each seed the plain
network is trained, then its softmax (Power-Softmax, p = 2), LayerNorm (BatchNorm) and GELU (a quadratic) are
exchanged one after the other, each followed by training. The train split trains, the validation split chooses the
epochs, the test split is read once per network. DIR gets every network as ONNX; seeds it has are not trained again.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import rows
import torch
from steps import Case, accuracy_rows, put_into_zoo, trained

from pi_compiler.models.training.augment import Augmentation
from pi_compiler.models.training.engine import Settings
from pi_compiler.models.training.recipes import Recipe
from pi_compiler.models.training.transformers import Plan
from pi_compiler.models.zoo.digits_vit import build

_AUGMENTATION = Augmentation(degrees=8.0, shift=0.5, zoom=0.05)
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
CASE = Case(
    "digits_vit",
    "digits",
    (1, 8, 8),
    build,
    Recipe(epochs=150, batch_size=64, augmentation=_AUGMENTATION),
    EXCHANGED,
)


def main() -> None:
    """Train the seeds and write the rows."""
    parser = argparse.ArgumentParser(description="the vision transformer on digits, step by step")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=Path("bench/results/digits_vit"))
    parser.add_argument("--zoo", action="store_true", help="put the networks of the first seed into the zoo")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    results = [trained(CASE, seed, given.folder) for seed in range(given.seeds)]
    rows.write("digits_vit", accuracy_rows(CASE, results, allowed=1.0))
    if given.zoo:
        put_into_zoo(CASE, 0, given.folder, "python bench/digits_vit.py --zoo")


if __name__ == "__main__":
    main()
