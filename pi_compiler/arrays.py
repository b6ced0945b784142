"""Samples in and answers out: the array files and data sets that a command line names."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from pi_compiler import files
from pi_compiler.errors import CalibrationError, ParameterError
from pi_compiler.ir.graph import FloatArray
from pi_compiler.models.data import load, parse_spec, read_data
from pi_compiler.models.numpy_files import read_arrays

Array: TypeAlias = NDArray[np.generic]
Samples: TypeAlias = Array | Mapping[str, Array]
Labels: TypeAlias = NDArray[np.int64]


def read(spec: str, *, single: bool = False) -> tuple[Samples, Labels | None]:
    """Samples, one array or one per input name, and labels where there are any.

    Args:
        spec: ``.npy``; ``.npz`` with ``x`` and perhaps ``y``, or with one array per input of the
            model; or ``name:split`` of a known data set.
        single: one sample without an axis for samples is welcome too.

    Raises:
        ParameterError: the spec has none of these forms.
        CalibrationError: the file is missing or malformed.
    """
    path = Path(spec)
    if path.suffix not in (".npz", ".npy"):
        known = load(*parse_spec(spec))
        return known.x, known.y
    found = read_arrays(path)
    # A group says to whom a sample belongs, no network reads it.
    apart = ("y", "group") if "x" in found else ("y",)
    inputs = {name: values for name, values in found.items() if name not in apart}
    if list(inputs) != ["x"]:
        return inputs, _labels(path, found)
    if single:
        return inputs["x"], _labels(path, found)
    checked = read_data(path)
    return checked.x, checked.y


def labeled(spec: str) -> tuple[Samples, Labels]:
    """Samples with their labels.

    Raises:
        CalibrationError: there are no labels; see also ``read``.
    """
    samples, labels = read(spec)
    if labels is None:
        raise CalibrationError(
            f"data {spec} have no labels, and accuracy needs them", hint="numpy.savez(file, x=inputs, y=labels)"
        )
    return samples, labels


def _labels(path: Path, found: Mapping[str, Array]) -> Labels | None:
    y = found.get("y")
    if y is None:
        return None
    if y.dtype.kind not in "iu" or y.ndim != 1:
        raise CalibrationError(f"data file {path} cannot be used", f"'y' is {y.dtype}{list(y.shape)}, needed integers")
    return y.astype(np.int64)


def check_format(path: Path, outputs: Sequence[str]) -> None:
    """Fail before a run whose answers could not be written.

    Raises:
        ParameterError: the name ends in neither ``.npy`` nor ``.npz``, or one array has to hold several outputs.
    """
    if path.suffix not in (".npy", ".npz"):
        raise ParameterError(f"cannot write {path}: answers are .npy or .npz files")
    if path.suffix == ".npy" and len(outputs) > 1:
        raise ParameterError(
            f"cannot write {path}: the model has {len(outputs)} outputs: {', '.join(outputs)}", hint="a .npz file"
        )


def write(path: Path, outputs: Mapping[str, FloatArray]) -> None:
    """Answers (B, *shape) as a file; the model's own batch dimension of 1 is left out.

    Raises:
        ParameterError: the file cannot be written.
    """
    squeezed = {n: v[:, 0] if v.ndim > 2 and v.shape[1] == 1 else v for n, v in outputs.items()}
    buffer = io.BytesIO()
    if path.suffix == ".npy":
        np.save(buffer, next(iter(squeezed.values())))
    else:
        np.savez(buffer, **squeezed)  # type: ignore[arg-type]
    files.write(path, buffer.getvalue())
