"""Images in folders named after their classes, in a directory or in a zip or tar archive.

``CLASS/image.png`` each, or ``train/CLASS/...`` and ``test/CLASS/...``; one folder around it all is
fine. Classes and images count in the order of their names. Nothing is unpacked to disk.
"""

from __future__ import annotations

import io
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pi_compiler.errors import CalibrationError
from pi_compiler.models.dataset import Part, held_out_rows, scaled, turns

__all__ = ["ARCHIVES", "ImageFolder", "read_folder"]

ARCHIVES: Final = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
"""Endings of files that are opened as archives of images."""
_IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
_PARTS = ("train", "test")
_FAULTS_SHOWN = 5


@dataclass(frozen=True, slots=True, eq=False)
class ImageFolder:
    """Decoded images.

    Attributes:
        origin: the folder or archive.
        classes: names, by class number.
        pixels: uint8 (n, channels, height, width) per part: ``train`` and ``test``, or ``""`` alone.
        labels: class numbers (n,) per part.
    """

    origin: str
    classes: tuple[str, ...]
    pixels: dict[str, NDArray[np.uint8]]
    labels: dict[str, NDArray[np.int64]]

    def split(self, name: str) -> Part:
        """One split; where there is no part ``test``, every fifth image of a class tests.

        Raises:
            CalibrationError: there is no image in it.
        """
        if "" in self.pixels:
            part, rows = "", turns(self.labels[""], name)
        elif name == "test":
            part, rows = "test", np.arange(len(self.labels["test"]))
        else:
            part, rows = "train", held_out_rows(self.labels["train"], name)
        if not len(rows):
            raise CalibrationError(f"{self.origin} has too few images for split '{name}'")
        return scaled(self.pixels[part][rows], self.labels[part][rows], 255.0)


def read_folder(path: Path) -> ImageFolder:
    """Find and decode all images; gray ones stay gray if all are.

    Raises:
        CalibrationError: pillow is missing, nothing is there, images differ in size or cannot be decoded;
            the first few are named.
    """
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError:
        raise CalibrationError(
            f"images in {path} need pillow, which is not installed", hint="pip install 'pi-compiler[data]'"
        ) from None
    found = _placed(path, sorted(_files(path)))
    images: list[tuple[str, str, str, Image.Image]] = []
    faults = []
    for part, label, name, raw in found:
        try:
            image = Image.open(io.BytesIO(raw))
            image.load()
            images.append((part, label, name, image))
        except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            faults.append(f"{name} is no image that can be decoded: {error}")
    size = images[0][3].size if images else (0, 0)
    faults += [
        f"{name} is {i.size[0]}×{i.size[1]}, the first image is {size[0]}×{size[1]}"
        for _, _, name, i in images
        if i.size != size
    ]
    if len(faults) > _FAULTS_SHOWN:
        faults = [*faults[:_FAULTS_SHOWN], f"and {len(faults) - _FAULTS_SHOWN} more"]
    if faults:
        raise CalibrationError(f"the images in {path} cannot be used", *faults)
    mode = "L" if all(i.mode in ("1", "L") for *_, i in images) else "RGB"
    classes = tuple(sorted({label for _, label, _, _ in images}))
    pixels, labels = {}, {}
    for part in sorted({part for part, *_ in images}):
        mine = [(label, np.asarray(i.convert(mode))) for p, label, _, i in images if p == part]
        stack = np.stack([a for _, a in mine])
        pixels[part] = stack[:, None] if stack.ndim == 3 else stack.transpose(0, 3, 1, 2)
        labels[part] = np.asarray([classes.index(label) for label, _ in mine], dtype=np.int64)
    return ImageFolder(str(path), classes, pixels, labels)


def _files(path: Path) -> Iterator[tuple[str, bytes]]:
    """Names with forward slashes and contents of everything that looks like an image."""
    try:
        if path.is_dir():
            for file in path.rglob("*"):
                if file.suffix.lower() in _IMAGES and file.is_file():
                    yield file.relative_to(path).as_posix(), file.read_bytes()
        elif path.suffix.lower() == ".zip":
            with zipfile.ZipFile(path) as archive:
                for name in archive.namelist():
                    if PurePosixPath(name).suffix.lower() in _IMAGES:
                        yield name, archive.read(name)
        else:
            with tarfile.open(path) as tar:
                for member in tar:
                    wanted = member.isfile() and PurePosixPath(member.name).suffix.lower() in _IMAGES
                    stream = tar.extractfile(member) if wanted else None
                    if stream is not None:
                        yield member.name, stream.read()
    except FileNotFoundError:
        raise CalibrationError(f"there is no folder or archive {path}") from None
    except (OSError, EOFError, zlib.error, tarfile.TarError, zipfile.BadZipFile, RuntimeError) as error:
        raise CalibrationError(f"{path} cannot be read as images in folders", str(error)) from error


def _placed(path: Path, files: list[tuple[str, bytes]]) -> list[tuple[str, str, str, bytes]]:
    """Part, class, name and content of every image.

    Raises:
        CalibrationError: an image lies elsewhere than in a folder of a class.
    """
    split = [([p for p in PurePosixPath(name).parts if p != "."], name, raw) for name, raw in files]
    while split and len({parts[0] for parts, *_ in split}) == 1 and min(len(parts) for parts, *_ in split) > 2:
        split = [(parts[1:], name, raw) for parts, name, raw in split]
    tops = {parts[0] for parts, *_ in split}
    parted = tops == set(_PARTS)
    depth = 3 if parted else 2
    wrong = [name for parts, name, _ in split if len(parts) != depth]
    if wrong or len({parts[-2] for parts, *_ in split if len(parts) > 1}) < 2:
        named = [f"{name} does not" for name in wrong[:_FAULTS_SHOWN]] or [
            f"{len(split)} images in fewer than 2 classes"
        ]
        raise CalibrationError(
            f"{path} has to hold images as CLASS/IMAGE, or as train/CLASS/IMAGE and test/CLASS/IMAGE", *named
        )
    return [(parts[0] if parted else "", parts[-2], name, raw) for parts, name, raw in split]
