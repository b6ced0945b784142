"""Output files: checked before the long work begins, then written whole or not at all."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

from pi_compiler.errors import ParameterError


def check_file(path: Path) -> None:
    """Fail now if a file could not be written later; its folder must exist.

    Raises:
        ParameterError: it is a folder, or its folder is missing or not writable.
    """
    if path.is_dir():
        raise ParameterError(f"cannot write {path}: it is a folder")
    if not path.parent.is_dir():
        raise ParameterError(f"cannot write {path}: there is no folder {path.parent}", hint=f"mkdir -p {path.parent}")
    _probe(path, path.parent)


def check_folder(path: Path) -> None:
    """Fail now if a folder could not be made or written into later; missing parents are made then.

    Raises:
        ParameterError: it, or the closest parent that exists, is a file or is not writable.
    """
    place = path
    while not place.exists() and place != place.parent:
        place = place.parent
    if not place.is_dir():
        raise ParameterError(f"cannot write {path}: {place} is not a folder")
    # An existing folder is replaced by renaming, which its parent must allow.
    _probe(path, place.resolve().parent if place == path else place)


def make_folder(path: Path) -> None:
    """Make a folder and its parents.

    Raises:
        ParameterError: it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ParameterError(f"cannot write {path}: {error.strerror or error}") from error


def _probe(path: Path, folder: Path) -> None:
    """Only trying tells: permission bits say nothing about read-only file systems."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ParameterError(f"cannot write {path}: {error.strerror or error}") from error


def write(path: Path, content: bytes | Iterable[str]) -> None:
    """Write a file beside its place and move it there, so that nobody ever sees half of it.

    Args:
        path: where.
        content: bytes, or lines without their newlines.

    Raises:
        ParameterError: it cannot be written.
    """
    staging = ""
    try:
        handle, staging = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            if isinstance(content, bytes):
                file.write(content)
            else:
                file.writelines(f"{line}\n".encode() for line in content)
        os.chmod(staging, 0o666 & ~_umask())
        os.replace(staging, path)
        staging = ""
    except OSError as error:
        raise ParameterError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        if staging:
            Path(staging).unlink(missing_ok=True)


def write_json(path: Path, value: object) -> None:
    """Write a value as JSON; a number that JSON has no form for is a fault of ours.

    Raises:
        ParameterError: the file cannot be written.
    """
    write(path, [json.dumps(value, indent=1, allow_nan=False)])


def _umask() -> int:
    """The process's mask, which can only be read by setting it."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
