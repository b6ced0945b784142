"""Tables: rows of numbers and categories with a label column and perhaps a group column.

Numbers become their place between the smallest (0) and largest (1) training value, a category one
column per value that training rows have; a cell that is empty or ``?`` is the training median, or a
category of its own. Only training rows decide these. A label or group column's classes are all its
values, sorted. The group stays among the features; the label does not.
"""

from __future__ import annotations

import csv
import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pi_compiler.errors import CalibrationError
from pi_compiler.models.dataset import Part, turns
from pi_compiler.models.sources import RemoteFile, locate

__all__ = ["ADULT", "ADULT_COLUMNS", "Table", "adult", "read_csv"]

ADULT: Final = RemoteFile(
    "adult/adult.data",
    "5b00264637dbfec36bdeaab5676b0b309ff9eb788d63554ca0a249491c86603d",
    ("https://archive.ics.uci.edu/ml/machine-learning-databases/adult/adult.data",),
)
ADULT_COLUMNS: Final = (
    "age", "workclass", "fnlwgt", "education", "education-num", "marital-status", "occupation", "relationship",
    "race", "sex", "capital-gain", "capital-loss", "hours-per-week", "native-country", "income",
)  # fmt: skip
_ADULT_AGES = (25.0, 40.0, 60.0)
_MISSING = ("", "?")
_MOST_GROUPS = 12
"""A group column of numbers with more values than this is cut into quarters."""
_FAULTS_SHOWN = 5


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """A table as text.

    Attributes:
        origin: where it comes from, for messages.
        columns: their names.
        rows: one text per column each.
    """

    origin: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def column(self, name: str) -> list[str]:
        """All cells under a name."""
        place = self.columns.index(name)
        return [row[place] for row in self.rows]

    def check(self, label: str | None, group: str | None) -> list[str]:
        """What is wrong with these names of columns."""
        faults = []
        known = f"columns: {', '.join(self.columns)}"
        if label is None:
            faults.append(f"a table needs the name of its label column (--label); {known}")
        for what, name in (("label", label), ("group", group)):
            if name is not None and name not in self.columns:
                faults.append(f"there is no {what} column '{name}'; {known}")
        if len(self.columns) < 2:
            faults.append("besides the label there has to be a column to learn from")
        if label is not None and label == group:
            faults.append(f"column '{label}' cannot be both label and group")
        return faults

    def split(self, name: str, label: str, group: str | None = None, edges: Sequence[float] = ()) -> Part:
        """The samples of one split: of every five rows of a class three train, one validates, one tests.

        Args:
            name: one of ``SPLITS``.
            label: column of the classes.
            group: column of the groups.
            edges: where a group column of numbers is cut; default is at its training quartiles.

        Raises:
            CalibrationError: a column is missing, or the label has one class only.
        """
        if faults := self.check(label, group):
            raise CalibrationError(f"table {self.origin} cannot be used", *faults)
        classes, y = _numbered(self.column(label))
        if len(classes) < 2:
            raise CalibrationError(f"column '{label}' of {self.origin} has one class only: {classes[0]!r}")
        train, rows = turns(y, "train"), turns(y, name)
        features = [_feature(self.column(c), train, rows) for c in self.columns if c != label]
        with np.errstate(over="ignore"):
            x = np.concatenate(features, axis=1, dtype=np.float32)
        if not np.isfinite(x).all():
            raise CalibrationError(f"table {self.origin} holds numbers that training rows do not prepare for float32")
        if group is None:
            return Part(x, y[rows])
        names, groups = _groups(self.column(group), train, edges)
        return Part(x, y[rows], groups[rows], names)


def read_csv(path: Path, columns: Sequence[str] | None = None) -> Table:
    """A text file of values separated by commas, semicolons or tabs, in UTF-8.

    Args:
        path: the file.
        columns: their names, if the first line does not hold them.

    Raises:
        CalibrationError: missing, empty, no text, or rows of different lengths; the first few are named.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise CalibrationError(f"table {path} cannot be read", str(error)) from error
    first = text.split("\n", 1)[0]
    separator = max(",;\t", key=first.count)
    try:
        lines = list(csv.reader(text.splitlines(), delimiter=separator, skipinitialspace=True, strict=True))
    except csv.Error as error:
        raise CalibrationError(f"table {path} cannot be read", str(error)) from error
    numbered = [(i, tuple(c.strip() for c in row)) for i, row in enumerate(lines, 1) if any(c.strip() for c in row)]
    names = tuple(columns) if columns is not None else (numbered[0][1] if numbered else ())
    rows = numbered if columns is not None else numbered[1:]
    faults = [f"line {i} has {len(r)} cells, needed {len(names)}" for i, r in rows if len(r) != len(names)]
    if len(faults) > _FAULTS_SHOWN:
        faults = [*faults[:_FAULTS_SHOWN], f"and {len(faults) - _FAULTS_SHOWN} more lines"]
    if not rows:
        faults.append("it has no rows")
    if len(set(names)) < len(names):
        faults.append(f"two columns have the same name: {', '.join(n for n in set(names) if names.count(n) > 1)}")
    if faults:
        raise CalibrationError(f"table {path} cannot be used", *faults)
    return Table(str(path), names, tuple(r for _, r in rows))


def adult(split: str, group: str) -> Part:
    """UCI Adult (Becker and Kohavi, 1996): does a person earn more than 50,000 dollars a year?

    Args:
        split: one of ``SPLITS``; the official test file is not used, the 32,561 rows are split by the rule.
        group: ``"sex"``, ``"race"`` or ``"age"`` (cut at 25, 40 and 60 years).
    """
    table = read_csv(locate(ADULT), ADULT_COLUMNS)
    return table.split(split, "income", group, _ADULT_AGES if group == "age" else ())


def _number(cell: str) -> float:
    """NaN for what is missing.

    Raises:
        ValueError: neither missing nor a number.
    """
    if cell in _MISSING:
        return math.nan
    value = float(cell)
    return value if math.isfinite(value) else math.nan


def _numbers(cells: Iterable[str]) -> NDArray[np.float64] | None:
    """A column as numbers, None if it holds something else."""
    try:
        values = np.asarray([_number(c) for c in cells])
    except ValueError:
        return None
    return None if np.isnan(values).all() else values


def _feature(cells: list[str], train: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[np.float64]:
    """Columns (n, k) for the wanted rows, scaled or spread by what training rows hold."""
    values = _numbers(cells)
    if values is None:
        seen = {value: i for i, value in enumerate(sorted({cells[i] for i in train}))}
        columns = np.asarray([seen.get(cells[row], -1) for row in rows])
        return np.asarray(columns[:, None] == np.arange(len(seen)), dtype=np.float64)
    known = values[train][~np.isnan(values[train])]
    low, high, middle = (known.min(), known.max(), np.median(known)) if len(known) else (0.0, 1.0, 0.0)
    chosen = np.where(np.isnan(values[rows]), middle, values[rows])
    return np.asarray((chosen - low) / (high - low if high > low else 1.0))[:, None]


def _numbered(cells: list[str]) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """Names of the classes, numbers in numeric order, and the class of every row."""
    values = _numbers(set(cells))
    ordered = sorted(set(cells), key=None if values is None else _number)
    place = {name: i for i, name in enumerate(ordered)}
    return tuple(ordered), np.asarray([place[c] for c in cells], dtype=np.int64)


def _groups(
    cells: list[str], train: NDArray[np.int64], edges: Sequence[float]
) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """Names of the groups and the group of every row; a missing number goes to the lowest group."""
    values = _numbers(cells)
    if values is None or (not edges and len(set(cells)) <= _MOST_GROUPS):
        return _numbered(cells)
    cuts = np.asarray(edges) if len(edges) else np.unique(np.nanquantile(values[train], (0.25, 0.5, 0.75)))
    low = np.nanmin(values[train])
    groups = np.searchsorted(cuts, np.where(np.isnan(values), low, values), side="right")
    inner = [f"{a:g} to below {b:g}" for a, b in itertools.pairwise(cuts)]
    return (f"below {cuts[0]:g}", *inner, f"{cuts[-1]:g} and more"), groups.astype(np.int64)
