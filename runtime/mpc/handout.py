"""What a party is handed: a program, with or without the model owner's constants, as bytes; and its fingerprint."""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pi_compiler.errors import ArtifactError
from pi_compiler.ir.mpc_program import MpcConst, MpcInstr, MpcOp, MpcPort, MpcProgram

Arrays = dict[str, NDArray[Any]]
_HEAD = "head"


def public_view(program: MpcProgram) -> MpcProgram:
    """The program as everybody may see it: constants of the model's owner keep their shapes and lose their values."""
    return replace(program, consts=tuple(_blank(c) if c.owner == "model" else c for c in program.consts))


def _blank(const: MpcConst) -> MpcConst:
    return replace(const, values=np.broadcast_to(np.int64(0), const.values.shape))


def pack_arrays(head: object, arrays: Arrays) -> bytes:
    """A JSON value and arrays in one piece."""
    stream = io.BytesIO()
    text = np.frombuffer(json.dumps(head).encode(), np.uint8)
    np.savez(stream, **{_HEAD: text}, **{f"a/{name}": a for name, a in arrays.items()})  # type: ignore[arg-type]
    return stream.getvalue()


def unpack_arrays(raw: bytes) -> tuple[Any, Arrays]:
    """The inverse.

    Raises:
        ArtifactError: the bytes are something else.
    """
    try:
        with np.load(io.BytesIO(raw), allow_pickle=False) as found:
            head = json.loads(found[_HEAD].tobytes())
            return head, {n.removeprefix("a/"): found[n] for n in found.files if n != _HEAD}
    except (OSError, ValueError, KeyError) as error:
        raise ArtifactError("what a party was handed is damaged") from error


def pack_program(program: MpcProgram, *, private: bool) -> bytes:
    """A program as bytes.

    Args:
        program: which.
        private: whether the model owner's constants go in.
    """
    arrays: Arrays = {f"i{n}": np.asarray(index) for n, index in enumerate(program.indices)}
    arrays |= {f"c{n}": c.values for n, c in enumerate(program.consts) if private or c.owner != "model"}
    return pack_arrays(_described(program), arrays)


def _described(program: MpcProgram) -> dict[str, Any]:
    """Everything but the arrays."""
    return {
        "instrs": [
            [i.op.value, i.args, i.shape, i.frac, i.origin, i.weight, i.bias, i.index, dict(i.attrs)]
            for i in program.instrs
        ],
        "consts": [[c.values.shape, c.frac, c.owner] for c in program.consts],
        "inputs": {n: [p.value, p.shape, p.owner, p.classes] for n, p in program.inputs.items()},
        "outputs": {n: [p.value, p.shape, p.owner, p.classes] for n, p in program.outputs.items()},
        "origins": program.origins,
        "protocol": program.protocol,
        "indices": len(program.indices),
    }


def unpack_program(raw: bytes) -> MpcProgram:
    """The inverse; constants that were left out are blank. Operators of the client are not part of it.

    Raises:
        ArtifactError: the bytes are something else.
    """
    head, arrays = unpack_arrays(raw)
    consts = [
        MpcConst(arrays.get(f"c{n}", np.broadcast_to(np.int64(0), tuple(shape))), frac, owner)
        for n, (shape, frac, owner) in enumerate(head["consts"])
    ]
    instrs = [
        MpcInstr(
            MpcOp(op),
            tuple(args),
            tuple(shape),
            frac,
            origin,
            weight,
            bias,
            index,
            {k: tuple(v) for k, v in at.items()},
        )
        for op, args, shape, frac, origin, weight, bias, index, at in head["instrs"]
    ]
    return MpcProgram(
        tuple(instrs),
        tuple(consts),
        tuple(arrays[f"i{n}"] for n in range(head["indices"])),
        {n: MpcPort(v, tuple(s), o, c) for n, (v, s, o, c) in head["inputs"].items()},
        {n: MpcPort(v, tuple(s), o, c) for n, (v, s, o, c) in head["outputs"].items()},
        tuple(head["origins"]),
        head["protocol"],
    )


def digest(program: MpcProgram) -> str:
    """SHA-256 of the public part: equal for parties that mean the same run, whoever's constants they hold."""
    found = hashlib.sha256(json.dumps(_described(program), sort_keys=True).encode())
    for array in (*program.indices, *(c.values for c in program.consts if c.owner != "model")):
        found.update(f"{array.shape} ".encode())
        found.update(np.ascontiguousarray(array, np.int64).tobytes())
    return found.hexdigest()


def summary(program: MpcProgram) -> str:
    """The program in a line, for people comparing two of them."""
    ports = ", ".join(f"{name} {list(p.shape)}" for name, p in (*program.inputs.items(), *program.outputs.items()))
    return f"{len(program)} instructions with {ports}, fingerprint {digest(program)[:16]}"
