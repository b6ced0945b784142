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
from pi_compiler.ir import front
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
    return pack_arrays(described(program), arrays | front_arrays(program))


def front_arrays(program: MpcProgram) -> Arrays:
    """Tables of what the owner of the inputs computes before sharing, by the names that ``restored`` knows."""
    tables = {} if program.front is None else front.described(program.front)[1]
    return {f"f{name}": values for name, values in tables.items()}


def described(program: MpcProgram) -> dict[str, Any]:
    """Everything of a program but its arrays, as JSON values."""
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
        "client_ops": {n: [[op, dict(attrs)] for op, attrs in ops] for n, ops in program.client_ops.items()},
        "front": None if program.front is None else front.described(program.front)[0],
    }


def unpack_program(raw: bytes) -> MpcProgram:
    """The inverse; constants that were left out are blank.

    Raises:
        ArtifactError: the bytes are something else.
    """
    try:
        return restored(*unpack_arrays(raw))
    except (ValueError, KeyError, TypeError) as error:
        raise ArtifactError("what a party was handed is damaged") from error


def restored(head: Any, arrays: Arrays) -> MpcProgram:
    """A program from what ``described`` gave and its arrays: ``c0``, ``c1`` ... constants, ``i0`` ... indices,
    ``f0`` ... tables of the front.

    Constants without an array are blank. Raises ValueError, KeyError or TypeError if anything is malformed.
    """
    tables = {name[1:]: values for name, values in arrays.items() if name.startswith("f")}
    consts = [
        MpcConst(arrays.get(f"c{n}", np.broadcast_to(np.int64(0), tuple(shape))), int(frac), owner)
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
        {n: tuple((op, attrs) for op, attrs in ops) for n, ops in head["client_ops"].items()},
        None if head.get("front") is None else front.restored(head["front"], tables),
    )


def digest(program: MpcProgram) -> str:
    """SHA-256 of the public part: equal for parties that mean the same run, whoever's constants they hold."""
    head = {name: value for name, value in described(program).items() if name not in ("client_ops", "front")}
    found = hashlib.sha256(json.dumps(head, sort_keys=True).encode())
    for array in (*program.indices, *(c.values for c in program.consts if c.owner != "model")):
        found.update(f"{array.shape} ".encode())
        found.update(np.ascontiguousarray(array, np.int64).tobytes())
    return found.hexdigest()


def summary(program: MpcProgram) -> str:
    """The program in a line, for people comparing two of them."""
    ports = ", ".join(f"{name} {list(p.shape)}" for name, p in (*program.inputs.items(), *program.outputs.items()))
    return f"{len(program)} instructions with {ports}, fingerprint {digest(program)[:16]}"
