"""Trains BERT-tiny on sentences and writes it as three public exporters write it; nothing of the network is ours.

The model is ``transformers``' BertForSequenceClassification of a BertConfig with 2 layers, 128 hidden units, 2 heads
and 512 inner units, trained from random weights on the data set ``sentiment``: 32 numbers of words, padding hidden by
the attention mask; the pooler reads the first word. The best epoch on the validation split stays. Run it in an
environment of its own, where this repository is only read::

    pip install torch==2.13.0
    pip install transformers==4.57.6 onnx onnxscript onnxruntime 'optimum[onnx]==2.1.0'
    PYTHONPATH=. PI_DATA_DIR=... python bench/export_bert.py FOLDER

It takes some minutes of one core; seed 7 for the weights, order and dropout. ``FOLDER`` gets ``legacy.onnx`` and
``dynamo.onnx`` (``torch.onnx.export``), ``optimum.onnx``, each with the three inputs of Hugging Face's tokenizers;
``words.onnx``, the legacy exporter's for numbers of words alone, where the mask is made inside; ``calibration.npz`` and
``test.npz`` with inputs and labels ``y``; ``scores.npy``, what the torch model gives on the test split; and
``training.json``, its accuracies.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from transformers import BertConfig, BertForSequenceClassification

from pi_compiler.models.sentences import LENGTH, PADDING, WORDS, sentences

SEED, EPOCHS, BATCH, RATE, CALIBRATION = 7, 20, 32, 5e-4, 256
INPUTS = ("input_ids", "attention_mask", "token_type_ids")


class Words(torch.nn.Module):
    """The network for numbers of words (n, LENGTH) alone: whatever is not padding is seen."""

    def __init__(self, model: BertForSequenceClassification) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.model(input_ids=x, attention_mask=(x != PADDING).long()).logits
        return scores


def network() -> BertForSequenceClassification:
    """BERT-tiny, untrained."""
    config = BertConfig(
        vocab_size=WORDS,
        hidden_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=512,
        max_position_embeddings=64,
        num_labels=2,
        pad_token_id=PADDING,
        hidden_dropout_prob=0.2,
        initializer_range=0.05,
    )
    return BertForSequenceClassification(config)


def split(name: str) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Inputs by name, and classes."""
    part = sentences(name)
    ids = torch.from_numpy(part.x).long()
    made = (ids, (ids != PADDING).long(), torch.zeros_like(ids))
    return dict(zip(INPUTS, made, strict=True)), torch.from_numpy(part.y)


@torch.no_grad()
def scores_of(model: BertForSequenceClassification, given: dict[str, torch.Tensor]) -> torch.Tensor:
    """Scores (n, classes) in evaluation mode."""
    model.eval()
    found: torch.Tensor = model(**given).logits
    return found


def train(model: BertForSequenceClassification) -> dict[str, float]:
    """Trains in place; the accuracies of the epoch that stays, and which it was."""
    (given, y), (seen, wanted) = split("train"), split("validation")
    steps = EPOCHS * -(-len(y) // BATCH)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps, pct_start=0.2)
    best, kept = {"validation": -1.0}, model.state_dict()
    for epoch in range(EPOCHS):
        model.train()
        total = 0.0
        for rows in torch.randperm(len(y)).split(BATCH):
            loss = model(**{k: v[rows] for k, v in given.items()}, labels=y[rows]).loss
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            total += len(rows) * float(loss.detach())
        accuracy = float((scores_of(model, seen).argmax(-1) == wanted).double().mean())
        sys.stdout.write(f"epoch {epoch + 1}: loss {total / len(y):.3f}, validation {accuracy:.4f}\n")
        sys.stdout.flush()
        if accuracy > best["validation"]:
            best, kept = {"validation": accuracy, "epoch": epoch + 1.0}, copy.deepcopy(model.state_dict())
    model.load_state_dict(kept)
    return best


def export_torch(model: torch.nn.Module, given: dict[str, torch.Tensor], path: Path, dynamo: bool) -> None:
    """``torch.onnx.export`` with a fixed shape of one sample."""
    one = tuple(values[:1] for values in given.values())
    torch.onnx.export(
        model, one, str(path), input_names=list(given), output_names=["logits"], dynamo=dynamo, external_data=False
    )


def export_optimum(model: BertForSequenceClassification, path: Path) -> None:
    """Optimum's exporter, which leaves batch and sequence open."""
    from optimum.exporters.onnx import onnx_export_from_model

    with tempfile.TemporaryDirectory() as folder:
        onnx_export_from_model(model, Path(folder), task="text-classification", do_validation=False)
        path.write_bytes((Path(folder) / "model.onnx").read_bytes())


def save(path: Path, given: dict[str, torch.Tensor], y: torch.Tensor, count: int) -> None:
    """Samples spread evenly over a split."""
    rows = np.linspace(0, len(y) - 1, count).round().astype(int)
    np.savez(path, **{k: v.numpy()[rows] for k, v in given.items()}, y=y.numpy()[rows])


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("folder", type=Path)
    folder = arguments.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    model = network()
    found = train(model)
    given, y = split("test")
    scores = scores_of(model, given)
    found["test"] = float((scores.argmax(-1) == y).double().mean())
    np.save(folder / "scores.npy", scores.numpy())
    (folder / "training.json").write_text(json.dumps({**found, "words": LENGTH, "seed": SEED}, indent=1))
    save(folder / "test.npz", given, y, len(y))
    shown, classes = split("train")
    save(folder / "calibration.npz", shown, classes, CALIBRATION)
    words = {"x": given["input_ids"]}
    writers: dict[str, Callable[[Path], None]] = {
        "legacy": lambda path: export_torch(model, given, path, dynamo=False),
        "dynamo": lambda path: export_torch(model, given, path, dynamo=True),
        "optimum": lambda path: export_optimum(model, path),
        "words": lambda path: export_torch(Words(model).eval(), words, path, dynamo=False),
    }
    for name, write in writers.items():
        try:
            write(folder / f"{name}.onnx")
            sys.stdout.write(f"{name}: written\n")
        except Exception as error:  # an exporter that fails is a finding, not the end of the others
            sys.stdout.write(f"{name}: {type(error).__name__}: {str(error)[:300]}\n")


if __name__ == "__main__":
    main()
