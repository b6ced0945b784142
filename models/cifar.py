"""CIFAR-10 (Krizhevsky, 2009) in the three forms in which it is around.

The official binary batches are exact. The JPEG copy lost about 7.6/255 (root mean square) per value, so
figures on it are compared with nothing but themselves. The third form has exact pixels of few images.
"""

from __future__ import annotations

import io
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pi_compiler.errors import CalibrationError
from pi_compiler.models.dataset import CALIBRATION, Part, last_rows, scaled, spread
from pi_compiler.models.numpy_files import read_arrays
from pi_compiler.models.sources import RemoteFile, locate

__all__ = ["BINARY", "CLASSES", "JPEG", "LOSSLESS", "binary", "jpeg", "lossless", "read_batches"]

CLASSES: Final = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

# The sha256 is the one that several projects publish beside the official md5
# c32a1d4ab5d03f1284b67883e8d87530 of this file of 170,052,171 bytes.
BINARY: Final = RemoteFile(
    "cifar10/cifar-10-binary.tar.gz",
    "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
    ("https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",),
)
JPEG: Final = RemoteFile(
    "cifar10/cifar10_jpg.tar.gz", "1fde636a137192241399fe9928af8c30ba7c867ca7901121faa671a7363be792"
)
LOSSLESS: Final = (
    RemoteFile(
        "cifar10/train_first4000_lossless.npz", "f21ba659b327871ec330654ccdc95e0da52b1b39c04c467a581440516466148c"
    ),
    RemoteFile(
        "cifar10/test_first100_lossless.npz", "4336af6c937968cac6f32d51f9d06fb4e415427eb65d9c0e9a6ea6a313bf7b2d"
    ),
)

_FOLDER = "cifar-10-batches-bin"
_RECORD = 1 + 3 * 32 * 32
_PER_BATCH = 10_000
_VALIDATION = 5_000


def binary(split: str) -> Part:
    """Official batches: the last 5,000 training images validate."""
    names = ["test_batch.bin"] if split == "test" else [f"data_batch_{i}.bin" for i in range(1, 6)]
    x, y = read_batches(locate(BINARY), names, _PER_BATCH)
    rows = last_rows(split, len(x), _VALIDATION)
    return scaled(x[rows], y[rows], 255.0)


def read_batches(path: Path, names: list[str], images: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Pixels (n, 3, 32, 32) and labels (n,) of batches of the binary archive, in the order of ``names``.

    A record is one byte of label and 3,072 of pixels: the red plane, the green, the blue, each row by row.

    Args:
        path: the .tar.gz archive.
        names: file names inside its folder.
        images: in each batch.

    Raises:
        CalibrationError: damaged, a batch is missing or has another length, or a label is none of ten.
    """
    found: dict[str, bytes] = {}
    faults = []
    for name, raw in _members(path):
        found[name] = raw
    for name in names:
        if name not in found:
            faults.append(f"there is no {_FOLDER}/{name}")
        elif len(found[name]) != images * _RECORD:
            faults.append(f"{name} has {len(found[name])} bytes, needed {images * _RECORD} for {images} images")
        elif max(found[name][::_RECORD]) >= len(CLASSES):
            faults.append(f"{name} has label {max(found[name][::_RECORD])}, needed 0 to 9")
    if faults:
        raise CalibrationError(f"archive {path} is not the binary version of CIFAR-10", *faults)
    records = np.frombuffer(b"".join(found[n] for n in names), np.uint8).reshape(-1, _RECORD)
    return records[:, 1:].reshape(-1, 3, 32, 32), records[:, 0]


def _members(path: Path) -> Iterator[tuple[str, bytes]]:
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                stream = archive.extractfile(member) if member.name.endswith(".bin") else None
                if stream is not None:
                    yield Path(member.name).name, stream.read()
    except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
        raise CalibrationError(f"archive {path} cannot be unpacked", str(error)) from error


def lossless(split: str) -> Part:
    """Exact pixels of the first 4,000 training and 100 test images: the last 1,000 training images validate."""
    train, test = LOSSLESS
    arrays = read_arrays(locate(test if split == "test" else train))
    rows = last_rows(split, len(arrays["images"]), 1_000)
    return scaled(arrays["images"][rows].transpose(0, 3, 1, 2), arrays["labels"][rows], 255.0)


def jpeg(split: str) -> Part:
    """Decodes the split's images only; the archive itself has to be read from front to back.

    Of each class's 5,000 training images the last 500 validate.
    """
    try:
        from PIL import Image
    except ImportError:
        raise CalibrationError(
            "the data set 'cifar10-jpeg' needs pillow, which is not installed", hint="pip install 'pi-compiler[data]'"
        ) from None
    wanted = _jpeg_members(split)
    pixels = np.empty((len(wanted), 32, 32, 3), dtype=np.uint8)
    found = 0
    with tarfile.open(locate(JPEG)) as archive:
        for member in archive:
            row = wanted.get(member.name)
            stream = archive.extractfile(member) if row is not None else None
            if row is not None and stream is not None:
                pixels[row] = np.asarray(Image.open(io.BytesIO(stream.read())).convert("RGB"))
                found += 1
    if found != len(wanted):
        raise CalibrationError(f"archive {JPEG.path} has {found} of {len(wanted)} images of split '{split}'")
    labels = np.asarray([CLASSES.index(name.split("/")[1]) for name in wanted])
    return scaled(pixels.transpose(0, 3, 1, 2), labels, 255.0)


def _jpeg_members(split: str) -> dict[str, int]:
    """Archive member -> row, classes in turn, so that any prefix holds all classes alike."""
    folder, numbers = {
        "test": ("test", range(1_000)),
        "validation": ("train", range(4_500, 5_000)),
    }.get(split, ("train", range(4_500)))
    names = [f"{folder}/{label}/{number:04d}.jpg" for number in numbers for label in CLASSES]
    if split == "calibration":
        # spread over images, not over names: a stride that divides by ten would take one class only
        names = [name for i in spread(4_500, CALIBRATION // 10) for name in names[10 * i : 10 * i + 10]]
    return {name: row for row, name in enumerate(names)}
