"""Where data files come from: a folder, the user's cache, or the data set's own place, by checksum.

Every file is named by its sha256. A file that is there but has another checksum is an error, never
a reason to look further: a half-copied data set should be noticed, not worked around.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pi_compiler.errors import CalibrationError

__all__ = ["RemoteFile", "cache_folder", "find", "locate", "search_folders"]

_CHUNK = 1 << 20
_TIMEOUT_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """One file of a data set.

    Attributes:
        path: its path below a data folder, with forward slashes, such as ``mnist/t10k-labels-idx1-ubyte.gz``.
        sha256: its checksum, 64 hexadecimal digits.
        urls: https addresses that serve it, the preferred one first; empty when none does.
    """

    path: str
    sha256: str
    urls: tuple[str, ...] = ()


def cache_folder(environ: Mapping[str, str] | None = None) -> Path:
    """The user's cache: ``$XDG_CACHE_HOME/pi-compiler``, else ``~/.cache/pi-compiler``."""
    environ = os.environ if environ is None else environ
    base = environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "pi-compiler"


def search_folders(environ: Mapping[str, str] | None = None) -> tuple[Path, ...]:
    """Folders that are searched, in order: ``$PI_DATA_DIR`` when it is set, then the user's cache."""
    environ = os.environ if environ is None else environ
    given = environ.get("PI_DATA_DIR")
    cache = cache_folder(environ)
    return (Path(given), cache) if given else (cache,)


def find(file: RemoteFile) -> Path | None:
    """A local copy with the right checksum, or None when there is no copy at all.

    Raises:
        CalibrationError: a copy is there and its checksum is another.
    """
    for folder in search_folders():
        candidate = folder / file.path
        if candidate.is_file():
            _check(candidate, file)
            return candidate
    return None


def locate(file: RemoteFile) -> Path:
    """A local copy with the right checksum, downloaded into the user's cache if there is none.

    Raises:
        CalibrationError: not found and not to be downloaded, or a checksum differs.
    """
    found = find(file)
    return _download(file) if found is None else found


def _check(path: Path, file: RemoteFile) -> None:
    found = _sha256(path)
    if found != file.sha256:
        raise CalibrationError(
            f"data file {path} is damaged or another version: its checksum differs",
            f"found sha256 {found}",
            f"needed       {file.sha256}",
            hint="delete it, so that a fresh copy is fetched",
        )


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise CalibrationError(f"data file {path} cannot be read: {error.strerror or error}") from error


def _download(file: RemoteFile) -> Path:
    target = cache_folder() / file.path
    searched = ", ".join(str(folder) for folder in search_folders())
    if not file.urls:
        raise CalibrationError(
            f"data file {file.path} was not found, and there is no place to download it from",
            f"searched {searched}",
            hint=f"put the file (sha256 {file.sha256}) there, or set PI_DATA_DIR to a folder that has it",
        )
    faults: list[str] = []
    for url in file.urls:
        try:
            return _fetch(url, target, file.sha256)
        except (OSError, ValueError) as error:
            reason = error.reason if isinstance(error, urllib.error.URLError) else error
            faults.append(f"{url}: {reason}")
    raise CalibrationError(
        f"data file {file.path} was not found and could not be downloaded",
        f"searched {searched}",
        *faults,
        hint="connect to the internet once, or set PI_DATA_DIR to a folder that has the file",
    )


def _fetch(url: str, target: Path, sha256: str) -> Path:
    """Download to a temporary neighbor, check, then rename: the target is whole or not there."""
    target.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    partial = Path(name)
    try:
        with os.fdopen(handle, "wb") as out, urllib.request.urlopen(url, timeout=_TIMEOUT_SECONDS) as response:
            while chunk := response.read(_CHUNK):
                digest.update(chunk)
                out.write(chunk)
        if digest.hexdigest() != sha256:
            raise ValueError(f"the downloaded file has sha256 {digest.hexdigest()}, needed {sha256}")
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
    return target
