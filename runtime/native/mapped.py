"""Evaluation keys as they are computed with, in one file that is mapped and not read.

Seeded keys are what is sent; expanding them takes seconds per gigabyte and memory that is the process's own.
The evaluating side does it once, key by key, into one contiguous array behind a line of JSON:

    magic, JSON padded with blanks to a page, keys one after the other, CRC-32 of each key, SHA-256 of all
    that is neither a key nor this digest

Opening checks everything but the keys; each key is checked when it is first used, its checksum and every
residue against its modulus. Pages are the operating system's: shared between processes, dropped and read
again when memory is short. A file that is cut off while it is mapped would end the process at the next read;
so files are written beside their place, never written into, and their length is compared before every use of
a key, which leaves the length of one operation for somebody to do it in.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import struct
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from pi_compiler.errors import ArtifactError
from pi_compiler.ir.params import Params
from pi_compiler.runtime import keys as files
from pi_compiler.runtime.native.material import (
    CONJUGATE,
    MAPPED,
    RELINEARIZE,
    ROTATIONS,
    NativeKeys,
    NativeRing,
    WireKeys,
    open_wire,
)

if TYPE_CHECKING:
    from pi_compiler.runtime.native._core import Polys

_MAGIC = b"pi-compiler native mapped 1\n"
_PAGE = 4096
_LONGEST_HEADER = 1 << 20
_HINT = "delete it: it is made again from the keys that were sent"
_KIND = "mapped keys"

_Entry: TypeAlias = tuple[str, int, int]
"""The file that a key was sent in, its rotation amount (0 for others), the highest level it serves."""


def map_keys(ring: NativeRing, folder: Path) -> NativeKeys:
    """Evaluation keys of a folder, mapped; expanded first where that was not done with these keys.

    The seeded files may be deleted afterwards.

    Raises:
        ArtifactError: the keys are damaged or incomplete.
        ExecutionError: they are for other parameters.
    """
    listed = files.read_manifest(folder, "native", ring.params)
    path = folder / MAPPED
    seeded = any((folder / name).exists() for name in (ROTATIONS, RELINEARIZE, CONJUGATE))
    if not path.exists() or (seeded and _Opened(ring, path).origin != _origin(folder)):
        _, wire = open_wire(ring, folder)
        _expand(ring, path, wire, _origin(folder))
    opened = _Opened(ring, path)
    rotation = {step: key for (name, step, _), key in opened.keys.items() if name == ROTATIONS}
    others = {name: key for (name, _, _), key in opened.keys.items() if name != ROTATIONS}
    lacking = listed.rotations - rotation.keys()
    if lacking or (listed.relinearize and RELINEARIZE not in others):
        raise ArtifactError(f"{str(path)!r} lacks keys that the folder lists", hint=_HINT)
    return NativeKeys(
        ring,
        {step: rotation[step] for step in listed.rotations},
        others.get(RELINEARIZE) if listed.relinearize else None,
        others.get(CONJUGATE),
        opened,
    )


def _origin(folder: Path) -> str:
    """What tells these seeded keys from others: their headers, which hold the seeds."""
    state = hashlib.sha256()
    for name in (ROTATIONS, RELINEARIZE, CONJUGATE):
        try:
            with (folder / name).open("rb") as file:
                file.readline()
                state.update(file.readline(_LONGEST_HEADER))
        except FileNotFoundError:
            state.update(b"\n")
        except OSError as error:
            raise ArtifactError(f"cannot read {str(folder / name)!r}: {error.strerror}") from error
    return state.hexdigest()


def _expand(ring: NativeRing, path: Path, wire: Mapping[str, WireKeys], origin: str) -> None:
    """Write the mapped file, one key in memory at a time."""
    entries = [(name, step, level) for name, keys in wire.items() for step, (level, _) in keys.seeds.items()]
    head = _header(ring.params, entries, origin)

    def put(name: str) -> None:
        ends: list[bytes] = []
        with open(name, "wb") as file:
            file.write(head)
            for keys in wire.values():
                for _, key in keys:
                    words = np.asarray(key).data.cast("B")
                    file.write(words)
                    ends.append(struct.pack("<I", zlib.crc32(words)))
            end = b"".join(ends)
            file.write(end + hashlib.sha256(head + end).digest())

    files.write_whole(path, put)


def _header(params: Params, entries: list[_Entry], origin: str) -> bytes:
    named = {"kind": _KIND, "log_n": params.log_n, "primes": params.primes, "special": params.special}
    named |= {"digit": params.digit, "origin": origin, "keys": entries}
    head = _MAGIC + json.dumps(named).encode()
    return head + b" " * (-(len(head) + 1) % _PAGE) + b"\n"


class _Opened:
    """A mapped file of keys.

    Attributes:
        origin: see ``_origin``.
        keys: per entry its key, which nobody has looked at yet.
    """

    __slots__ = ("_checked", "_file", "_path", "_ring", "_size", "_sums", "keys", "origin")

    def __init__(self, ring: NativeRing, path: Path) -> None:
        self._ring, self._path = ring, path
        self._checked: set[int] = set()
        try:
            self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise ArtifactError(f"cannot read {str(path)!r}: {error.strerror}") from error
        try:
            self._size = os.fstat(self._file).st_size
            whole = memoryview(mmap.mmap(self._file, 0, access=mmap.ACCESS_READ))
            self.origin, self.keys, self._sums = self._parse(whole)
        except OSError as error:
            raise ArtifactError(f"cannot map {str(path)!r}: {error.strerror}") from error
        except (ValueError, KeyError, TypeError, OverflowError, MemoryError) as error:
            raise ArtifactError(
                f"{str(path)!r} is not a file of mapped keys for these parameters: {error}", hint=_HINT
            ) from error

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            os.close(self._file)

    def _parse(self, whole: memoryview) -> tuple[str, dict[_Entry, Polys], dict[int, int]]:
        p = self._ring.params
        if bytes(whole[: len(_MAGIC)]) != _MAGIC:
            raise ValueError("it is none")
        line = bytes(whole[len(_MAGIC) : len(_MAGIC) + _LONGEST_HEADER]).partition(b"\n")[0]
        header = json.loads(line)
        if not isinstance(header, dict) or header.get("kind") != _KIND:
            raise ValueError("it holds something else")
        found = (header.get("log_n"), header.get("primes"), header.get("special"), header.get("digit"))
        if found != (p.log_n, list(p.primes), list(p.special), p.digit):
            raise ValueError("it is for other parameters")
        entries = list(_entries(p, header["keys"]))
        start = len(_MAGIC) + len(line) + 1
        sizes = [p.key_bytes(level) for _, _, level in entries]
        end = start + sum(sizes)
        digest = hashlib.sha256().digest_size
        if len(whole) != end + 4 * len(entries) + digest:
            raise ValueError(f"it is {len(whole)} bytes long, not {end + 4 * len(entries) + digest}")
        if hashlib.sha256(bytes(whole[:start]) + bytes(whole[end:-digest])).digest() != bytes(whole[-digest:]):
            raise ValueError("its checksum does not match its content")
        sums = struct.unpack(f"<{len(entries)}I", whole[end:-digest])
        keys: dict[_Entry, Polys] = {}
        expected: dict[int, int] = {}
        for entry, size, crc in zip(entries, sizes, sums, strict=True):
            level = entry[2]
            polys = 2 * self._ring.core.digits(level)
            keys[entry] = key = self._ring.core.map(polys, level, True, whole[start : start + size])
            expected[id(key)] = crc
            start += size
        return str(header["origin"]), keys, expected

    def check(self, key: Polys) -> None:
        if os.fstat(self._file).st_size != self._size:
            raise ArtifactError(f"{str(self._path)!r} was changed while it was in use", hint=_HINT)
        if id(key) in self._checked:
            return
        if zlib.crc32(memoryview(key).cast("B")) != self._sums.get(id(key)) or not self._ring.core.valid(key):
            raise ArtifactError(f"a key in {str(self._path)!r} is damaged: it is not what was written", hint=_HINT)
        self._checked.add(id(key))


def _entries(params: Params, listed: object) -> Iterator[_Entry]:
    """The list of keys that a header holds, checked."""
    if not isinstance(listed, list):
        raise ValueError("its list of keys is malformed")
    seen: set[tuple[str, int]] = set()
    for entry in listed:
        name, step, level = entry if isinstance(entry, list) and len(entry) == 3 else (None, None, None)
        if name not in (ROTATIONS, RELINEARIZE, CONJUGATE) or type(step) is not int or type(level) is not int:
            raise ValueError("its list of keys is malformed")
        if not 0 <= level <= params.max_level or (name, step) in seen:
            raise ValueError("its list of keys is malformed")
        seen.add((name, step))
        yield name, step, level
