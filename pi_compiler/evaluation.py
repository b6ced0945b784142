"""What a compiled model does on data: timed runs with their precision, and accuracy at every stage."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pi_compiler.api import CompiledModel, Samples, batches
from pi_compiler.errors import ShapeMismatch, UnsupportedOperator
from pi_compiler.importer import import_model
from pi_compiler.importer.reference import reference
from pi_compiler.ir.graph import FloatArray, Graph, Node
from pi_compiler.ops.evaluate import evaluate
from pi_compiler.report.ladder import Values, bits_kept
from pi_compiler.runtime import memory
from pi_compiler.runtime.session import Result, Session
from pi_compiler.runtime.trace import Trace, merge

Json = dict[str, object]
Progress = Callable[[str, int, int], None]
"""Called as (what, done, in all)."""

_BATCH_BYTES = 1 << 20  # about what one slot vector of a batch takes, so that a few stay in the cache
_GRAPH_BATCH = 64


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
    found = compiled.sample(x)
    faults = [f"input {n!r} is missing" for n in compiled.signature.inputs if n not in found]
    for name, values in found.items():
        shape = compiled.signature.inputs[name].layout.shape
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
    """Run samples (B, *shape): in batches where the backend takes them, else one by one."""
    count = min(len(v) for v in inputs.values())
    can_batch = session.backend.capabilities.batch
    step = max(1, _BATCH_BYTES // (8 * session.params.slots)) if can_batch else 1
    results: list[Result] = []
    for number, batch in enumerate(batches(inputs, step)):
        sample = batch if can_batch else {n: v[0] for n, v in batch.items()}
        results.append(session.run(sample, progress=_within(progress, what, number * step, step, count)))
        progress(what, min(count, (number + 1) * step), count)

    def gather(part: Callable[[Result], Values]) -> dict[str, FloatArray]:
        names = part(results[0])
        return {n: _gather([part(r)[n] for r in results], batched=can_batch) for n in names}

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


# --- run -----------------------------------------------------------------------------------------


def timed_run(
    compiled: CompiledModel,
    inputs: Values,
    backend: str = "auto",
    *,
    insecure: bool = False,
    progress: Progress = silent,
) -> tuple[Json, Answers, Answers]:
    """Run samples and compare seconds, memory and precision with what was predicted.

    Args:
        compiled: the model.
        inputs: samples (B, *shape) by input name, see ``stacked``.
        backend: where to run; ``"auto"`` is the one that the plan was made for.
        insecure: accept parameters below 128 bits.
        progress: observer.

    Returns:
        The report (seconds are those of one sample, the mean of all), the answers, and the exact
        answers of backend ``clear``.
    """
    memory.reset_peak()
    before = memory.resident_bytes()
    progress("keys", 0, 1)
    session = compiled.session(backend, insecure=insecure)
    found = answer(session, inputs, progress)
    peak = memory.peak_bytes()
    name = session.backend.name
    exact = found if name == "clear" else answer(compiled.session("clear", insecure=insecure), inputs)
    count = min(len(v) for v in inputs.values())
    bits = bits_kept(exact.logits, found.logits)
    priced = name == compiled.report["backend"]
    report: Json = {
        "backend": name,
        "samples": count,
        "seconds": found.seconds / count,
        "predicted_seconds": compiled.report["predicted_seconds"] if priced else None,
        "encrypt_seconds": found.encrypt_seconds / count,
        "evaluate_seconds": found.trace.seconds / count,
        "decrypt_seconds": found.decrypt_seconds / count,
        "keygen_seconds": session.keygen_seconds,
        "setup_seconds": session.prepare_seconds,
        "peak_memory_bytes": peak,
        "memory_before_bytes": before,
        "predicted_peak_memory_bytes": compiled.report["peak_memory_bytes"] if priced else None,
        "key_bytes": session.key_bytes,
        "precision_bits": bits if math.isfinite(bits) else None,
        "layers": layer_times(compiled.report, found, count, priced=priced),
    }
    return report, found, exact


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


# --- evaluate ------------------------------------------------------------------------------------


def evaluate_model(
    compiled: CompiledModel,
    inputs: Values,
    labels: NDArray[np.integer],
    encrypted: Values,
    progress: Progress = silent,
) -> Json:
    """Accuracy of the original, polynomial, simulated and encrypted network.

    Args:
        compiled: the model; its first output holds one score per class.
        inputs: samples (B, *shape) by input name.
        labels: class numbers (B,).
        encrypted: decrypted outputs of the first few of these samples.
        progress: observer.

    Raises:
        ShapeMismatch: scores and labels do not fit together.
    """
    output = next(iter(compiled.signature.outputs))
    notes: list[str] = []
    outside: list[Json] = []
    scores = {
        "original": _original(compiled, inputs, output, notes, progress),
        "polynomial": _polynomial(compiled, inputs, output, outside, progress),
        "simulated": answer(compiled.session("sim", insecure=True), inputs, progress, "simulate").logits[output],
        "encrypted": encrypted[output],
    }
    predicted = {name: classes(values, labels) for name, values in scores.items()}
    tried = len(predicted["encrypted"])
    right = {name: found == labels[: len(found)] for name, found in predicted.items()}
    return {
        "samples": len(labels),
        "encrypted_samples": tried,
        "accuracy": {name: float(r.mean()) for name, r in right.items()},
        "accuracy_encrypted_samples": {name: float(r[:tried].mean()) for name, r in right.items()},
        "agreement": float((predicted["encrypted"] == predicted["polynomial"][:tried]).mean()),
        "out_of_range": outside,
        "notes": notes,
    }


def classes(scores: FloatArray, labels: NDArray[np.integer]) -> NDArray[np.int64]:
    """The class of the highest score per sample.

    Raises:
        ShapeMismatch: there are not as many scores as the labels need.
    """
    flat = scores.reshape(len(scores), -1)
    if flat.shape[1] < 2 or flat.shape[1] <= int(labels.max()) or int(labels.min()) < 0:
        raise ShapeMismatch(
            "the labels do not fit the model's first output",
            f"labels from {int(labels.min())} to {int(labels.max())}, {flat.shape[1]} scores per sample",
        )
    return np.asarray(flat.argmax(axis=1), np.int64)


def _original(compiled: CompiledModel, inputs: Values, output: str, notes: list[str], progress: Progress) -> FloatArray:
    """Scores of the model as it came: of our graph, or of the file itself where parts of it were replaced."""
    shapes = {n: p.layout.shape for n, p in compiled.signature.inputs.items()}
    try:
        graph = import_model(compiled.models["model.onnx"], input_shapes=shapes).graph
    except UnsupportedOperator:
        notes.append("the original holds operators that were replaced; its accuracy is that of the ONNX file itself")
        progress("original", 0, 1)
        return reference(compiled.models["model.onnx"], inputs)[output]
    return _on_graph(graph, inputs, output, progress, "original")


def _polynomial(
    compiled: CompiledModel, inputs: Values, output: str, outside: list[Json], progress: Progress
) -> FloatArray:
    """Scores of the HE-friendly network; appends how often its activations left their intervals."""
    planned = compiled.report["activations"]
    names = {str(a["name"]) for a in planned} if isinstance(planned, list) else set[str]()
    watch = Watch(import_model(compiled.models["polynomial.onnx"]).graph, names)
    scores = _on_graph(watch.graph, inputs, output, progress, "polynomial", watch)
    outside.extend(watch.report())
    return scores


def _on_graph(
    graph: Graph, inputs: Values, output: str, progress: Progress, what: str, watch: Watch | None = None
) -> FloatArray:
    count = min(len(v) for v in inputs.values())
    parts: list[FloatArray] = []
    for number, batch in enumerate(batches(inputs, _GRAPH_BATCH)):
        progress(what, number * _GRAPH_BATCH, count)
        parts.append(evaluate(graph, batch, keep=watch)[output])
    return np.concatenate(parts)


class Watch:
    """Counts inputs of polynomial activations that lie outside their intervals.

    Args:
        graph: the polynomial network.
        names: the activations; further stages of one replacement have other names.
    """

    def __init__(self, graph: Graph, names: Collection[str]) -> None:
        self.graph = graph
        found = [n for n in graph.nodes() if n.op == "Poly" and n.origin in names]
        self._nodes = {id(n): n for n in found}
        self._readers: dict[int, list[Node]] = {}
        for node in found:
            self._readers.setdefault(id(node.inputs[0]), []).append(node)
        self._samples = dict.fromkeys(self._nodes, 0)
        self._values = dict.fromkeys(self._nodes, 0)
        self._seen = 0

    def __call__(self, node: Node, values: FloatArray) -> None:
        """See ``ops.evaluate.Observer``."""
        if node.op == "Input" and node is self.graph.inputs[0]:
            self._seen += len(values)
        for reader in self._readers.get(id(node), ()):
            low, high = self._interval(reader)
            out = (values < low) | (values > high)
            self._values[id(reader)] += int(out.sum())
            self._samples[id(reader)] += int(out.reshape(len(out), -1).any(axis=1).sum())

    @staticmethod
    def _interval(reader: Node) -> tuple[FloatArray, FloatArray]:
        """Ends that broadcast to (B, *shape); channels are axis 1 of the shape."""
        domain = np.asarray(reader.attrs["domain"], np.float64)
        if domain.ndim == 1 or domain.shape[1] == 1:
            return domain[0].reshape(-1)[:1], domain[1].reshape(-1)[:1]
        view = (1, 1, -1, *([1] * (len(reader.shape) - 2)))
        return domain[0].reshape(view), domain[1].reshape(view)

    def report(self) -> list[Json]:
        """Per activation the fractions of samples with any value outside, and of values."""
        return [
            {
                "name": n.origin,
                "domain": [float(np.min(self._interval(n)[0])), float(np.max(self._interval(n)[1]))],
                "samples": self._samples[key] / max(self._seen, 1),
                "values": self._values[key] / max(self._seen * n.size, 1),
            }
            for key, n in self._nodes.items()
        ]
