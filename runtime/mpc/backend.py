"""Where MPC programs run, by name, and how a batch of samples becomes answers.

A backend takes a program and the numbers that each port's owner shares, and gives back what is revealed. The
data owner's own steps, one-hot rows before and client-side operators after, are the same for all.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike

from pi_compiler.errors import BackendUnavailable, ParameterError, ShapeMismatch
from pi_compiler.ir.client_ops import apply_client_ops
from pi_compiler.ir.graph import FloatArray
from pi_compiler.ir.mpc_meaning import shared_rows
from pi_compiler.ir.mpc_program import MpcPort, MpcProgram
from pi_compiler.ops.front import encrypted_inputs
from pi_compiler.runtime.mpc.walk import MpcTrace, Progress


class MpcBackend(Protocol):
    """One way to run MPC programs."""

    name: str

    def available(self) -> str | None:
        """None, or why it is not available and what to install."""

    def run(
        self, program: MpcProgram, inputs: Mapping[str, FloatArray], *, progress: Progress | None = None
    ) -> tuple[dict[str, FloatArray], MpcTrace]:
        """Run a program on a batch.

        Args:
            program: what to run.
            inputs: per input name (B, *shape of its INPUT instruction).
            progress: observer of layer changes.

        Returns:
            Per output name (B, *shape), and what the whole batch cost.
        """


MPC_BACKENDS: dict[str, str] = {
    "crypten": "pi_compiler.runtime.mpc.crypten:CryptenMpc",
    "mpc-clear": "pi_compiler.runtime.mpc.sim:ClearMpc",
    "mpc-sim": "pi_compiler.runtime.mpc.sim:SimMpc",
    "spu": "pi_compiler.runtime.mpc.spu.backend:SpuMpc",
}
"""Name -> "module:Class", imported on demand."""


@dataclass(frozen=True, slots=True, eq=False)
class MpcResult:
    """Answers of a batch.

    Attributes:
        outputs: per output (B, *shape), client-side operators applied.
        logits: the same before them.
        trace: what the run cost.
        seconds: of the whole batch.
    """

    outputs: Mapping[str, FloatArray]
    logits: Mapping[str, FloatArray]
    trace: MpcTrace
    seconds: float


def get_mpc_backend(name: str) -> MpcBackend:
    """The backend of that name, checked to be available.

    Raises:
        ParameterError: there is no such backend.
        BackendUnavailable: its library is missing.
    """
    if name not in MPC_BACKENDS:
        raise ParameterError(f"there is no MPC backend {name!r}", f"known: {', '.join(MPC_BACKENDS)}")
    module, _, cls = MPC_BACKENDS[name].partition(":")
    backend: MpcBackend = getattr(importlib.import_module(module), cls)()
    if (why := backend.available()) is not None:
        raise BackendUnavailable(f"backend {name!r} is not available: {why}")
    return backend


def run_batch(
    program: MpcProgram, backend: MpcBackend, inputs: Mapping[str, FloatArray], *, progress: Progress | None = None
) -> MpcResult:
    """Share, compute, reveal.

    Args:
        program: what to run.
        backend: where.
        inputs: per input of the model samples (B, *shape).
        progress: observer of layer changes.

    Raises:
        ShapeMismatch: inputs do not fit; all faults in one message.
    """
    start = time.perf_counter()
    shared = shared_inputs(program, inputs)
    logits, trace = backend.run(program, shared, progress=progress)
    outputs = {
        name: apply_client_ops(program.client_ops.get(name, ()), values, len(program.outputs[name].shape))
        for name, values in logits.items()
    }
    return MpcResult(outputs, logits, trace, time.perf_counter() - start)


def shared_inputs(program: MpcProgram, inputs: Mapping[str, FloatArray]) -> dict[str, FloatArray]:
    """What the owner of the inputs shares of samples (B, *shape): after the front, class numbers as one-hot rows.

    Raises:
        ShapeMismatch: inputs do not fit; all faults in one message.
    """
    values = encrypted_inputs(program.front, inputs)
    return {name: shared_rows(port, values[name]) for name, port in _checked(program, values).items()}


def stacked(program: MpcProgram, x: ArrayLike | Mapping[str, ArrayLike]) -> dict[str, FloatArray]:
    """Samples (B, *shape) by input name; a missing batch dimension of 1 is added, one sample becomes a batch.

    Raises:
        ShapeMismatch: naming every input that does not fit.
    """
    shapes = program.shapes
    if not isinstance(x, Mapping):
        if len(shapes) != 1:
            raise ShapeMismatch(f"the model has {len(shapes)} inputs: {', '.join(shapes)}; give one array per name")
        x = {next(iter(shapes)): x}
    faults = [f"input {n!r} is missing" for n in shapes if n not in x]
    faults += [f"there is no input {n!r}" for n in x if n not in shapes]
    found: dict[str, FloatArray] = {}
    for name, given in x.items():
        if name not in shapes:
            continue
        values, shape = np.asarray(given), shapes[name]
        short = shape[1:] if shape[:1] == (1,) else shape
        for wanted in (shape, short):
            if values.shape == wanted or values.shape[1:] == wanted:
                found[name] = values.reshape(-1, *shape)
                break
        else:
            faults.append(f"input {name!r} has shape {list(values.shape)}, needed is [N, {', '.join(map(str, short))}]")
    if not faults and len({len(v) for v in found.values()}) > 1:
        faults.append(f"inputs have different numbers of samples: {[len(v) for v in found.values()]}")
    if faults:
        raise ShapeMismatch("the input does not fit the model", *faults)
    return found


def _checked(program: MpcProgram, inputs: Mapping[str, FloatArray]) -> Mapping[str, MpcPort]:
    faults = [f"input {n!r} is missing" for n in program.inputs if n not in inputs]
    faults += [f"there is no input {n!r}" for n in inputs if n not in program.inputs]
    for name, port in program.inputs.items():
        if name not in inputs:
            continue
        x = np.asarray(inputs[name])
        reach = 2.0 ** (62 - program.instrs[port.value].frac)
        if x.dtype.kind not in "fiub":
            faults.append(f"input {name!r} has type {x.dtype}, needed are real numbers")
        elif x.shape[1:] != port.shape:
            faults.append(
                f"input {name!r} has shape {list(x.shape)}, needed is {['N', *port.shape]}".replace("'N'", "N")
            )
        elif not np.isfinite(x).all():
            faults.append(f"input {name!r} has values that are not finite")
        elif not port.classes and x.size and not float(np.abs(x).max()) < reach:
            faults.append(f"input {name!r} has values beyond the fixed-point range, {reach:.3g}")
    if faults:
        raise ShapeMismatch("the input does not fit the model", *faults)
    return program.inputs
