"""Accuracy of a compiled model at every stage, and how often data leave the intervals of its fits."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from pi_compiler.answers import Json, Progress, answer, silent
from pi_compiler.api import CompiledModel, batches
from pi_compiler.errors import ShapeMismatch, UnsupportedOperator
from pi_compiler.importer import import_model
from pi_compiler.importer.reference import reference
from pi_compiler.ir.graph import FloatArray, Graph, Node
from pi_compiler.ops.evaluate import evaluate
from pi_compiler.report.precision import Values

_BATCH = 64


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
    shapes = compiled.signature.shapes
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
    for number, batch in enumerate(batches(inputs, _BATCH)):
        progress(what, number * _BATCH, count)
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
