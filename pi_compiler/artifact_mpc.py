"""A model compiled for MPC on disk: the folder of ``artifact``, with shares' program instead of ciphertexts'.

``program.json`` holds the instructions, ``constants.npz`` the public constants and indices, ``weights.npz`` what only
the model's owner may have. The folder is the model owner's: ``model.onnx`` in it holds the weights too.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from pi_compiler.artifact import Json, seal_folder, target_of, verified, write_folder
from pi_compiler.errors import ArtifactError
from pi_compiler.ir.mpc_program import MpcConst, MpcInstr, MpcOp, MpcPort, MpcProgram, Ring

WEIGHTS = "weights.npz"
"""The only file that holds secrets of the model's owner, besides ``model.onnx``."""


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
    public = {f"c{n}": c.values for n, c in enumerate(p.consts) if c.owner != "model"}
    public |= {f"i{n}": np.asarray(v) for n, v in enumerate(p.indices)}
    np.savez_compressed(folder / "constants.npz", **public)  # type: ignore[arg-type]
    secret = {f"c{n}": c.values for n, c in enumerate(p.consts) if c.owner == "model"}
    np.savez_compressed(folder / WEIGHTS, **secret)  # type: ignore[arg-type]
    (folder / "program.json").write_text(json.dumps(described(p)))
    for name, data in artifact.models.items():
        (folder / name).write_bytes(data)
    seal_folder(folder, {"target": "mpc", "report": artifact.report})


def described(p: MpcProgram) -> Json:
    """Everything of a program but its arrays."""
    return {
        "instrs": [
            [i.op.value, i.args, i.shape, i.frac, i.origin, i.weight, i.bias, i.index, dict(i.attrs)] for i in p.instrs
        ],
        "consts": [[c.values.shape, c.frac, c.owner] for c in p.consts],
        "indices": len(p.indices),
        "inputs": {n: [q.value, q.shape, q.owner, q.classes] for n, q in p.inputs.items()},
        "outputs": {n: [q.value, q.shape, q.owner, q.classes] for n, q in p.outputs.items()},
        "origins": p.origins,
        "protocol": p.protocol,
        "client_ops": {n: [[op, dict(attrs)] for op, attrs in ops] for n, ops in p.client_ops.items()},
    }


def load_mpc(folder: Path) -> MpcArtifact:
    """Read a folder, every file checked against its checksum first.

    Raises:
        ArtifactError: it is missing, damaged, from a newer version, or not for MPC.
    """
    folder = Path(folder)
    manifest = verified(folder)
    if target_of(manifest) != "mpc":
        raise ArtifactError(f"{folder} was compiled for {target_of(manifest)}, not for mpc")
    try:
        head = json.loads((folder / "program.json").read_text())
        with np.load(folder / "constants.npz") as npz:
            arrays = {n: npz[n] for n in npz.files}
        with np.load(folder / WEIGHTS) as npz:
            arrays |= {n: npz[n] for n in npz.files}
        names = manifest["files"]
        if not isinstance(names, dict) or not isinstance(manifest["report"], dict):
            raise TypeError("the manifest is malformed")
        models = {n: (folder / n).read_bytes() for n in names if n.endswith(".onnx")}
        return MpcArtifact(_read(head, arrays), manifest["report"], models)
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise ArtifactError(f"{folder} is damaged: {e}", hint="compile the model again") from e


def _read(raw: Mapping[str, object], arrays: Mapping[str, Ring]) -> MpcProgram:
    instrs = tuple(_instr(row) for row in _rows(raw["instrs"]))
    consts = tuple(
        MpcConst(arrays[f"c{n}"], int(str(frac)), "model" if owner == "model" else "public")
        for n, (_, frac, owner) in enumerate(_rows(raw["consts"]))
    )
    client: dict[str, tuple[tuple[str, Mapping[str, object]], ...]] = {}
    for name, ops in _mapping(raw["client_ops"]).items():
        client[name] = tuple((str(op), _mapping(attrs)) for op, attrs in _rows(ops))
    return MpcProgram(
        instrs,
        consts,
        tuple(arrays[f"i{n}"] for n in range(int(str(raw["indices"])))),
        _ports(raw["inputs"]),
        _ports(raw["outputs"]),
        tuple(str(o) for o in _items(raw["origins"])),
        str(raw["protocol"]),
        client,
    )


def _mapping(value: object) -> dict[str, object]:
    if not isinstance(value, dict):
        raise TypeError("a mapping is missing")
    return value


def _items(value: object) -> list[object]:
    if not isinstance(value, list):
        raise TypeError("a list is missing")
    return value


def _rows(value: object) -> list[list[object]]:
    return [_items(row) for row in _items(value)]


def _ints(value: object) -> tuple[int, ...]:
    return tuple(int(str(v)) for v in _items(value))


def _instr(row: list[object]) -> MpcInstr:
    op, args, shape, frac, origin, weight, bias, index, attrs = row
    bits, layer, w, b, i = (int(str(v)) for v in (frac, origin, weight, bias, index))
    given = {str(k): _ints(v) for k, v in _mapping(attrs).items()}
    return MpcInstr(MpcOp(str(op)), _ints(args), _ints(shape), bits, layer, w, b, i, given)


def _ports(value: object) -> dict[str, MpcPort]:
    found = {}
    for name, row in _mapping(value).items():
        number, shape, owner, classes = _items(row)
        found[name] = MpcPort(
            int(str(number)), _ints(shape), "model" if owner == "model" else "data", int(str(classes))
        )
    return found
