"""Arrays in ``.npz`` and ``.npy`` files, read without ever unpickling, and what can be wrong with them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pi_compiler.errors import CalibrationError

__all__ = ["faults_of_group", "faults_of_x", "faults_of_y", "read_arrays"]


def read_arrays(path: Path) -> dict[str, NDArray[np.generic]]:
    """The arrays of a ``.npz`` file by name, or that of a ``.npy`` file under the name ``x``.

    Raises:
        CalibrationError: the file is missing or damaged.
    """
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return {"x": loaded}
        with loaded:
            return {key: loaded[key] for key in loaded.files}
    except FileNotFoundError:
        raise CalibrationError(f"data file {path} does not exist") from None
    except Exception as error:  # on a damaged file the readers of numpy and zip raise almost anything
        detail = str(error).splitlines()[0] if str(error) else type(error).__name__
        if "allow_pickle" in detail:
            detail = "it holds pickled objects, which are never loaded; store plain numeric arrays"
        raise CalibrationError(f"data file {path} cannot be read as a numpy file", detail) from error


def faults_of_x(x: NDArray[np.generic]) -> list[str]:
    """What keeps an array from being samples."""
    if x.dtype.kind not in "fiub":
        return [f"'x' has type {x.dtype}; needed: real or integer numbers"]
    if x.ndim < 2:
        return [f"'x' has shape {x.shape}; needed: samples first, then at least one axis of a sample"]
    if x.size == 0:
        return [f"'x' is empty, shape {x.shape}"]
    with np.errstate(over="ignore"):
        bad = ~np.isfinite(x.astype(np.float32))
    if bad.any():
        first = tuple(int(i) for i in np.argwhere(bad)[0])
        return [f"'x' has {int(bad.sum())} values that are NaN or infinite in float32, the first at index {first}"]
    return []


def faults_of_y(y: NDArray[np.generic] | None, samples: int) -> list[str]:
    """What keeps an array from being their labels; None is fine."""
    if y is None:
        return []
    faults = []
    if y.dtype.kind not in "iu":
        faults.append(f"'y' has type {y.dtype}; needed: integers")
    elif y.size and int(y.min()) < 0:
        faults.append(f"'y' has a negative label, {int(y.min())}")
    if y.shape != (samples,):
        faults.append(f"'y' has shape {y.shape}; needed ({samples},), one label per sample of 'x'")
    return faults


def faults_of_group(group: NDArray[np.generic] | None, samples: int) -> list[str]:
    """What keeps an array from being their groups; None is fine."""
    if group is None:
        return []
    faults = []
    if group.dtype.kind not in "iubU":
        faults.append(f"'group' has type {group.dtype}; needed: integers or texts")
    if group.shape != (samples,):
        faults.append(f"'group' has shape {group.shape}; needed ({samples},), one group per sample of 'x'")
    return faults
