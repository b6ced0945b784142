"""Data sets for calibration, evaluation and training, and the user's own ``.npz`` and ``.npy`` files.

Every known data set has four fixed splits. ``train`` trains, ``validation`` chooses, ``calibration``
is an evenly spaced subset of ``train`` (it measures activation ranges), and ``test`` is read for the
final figures only. No split depends on a random generator:

- ``digits`` (scikit-learn's 1,797 optical digits, always there): within each class, of every five
  consecutive samples the first three train, the fourth validates, the fifth tests.
- ``mnist``, ``fashion_mnist`` (60,000 + 10,000): the last 5,000 training images validate.
- ``cifar10-jpeg`` (50,000 + 10,000, compressed with losses): of each class's 5,000 training images
  the last 500 validate.
- ``cifar10-lossless`` (exact pixels of the first 4,000 training and the first 100 test images): the
  last 1,000 training images validate.

Inputs are float32 in [0, 1], sample first, then channel, row, column: digits are divided by 16,
8-bit pixels by 255. Whatever else a network wants (mean, standard deviation) is part of the network.
"""

from __future__ import annotations

import gzip
import importlib.util
import io
import math
import struct
import tarfile
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pi_compiler.errors import CalibrationError, ParameterError
from pi_compiler.models.sources import RemoteFile, find, locate

__all__ = [
    "DATASETS",
    "SPLITS",
    "Dataset",
    "KnownData",
    "is_local",
    "load",
    "parse_spec",
    "read_arrays",
    "read_data",
    "read_idx",
]

SPLITS: Final = ("train", "validation", "test", "calibration")
_VALIDATION = 5_000
_CALIBRATION = 1_000
_CALIBRATION_DIGITS = 512
_Samples: TypeAlias = tuple[NDArray[np.float32], NDArray[np.int64]]
_CIFAR_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


@dataclass(frozen=True, slots=True, eq=False)
class Dataset:
    """Samples, and labels where they are known.

    Attributes:
        x: float32, shape (n, *sample shape).
        y: int64 class numbers, shape (n,), or None for data without labels.
        name: the data set's name or the file's.
        split: one of ``SPLITS``, or ``"all"`` for a user's file.
    """

    x: NDArray[np.float32]
    y: NDArray[np.int64] | None
    name: str
    split: str

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
        return Dataset(self.x[:count], None if self.y is None else self.y[:count], self.name, self.split)


def load(name: str, split: str) -> Dataset:
    """One split of a known data set.

    Shapes: digits (n, 1, 8, 8); mnist and fashion_mnist (n, 1, 28, 28); cifar10-jpeg and
    cifar10-lossless (n, 3, 32, 32), channels red, green, blue. Values are float32 in [0, 1].

    Args:
        name: one of ``DATASETS``.
        split: one of ``SPLITS``.

    Raises:
        ParameterError: unknown name or split.
        CalibrationError: files are missing and cannot be downloaded, or are damaged.
    """
    faults = []
    if name not in DATASETS:
        faults.append(f"no data set is called '{name}'; known: {', '.join(DATASETS)}")
    if split not in SPLITS:
        faults.append(f"no split is called '{split}'; known: {', '.join(SPLITS)}")
    if faults:
        raise ParameterError(f"cannot load '{name}:{split}'", *faults)
    x, y = DATASETS[name].read(split)
    return Dataset(x, y, name, split)


def is_local(name: str) -> bool:
    """Whether ``load`` can read every split of this data set without downloading anything.

    Raises:
        ParameterError: unknown name.
        CalibrationError: a file is there and damaged.
    """
    if name not in DATASETS:
        raise ParameterError(f"no data set is called '{name}'", f"known: {', '.join(DATASETS)}")
    known = DATASETS[name]
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
            f"known names: {', '.join(DATASETS)}; splits: {', '.join(SPLITS)}",
            hint="a path that ends in .npz or .npy, or for example digits:calibration",
        )
    return name, split


def read_data(spec: str | Path) -> Dataset:
    """Data that a user names: a ``.npz`` file with ``x`` and optional ``y``, a ``.npy`` file, or ``name:split``.

    ``x`` may be of any real or integer type and becomes float32, with its values as they are;
    its first axis counts samples. ``y`` must be integers, one per sample. Pickled objects are
    refused.

    Raises:
        ParameterError: the spec has neither form.
        CalibrationError: the file is missing or malformed; all its faults in one message.
    """
    path = Path(spec)
    if path.suffix not in (".npz", ".npy"):
        return load(*parse_spec(str(spec)))
    arrays = read_arrays(path)
    x, y = arrays.get("x"), arrays.get("y")
    if x is None:
        raise CalibrationError(
            f"data file {path} has no array 'x'",
            f"it has {', '.join(sorted(arrays)) or 'no arrays at all'}",
            hint="numpy.savez(file, x=inputs, y=labels)",
        )
    faults = [*_faults_of_x(x), *_faults_of_y(y, len(x) if x.ndim else 0)]
    if faults:
        raise CalibrationError(f"data file {path} cannot be used", *faults)
    return Dataset(x.astype(np.float32), None if y is None else y.astype(np.int64), path.name, "all")


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


def _faults_of_x(x: NDArray[np.generic]) -> list[str]:
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


def _faults_of_y(y: NDArray[np.generic] | None, samples: int) -> list[str]:
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


# --- the known data sets -----------------------------------------------------------------------


def _spread(count: int, wanted: int) -> NDArray[np.int64]:
    """``wanted`` evenly spaced indices of ``count``, all of them if there are fewer."""
    wanted = min(wanted, count)
    return np.arange(wanted, dtype=np.int64) * count // wanted


def _labeled(pixels: NDArray[np.generic], y: NDArray[np.generic], scale: float) -> _Samples:
    x = np.asarray(pixels, dtype=np.float32)
    x /= np.float32(scale)
    return x, np.asarray(y, dtype=np.int64)


def _digits(split: str) -> _Samples:
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise CalibrationError(
            "the data set 'digits' comes with scikit-learn, which is not installed",
            hint="pip install 'pi-compiler[data]'",
        ) from None
    bunch = load_digits()
    labels = np.asarray(bunch.target, dtype=np.int64)
    turn = np.empty(len(labels), dtype=np.int64)
    for digit in range(10):
        members = np.flatnonzero(labels == digit)
        turn[members] = np.arange(len(members)) % 5
    chosen = {"validation": turn == 3, "test": turn == 4}.get(split, turn < 3)
    rows = np.flatnonzero(chosen)
    if split == "calibration":
        rows = rows[_spread(len(rows), _CALIBRATION_DIGITS)]
    return _labeled(np.asarray(bunch.images)[rows][:, None], labels[rows], 16.0)


def read_idx(path: Path) -> NDArray[np.uint8]:
    """The array of unsigned bytes in a gzipped IDX file, the format of MNIST's official files.

    Raises:
        CalibrationError: truncated, not gzip, or not such an IDX file.
    """
    try:
        with gzip.open(path) as stream:
            raw = stream.read()
    except (OSError, EOFError, zlib.error) as error:
        raise CalibrationError(f"data file {path} cannot be unpacked", str(error)) from error
    if len(raw) < 4 or raw[:3] != b"\x00\x00\x08":
        raise CalibrationError(f"data file {path} is not an IDX file of unsigned bytes", f"it starts with {raw[:4]!r}")
    header = 4 + 4 * raw[3]
    shape = struct.unpack(f">{raw[3]}I", raw[4:header]) if len(raw) >= header else ()
    expected = header + math.prod(shape)
    if not shape or len(raw) != expected:
        raise CalibrationError(
            f"data file {path} has the wrong length", f"shape {shape} needs {expected} bytes, found {len(raw)}"
        )
    return np.frombuffer(raw, dtype=np.uint8, offset=header).reshape(shape)


def _idx_files(folder: str, urls: Iterable[str], sums: dict[str, str]) -> dict[str, RemoteFile]:
    bases = tuple(urls)
    return {
        name: RemoteFile(f"{folder}/{name}.gz", digest, tuple(f"{base}{name}.gz" for base in bases))
        for name, digest in sums.items()
    }


# The original host of MNIST no longer serves the files; these two copies are what the large
# frameworks download, byte for byte the originals.
_MNIST = _idx_files(
    "mnist",
    ("https://ossci-datasets.s3.amazonaws.com/mnist/", "https://storage.googleapis.com/cvdf-datasets/mnist/"),
    {
        "train-images-idx3-ubyte": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        "train-labels-idx1-ubyte": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        "t10k-images-idx3-ubyte": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        "t10k-labels-idx1-ubyte": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
    },
)
_FASHION_MNIST = _idx_files(
    "fashion_mnist",
    ("https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",),
    {
        "train-images-idx3-ubyte": "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
        "train-labels-idx1-ubyte": "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
        "t10k-images-idx3-ubyte": "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
        "t10k-labels-idx1-ubyte": "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
    },
)
_CIFAR_JPEG = RemoteFile(
    "cifar10/cifar10_jpg.tar.gz", "1fde636a137192241399fe9928af8c30ba7c867ca7901121faa671a7363be792"
)
_CIFAR_TRAIN = RemoteFile(
    "cifar10/train_first4000_lossless.npz", "f21ba659b327871ec330654ccdc95e0da52b1b39c04c467a581440516466148c"
)
_CIFAR_TEST = RemoteFile(
    "cifar10/test_first100_lossless.npz", "4336af6c937968cac6f32d51f9d06fb4e415427eb65d9c0e9a6ea6a313bf7b2d"
)


def _idx(files: dict[str, RemoteFile], split: str) -> _Samples:
    part = "t10k" if split == "test" else "train"
    images = read_idx(locate(files[f"{part}-images-idx3-ubyte"]))
    labels = read_idx(locate(files[f"{part}-labels-idx1-ubyte"]))
    rows = _rows(split, len(images), _VALIDATION)
    return _labeled(images[rows][:, None], labels[rows], 255.0)


def _rows(split: str, count: int, validation: int) -> NDArray[np.int64]:
    """The rule for data sets in random order: the last ``validation`` of the training part validate."""
    if split == "test":
        return np.arange(count)
    if split == "validation":
        return np.arange(count - validation, count)
    if split == "calibration":
        return _spread(count - validation, _CALIBRATION)
    return np.arange(count - validation)


def _cifar_lossless(split: str) -> _Samples:
    arrays = read_arrays(locate(_CIFAR_TEST if split == "test" else _CIFAR_TRAIN))
    rows = _rows(split, len(arrays["images"]), 1_000)
    return _labeled(arrays["images"][rows].transpose(0, 3, 1, 2), arrays["labels"][rows], 255.0)


def _cifar_jpeg(split: str) -> _Samples:
    """Decodes the split's images only; the archive itself has to be read from front to back."""
    try:
        from PIL import Image
    except ImportError:
        raise CalibrationError(
            "the data set 'cifar10-jpeg' needs pillow, which is not installed", hint="pip install 'pi-compiler[data]'"
        ) from None
    wanted = _cifar_members(split)
    pixels = np.empty((len(wanted), 32, 32, 3), dtype=np.uint8)
    found = 0
    with tarfile.open(locate(_CIFAR_JPEG)) as archive:
        for member in archive:
            row = wanted.get(member.name)
            stream = archive.extractfile(member) if row is not None else None
            if row is not None and stream is not None:
                pixels[row] = np.asarray(Image.open(io.BytesIO(stream.read())).convert("RGB"))
                found += 1
    if found != len(wanted):
        raise CalibrationError(f"archive {_CIFAR_JPEG.path} has {found} of {len(wanted)} images of split '{split}'")
    labels = np.asarray([_CIFAR_CLASSES.index(name.split("/")[1]) for name in wanted])
    return _labeled(pixels.transpose(0, 3, 1, 2), labels, 255.0)


def _cifar_members(split: str) -> dict[str, int]:
    """Archive member -> row, classes in turn, so that any prefix holds all classes alike."""
    folder, numbers = {
        "test": ("test", range(1_000)),
        "validation": ("train", range(4_500, 5_000)),
    }.get(split, ("train", range(4_500)))
    names = [f"{folder}/{label}/{number:04d}.jpg" for number in numbers for label in _CIFAR_CLASSES]
    if split == "calibration":
        # spread over images, not over names: a stride that divides by ten would take one class only
        names = [name for i in _spread(4_500, _CALIBRATION // 10) for name in names[10 * i : 10 * i + 10]]
    return {name: row for row, name in enumerate(names)}


@dataclass(frozen=True, slots=True)
class KnownData:
    """A data set that ``load`` knows.

    Attributes:
        files: what it needs in a data folder.
        read: split -> (x, y).
        package: the import that it needs beyond numpy, "" for none.
    """

    files: tuple[RemoteFile, ...]
    read: Callable[[str], _Samples]
    package: str = ""


DATASETS: Final[Mapping[str, KnownData]] = MappingProxyType(
    {
        "digits": KnownData((), _digits, "sklearn"),
        "mnist": KnownData(tuple(_MNIST.values()), lambda split: _idx(_MNIST, split)),
        "fashion_mnist": KnownData(tuple(_FASHION_MNIST.values()), lambda split: _idx(_FASHION_MNIST, split)),
        "cifar10-jpeg": KnownData((_CIFAR_JPEG,), _cifar_jpeg, "PIL"),
        "cifar10-lossless": KnownData((_CIFAR_TRAIN, _CIFAR_TEST), _cifar_lossless),
    }
)
"""The known data sets by name."""
