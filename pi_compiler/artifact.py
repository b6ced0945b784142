"""A compiled model on disk: a folder that another process loads and runs. No key is ever in it.

``manifest.json`` says what it is and holds the SHA-256 of every other file; ``program.npz`` the
columns of the program and the layouts; ``constants.bin`` the slot vectors, back to back, memory
mapped when loaded; ``model.onnx`` and ``polynomial.onnx`` the network as it came and in its HE-friendly
form, for comparing accuracies. A folder is written beside its place and moved there whole.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import pi_compiler
from pi_compiler import files
from pi_compiler.errors import ArtifactError, ParameterError
from pi_compiler.ir.front import described, restored
from pi_compiler.ir.graph import Graph
from pi_compiler.ir.layout import Layout
from pi_compiler.ir.params import Params
from pi_compiler.ir.program import Port, Program, Signature

FORMAT = 2
"""The newest form that is read. Form 1 knows no batches; a program without them is still written so."""

_COLUMNS = ("op", "a", "b", "imm", "const", "plain_scale", "origin", "level", "scale", "dimension")
Json = dict[str, object]


@dataclass(frozen=True, slots=True, eq=False)
class Artifact:
    """What a folder holds.

    Attributes:
        program: the program.
        params: its parameters.
        signature: its inputs and outputs.
        report: everything ``explain`` prints, as JSON.
        models: file name -> ONNX bytes (``model.onnx``, ``polynomial.onnx``).
    """

    program: Program
    params: Params
    signature: Signature
    report: Json
    models: Mapping[str, bytes] = field(default_factory=dict)


def save(artifact: Artifact, folder: Path) -> int:
    """Write a folder; returns its size in bytes; see ``write_folder``.

    Raises:
        ParameterError: the place cannot be written, or holds something else.
    """
    return write_folder(folder, lambda staging: _write(artifact, staging))


def write_folder(folder: Path, write: Callable[[Path], None]) -> int:
    """Let a compiled model be written beside its place and move it there whole; returns its size in bytes.

    An existing compiled model is replaced, anything else is not.

    Raises:
        ParameterError: the place cannot be written, or holds something else.
    """
    folder = Path(folder)
    check_place(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    except OSError as e:
        raise ParameterError(f"cannot write {folder}: {e.strerror or e}") from e
    try:
        write(staging)
        size = sum(f.stat().st_size for f in staging.iterdir())
        os.chmod(staging, 0o755)
        if folder.exists():
            shutil.rmtree(folder)
        staging.rename(folder)
        return size
    except OSError as e:
        raise ParameterError(f"cannot write {folder}: {e.strerror or e}") from e
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def check_place(folder: Path) -> None:
    """Fail now if ``save`` would fail later.

    Raises:
        ParameterError: the place cannot be written, or holds something else.
    """
    if folder.exists() and not (folder / "manifest.json").exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ParameterError(f"{folder} exists and is not a compiled model; it is left alone", hint="another --output")
    files.check_folder(folder)


def _write(artifact: Artifact, folder: Path) -> None:
    p = artifact.program
    arrays: dict[str, NDArray[np.generic]] = {name: getattr(p, name) for name in _COLUMNS}
    ports = {**{f"input/{n}": q for n, q in artifact.signature.inputs.items()}}
    ports |= {f"output/{n}": q for n, q in artifact.signature.outputs.items()}
    for number, port in enumerate(ports.values()):
        arrays[f"layout_{number}"] = port.layout.index
    table = []
    with (folder / "constants.bin").open("wb") as f:
        offset = 0
        for c in p.consts:
            data = np.ascontiguousarray(c).tobytes()
            f.write(data)
            table.append((offset, c.size, 8 if c.dtype == np.float64 else 4))
            offset += len(data)
    arrays["constants"] = np.array(table, np.int64).reshape(-1, 3)
    head = None
    if artifact.signature.front is not None:
        head, tables = described(artifact.signature.front)
        arrays |= {f"front/{name}": values for name, values in tables.items()}
    np.savez_compressed(folder / "program.npz", **arrays)  # type: ignore[arg-type]
    for name, data in artifact.models.items():
        (folder / name).write_bytes(data)
    manifest = {
        "format": 1 if p.batch == 1 else 2,
        "batch": p.batch,
        "params": {
            "log_n": artifact.params.log_n,
            "primes": artifact.params.primes,
            "special": artifact.params.special,
            "scale": artifact.params.scale,
            "security": artifact.params.security,
            "digit": artifact.params.digit,
        },
        "ports": [_port(name, number, port) for number, (name, port) in enumerate(ports.items())],
        "client_ops": {n: [[op, dict(attrs)] for op, attrs in ops] for n, ops in artifact.signature.client_ops.items()},
        "front": head,
        "inputs": p.inputs,
        "outputs": p.outputs,
        "origins": p.origins,
        "report": artifact.report,
    }
    seal_folder(folder, manifest)


def seal_folder(folder: Path, manifest: Mapping[str, object]) -> None:
    """Write the manifest of a folder that is otherwise complete: the checksum of every file, its own included."""
    digests = {f.name: _digest(f) for f in sorted(folder.iterdir())}
    whole = {"format": 1, "version": pi_compiler.__version__, "files": digests, **manifest}
    body = json.dumps(whole, indent=1, default=_plain)
    seal = hashlib.sha256(body.encode()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps({"sha256": seal, "manifest": json.loads(body)}, indent=1))


def _plain(value: object) -> object:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    raise TypeError(f"cannot write {type(value).__name__} as JSON")


def _port(name: str, number: int, port: Port) -> Json:
    layout = port.layout
    return {
        "name": name,
        "layout": number,
        "shape": layout.shape,
        "slots": layout.slots,
        "zero": layout.zero,
        "layout_name": layout.name,
        "gain": port.gain,
        "level": port.level,
        "scale": port.scale,
    }


def _digest(path: Path) -> str:
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def load(folder: Path) -> Artifact:
    """Read a folder, every file checked against its checksum first.

    Raises:
        ArtifactError: it is missing, incomplete, damaged, or from a newer version; the message
            names every file that is wrong.
    """
    manifest = verified(folder)
    if target_of(manifest) != "ckks":
        raise ArtifactError(f"{folder} was compiled for {target_of(manifest)}, not for encrypted evaluation (ckks)")
    return _read(Path(folder), manifest)


def target_of(manifest: Mapping[str, object]) -> str:
    """What a folder was compiled for: ``"ckks"`` or ``"mpc"``."""
    return str(manifest.get("target", "ckks"))


def verified(folder: Path, unread: Collection[str] = ()) -> dict[str, object]:
    """The manifest of a folder, every file checked against its checksum.

    Args:
        folder: which.
        unread: files that are not opened, and may be missing.

    Raises:
        ArtifactError: see ``load``.
    """
    folder = Path(folder)
    try:
        text = (folder / "manifest.json").read_text()
        outer = json.loads(text)
        manifest = outer["manifest"]
        sealed = hashlib.sha256(json.dumps(manifest, indent=1).encode()).hexdigest() == outer["sha256"]
        # The last digit of a float may change without changing its value, and with it the checksum.
        sealed = sealed and text == json.dumps(outer, indent=1)
    except FileNotFoundError as e:
        raise ArtifactError(
            f"{folder} is not a compiled model: there is no manifest.json", hint="pi-compiler compile"
        ) from e
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise ArtifactError(f"{folder}/manifest.json is damaged: {e}", hint="compile the model again") from e
    if isinstance(manifest, dict) and isinstance(manifest.get("format"), int) and manifest["format"] > FORMAT:
        raise ArtifactError(
            f"{folder} was written by a newer pi-compiler ({manifest.get('version')})",
            f"its format is {manifest['format']}, this version reads up to {FORMAT}",
            hint="upgrade pi-compiler",
        )
    if not sealed:
        raise ArtifactError(f"{folder}/manifest.json is damaged: its checksum is wrong", hint="compile the model again")
    faults = []
    for name, digest in manifest["files"].items():
        if name in unread:
            continue
        path = folder / name
        if not path.is_file():
            faults.append(f"{name} is missing")
        elif _digest(path) != digest:
            faults.append(f"{name} is damaged: its checksum is wrong")
    if faults:
        raise ArtifactError(f"{folder} is damaged", *faults, hint="compile the model again")
    return dict(manifest)


def _read(folder: Path, m: dict[str, object]) -> Artifact:
    with np.load(folder / "program.npz", allow_pickle=False) as npz:
        arrays = {name: npz[name] for name in npz.files}
    consts = _constants(folder / "constants.bin", arrays["constants"])
    report = _mapping(m["report"])
    batch = int(str(m.get("batch", 1)))
    inputs = {n: tuple(int(str(v)) for v in _sequence(vs)) for n, vs in _mapping(m["inputs"]).items()}
    outputs = {n: tuple(int(str(v)) for v in _sequence(vs)) for n, vs in _mapping(m["outputs"]).items()}
    program = Program(
        **{name: arrays[name] for name in _COLUMNS},
        consts=consts,
        inputs=inputs,
        outputs=outputs,
        origins=tuple(str(o) for o in _sequence(m["origins"])),
        batch=batch,
    )
    p = _mapping(m["params"])
    params = Params(
        int(str(p["log_n"])),
        tuple(int(str(q)) for q in _sequence(p["primes"])),
        tuple(int(str(q)) for q in _sequence(p["special"])),
        float(str(p["scale"])),
        int(str(p["security"])),
        int(str(p.get("digit", 0))),
    )
    ports: dict[str, Port] = {}
    for raw_port in _sequence(m["ports"]):
        q = _mapping(raw_port)
        shape = tuple(int(str(d)) for d in _sequence(q["shape"]))
        layout = Layout(
            shape, int(str(q["slots"])), arrays[f"layout_{q['layout']}"], bool(q["zero"]), str(q["layout_name"])
        )
        ports[str(q["name"])] = Port(layout, float(str(q["gain"])), int(str(q["level"])), float(str(q["scale"])))
    client_ops: dict[str, tuple[tuple[str, Mapping[str, object]], ...]] = {}
    for name, ops in _mapping(m["client_ops"]).items():
        pairs = [_sequence(pair) for pair in _sequence(ops)]
        client_ops[name] = tuple((str(op), _mapping(attrs)) for op, attrs in pairs)
    signature = Signature(
        {n.removeprefix("input/"): q for n, q in ports.items() if n.startswith("input/")},
        {n.removeprefix("output/"): q for n, q in ports.items() if n.startswith("output/")},
        client_ops,
        _front(m.get("front"), arrays),
        batch,
    )
    names = _mapping(m["files"])
    models = {n: (folder / n).read_bytes() for n in names if n.endswith(".onnx")}
    return Artifact(program, params, signature, report, models)


def _front(head: object, arrays: Mapping[str, NDArray[np.generic]]) -> Graph | None:
    """What the client computes before encryption."""
    if head is None:
        return None
    tables = {n.removeprefix("front/"): a for n, a in arrays.items() if n.startswith("front/")}
    try:
        return restored(_mapping(head), tables)
    except (ValueError, KeyError, TypeError) as e:
        raise ArtifactError(f"the manifest is malformed: {e}") from e


def _constants(path: Path, table: NDArray[np.int64]) -> tuple[NDArray[np.float64] | NDArray[np.float32], ...]:
    """Slot vectors, memory mapped."""
    if not len(table):
        return ()
    raw = np.memmap(path, np.uint8, "r")
    found: list[NDArray[np.float64] | NDArray[np.float32]] = []
    for offset, size, width in table.tolist():
        data = raw[offset : offset + size * width]
        found.append(data.view(np.float64) if width == 8 else data.view(np.float32))
    return tuple(found)


def _mapping(value: object) -> dict[str, object]:
    if not isinstance(value, dict):
        raise ArtifactError(f"the manifest is malformed: {type(value).__name__} where a mapping belongs")
    return value


def _sequence(value: object) -> list[object]:
    if not isinstance(value, list):
        raise ArtifactError(f"the manifest is malformed: {type(value).__name__} where a list belongs")
    return value
