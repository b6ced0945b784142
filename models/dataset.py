"""What a data set is: samples, labels and groups, and the rules by which samples are split.

No split depends on a random generator, so that every run on every machine sees the same samples.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pi_compiler.errors import CalibrationError

__all__ = ["CALIBRATION", "SPLITS", "Dataset", "Part", "held_out_rows", "last_rows", "scaled", "spread", "turns"]

SPLITS: Final = ("train", "validation", "test", "calibration")
CALIBRATION: Final = 1_000
"""Samples in a calibration split, where there are that many."""


@dataclass(frozen=True, slots=True, eq=False)
class Dataset:
    """Samples, and labels where they are known.

    Attributes:
        x: float32, shape (n, *sample shape).
        y: int64 class numbers, shape (n,), or None for data without labels.
        name: the data set's name or the file's.
        split: one of ``SPLITS``, or ``"all"`` for a user's file.
        groups: int64 group numbers, shape (n,), such as a person's sex; None where nobody named any.
        group_names: the name of each group.
    """

    x: NDArray[np.float32]
    y: NDArray[np.int64] | None
    name: str
    split: str
    groups: NDArray[np.int64] | None = None
    group_names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.x)

    @property
    def labels(self) -> NDArray[np.int64]:
        """``y``, where labels are needed.

        Raises:
            CalibrationError: the data have none.
        """
        if self.y is None:
            raise CalibrationError(
                f"data {self.name} have no labels, and accuracy needs them",
                hint="store them as an integer array 'y' of one entry per sample in the .npz file",
            )
        return self.y

    def take(self, count: int) -> Dataset:
        """The first ``count`` samples, all of them if there are fewer."""
        return self.rows(np.arange(min(count, len(self))))

    def rows(self, chosen: NDArray[np.int64], split: str | None = None) -> Dataset:
        """Some of the samples.

        Args:
            chosen: their numbers.
            split: the name of what they are; default stays.
        """
        y = None if self.y is None else self.y[chosen]
        groups = None if self.groups is None else self.groups[chosen]
        return Dataset(self.x[chosen], y, self.name, split or self.split, groups, self.group_names)


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """The samples of one split as a reader found them; fields as those of ``Dataset``."""

    x: NDArray[np.float32]
    y: NDArray[np.int64]
    groups: NDArray[np.int64] | None = None
    group_names: tuple[str, ...] = ()


def scaled(pixels: NDArray[np.generic], y: NDArray[np.generic], scale: float) -> Part:
    """Pixels divided by their largest possible value."""
    x = np.asarray(pixels, dtype=np.float32)
    x /= np.float32(scale)
    return Part(x, np.asarray(y, dtype=np.int64))


def spread(count: int, wanted: int) -> NDArray[np.int64]:
    """``wanted`` evenly spaced indices of ``count``, all of them if there are fewer."""
    wanted = min(wanted, count)
    return np.arange(wanted, dtype=np.int64) * count // max(wanted, 1)


def last_rows(split: str, count: int, validation: int) -> NDArray[np.int64]:
    """The rule for data in random order with a test part of their own: the last of the training part validate.

    Args:
        split: one of ``SPLITS``.
        count: samples in the part that the split belongs to.
        validation: how many validate.
    """
    if split == "test":
        return np.arange(count)
    if split == "validation":
        return np.arange(count - validation, count)
    if split == "calibration":
        return spread(count - validation, CALIBRATION)
    return np.arange(count - validation)


def turns(labels: NDArray[np.int64], split: str, calibration: int = CALIBRATION) -> NDArray[np.int64]:
    """The rule for data without a test part: of every five consecutive samples of a class three train.

    The fourth validates, the fifth tests.
    """
    turn = _turn(labels, 5)
    rows = np.flatnonzero({"validation": turn == 3, "test": turn == 4}.get(split, turn < 3))
    return rows[spread(len(rows), calibration)] if split == "calibration" else rows


def held_out_rows(labels: NDArray[np.int64], split: str) -> NDArray[np.int64]:
    """The rule for training parts in any order: of every ten consecutive samples of a class the tenth validates."""
    turn = _turn(labels, 10)
    rows = np.flatnonzero(turn == 9 if split == "validation" else turn < 9)
    return rows[spread(len(rows), CALIBRATION)] if split == "calibration" else rows


def _turn(labels: NDArray[np.int64], period: int) -> NDArray[np.int64]:
    turn = np.empty(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        turn[members] = np.arange(len(members)) % period
    return turn
