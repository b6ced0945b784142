"""A model compiled for MPC on disk: the folder of ``artifact``, with shares' program instead of ciphertexts'.

``program.json`` holds the instructions, ``constants.npz`` the public constants and indices, ``weights.npz`` what only
the model's owner may have. The folder is the model owner's: ``model.onnx`` in it holds the weights too.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from pi_compiler.artifact import Json, seal_folder, target_of, verified, write_folder
from pi_compiler.errors import ArtifactError
from pi_compiler.ir.mpc_program import MpcProgram
from pi_compiler.runtime.mpc.handout import described, front_arrays, public_view, restored

WEIGHTS = "weights.npz"
"""The only file that holds secrets of the model's owner, besides ``model.onnx``."""
SECRET = (WEIGHTS, "model.onnx")


@dataclass(frozen=True, slots=True, eq=False)
class MpcArtifact:
    """What a folder holds: the program, everything ``explain`` prints, and ONNX files by name."""

    program: MpcProgram
    report: Json
    models: Mapping[str, bytes] = field(default_factory=dict)


def save_mpc(artifact: MpcArtifact, folder: Path) -> int:
    """Write a folder; returns its size in bytes.

    Raises:
        ParameterError: the place cannot be written, or holds something else.
    """
    return write_folder(folder, lambda staging: _write(artifact, staging))


def _write(artifact: MpcArtifact, folder: Path) -> None:
    p = artifact.program
    _write_public(p, folder)
    secret = {f"c{n}": np.asarray(c.values, np.int64) for n, c in enumerate(p.consts) if c.owner == "model"}
    np.savez_compressed(folder / WEIGHTS, **secret)  # type: ignore[arg-type]
    for name, data in artifact.models.items():
        (folder / name).write_bytes(data)
    seal_folder(folder, {"target": "mpc", "report": artifact.report})


def _write_public(p: MpcProgram, folder: Path) -> None:
    public = {f"c{n}": np.asarray(c.values) for n, c in enumerate(p.consts) if c.owner != "model"}
    public |= {f"i{n}": np.asarray(v) for n, v in enumerate(p.indices)}
    public |= front_arrays(p)
    np.savez_compressed(folder / "constants.npz", **public)  # type: ignore[arg-type]
    (folder / "program.json").write_text(json.dumps(described(p)))


def load_mpc(folder: Path) -> MpcArtifact:
    """Read a folder, every file checked against its checksum first.

    Raises:
        ArtifactError: it is missing, damaged, from a newer version, or not for MPC.
    """
    folder = Path(folder)
    manifest = verified(folder)
    if target_of(manifest) != "mpc":
        raise ArtifactError(f"{folder} was compiled for {target_of(manifest)}, not for mpc")
    if not (folder / WEIGHTS).is_file():
        raise ArtifactError(f"{folder} is a handout: it holds no weights", hint="pi-compiler party")
    names, report = manifest["files"], manifest["report"]
    if not isinstance(names, dict) or not isinstance(report, dict):
        raise ArtifactError(f"{folder} is damaged: its manifest is malformed", hint="compile the model again")
    models = {n: (folder / n).read_bytes() for n in names if n.endswith(".onnx")}
    return MpcArtifact(load_weights(_public(folder), folder), report, models)


def save_handout(folder: Path, output: Path) -> int:
    """Write the part of a model that the data's owner and the dealer may have; returns its size in bytes.

    Raises:
        ArtifactError: the folder is damaged.
        ParameterError: the place cannot be written, or holds something else.
    """
    program = load_mpc(folder).program
    public = public_view(program)
    blank = {f"c{n}" for n, c in enumerate(program.consts) if c.owner == "model"}

    def write(staging: Path) -> None:
        _write_public(public, staging)
        seal_folder(staging, {"target": "mpc", "report": {"handout": True, "left_out": len(blank)}})

    return write_folder(output, write)


def load_handout(folder: Path) -> MpcProgram:
    """The public part of a folder, or of its handout; files with weights are not opened.

    Raises:
        ArtifactError: it is missing, damaged, from a newer version, or not for MPC.
    """
    folder = Path(folder)
    manifest = verified(folder, SECRET)
    if target_of(manifest) != "mpc":
        raise ArtifactError(f"{folder} was compiled for {target_of(manifest)}, not for mpc")
    return _public(folder)


def load_weights(program: MpcProgram, place: Path) -> MpcProgram:
    """A public program with the model owner's constants.

    Args:
        program: from ``load_handout``.
        place: ``weights.npz``, or the folder it is in.

    Raises:
        ArtifactError: the file is missing or damaged, or its weights belong to another model.
    """
    path = Path(place) / WEIGHTS if Path(place).is_dir() else Path(place)
    try:
        with np.load(path, allow_pickle=False) as npz:
            arrays = {n: npz[n] for n in npz.files}
    except FileNotFoundError as e:
        raise ArtifactError(f"there are no weights at {path}", hint="--weights, the weights.npz of the model") from e
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as e:
        raise ArtifactError(f"{path} is damaged", hint="compile the model again") from e
    consts = list(program.consts)
    for n, const in enumerate(consts):
        if const.owner != "model":
            continue
        values = arrays.pop(f"c{n}", None)
        if values is None or values.shape != const.values.shape or values.dtype != np.int64:
            raise ArtifactError(f"{path} holds the weights of another model, or of another version of it")
        consts[n] = replace(const, values=values)
    if arrays:
        raise ArtifactError(f"{path} holds the weights of another model, or of another version of it")
    return replace(program, consts=tuple(consts))


def _public(folder: Path) -> MpcProgram:
    try:
        head = json.loads((folder / "program.json").read_text())
        with np.load(folder / "constants.npz", allow_pickle=False) as npz:
            return restored(head, {n: npz[n] for n in npz.files})
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise ArtifactError(f"{folder} is damaged: {e}", hint="compile the model again") from e
