"""Writes BERT-tiny as three public exporters write it, with seeded random weights; nothing of it is ours.

The model is ``transformers``' BertForSequenceClassification of a BertConfig with 2 layers, 128 hidden units, 2 heads
and 512 inner units. Run it in an environment of its own::

    pip install torch==2.13.0
    pip install transformers==4.57.6 onnx onnxscript onnxruntime 'optimum[onnx]==2.1.0'
    python bench/export_bert.py FOLDER

``FOLDER`` gets ``legacy.onnx`` and ``dynamo.onnx`` (``torch.onnx.export``), ``optimum.onnx`` and ``samples.npz``: token
numbers, segments, masks, and the scores that the torch model gives on them.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from transformers import BertConfig, BertForSequenceClassification

SEED, TOKENS, SAMPLES, VOCABULARY = 7, 16, 48, 1000
INPUTS = ("input_ids", "attention_mask", "token_type_ids")


def network() -> BertForSequenceClassification:
    """BERT-tiny in evaluation mode, initialized wide enough to make attention differ by token."""
    torch.manual_seed(SEED)
    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=512,
        max_position_embeddings=64,
        num_labels=3,
        initializer_range=0.08,
    )
    return BertForSequenceClassification(config).eval()


def samples() -> dict[str, torch.Tensor]:
    """Two segments per sample, and at the end up to a quarter of padding that the mask hides."""
    rng = np.random.default_rng(SEED)
    ids = rng.integers(1, VOCABULARY, (SAMPLES, TOKENS))
    lengths = rng.integers(3 * TOKENS // 4, TOKENS + 1, SAMPLES)
    place = np.arange(TOKENS)
    mask = (place < lengths[:, None]).astype(np.int64)
    segments = (place >= (lengths // 2)[:, None]).astype(np.int64) * mask
    made = {"input_ids": ids * mask, "attention_mask": mask, "token_type_ids": segments}
    return {name: torch.from_numpy(made[name]) for name in INPUTS}


def export_torch(
    model: BertForSequenceClassification, given: dict[str, torch.Tensor], path: Path, dynamo: bool
) -> None:
    """``torch.onnx.export`` with a fixed shape of one sample."""
    one = tuple(given[name][:1] for name in INPUTS)
    torch.onnx.export(
        model, one, str(path), input_names=list(INPUTS), output_names=["logits"], dynamo=dynamo, external_data=False
    )


def export_optimum(model: BertForSequenceClassification, path: Path) -> None:
    """Optimum's exporter, which leaves batch and sequence open."""
    from optimum.exporters.onnx import onnx_export_from_model

    with tempfile.TemporaryDirectory() as folder:
        onnx_export_from_model(model, Path(folder), task="text-classification", do_validation=False)
        path.write_bytes((Path(folder) / "model.onnx").read_bytes())


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("folder", type=Path)
    folder = arguments.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    model, given = network(), samples()
    with torch.no_grad():
        scores = model(**given).logits.numpy()
    np.savez(folder / "samples.npz", **{k: v.numpy() for k, v in given.items()})
    np.save(folder / "scores.npy", scores)
    for name, write in {
        "legacy": lambda path: export_torch(model, given, path, dynamo=False),
        "dynamo": lambda path: export_torch(model, given, path, dynamo=True),
        "optimum": lambda path: export_optimum(model, path),
    }.items():
        try:
            write(folder / f"{name}.onnx")
            sys.stdout.write(f"{name}: written\n")
        except Exception as error:  # an exporter that fails is a finding, not the end of the others
            sys.stdout.write(f"{name}: {type(error).__name__}: {str(error)[:300]}\n")


if __name__ == "__main__":
    main()
