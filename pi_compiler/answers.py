"""What a compiled model answers, how long that took, and how precise it is.

Imports neither ONNX nor torch: whoever runs a compiled model pays for neither in memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pi_compiler.api import CompiledModel, Samples, batches
from pi_compiler.errors import BudgetError, ShapeMismatch
from pi_compiler.ir.graph import FloatArray
from pi_compiler.report.precision import Values, bits_kept
from pi_compiler.runtime import memory
from pi_compiler.runtime.flooding import MARGIN, MAX_BITS, Flood
from pi_compiler.runtime.session import Result, Session
from pi_compiler.runtime.trace import Trace, merge

Json = dict[str, object]
Progress = Callable[[str, int, int], None]
"""Called as (what, done, in all)."""

_BATCH_BYTES = 1 << 20  # about what one slot vector of a batch takes, so that a few stay in the cache


def silent(what: str, done: int, total: int) -> None:
    """Progress that nobody looks at."""


@dataclass(frozen=True, slots=True, eq=False)
class Answers:
    """Outputs of several samples.

    Attributes:
        logits: per output (B, *shape), before the client's own operators.
        outputs: the same after them.
        trace: of all runs together.
        encrypt_seconds: on the client, all samples.
        decrypt_seconds: on the client, all samples.
    """

    logits: Values
    outputs: Values
    trace: Trace
    encrypt_seconds: float
    decrypt_seconds: float

    @property
    def seconds(self) -> float:
        """Encryption, evaluation and decryption of all samples."""
        return self.encrypt_seconds + self.trace.seconds + self.decrypt_seconds


def stacked(compiled: CompiledModel, x: Samples) -> dict[str, FloatArray]:
    """Samples (B, *shape) by input name; one sample alone becomes a batch of one.

    Raises:
        ShapeMismatch: naming every input that is missing, unknown or of another shape.
    """
    found, shapes = compiled.sample(x), compiled.signature.shapes
    faults = [f"input {n!r} is missing" for n in shapes if n not in found]
    for name, values in found.items():
        shape = shapes[name]
        if values.ndim == len(shape):
            found[name] = values = values[None]
        if values.ndim != len(shape) + 1 or values.shape[1:] != shape:
            faults.append(f"input {name!r} has shape {list(values.shape)}, needed is [N, {', '.join(map(str, shape))}]")
        elif not values.size:
            faults.append(f"input {name!r} is empty")
    if not faults and len({len(v) for v in found.values()}) > 1:
        faults.append(f"inputs have different numbers of samples: {[len(v) for v in found.values()]}")
    if faults:
        raise ShapeMismatch("the input does not fit the model", *faults)
    return found


def answer(session: Session, inputs: Values, progress: Progress = silent, what: str = "run") -> Answers:
    """Run samples (B, *shape): as many at once as the program answers and the backend takes."""
    count = min(len(v) for v in inputs.values())
    runs = max(1, _BATCH_BYTES // (8 * session.params.slots)) if session.backend.capabilities.batch else 1
    step = runs * session.signature.batch
    stacks = session.backend.capabilities.batch or step > 1
    results: list[Result] = []
    for number, batch in enumerate(batches(inputs, step)):
        sample = batch if stacks else {n: v[0] for n, v in batch.items()}
        results.append(session.run(sample, progress=_within(progress, what, number * step, step, count)))
        progress(what, min(count, (number + 1) * step), count)

    def gather(part: Callable[[Result], Values]) -> dict[str, FloatArray]:
        names = part(results[0])
        return {n: _gather([part(r)[n] for r in results], batched=stacks) for n in names}

    return Answers(
        gather(lambda r: r.logits),
        gather(lambda r: r.outputs),
        merge(r.trace for r in results),
        sum(r.encrypt_seconds for r in results),
        sum(r.decrypt_seconds for r in results),
    )


def _within(progress: Progress, what: str, before: int, step: int, count: int) -> Progress:
    """Progress of one run as a part of all; in thousandths, because one run may take minutes."""

    def report(layer: str, done: int, total: int) -> None:
        fraction = (before + min(step, count - before) * done / max(total, 1)) / count
        progress(f"{what} {layer}", int(1000 * fraction), 1000)

    return report


def _gather(parts: list[FloatArray], *, batched: bool) -> FloatArray:
    return np.concatenate(parts) if batched else np.stack(parts)


def timed_run(
    compiled: CompiledModel,
    inputs: Values,
    backend: str = "auto",
    *,
    insecure: bool = False,
    flood_bits: int | None = None,
    keys: Path | None = None,
    progress: Progress = silent,
) -> tuple[Json, Answers, Answers]:
    """Run samples and compare seconds, memory and precision with what was predicted.

    Args:
        compiled: the model.
        inputs: samples (B, *shape) by input name, see ``stacked``.
        backend: where to run; ``"auto"`` is the best that is available.
        insecure: accept parameters below 128 bits.
        flood_bits: security of the noise over answers that leave the owner of the key; None: no noise.
        keys: folder of keys that are used again, see ``CompiledModel.session``.
        progress: observer.

    Returns:
        The report (seconds are those of one sample of a full batch, the mean of all runs), the answers, and the
        exact answers of backend ``clear``.
    """
    flood = None
    if flood_bits is not None:
        flood = flood_for(compiled, inputs, flood_bits, insecure=insecure, progress=progress)
    memory.reset_peak()
    before = memory.resident_bytes()
    progress("keys", 0, 1)
    session = compiled.session(backend, insecure=insecure, flood=flood, keys=keys)
    found = answer(session, inputs, progress)
    peak = memory.peak_bytes()
    name = session.backend.name
    exact = found if name == "clear" else answer(compiled.session("clear", insecure=insecure), inputs)
    count, batch = min(len(v) for v in inputs.values()), compiled.signature.batch
    runs = -(-count // batch)
    full = runs * batch
    bits = bits_kept(exact.logits, found.logits)
    priced = name == compiled.report["backend"]
    predicted = float(str(compiled.report["predicted_seconds"]))
    report: Json = {
        "backend": name,
        "samples": count,
        "batch": batch,
        "seconds": found.seconds / full,
        "predicted_seconds": predicted if priced else None,
        "batch_seconds": found.seconds / runs,
        "predicted_batch_seconds": predicted * batch if priced else None,
        "encrypt_seconds": found.encrypt_seconds / full,
        "evaluate_seconds": found.trace.seconds / full,
        "decrypt_seconds": found.decrypt_seconds / full,
        "keygen_seconds": session.keygen_seconds,
        "setup_seconds": session.prepare_seconds,
        "peak_memory_bytes": peak,
        "memory_before_bytes": before,
        "predicted_peak_memory_bytes": compiled.report["peak_memory_bytes"] if priced else None,
        "key_bytes": session.key_bytes,
        "precision_bits": bits if math.isfinite(bits) else None,
        "flood_bits": flood_bits,
        "layers": layer_times(compiled.report, found, full, priced=priced),
    }
    return report, found, exact


def flood_for(
    compiled: CompiledModel, inputs: Values, bits: int, *, insecure: bool = False, progress: Progress = silent
) -> Flood:
    """The noise under which the answers to these samples may leave, from the error that a simulation finds.

    Raises:
        BudgetError: it would drown the answers.
    """
    exact = answer(compiled.session("clear", insecure=insecure), inputs).logits
    noisy = answer(compiled.session("sim", insecure=insecure), inputs, progress, "simulate").logits
    error = max(float(np.abs(noisy[n] - exact[n]).max()) for n in exact)
    top = max(float(np.abs(v).max()) for v in exact.values())
    count = min(len(v) for v in inputs.values())
    flood = Flood(bits, count, MARGIN * max(error, 2.0**-100))
    deviation = flood.deviation(sum(v.size for v in exact.values()) // count)
    left = math.log2(top / deviation) if top > 0 else -math.inf
    if left < 1:
        have, lacking = bits_kept(exact, noisy), math.ceil(1 - left) if math.isfinite(left) else MAX_BITS
        raise BudgetError(
            f"noise for {bits} bits of security would drown the answers",
            f"its standard deviation is {deviation:.3g}, the largest answer is {top:.3g}",
            hint=f"fewer bits, fewer samples in one run, or compile with --precision-bits {have + lacking:.0f}",
        )
    return flood


def layer_times(plan: Json, found: Answers, count: int, *, priced: bool) -> list[Json]:
    """Seconds per layer and sample beside their predictions, the client's two halves included."""
    measured = found.trace.layer_seconds()

    def entry(name: str, rotations: object, predicted: object, seconds: float) -> Json:
        return {
            "name": name,
            "rotations": rotations,
            "predicted_seconds": predicted if priced else None,
            "seconds": seconds / count,
        }

    rows = [entry("encrypt", 0, plan["predicted_encrypt_seconds"], found.encrypt_seconds)]
    planned = plan["layers"] if isinstance(plan["layers"], list) else []
    rows += [
        entry(str(e["name"]), e["rotations"], e["predicted_seconds"], measured[str(e["name"])])
        for e in planned
        if str(e["name"]) in measured
    ]
    return [*rows, entry("decrypt", 0, plan["predicted_decrypt_seconds"], found.decrypt_seconds)]
