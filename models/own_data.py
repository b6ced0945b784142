"""A user's own data with labels: arrays, tables, images in folders, split by rules that never change."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pi_compiler.errors import CalibrationError, ParameterError
from pi_compiler.models.dataset import Part, held_out_rows, turns
from pi_compiler.models.folders import ARCHIVES, read_folder
from pi_compiler.models.numpy_files import faults_of_group, faults_of_x, faults_of_y, read_arrays
from pi_compiler.models.tables import read_csv

__all__ = ["is_own", "open_own"]

_TABLES = (".csv", ".tsv", ".data")
_TEST = "_test"


def is_own(spec: str) -> bool:
    """Whether a text names a file or folder rather than a known data set."""
    path = Path(spec)
    named = path.suffix in (".npz", *_TABLES) or spec.lower().endswith(ARCHIVES)
    return named or "/" in spec or path.is_dir()


def open_own(path: Path, label: str | None = None, group: str | None = None) -> Callable[[str], Part]:
    """Read a file or folder once; returns what gives its splits.

    Args:
        path: ``.npz`` with ``x``, ``y``, perhaps ``group``, and perhaps the same with ``_test`` behind the
            name; a ``.csv`` table; a folder, zip or tar archive of images in folders of their classes.
        label: a table's label column.
        group: a table's group column.

    Raises:
        ParameterError: names of columns for what has none.
        CalibrationError: missing, damaged, or with contents that cannot be used; all faults in one message.
    """
    if path.suffix in _TABLES:
        table = read_csv(path)
        if label is None or (faults := table.check(label, group)):
            faults = table.check(label, group)
            raise CalibrationError(f"table {path} cannot be used", *faults)
        column = label
        return lambda split: table.split(split, column, group)
    if label is not None or group is not None:
        raise ParameterError(f"--label and --group name columns of a table, and {path} is none")
    if path.suffix == ".npz":
        arrays = read_arrays(path)
        _check_arrays(path, arrays)
        return lambda split: _of_arrays(arrays, split)
    return read_folder(path).split


def _check_arrays(path: Path, arrays: Mapping[str, NDArray[np.generic]]) -> None:
    faults = []
    endings = ("", _TEST) if f"x{_TEST}" in arrays else ("",)
    for ending in endings:
        x, y, group = (arrays.get(name + ending) for name in ("x", "y", "group"))
        where = f"{ending[1:]} part: " if ending else ""
        if x is None or y is None:
            faults.append(f"{where}training needs arrays 'x{ending}' and 'y{ending}', found {', '.join(arrays)}")
            continue
        count = len(x) if x.ndim else 0
        faults += [where + f for f in (*faults_of_x(x), *faults_of_y(y, count), *faults_of_group(group, count))]
    if len(endings) == 2 and ("group" in arrays) != (f"group{_TEST}" in arrays):
        faults.append("'group' and 'group_test' come together or not at all")
    if not faults and len(endings) == 2 and arrays["x"].shape[1:] != arrays["x_test"].shape[1:]:
        faults.append(f"samples have shape {arrays['x'].shape[1:]} and, to test, {arrays['x_test'].shape[1:]}")
    if faults:
        raise CalibrationError(
            f"data file {path} cannot be used", *faults, hint="numpy.savez(file, x=inputs, y=labels)"
        )


def _of_arrays(arrays: Mapping[str, NDArray[np.generic]], split: str) -> Part:
    """One split; without arrays of its own every fifth sample of a class tests."""
    apart = f"x{_TEST}" in arrays
    ending = _TEST if apart and split == "test" else ""
    y = arrays[f"y{ending}"].astype(np.int64)
    rows = np.arange(len(y)) if ending else held_out_rows(y, split) if apart else turns(y, split)
    x = arrays[f"x{ending}"][rows].astype(np.float32)
    if "group" not in arrays:
        return Part(x, y[rows])
    every = [arrays[n] for n in ("group", f"group{_TEST}") if n in arrays]
    names = np.unique(np.concatenate(every))
    groups = np.searchsorted(names, arrays[f"group{ending}"][rows]).astype(np.int64)
    return Part(x, y[rows], groups, tuple(str(n) for n in names))
