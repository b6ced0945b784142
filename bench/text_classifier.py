"""The small text classifier on sentences: plain, exchanged for forms that run encrypted, and encrypted.

``python bench/text_classifier.py [--seeds 5] [--sentences 10] [--folder DIR]``: a few minutes a seed on one core. For
each seed the plain network is trained, then its softmax (Power-Softmax, p = 2), LayerNorm (BatchNorm) and GELU (a
quadratic) are exchanged one after the other, each followed by training. The train split trains, the validation split
chooses the epochs, the test split is read once per network. DIR gets every network as ONNX; seeds it has are not
trained again. The last network of seed 0 runs encrypted: sentence by sentence, and many in one run.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import rows
import torch
from encrypted import encrypted_rows
from steps import Case, accuracy_rows, put_into_zoo, trained

from pi_compiler.models.sentences import LENGTH
from pi_compiler.models.training.engine import Settings
from pi_compiler.models.training.recipes import Recipe
from pi_compiler.models.training.transformers import Plan
from pi_compiler.models.zoo.text_classifier import build
from pi_compiler.options import Options

EXCHANGED = Plan(
    Settings(
        epochs=10,
        batch_size=32,
        optimizer="adamw",
        learning_rate=1e-3,
        weight_decay=1e-1,
        clip_norm=1.0,
        distill=1.0,
        temperature=2.0,
    )
)
BITS = 13
"""Sentences of two words divide by little, which costs them bits: at the usual 10 the worst of 100 validation sentences
keeps 8.7, simulated."""
BATCH = 512
"""Words of a sentence fill its slots: one ciphertext per feature."""
CASE = Case(
    "text_classifier",
    "sentiment",
    (LENGTH,),
    build,
    Recipe(epochs=25, batch_size=32, learning_rate=2e-3, weight_decay=1e-1),
    EXCHANGED,
    whole=True,
)


def main() -> None:
    """Train the seeds, run one encrypted, and write the rows."""
    parser = argparse.ArgumentParser(description="the text classifier, step by step and encrypted")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--sentences", type=int, default=10)
    parser.add_argument("--folder", type=Path, default=Path("bench/results/text_classifier"))
    parser.add_argument("--zoo", action="store_true", help="put the networks of the first seed into the zoo")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    results = [trained(CASE, seed, given.folder) for seed in range(given.seeds)]
    found = accuracy_rows(CASE, results, allowed=1.5)
    last = given.folder / f"text_classifier-0-{CASE.steps[-1]}.onnx"
    found += encrypted_rows(last, "sentiment", given.sentences, Options(backend="native", precision_bits=BITS))
    many = Options(backend="native", batch=BATCH)
    found += encrypted_rows(last, "sentiment", BATCH, many, f"batch of {BATCH}")
    rows.write("text_classifier", found)
    if given.zoo:
        put_into_zoo(CASE, 0, given.folder, "python bench/text_classifier.py --zoo")


if __name__ == "__main__":
    main()
