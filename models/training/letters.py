"""Train the decoder of letters: ``python -m pi_compiler.models.training.letters --seed 0 --output FILE.onnx``.

Windows of the train split in random order, the loss at every position; the validation split chooses the epoch and the
test split is read once. Beside the ONNX file goes ``FILE.json`` with what it took and what it reached. Some minutes.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from pi_compiler.files import check_file, write_json
from pi_compiler.models.letters import WINDOW, Split, checksum, windows
from pi_compiler.models.training.command import exit_code
from pi_compiler.models.training.export import export_onnx
from pi_compiler.models.zoo.letters_gpt import Decoder, NextLetter, build

__all__ = ["right", "train"]

_log = logging.getLogger(__name__)
_EPOCHS, _BATCH, _RATE, _DECAY, _DROPOUT = 12, 64, 3e-3, 0.1, 0.1


def train(seed: int, output: Path, epochs: int = _EPOCHS) -> dict[str, object]:
    """Train, write ``output`` and its JSON record, and return the record.

    Args:
        seed: of initial weights and order.
        output: the ONNX file: input ``x`` (1, 16) of letters, output ``next`` (1, 1).
        epochs: passes over the windows.

    Raises:
        CalibrationError: the text is not to be had.
        ParameterError: the file cannot be written.
    """
    check_file(output)
    torch.manual_seed(seed)
    model = build()
    epoch = fit(model, epochs, seed)
    export_onnx(NextLetter(model), (WINDOW,), output, whole=True, output="next")
    record: dict[str, object] = {
        "command": f"python -m pi_compiler.models.training.letters --seed {seed} --output {output.name}",
        "seed": seed,
        "epoch": epoch,
        "text_sha256": checksum(),
        "torch": torch.__version__,
        "validation_accuracy": right(model, "validation"),
        "test_accuracy": right(model, "test"),
        "sha256": hashlib.sha256(output.read_bytes()).hexdigest(),
    }
    write_json(output.with_suffix(".json"), record)
    return record


def fit(model: Decoder, epochs: int, seed: int) -> int:
    """Train in place; the model ends with the weights of the best validation epoch, which is returned."""
    generator = torch.Generator().manual_seed(seed)
    x, y = (torch.from_numpy(v.copy()) for v in windows("train"))
    wanted = torch.cat([x[:, 1:], y[:, None]], dim=1)
    steps = len(x) // _BATCH
    optimizer = torch.optim.AdamW(model.parameters(), lr=_RATE, weight_decay=_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _RATE, total_steps=epochs * steps)
    best, best_epoch, weights = -1.0, 0, model.state_dict()
    for epoch in range(1, epochs + 1):
        model.train()
        order = torch.randperm(len(x), generator=generator)[: steps * _BATCH]
        for rows in torch.split(order, _BATCH):
            # A letter in ten is another one: the text is short, and would be learned by heart.
            noise = torch.rand(x[rows].shape, generator=generator) < _DROPOUT
            other = torch.randint(0, model.letters.num_embeddings, noise.shape, generator=generator)
            scores = model(torch.where(noise, other, x[rows]))
            loss = nn.functional.cross_entropy(scores.flatten(0, 1), wanted[rows].flatten())
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
        found = right(model, "validation")
        _log.info("epoch %d: validation accuracy %.4f, loss %.4f", epoch, found, float(loss))
        if found > best:
            best, best_epoch, weights = found, epoch, copy.deepcopy(model.state_dict())
    model.load_state_dict(weights)
    return best_epoch


@torch.no_grad()
def right(model: Decoder, split: Split) -> float:
    """Fraction of windows after which the most likely letter comes."""
    x, y = (torch.from_numpy(v.copy()) for v in windows(split))
    chosen = NextLetter(model.eval())(x)
    return float((chosen[:, 0] == y).float().mean())


def _main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m pi_compiler.models.training.letters", description="train letters")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=_EPOCHS)
    parser.add_argument("--output", type=Path, required=True, help="the ONNX file; a JSON record goes beside it")
    given = parser.parse_args(arguments)
    return exit_code(lambda: train(given.seed, given.output, given.epochs))


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
