"""The precision ladder: how far each stage of the compiler is from the one before it.

ONNX reference ≈ graph ≈ polynomial graph ≈ clear ≈ sim, and clear ≈ encrypted: every step has a
name, so that a failure says which stage is at fault, and the sum is the user's precision report.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from pi_compiler.importer import import_model
from pi_compiler.importer.reference import reference
from pi_compiler.ops.evaluate import evaluate
from pi_compiler.report.precision import Values, bits_kept

STEPS = {
    "import": "the graph computes what the ONNX file means",
    "approximate": "polynomials instead of nonlinearities",
    "compile": "weights folded, packed into slots, leveled",
    "simulate": "encoding, rescaling and key-switching noise, simulated",
    "encrypt": "the noise of the run on ciphertexts",
    "in all": "decrypted answer against the ONNX file",
}
"""Names of the steps, and what each adds."""


@dataclass(frozen=True, slots=True)
class Rung:
    """One step of the ladder.

    Attributes:
        name: a key of ``STEPS``.
        error: largest absolute difference between the two sides.
        bits: the same relative to the largest value, as bits that stay intact; infinite without error.
    """

    name: str
    error: float
    bits: float

    def to_json(self) -> dict[str, object]:
        """The rung as JSON; no error at all has null bits."""
        bits = self.bits if math.isfinite(self.bits) else None
        return {"name": self.name, "meaning": STEPS[self.name], "error": self.error, "bits": bits}


def rung(name: str, before: Values, after: Values) -> Rung:
    """The step from one set of outputs to the next."""
    error = max(float(np.abs(after[n] - before[n]).max()) for n in before)
    return Rung(name, error, bits_kept(before, after))


def ladder(
    models: Mapping[str, bytes], inputs: Values, clear: Values, simulated: Values, encrypted: Values
) -> list[Rung]:
    """Every step on the same samples.

    Args:
        models: ``model.onnx`` and ``polynomial.onnx`` of the compiled model.
        inputs: samples (B, *shape) by input name.
        clear: outputs (B, *shape) of backend ``clear``, before the client's own operators.
        simulated: the same of ``sim``.
        encrypted: the same, decrypted.

    Raises:
        ModelError: one of the models cannot be read.
    """
    shapes = {n: x.shape[1:] for n, x in inputs.items()}
    graph = import_model(models["model.onnx"], input_shapes=shapes, maxpool="average").graph
    polynomial = import_model(models["polynomial.onnx"]).graph
    exact, approximate = evaluate(graph, inputs), evaluate(polynomial, inputs)
    original = reference(models["model.onnx"], inputs)
    # The file's outputs come after the client's operators, such as a final Softmax.
    finished = evaluate(graph, inputs, client=True)
    steps = [
        rung("import", original, finished),
        rung("approximate", exact, approximate),
        rung("compile", approximate, clear),
        rung("simulate", clear, simulated),
        rung("encrypt", clear, encrypted),
    ]
    if not any(graph.client_ops):
        steps.append(rung("in all", original, encrypted))
    return steps
