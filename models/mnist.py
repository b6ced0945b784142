"""MNIST and Fashion-MNIST: gzipped IDX files of 60,000 + 10,000 gray images, 28×28."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pi_compiler.errors import CalibrationError
from pi_compiler.models.dataset import Part, last_rows, scaled
from pi_compiler.models.sources import RemoteFile, locate

__all__ = ["FASHION_MNIST", "MNIST", "mnist", "read_idx"]

_VALIDATION = 5_000


def mnist(files: Mapping[str, RemoteFile], split: str) -> Part:
    """One split of a data set in these files; the last 5,000 training images validate.

    Args:
        files: ``MNIST`` or ``FASHION_MNIST``.
        split: one of ``SPLITS``.

    Raises:
        CalibrationError: files are missing or damaged.
    """
    part = "t10k" if split == "test" else "train"
    images = read_idx(locate(files[f"{part}-images-idx3-ubyte"]))
    labels = read_idx(locate(files[f"{part}-labels-idx1-ubyte"]))
    rows = last_rows(split, len(images), _VALIDATION)
    return scaled(images[rows][:, None], labels[rows], 255.0)


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
MNIST: Final = _idx_files(
    "mnist",
    ("https://ossci-datasets.s3.amazonaws.com/mnist/", "https://storage.googleapis.com/cvdf-datasets/mnist/"),
    {
        "train-images-idx3-ubyte": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        "train-labels-idx1-ubyte": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        "t10k-images-idx3-ubyte": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        "t10k-labels-idx1-ubyte": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
    },
)
FASHION_MNIST: Final = _idx_files(
    "fashion_mnist",
    ("https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",),
    {
        "train-images-idx3-ubyte": "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
        "train-labels-idx1-ubyte": "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
        "t10k-images-idx3-ubyte": "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
        "t10k-labels-idx1-ubyte": "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
    },
)
