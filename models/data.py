"""Data sets for calibration, evaluation and training, and the user's own files.

Every known data set has four fixed splits. ``train`` trains, ``validation`` chooses, ``calibration``
is an evenly spaced subset of ``train`` (it measures activation ranges), and ``test`` is read for the
final figures only. No split depends on a random generator:

- ``digits`` (scikit-learn's 1,797 optical digits, always there): within each class, of every five
  consecutive samples the first three train, the fourth validates, the fifth tests.
- ``mnist``, ``fashion_mnist`` (60,000 + 10,000): the last 5,000 training images validate.
- ``cifar10-binary`` (50,000 + 10,000, the official batches): the last 5,000 training images validate.
- ``cifar10-jpeg`` (the same images, compressed with losses): of each class's 5,000 training images
  the last 500 validate.
- ``cifar10-lossless`` (exact pixels of the first 4,000 training and the first 100 test images): the
  last 1,000 training images validate.
- ``adult`` (UCI Adult, 32,561 rows, groups by sex), ``adult-race``, ``adult-age``: as digits.
- ``sentiment`` (UCI's 3 x 1,000 labeled sentences): within each file and class as digits.

``cifar10`` is the first of its three forms that this machine has. Images are float32 in [0, 1], sample
first, then channel, row, column: digits are divided by 16, 8-bit pixels by 255. Whatever else a network
wants (mean, standard deviation) is part of the network. Tables: see ``pi_compiler.models.tables``; sentences:
``pi_compiler.models.sentences``.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Final

import numpy as np

from pi_compiler.errors import CalibrationError, ParameterError
from pi_compiler.models import cifar, sentences, tables
from pi_compiler.models.dataset import SPLITS, Dataset, Part, scaled, turns
from pi_compiler.models.mnist import FASHION_MNIST, MNIST, mnist
from pi_compiler.models.numpy_files import faults_of_group, faults_of_x, faults_of_y, read_arrays
from pi_compiler.models.own_data import is_own, open_own
from pi_compiler.models.sources import RemoteFile, find

__all__ = [
    "ALIASES",
    "DATASETS",
    "SPLITS",
    "Dataset",
    "KnownData",
    "Source",
    "is_local",
    "load",
    "open_source",
    "parse_spec",
    "read_data",
    "resolve",
]

_CALIBRATION_DIGITS = 512


@dataclass(frozen=True, slots=True)
class Source:
    """Labeled data with four splits, a known data set's or a user's.

    Attributes:
        name: what records call it.
        quoted: what figures on it are quoted as.
        read: split -> samples.
    """

    name: str
    quoted: str
    read: Callable[[str], Part]

    def load(self, split: str) -> Dataset:
        """One of ``SPLITS``.

        Raises:
            CalibrationError: files are missing and cannot be downloaded, or are damaged.
        """
        part = self.read(split)
        return Dataset(part.x, part.y, self.name, split, part.groups, part.group_names)


def load(name: str, split: str) -> Dataset:
    """One split of a known data set.

    Shapes: digits (n, 1, 8, 8); mnist and fashion_mnist (n, 1, 28, 28); cifar10 in all forms
    (n, 3, 32, 32), channels red, green, blue; adult (n, columns); sentiment (n, 32), numbers of words. Images are
    float32 in [0, 1].

    Args:
        name: one of ``DATASETS`` or ``ALIASES``.
        split: one of ``SPLITS``.

    Raises:
        ParameterError: unknown name or split.
        CalibrationError: files are missing and cannot be downloaded, or are damaged.
    """
    faults = []
    if name not in DATASETS and name not in ALIASES:
        faults.append(f"no data set is called '{name}'; known: {_known()}")
    if split not in SPLITS:
        faults.append(f"no split is called '{split}'; known: {', '.join(SPLITS)}")
    if faults:
        raise ParameterError(f"cannot load '{name}:{split}'", *faults)
    return open_source(name).load(split)


def open_source(spec: str, label: str | None = None, group: str | None = None) -> Source:
    """Labeled data to train and test with.

    Args:
        spec: one of ``DATASETS`` or ``ALIASES``; or a file or folder, see ``models.own_data``.
        label: the label column of a table.
        group: the group column of a table.

    Raises:
        ParameterError: no such data set, or columns are named where there are none.
        CalibrationError: a file is missing or malformed; all its faults in one message.
    """
    if is_own(spec):
        path = Path(spec)
        return Source(path.name, path.name, open_own(path, label, group))
    name = resolve(spec)
    if label is not None or group is not None:
        raise ParameterError(
            f"data set '{name}' has its labels and groups already; --label and --group are for tables",
            hint="adult (groups by sex), adult-race, adult-age",
        )
    return Source(name, DATASETS[name].quoted, DATASETS[name].read)


def resolve(name: str) -> str:
    """The data set of that name; of an alias the first that needs no download, else its first.

    Raises:
        ParameterError: unknown name.
        CalibrationError: a file is there and damaged.
    """
    if name in ALIASES:
        return next((n for n in ALIASES[name] if is_local(n)), ALIASES[name][0])
    if name not in DATASETS:
        raise ParameterError(f"no data set is called '{name}'", f"known: {_known()}")
    return name


def is_local(name: str) -> bool:
    """Whether ``load`` can read every split of this data set without downloading anything.

    Raises:
        ParameterError: unknown name.
        CalibrationError: a file is there and damaged.
    """
    known = DATASETS[resolve(name)]
    if known.package and importlib.util.find_spec(known.package) is None:
        return False
    return all(find(file) is not None for file in known.files)


def parse_spec(spec: str) -> tuple[str, str]:
    """Name and split of ``"name:split"``.

    Raises:
        ParameterError: not of that form.
    """
    name, colon, split = spec.partition(":")
    if not (name and colon and split):
        raise ParameterError(
            f"'{spec}' is neither a data file nor NAME:SPLIT",
            f"known names: {_known()}; splits: {', '.join(SPLITS)}",
            hint="a path that ends in .npz or .npy, or for example digits:calibration",
        )
    return name, split


def read_data(spec: str | Path) -> Dataset:
    """Data that a user names: ``.npz`` with ``x``, optional ``y`` and ``group``, ``.npy``, or ``name:split``.

    ``x`` may be of any real or integer type and becomes float32, with its values as they are;
    its first axis counts samples. ``y`` must be integers, ``group`` integers or texts, one per sample.
    Pickled objects are refused.

    Raises:
        ParameterError: the spec has neither form.
        CalibrationError: the file is missing or malformed; all its faults in one message.
    """
    path = Path(spec)
    if path.suffix not in (".npz", ".npy"):
        return load(*parse_spec(str(spec)))
    arrays = read_arrays(path)
    x, y, group = arrays.get("x"), arrays.get("y"), arrays.get("group")
    if x is None:
        raise CalibrationError(
            f"data file {path} has no array 'x'",
            f"it has {', '.join(sorted(arrays)) or 'no arrays at all'}",
            hint="numpy.savez(file, x=inputs, y=labels)",
        )
    count = len(x) if x.ndim else 0
    faults = [*faults_of_x(x), *faults_of_y(y, count), *faults_of_group(group, count)]
    if faults:
        raise CalibrationError(f"data file {path} cannot be used", *faults)
    names, groups = (None, None) if group is None else np.unique(group, return_inverse=True)
    return Dataset(
        x.astype(np.float32),
        None if y is None else y.astype(np.int64),
        path.name,
        "all",
        None if groups is None else groups.astype(np.int64),
        () if names is None else tuple(str(n) for n in names),
    )


# --- the known data sets -----------------------------------------------------------------------


def _digits(split: str) -> Part:
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise CalibrationError(
            "the data set 'digits' comes with scikit-learn, which is not installed",
            hint="pip install 'pi-compiler[data]'",
        ) from None
    bunch = load_digits()
    labels = np.asarray(bunch.target, dtype=np.int64)
    rows = turns(labels, split, _CALIBRATION_DIGITS)
    return scaled(np.asarray(bunch.images)[rows][:, None], labels[rows], 16.0)


@dataclass(frozen=True, slots=True)
class KnownData:
    """A data set that ``load`` knows.

    Attributes:
        quoted: what figures on it are quoted as.
        files: what it needs in a data folder.
        read: split -> samples.
        package: the import that it needs beyond numpy, "" for none.
    """

    quoted: str
    files: tuple[RemoteFile, ...]
    read: Callable[[str], Part]
    package: str = ""


DATASETS: Final[Mapping[str, KnownData]] = MappingProxyType(
    {
        "digits": KnownData("Digits (8×8)", (), _digits, "sklearn"),
        "mnist": KnownData("MNIST", tuple(MNIST.values()), partial(mnist, MNIST)),
        "fashion_mnist": KnownData("Fashion-MNIST", tuple(FASHION_MNIST.values()), partial(mnist, FASHION_MNIST)),
        "cifar10-binary": KnownData("CIFAR-10", (cifar.BINARY,), cifar.binary),
        "cifar10-jpeg": KnownData("CIFAR-10 (JPEG)", (cifar.JPEG,), cifar.jpeg, "PIL"),
        "cifar10-lossless": KnownData("CIFAR-10 (first 4,000 + 100 images)", cifar.LOSSLESS, cifar.lossless),
        "adult": KnownData("UCI Adult", (tables.ADULT,), partial(tables.adult, group="sex")),
        "adult-race": KnownData("UCI Adult", (tables.ADULT,), partial(tables.adult, group="race")),
        "adult-age": KnownData("UCI Adult", (tables.ADULT,), partial(tables.adult, group="age")),
        "sentiment": KnownData("UCI sentiment sentences", sentences.SENTENCES, sentences.sentences),
    }
)
"""The known data sets by name."""

ALIASES: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {"cifar10": ("cifar10-binary", "cifar10-jpeg", "cifar10-lossless")}
)
"""Names for whatever form of a data set a machine has, the best first."""


def _known() -> str:
    return ", ".join((*DATASETS, *ALIASES))
