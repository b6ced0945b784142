"""Tensors in, tensors out: pack, encrypt, execute, decrypt, unpack.

One process does all of it, with its own keys: for trying a program, for test sets and for the
demo. A deployment keeps the ``Client`` and the ``Evaluator`` apart.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from pi_compiler.errors import ShapeMismatch
from pi_compiler.ir.graph import FloatArray
from pi_compiler.ir.params import Params
from pi_compiler.ir.program import Opcode, Port, Program, Signature
from pi_compiler.runtime.backend import Backend, Ciphertext, Client, require
from pi_compiler.runtime.executor import Prepared, Progress, execute, prepare
from pi_compiler.runtime.trace import Trace, merge

CHUNK_BYTES = 1 << 18
"""About what one ciphertext of a batch takes, so that a few of them stay in the cache."""


@dataclass(frozen=True, slots=True, eq=False)
class Session:
    """A program with keys and encoded plaintexts on one backend.

    Attributes:
        signature: how tensors become slot vectors and back.
        client: the data owner's side.
        prepared: the evaluating side.
        batch: most samples in one run.
    """

    signature: Signature
    client: Client
    prepared: Prepared
    batch: int


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """What a session computed.

    Attributes:
        outputs: per network output (samples, *shape), before the client's own operators.
        trace: of all runs.
        encrypt_seconds: packing and encryption.
        decrypt_seconds: decryption and unpacking.
    """

    outputs: Mapping[str, FloatArray]
    trace: Trace
    encrypt_seconds: float
    decrypt_seconds: float


def open_session(
    backend: Backend,
    program: Program,
    params: Params,
    signature: Signature,
    *,
    plaintext_memory: int = 1 << 30,
    insecure: bool = False,
) -> Session:
    """Make keys and prepare a program.

    Args:
        backend: where to run.
        program: what to run.
        params: its parameters.
        signature: its inputs and outputs.
        plaintext_memory: see ``prepare``.
        insecure: accept parameters below 128 bits.

    Raises:
        PiError: the backend cannot run it.
    """
    require(backend, program, params)
    relinearize = program.count(Opcode.RELINEARIZE) > 0
    client = backend.keygen(params, program.rotations(), relinearize=relinearize, insecure=insecure)
    evaluator = backend.evaluator(params, client.eval_keys)
    prepared = prepare(program, evaluator, plaintext_memory=plaintext_memory)
    batch = max(1, CHUNK_BYTES // (8 * _longest_period(program, params))) if backend.capabilities.batch else 1
    return Session(signature, client, prepared, batch)


def infer(session: Session, inputs: Mapping[str, FloatArray], *, progress: Progress | None = None) -> Answer:
    """Run samples: all in batches where the backend has batches, one by one elsewhere.

    Args:
        session: from ``open_session``.
        inputs: per network input (samples, *shape of the layout).
        progress: observer of layer changes.

    Raises:
        ShapeMismatch: inputs are missing or have other shapes.
        ExecutionError: an instruction fails; the message names the layer.
    """
    count = _samples(session.signature, inputs)
    parts: dict[str, list[FloatArray]] = {name: [] for name in session.signature.outputs}
    traces: list[Trace] = []
    encrypting = decrypting = 0.0
    for first in range(0, count, session.batch):
        chosen = slice(first, min(first + session.batch, count))
        start = time.perf_counter()
        ciphertexts = {
            name: _encrypt(session, port, np.asarray(inputs[name][chosen], np.float64))
            for name, port in session.signature.inputs.items()
        }
        encrypting += time.perf_counter() - start
        results, trace = execute(session.prepared, ciphertexts, progress=progress)
        traces.append(trace)
        start = time.perf_counter()
        for name, port in session.signature.outputs.items():
            slots = np.stack([session.client.decrypt(c) for c in results[name]], axis=-2)
            if slots.ndim == 2:
                slots = slots[None]
            parts[name].append(port.layout.unpack(slots) * port.gain)
        decrypting += time.perf_counter() - start
    outputs = {name: np.concatenate(part) for name, part in parts.items()}
    return Answer(outputs, merge(traces), encrypting, decrypting)


def _encrypt(session: Session, port: Port, values: FloatArray) -> list[Ciphertext]:
    packed = port.layout.pack(values / port.gain)
    if session.batch == 1:
        packed = packed[0]
    encrypt = session.client.encrypt
    return [encrypt(packed[..., i, :], port.level, port.scale) for i in range(packed.shape[-2])]


def _samples(signature: Signature, inputs: Mapping[str, FloatArray]) -> int:
    faults = [f"input {name!r} is not part of the model" for name in inputs if name not in signature.inputs]
    counts = set()
    for name, port in signature.inputs.items():
        shape = port.layout.shape
        if name not in inputs:
            faults.append(f"input {name!r} of shape {shape} is missing")
            continue
        found = inputs[name].shape
        if len(found) != len(shape) + 1 or found[1:] != shape:
            faults.append(f"input {name!r} has shape {found}, needed (samples, {', '.join(map(str, shape))})")
            continue
        counts.add(found[0])
    if not faults and len(counts) > 1:
        faults.append(f"the inputs have different numbers of samples: {sorted(counts)}")
    if not faults and 0 in counts:
        faults.append("there are no samples")
    if faults:
        raise ShapeMismatch("the inputs do not fit the model", *faults)
    return int(counts.pop())


def _longest_period(program: Program, params: Params) -> int:
    return min(params.slots, max((c.shape[-1] for c in program.consts), default=1))
