"""Both halves of an encrypted inference in one process: for demos, tests and measurements.

``Session`` makes keys or opens those of a folder, prepares the program once and then answers inputs. The two
halves stay two objects: the evaluator is built from parameters and evaluation keys only.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pi_compiler.errors import ExecutionError, ParameterError, ShapeMismatch
from pi_compiler.ir import batching
from pi_compiler.ir.client_ops import apply_client_ops
from pi_compiler.ir.graph import FloatArray, Shape
from pi_compiler.ir.params import Params
from pi_compiler.ir.program import DEFAULT_PLAINTEXT_MEMORY, Opcode, Port, Program, Signature
from pi_compiler.ops.front import encrypted_inputs
from pi_compiler.runtime.backend import Backend, Ciphertext, Client, get_backend, require
from pi_compiler.runtime.executor import Prepared, Progress, execute, prepare
from pi_compiler.runtime.flooding import Flood
from pi_compiler.runtime.keyring import open_keys
from pi_compiler.runtime.trace import Trace


@dataclass(frozen=True, slots=True, eq=False)
class Result:
    """One answered input, or a batch of them.

    Attributes:
        outputs: per output name the decrypted tensor, client-side operators applied.
        logits: the same before the client-side operators.
        trace: what the evaluation cost.
        encrypt_seconds: on the client.
        decrypt_seconds: on the client.
    """

    outputs: Mapping[str, FloatArray]
    logits: Mapping[str, FloatArray]
    trace: Trace
    encrypt_seconds: float
    decrypt_seconds: float

    @property
    def seconds(self) -> float:
        """Encryption, evaluation and decryption."""
        return self.encrypt_seconds + self.trace.seconds + self.decrypt_seconds


def pack_inputs(signature: Signature, inputs: Mapping[str, FloatArray]) -> dict[str, FloatArray]:
    """Slot vectors (..., ciphertexts, period) of every input; what the client encrypts.

    Samples (..., *shape) for a program that answers batches fill one, or several, then with a leading dimension.

    Raises:
        ShapeMismatch: an input is missing, unknown, has the wrong shape, or is not finite.
    """
    faults = [f"input {n!r} is missing" for n in signature.inputs if n not in inputs]
    faults += [f"there is no input {n!r}" for n in inputs if n not in signature.inputs]
    values: dict[str, FloatArray] = {}
    for name, port in signature.inputs.items():
        if name not in inputs:
            continue
        x, shape = np.asarray(inputs[name]), port.layout.shape
        if x.dtype.kind not in "fiub":
            faults.append(f"input {name!r} has type {x.dtype}, needed are real numbers")
        elif x.shape[-len(shape) :] != shape:
            faults.append(f"input {name!r} has shape {x.shape}, needed is {shape}")
        elif not np.isfinite(x).all():
            faults.append(f"input {name!r} has values that are not finite")
        else:
            values[name] = x.astype(np.float64) / port.gain
    if faults:
        raise ShapeMismatch("the input does not fit the model", *faults)
    if signature.batch == 1:
        return {name: port.layout.pack(values[name]) for name, port in signature.inputs.items()}
    batching.leading(values, {name: port.layout.shape for name, port in signature.inputs.items()})
    return {
        name: batching.interleaved(port.layout.pack(batching.grouped(values[name], port.layout.shape, signature.batch)))
        for name, port in signature.inputs.items()
    }


def unpack_output(port: Port, slots: FloatArray, batch: int = 1) -> FloatArray:
    """The tensor (..., *shape) from decrypted slot vectors (..., ciphertexts, slots); a batch is an axis before it."""
    return port.layout.unpack(slots if batch == 1 else batching.separated(slots, batch)) * port.gain


class Session:
    """A program with fresh keys on one backend, ready for inputs.

    Args:
        program: what to run.
        params: its parameters.
        signature: its inputs and outputs.
        backend: name of the backend.
        plaintext_memory: bytes that encoded constants may take.
        insecure: allow parameters below 128-bit security.
        flood: noise over decrypted outputs, for outputs that leave the owner of the key.
        keys: folder of keys that outlast the session, made there if there are none; None: fresh ones.

    Raises:
        ArtifactError: the kept keys are damaged.
        BackendError: the backend is missing or cannot run the program.
        ParameterError: the parameters are insecure or outside what the backend can do.
    """

    def __init__(
        self,
        program: Program,
        params: Params,
        signature: Signature,
        backend: str,
        *,
        plaintext_memory: int = DEFAULT_PLAINTEXT_MEMORY,
        insecure: bool = False,
        flood: Flood | None = None,
        keys: Path | None = None,
    ) -> None:
        if keys is not None and flood is not None:
            raise ParameterError(
                "noise over released outputs is counted for one session, and kept keys outlast it",
                hint="fresh keys for outputs that leave their owner",
            )
        self.flood, self._released = flood, 0
        self.backend: Backend = get_backend(backend)
        self.program, self.params, self.signature = program, params, signature
        require(self.backend, program, params)
        if program.batch != signature.batch:
            raise ExecutionError(f"a program for batches of {program.batch}, inputs and outputs for {signature.batch}")
        start = time.perf_counter()
        self.client: Client
        if keys is None:
            needs_relinearization = bool(program.count(Opcode.RELINEARIZE))
            self.client = self.backend.keygen(
                params, program.rotation_levels(), relinearize=needs_relinearization, insecure=insecure
            )
            evaluation = self.client.eval_keys
        else:
            self.client, evaluation = open_keys(self.backend, program, params, keys, insecure=insecure)
        self.key_bytes = evaluation.nbytes
        self.keygen_seconds = time.perf_counter() - start
        start = time.perf_counter()
        evaluator = self.backend.evaluator(params, evaluation)
        self.prepared: Prepared = prepare(program, evaluator, plaintext_memory=plaintext_memory)
        self.prepare_seconds = time.perf_counter() - start

    def _lead(self, inputs: Mapping[str, FloatArray]) -> Shape | None:
        """Leading dimensions of samples for a program that answers batches; None for other programs.

        Raises:
            ShapeMismatch: there are more samples than one run answers.
        """
        batch, shapes = self.signature.batch, self.signature.shapes
        if batch == 1 or any(n not in inputs or np.ndim(inputs[n]) < len(s) for n, s in shapes.items()):
            return None  # what does not fit is said when it is packed
        lead = batching.leading(inputs, shapes)
        if math.prod(lead) > batch and not self.backend.capabilities.batch:
            raise ShapeMismatch(
                f"{math.prod(lead)} samples in one run of a program that answers {batch}",
                f"backend {self.backend.name!r} evaluates one batch at a time",
                hint=f"at most {batch} at a time; pi_compiler.answers.answer takes any number",
            )
        return lead

    def encrypt(self, inputs: Mapping[str, FloatArray]) -> dict[str, list[Ciphertext]]:
        """The client's first half."""
        sealed: dict[str, list[Ciphertext]] = {}
        values = encrypted_inputs(self.signature.front, inputs)
        for name, slots in pack_inputs(self.signature, values).items():
            port = self.signature.inputs[name]
            sealed[name] = [
                self.client.encrypt(slots[..., i, :], port.level, port.scale) for i in range(slots.shape[-2])
            ]
        return sealed

    def decrypt(self, outputs: Mapping[str, list[Ciphertext]], lead: Shape | None = None) -> dict[str, FloatArray]:
        """The client's second half, without the client-side operators.

        Args:
            outputs: what the evaluating side answers.
            lead: dimensions of the samples in front of their shape, where a batch was not full; None: it was.

        Raises:
            ExecutionError: as many outputs were flooded as the noise is made for.
        """
        found: dict[str, FloatArray] = {}
        for name, ciphertexts in outputs.items():
            port, slots = self.signature.outputs[name], [self.client.decrypt(c) for c in ciphertexts]
            values = unpack_output(port, np.stack(slots, axis=-2), self.signature.batch)
            found[name] = values if lead is None else batching.ungrouped(values, port.layout.shape, lead)
        return found if self.flood is None else self._flooded(found, self.flood)

    def _flooded(self, found: dict[str, FloatArray], flood: Flood) -> dict[str, FloatArray]:
        shapes = {name: self.signature.outputs[name].layout.shape for name in found}
        name, shape = next(iter(shapes.items()))
        self._released += found[name].size // math.prod(shape)
        if self._released > flood.releases:
            raise ExecutionError(
                f"{flood.releases} outputs may leave under this key, this would be number {self._released}",
                hint="a new session, or noise for more releases",
            )
        return flood.apply(found, sum(math.prod(s) for s in shapes.values()))

    def run(self, inputs: Mapping[str, FloatArray], *, progress: Progress | None = None) -> Result:
        """Encrypt, evaluate, decrypt.

        Args:
            inputs: per name one sample of the model's shape, or as many as the program answers at once or fewer,
                (samples, *shape); backends that compute in clear take any leading dimensions.
            progress: called at every layer.
        """
        start = time.perf_counter()
        lead = self._lead(inputs)
        sealed = self.encrypt(inputs)
        sent = time.perf_counter()
        outputs, trace = execute(self.prepared, sealed, progress=progress)
        received = time.perf_counter()
        logits = self.decrypt(outputs, lead)
        done = time.perf_counter()
        final = {name: self.finished(name, values) for name, values in logits.items()}
        return Result(final, logits, trace, sent - start, done - received)

    def finished(self, name: str, values: FloatArray) -> FloatArray:
        """A decrypted output (..., *shape) after the operators that the client applies in clear."""
        ops = self.signature.client_ops.get(name, ())
        return apply_client_ops(ops, values, len(self.signature.outputs[name].layout.shape))
