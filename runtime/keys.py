"""Files of keys and ciphertexts: nothing half-written, nothing damaged goes unnoticed.

A sealed file is what a library wrote, followed by the SHA-256 of it. A flipped byte in a key would
otherwise only show as a wrong answer. The digest guards against accidents, not against an enemy:
evaluation keys and ciphertexts are the sender's to authenticate.

A folder of evaluation keys holds sealed files and ``keys.json``, which says what they are for.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pi_compiler.errors import ArtifactError, ExecutionError, ParameterError, PiError
from pi_compiler.ir.params import Params, security_bits

VERSION = 1
MANIFEST = "keys.json"
_DIGEST = hashlib.sha256().digest_size
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a folder of evaluation keys is for.

    Attributes:
        backend: the backend that made them.
        primes: the modulus chain and the special primes, as one list.
        log_n: log2 of the ring degree.
        rotations: rotation amounts, in 1 .. slots - 1.
        relinearize: whether there is a relinearization key.
    """

    backend: str
    primes: tuple[int, ...]
    log_n: int
    rotations: frozenset[int]
    relinearize: bool


def manifest(backend: str, params: Params, rotations: frozenset[int], relinearize: bool) -> Manifest:
    """What ``keys.json`` says of such keys."""
    return Manifest(backend, (*params.primes, *params.special), params.log_n, rotations, relinearize)


def normalize(rotations: Iterable[int], slots: int) -> frozenset[int]:
    """Rotation amounts of either sign as amounts in 1 .. slots - 1."""
    return frozenset(k % slots for k in rotations) - {0}


def highest_levels(rotations: Iterable[int] | Mapping[int, int], params: Params) -> dict[int, int]:
    """Per amount in 1 .. slots - 1 the highest level that its key serves: the top one where none is given.

    Raises:
        ExecutionError: there is no such level.
    """
    found: dict[int, int] = {}
    for step in rotations:
        level = rotations[step] if isinstance(rotations, Mapping) else params.max_level
        if not 0 <= level <= params.max_level:
            raise ExecutionError(f"a key for rotations by {step} at level {level}: there is no such level")
        if k := step % params.slots:
            found[k] = max(level, found.get(k, 0))
    return dict(sorted(found.items()))


def require_secure(params: Params, *, insecure: bool) -> None:
    """Refuse parameters below 128 bits, whatever they say of themselves, unless allowed.

    Raises:
        ParameterError: the modulus is too large for the ring, and ``insecure`` is false.
    """
    if insecure or security_bits(params.log_n, params.log_qp):
        return
    raise ParameterError(
        f"these parameters give less than 128-bit security: log QP is {params.log_qp:.0f} "
        f"at ring degree 2^{params.log_n}",
        hint="compile for 128 bits; or allow insecure parameters for experiments",
    )


def write_sealed(path: Path, write: Callable[[str], None], *, private: bool = False) -> int:
    """Like ``write_whole``, with the file's digest behind what the library wrote."""

    def seal(name: str) -> None:
        write(name)
        part = Path(name)
        digest = _digest(part, part.stat().st_size)
        with part.open("ab") as file:
            file.write(digest)

    return write_whole(path, seal, private=private)


def write_whole(path: Path, write: Callable[[str], None], *, private: bool = False) -> int:
    """Have a library write a file, and only when all of it is on the disk give it its name.

    Args:
        path: the final name; an existing file is replaced, unless ``private``.
        write: writes to the file name it is given.
        private: only the owner may read the file, from its first byte on; never replaces a file.

    Returns:
        Bytes written.

    Raises:
        PiError: the file cannot be written.
    """
    if private and path.exists():
        raise PiError(f"{str(path)!r} exists; a secret key is never overwritten", hint="another name")
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.unlink(missing_ok=True)
        os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600 if private else 0o644))
        write(str(part))
        with part.open("ab") as file:
            os.fsync(file.fileno())
        size = part.stat().st_size
        part.rename(path)
    except (OSError, RuntimeError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise PiError(f"cannot write {str(path)!r}: {why}") from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
    return size


def check_sealed(path: Path, what: str) -> None:
    """Check a sealed file before a library reads it.

    Args:
        path: the file.
        what: what it should be, for the message.

    Raises:
        ArtifactError: it is missing, unreadable, cut off or damaged.
    """
    try:
        size = path.stat().st_size
        if size <= _DIGEST:
            raise ArtifactError(f"{what} {str(path)!r} is cut off: {size} bytes")
        with path.open("rb") as file:
            file.seek(size - _DIGEST)
            found = file.read()
        if found != _digest(path, size - _DIGEST):
            raise ArtifactError(
                f"{what} {str(path)!r} is damaged: its checksum does not match its content",
                hint="write or transfer it again",
            )
    except OSError as error:
        raise ArtifactError(f"cannot read {what} {str(path)!r}: {error.strerror}") from error


def _digest(path: Path, length: int) -> bytes:
    state = hashlib.sha256()
    with path.open("rb") as file:
        while length > 0 and (block := file.read(min(length, _CHUNK))):
            state.update(block)
            length -= len(block)
    return state.digest()


def write_manifest(folder: Path, manifest: Manifest) -> int:
    """Write ``keys.json``, which makes a folder of keys complete; returns its bytes.

    Raises:
        PiError: it cannot be written.
    """
    text = json.dumps(
        {
            "version": VERSION,
            "backend": manifest.backend,
            "log_n": manifest.log_n,
            "primes": list(manifest.primes),
            "rotations": sorted(manifest.rotations),
            "relinearize": manifest.relinearize,
        }
    )
    part = folder / f".{MANIFEST}.part"
    try:
        part.write_text(text, encoding="utf-8")
        part.rename(folder / MANIFEST)
    except OSError as error:
        raise PiError(f"cannot write {str(folder / MANIFEST)!r}: {error.strerror}") from error
    return len(text.encode())


def make_folder(folder: Path) -> None:
    """A folder for keys, which is incomplete until its manifest is written.

    Raises:
        PiError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / MANIFEST).unlink(missing_ok=True)
    except OSError as error:
        raise PiError(f"cannot write the folder {str(folder)!r}: {error.strerror}") from error


def read_manifest(folder: Path, backend: str, params: Params) -> Manifest:
    """Read ``keys.json`` and check that the keys fit.

    Raises:
        ArtifactError: it is missing or malformed, or written by a newer version.
        ExecutionError: the keys are for another backend or other parameters.
    """
    path = folder / MANIFEST
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        version = int(raw["version"])
        if version > VERSION:
            raise ArtifactError(
                f"the keys in {str(folder)!r} are written by a newer version",
                f"format {version}, this one reads up to {VERSION}",
            )
        found = Manifest(
            str(raw["backend"]),
            tuple(int(q) for q in raw["primes"]),
            int(raw["log_n"]),
            frozenset(int(k) for k in raw["rotations"]),
            bool(raw["relinearize"]),
        )
    except OSError as error:
        raise ArtifactError(f"no evaluation keys in {str(folder)!r}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"{str(path)!r} is damaged: {error}") from error
    if found.backend != backend:
        raise ExecutionError(f"the keys in {str(folder)!r} are for backend {found.backend!r}, not {backend!r}")
    if (found.log_n, found.primes) != (params.log_n, (*params.primes, *params.special)):
        raise ExecutionError(
            f"the keys in {str(folder)!r} are for other parameters",
            f"theirs: N = 2^{found.log_n}, {len(found.primes)} primes; "
            f"needed: N = 2^{params.log_n}, {len(params.primes) + len(params.special)} primes",
            hint="keys made for this model",
        )
    return found
