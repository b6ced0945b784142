"""The training loop that every budget method shares: epochs, distillation, checkpoints, resumption.

A run is a folder. After every epoch it holds a checkpoint from which an interrupted run goes on as
if nothing had happened: weights, optimizer, schedule, generators and the history are in it. The
train split trains, the validation split chooses, and nothing here reads a test split.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

import torch
from torch import nn
from torch.nn import functional

from pi_compiler import files
from pi_compiler.errors import ArtifactError, ParameterError
from pi_compiler.models.data import Dataset
from pi_compiler.models.training.augment import Augmentation
from pi_compiler.models.training.features import feature_distance, kept_activations
from pi_compiler.models.training.measure import accuracy

__all__ = ["Epoch", "Hooks", "Settings", "distillation", "fit"]

_log = logging.getLogger(__name__)
_CHECKPOINT = "checkpoint.pt"
Extra: TypeAlias = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True, slots=True)
class Settings:
    """How to train; with the seed, everything that decides the weights.

    Attributes:
        epochs: passes over the training split.
        batch_size: images per step.
        optimizer: ``"sgd"`` (Nesterov momentum 0.9) or ``"adamw"``.
        learning_rate: the peak.
        schedule: ``"one-cycle"`` (a quarter up, the rest down), ``"cosine"`` (down only).
        weight_decay: on weights of two and more dimensions.
        clip_norm: gradients are scaled down to this norm.
        label_smoothing: of the cross-entropy.
        augmentation: changes of the training images.
        distill: weight of the teacher's softened answers, 0 without a teacher.
        temperature: by which answers are softened; the term is scaled by its square (Hinton et al., 2015).
        feature: weight of the distance between the student's and the teacher's activations.
        bfloat16: matrix products in bfloat16 where the processor multiplies it fast.
        compiled: let torch.compile write the kernels; needs a C++ compiler where it runs.
        choose: keep the epoch with the best validation accuracy; else the last one.
    """

    epochs: int
    batch_size: int = 128
    optimizer: Literal["sgd", "adamw"] = "sgd"
    learning_rate: float = 0.1
    schedule: Literal["one-cycle", "cosine"] = "one-cycle"
    weight_decay: float = 5e-4
    clip_norm: float = 5.0
    label_smoothing: float = 0.0
    augmentation: Augmentation = field(default_factory=Augmentation)
    distill: float = 0.0
    temperature: float = 4.0
    feature: float = 0.0
    bfloat16: bool = False
    compiled: bool = False
    choose: bool = True

    def __post_init__(self) -> None:
        faults = []
        if self.epochs < 0:
            faults.append(f"epochs={self.epochs} must not be negative")
        if self.batch_size < 1:
            faults.append(f"batch_size={self.batch_size} must be positive")
        for name in ("learning_rate", "clip_norm", "temperature"):
            if not getattr(self, name) > 0:
                faults.append(f"{name}={getattr(self, name)} must be positive")
        for name in ("weight_decay", "distill", "feature", "label_smoothing"):
            if not getattr(self, name) >= 0:
                faults.append(f"{name}={getattr(self, name)} must not be negative")
        if faults:
            raise ParameterError("training settings are out of range", *faults)


@dataclass(frozen=True, slots=True)
class Epoch:
    """What one epoch came to.

    Attributes:
        number: counted from 1.
        train_loss: mean over its steps, NaN if a step's loss was not finite.
        validation_accuracy: fraction correct; images whose answer is not finite count as wrong.
        validation_loss: mean cross-entropy.
        seconds: how long it took.
        eligible: whether it may be chosen (a budget may not be met yet).
    """

    number: int
    train_loss: float
    validation_accuracy: float
    validation_loss: float
    seconds: float
    eligible: bool = True


class Hooks:
    """What a method adds to the loop; every call may do nothing.

    Whatever must survive an interruption is in buffers and parameters of the model, or in ``state``.
    """

    def before_epoch(self, model: nn.Module, epoch: int, epochs: int) -> None:
        """Before epoch ``epoch`` (from 1) of ``epochs``; schedules change here."""

    def before_step(self, model: nn.Module, step: int, steps: int) -> None:
        """Before step ``step`` (from 0) of ``steps`` in the whole run."""

    def penalty(self, model: nn.Module, x: torch.Tensor, y: torch.Tensor, logits: torch.Tensor) -> torch.Tensor | None:
        """A term of the loss, differentiable; after the forward pass."""
        return None

    def sample_penalty(self, rows: torch.Tensor, losses: torch.Tensor) -> torch.Tensor | None:
        """A term made of the batch's losses (n,), differentiable; ``rows`` (n,) of the training split they belong to.

        The losses are cross-entropy and distillation of each sample; their mean is the loss itself.
        """
        return None

    def after_step(self, model: nn.Module) -> None:
        """After the optimizer's step."""

    def after_epoch(self, model: nn.Module, epoch: int, epochs: int) -> bool:
        """Before validation; returns whether the model as it now is may be chosen."""
        return True

    def groups(self, model: nn.Module) -> list[dict[str, object]]:
        """Parameter groups with settings of their own; their parameters leave the common group."""
        return []

    def state(self) -> dict[str, torch.Tensor]:
        """What the hook itself must remember between epochs; part of the checkpoint."""
        return {}

    def load_state(self, state: dict[str, torch.Tensor]) -> None:
        """Take back what ``state`` gave."""


def distillation(student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> torch.Tensor:
    """Temperature-softened Kullback-Leibler divergence of each sample (n,), summed over classes.

    Scaled by the squared temperature, so that its gradient does not fade (Hinton et al., 2015, section 2).

    Args:
        student: logits (n, classes).
        teacher: logits (n, classes), carry no gradient.
        temperature: of both.
    """
    soft = functional.log_softmax(student / temperature, dim=1)
    wanted = functional.log_softmax(teacher.detach() / temperature, dim=1)
    return functional.kl_div(soft, wanted, reduction="none", log_target=True).sum(1) * temperature**2


def fit(
    model: nn.Module,
    settings: Settings,
    data: Dataset,
    validation: Dataset,
    *,
    seed: int,
    folder: Path | None = None,
    hooks: Sequence[Hooks] = (),
    teacher: nn.Module | None = None,
    progress: Callable[[Epoch, int], None] | None = None,
) -> list[Epoch]:
    """Train in place and return the history; the model ends with the chosen epoch's weights.

    Args:
        model: from samples (n, *sample) to logits (n, classes).
        settings: how.
        data: what trains.
        validation: what chooses the epoch among the eligible ones: highest accuracy, then lowest loss.
        seed: of order and augmentation; initial weights are the caller's.
        folder: where the checkpoint goes; a run that was interrupted there goes on.
        hooks: what the method adds.
        teacher: whose answers ``settings.distill`` imitates.
        progress: called after each epoch with the number of epochs there will be.

    Raises:
        ParameterError: fewer samples than a batch, or a checkpoint of another run.
        ArtifactError: the checkpoint is damaged.
    """
    run = _Run(model, settings, data, validation, seed, tuple(hooks), teacher)
    if folder is not None:
        files.make_folder(folder)
        run.resume(folder / _CHECKPOINT)
    while len(run.history) < settings.epochs:
        run.epoch()
        if folder is not None:
            run.save(folder / _CHECKPOINT)
        if progress is not None:
            progress(run.history[-1], settings.epochs)
    if settings.choose and run.best_weights is not None:
        model.load_state_dict(run.best_weights)
    model.eval()
    return run.history


class _Run:
    """One training run: everything that a checkpoint holds."""

    def __init__(
        self,
        model: nn.Module,
        settings: Settings,
        data: Dataset,
        validation: Dataset,
        seed: int,
        hooks: tuple[Hooks, ...],
        teacher: nn.Module | None,
    ) -> None:
        self.model, self.settings, self.validation, self.hooks, self.teacher = (
            model,
            settings,
            validation,
            hooks,
            teacher,
        )
        # Activations are read by hooks, which compiled code would be cut at.
        self.forward = torch.compile(model) if settings.compiled and not settings.feature else model
        self.x, self.y = torch.from_numpy(data.x), torch.from_numpy(data.labels)
        if self.x.dim() == 4:
            self.x = self.x.contiguous(memory_format=torch.channels_last)
            model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.steps = len(self.x) // settings.batch_size
        if self.steps == 0:
            raise ParameterError(f"batch size {settings.batch_size} exceeds the {len(self.x)} training samples")
        self.seed = seed
        self.generator = torch.Generator().manual_seed(seed)
        self.optimizer = _optimizer(model, settings, hooks)
        total = max(1, settings.epochs * self.steps)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda step: _factor(settings.schedule, step, total)
        )
        self.history: list[Epoch] = []
        self.best = (-1.0, -math.inf)
        self.best_weights: dict[str, torch.Tensor] | None = None
        self.answer: Callable[[torch.Tensor], torch.Tensor] | None = None
        if teacher is not None:
            teacher.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            teacher.eval().requires_grad_(False)
            self.answer = torch.compile(teacher) if settings.compiled else teacher

    def epoch(self) -> None:
        """One pass over the data, then validation."""
        number, start = len(self.history) + 1, time.perf_counter()
        for hook in self.hooks:
            hook.before_epoch(self.model, number, self.settings.epochs)
        self.model.train()
        order = torch.randperm(len(self.x), generator=self.generator)[: self.steps * self.settings.batch_size]
        total, step = 0.0, (number - 1) * self.steps
        for rows in torch.split(order, self.settings.batch_size):
            for hook in self.hooks:
                hook.before_step(self.model, step, self.settings.epochs * self.steps)
            total += self.step(rows)
            step += 1
        eligible = all([hook.after_epoch(self.model, number, self.settings.epochs) for hook in self.hooks])
        right, loss = accuracy(self.model, self.validation)
        seconds = time.perf_counter() - start
        self.history.append(Epoch(number, total / self.steps, right, loss, seconds, eligible))
        _log.info(
            "epoch %d: loss %.4f, validation accuracy %.4f%s, %.0f s",
            number,
            total / self.steps,
            right,
            "" if eligible else " (not eligible)",
            seconds,
        )
        score = (right, -loss if math.isfinite(loss) else -math.inf)
        if eligible and score > self.best:
            self.best = score
            self.best_weights = {k: v.detach().clone() for k, v in self.model.state_dict().items()}

    def step(self, rows: torch.Tensor) -> float:
        """One update; returns the loss."""
        s = self.settings
        x, y = s.augmentation(self.x[rows], self.generator), self.y[rows]
        with torch.autocast("cpu", torch.bfloat16, enabled=s.bfloat16):
            with kept_activations(self.model, bool(s.feature)) as ours:
                logits = self.forward(x)
            answers, theirs = self.ask_teacher(x)
        logits = logits.float()
        losses = functional.cross_entropy(logits, y, reduction="none", label_smoothing=s.label_smoothing)
        if answers is not None:
            losses = losses + s.distill * distillation(logits, answers.float(), s.temperature)
        loss = losses.mean()
        if theirs:
            loss = loss + s.feature * feature_distance(ours, theirs)
        for hook in self.hooks:
            for extra in (hook.penalty(self.model, x, y, logits), hook.sample_penalty(rows, losses)):
                if extra is not None:
                    loss = loss + extra
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), s.clip_norm)
        if torch.isfinite(norm):
            self.optimizer.step()
        self.schedule.step()
        for hook in self.hooks:
            hook.after_step(self.model)
        return float(loss.detach())

    def ask_teacher(self, x: torch.Tensor) -> tuple[torch.Tensor | None, dict[str, torch.Tensor]]:
        """The teacher's answers and activations, without gradients, where they are wanted."""
        s = self.settings
        if self.teacher is None or self.answer is None or not (s.distill or s.feature):
            return None, {}
        with torch.no_grad():
            if not s.feature:
                return self.answer(x), {}
            with kept_activations(self.teacher) as found:
                answers = self.teacher(x)
        return answers if s.distill else None, found

    def fingerprint(self) -> str:
        """Tells checkpoints of other runs apart: settings, seed, size of the data, names of the weights."""
        names = [(k, tuple(v.shape)) for k, v in self.model.state_dict().items()]
        told = [dataclasses.asdict(self.settings), self.seed, len(self.x), names]
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()

    def save(self, path: Path) -> None:
        """The checkpoint, whole or not at all."""
        staging = path.with_suffix(".partial")
        torch.save(
            {
                "fingerprint": self.fingerprint(),
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "schedule": self.schedule.state_dict(),
                "generator": self.generator.get_state(),
                "torch_generator": torch.get_rng_state(),
                "history": [dataclasses.asdict(e) for e in self.history],
                "best": self.best,
                "best_weights": self.best_weights,
                "hooks": [hook.state() for hook in self.hooks],
            },
            staging,
        )
        staging.replace(path)

    def resume(self, path: Path) -> None:
        """Go on from a checkpoint, if there is one."""
        if not path.is_file():
            return
        try:
            stored = torch.load(path, map_location="cpu", weights_only=True)
            fingerprint = stored["fingerprint"]
        except Exception as error:  # torch names no type for damaged files
            raise ArtifactError(
                f"checkpoint {path} cannot be read", repr(error), hint="remove it to start over"
            ) from error
        if fingerprint != self.fingerprint():
            raise ParameterError(
                f"checkpoint {path} belongs to a run with other settings, data or network",
                hint="another folder, or remove the checkpoint to start over",
            )
        self.model.load_state_dict(stored["model"])
        self.optimizer.load_state_dict(stored["optimizer"])
        self.schedule.load_state_dict(stored["schedule"])
        self.generator.set_state(stored["generator"])
        torch.set_rng_state(stored["torch_generator"])
        self.history = [Epoch(**e) for e in stored["history"]]
        self.best = tuple(stored["best"])
        self.best_weights = stored["best_weights"]
        for hook, state in zip(self.hooks, stored.get("hooks", [{}] * len(self.hooks)), strict=True):
            hook.load_state(state)
        _log.info("going on after epoch %d of %d", len(self.history), self.settings.epochs)


def _optimizer(model: nn.Module, settings: Settings, hooks: Sequence[Hooks]) -> torch.optim.Optimizer:
    """Weight decay on matrices and kernels only; methods bring groups of their own."""
    special = [group for hook in hooks for group in hook.groups(model)]
    taken = {id(p) for group in special for p in group["params"]}  # type: ignore[attr-defined]
    rest = [p for p in model.parameters() if p.requires_grad and id(p) not in taken]
    groups: list[dict[str, object]] = [
        {"params": [p for p in rest if p.dim() > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in rest if p.dim() <= 1], "weight_decay": 0.0},
        *special,
    ]
    groups = [group for group in groups if group["params"]]
    if settings.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=settings.learning_rate, momentum=0.9, nesterov=True)
    return torch.optim.AdamW(groups, lr=settings.learning_rate)


def _factor(schedule: str, step: int, total: int) -> float:
    """Learning rate relative to the peak."""
    done = min(1.0, step / total)
    if schedule == "one-cycle":
        if done < 0.25:
            return 0.1 + 0.9 * done / 0.25
        done = (done - 0.25) / 0.75
    return 0.5 * (1.0 + math.cos(math.pi * done)) * 0.999 + 0.001
