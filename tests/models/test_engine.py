"""The training loop: interrupted runs, the choice of the epoch, what distillation is."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from pi_compiler.errors import ArtifactError, ParameterError
from pi_compiler.models.data import Dataset
from pi_compiler.models.training.augment import Augmentation
from pi_compiler.models.training.engine import Epoch, Hooks, Settings, distillation, fit


def blobs(count: int, seed: int, split: str) -> Dataset:
    """Three well separated clusters, as 4x4 images."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 3, count)
    x = rng.normal(size=(count, 1, 4, 4)) * 0.3
    x[np.arange(count), 0, y, y] += 2.0
    return Dataset(x.astype(np.float32), y.astype(np.int64), "blobs", split)


TRAIN, VALIDATION = blobs(192, 0, "train"), blobs(64, 1, "validation")
SETTINGS = Settings(epochs=4, batch_size=32, learning_rate=0.05, augmentation=Augmentation(crop=1, mirror=True))


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.1), nn.Linear(16, 3)
    )


class Stop(Exception):
    """Somebody pressed a key."""


def test_an_interrupted_run_ends_like_one_that_was_not(tmp_path: Path) -> None:
    def interrupt(epoch: Epoch, _: int) -> None:
        if epoch.number == 2:
            raise Stop

    whole = network()
    history = fit(whole, SETTINGS, TRAIN, VALIDATION, seed=3, folder=tmp_path / "whole")
    parts = network()
    with pytest.raises(Stop):
        fit(parts, SETTINGS, TRAIN, VALIDATION, seed=3, folder=tmp_path / "parts", progress=interrupt)
    again = network()
    torch.manual_seed(99)  # another process has other random numbers; the checkpoint brings its own
    resumed = fit(again, SETTINGS, TRAIN, VALIDATION, seed=3, folder=tmp_path / "parts")
    assert [dataclasses.replace(e, seconds=0.0) for e in resumed] == [
        dataclasses.replace(e, seconds=0.0) for e in history
    ]
    for ours, theirs in zip(whole.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs)


def test_a_checkpoint_of_other_settings_is_refused(tmp_path: Path) -> None:
    fit(network(), dataclasses.replace(SETTINGS, epochs=1), TRAIN, VALIDATION, seed=0, folder=tmp_path)
    with pytest.raises(ParameterError, match="other settings"):
        fit(network(), SETTINGS, TRAIN, VALIDATION, seed=0, folder=tmp_path)


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    (tmp_path / "checkpoint.pt").write_bytes(b"half a file")
    with pytest.raises(ArtifactError, match=r"checkpoint\.pt"):
        fit(network(), SETTINGS, TRAIN, VALIDATION, seed=0, folder=tmp_path)


def test_only_eligible_epochs_are_chosen() -> None:
    class LateAndWorse(Hooks):
        """Only the last epoch is eligible, and the network is spoiled before it."""

        def after_epoch(self, model: nn.Module, epoch: int, epochs: int) -> bool:
            if epoch == epochs:
                with torch.no_grad():
                    for p in model.parameters():
                        p.zero_()
            return epoch == epochs

    model = network()
    still = dataclasses.replace(SETTINGS, augmentation=Augmentation())
    history = fit(model, still, TRAIN, VALIDATION, seed=0, hooks=(LateAndWorse(),))
    assert [e.eligible for e in history] == [False, False, False, True]
    assert history[2].validation_accuracy > 0.9 > history[3].validation_accuracy
    assert all(not p.any() for p in model.parameters())


def test_a_loss_that_is_not_finite_changes_no_weight_and_is_no_right_answer() -> None:
    class Spoil(Hooks):
        def penalty(self, model: nn.Module, x: torch.Tensor, y: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
            return logits.sum() * math.nan

    model = network()
    before = [p.detach().clone() for p in model.parameters()]
    history = fit(model, dataclasses.replace(SETTINGS, epochs=1), TRAIN, VALIDATION, seed=0, hooks=(Spoil(),))
    assert math.isnan(history[0].train_loss)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_distillation_sums_over_classes_sample_by_sample() -> None:
    student, teacher = torch.randn(5, 7, dtype=torch.float64), torch.randn(5, 7, dtype=torch.float64)
    p, q = (teacher / 4).softmax(1), (student / 4).softmax(1)
    by_hand = (p * (p.log() - q.log())).sum(1) * 16
    assert torch.allclose(distillation(student, teacher, 4.0), by_hand, atol=1e-12)


def test_settings_name_all_that_is_wrong_at_once() -> None:
    with pytest.raises(ParameterError) as raised:
        Settings(epochs=-1, batch_size=0, learning_rate=0.0)
    assert all(word in str(raised.value) for word in ("epochs=-1", "batch_size=0", "learning_rate=0.0"))
