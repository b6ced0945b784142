"""One model under every scheme: homomorphic encryption on each backend, and each MPC protocol."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from pi_compiler import api
from pi_compiler.accuracy import classes
from pi_compiler.cost_mpc import NETWORKS, MpcCost
from pi_compiler.errors import BackendUnavailable, BudgetError, CalibrationError, ModelError, PiError
from pi_compiler.ir.graph import FloatArray
from pi_compiler.ir.protocols import PROTOCOLS
from pi_compiler.mpc import CompiledMpc
from pi_compiler.ops.evaluate import evaluate
from pi_compiler.options import Activation, Options
from pi_compiler.passes.compilation import Compilation
from pi_compiler.pipelines import CKKS, run
from pi_compiler.report.plan import plan_report
from pi_compiler.report.text import number

Json = dict[str, object]
Data = tuple[Mapping[str, FloatArray], NDArray[np.integer]]

_CKKS_BACKENDS = ("tenseal", "native")
_TRUST = "lattice assumptions only; the server sees no input and no answer, but knows the weights"
_SAMPLES = 500
_BATCH = 64


@dataclass(frozen=True, slots=True, eq=False)
class Given:
    """What there is to compare with.

    Attributes:
        model: the ONNX file's bytes.
        calibration: samples by input name, or None.
        data: samples (B, *shape) by input name and labels, or None.
        shapes: of the inputs.
    """

    model: bytes
    calibration: api.Samples | None
    data: Data | None
    shapes: Mapping[str, tuple[int, ...]]


def compare(given: Given, secure: CompiledMpc | None) -> Json:
    """The table's rows as JSON.

    Args:
        given: model and data.
        secure: the model compiled for MPC, where no calibration data are given to do it here.
    """
    if given.calibration is None and secure is None:
        raise CalibrationError("comparing needs calibration data", hint="--calibration DATA")
    rows = [_guarded(f"mpc {name}", partial(_secure_row, given, secure, name)) for name in PROTOCOLS]
    notes = ["the model's own nonlinearities; CKKS replaces them as its column says, without retraining"]
    if given.calibration is None:
        notes.append("no rows for CKKS, which plans with calibration data: --calibration DATA")
    else:
        rows = [_guarded(f"ckks ({b})", partial(_ckks_row, given, b)) for b in _CKKS_BACKENDS] + rows
    if given.data is None:
        notes.append("no accuracies: --data DATA, labeled")
    return {"rows": rows, "notes": notes}


def _guarded(scheme: str, make: Callable[[], Json]) -> Json:
    """A row, or why there is none."""
    try:
        return make()
    except (BudgetError, CalibrationError, ModelError, BackendUnavailable) as e:
        return {"scheme": scheme, "why": e.what}


def _secure_row(given: Given, secure: CompiledMpc | None, protocol: str) -> Json:
    compiled = secure
    if given.calibration is not None:
        options = Options(target="mpc", protocol=protocol)
        compiled = api.compile_secure(
            given.model, calibration=given.calibration, options=options, input_shapes=given.shapes
        )
    if compiled is None:
        raise CalibrationError("comparing needs calibration data")
    lan, wan = (compiled.on(name, protocol) for name in ("lan", "wan"))
    accuracy = None
    if given.data is not None:
        x, labels = given.data
        program = replace(compiled.program, protocol=protocol)
        scores = replace(compiled, program=program).run(x, backend="mpc-sim").logits
        accuracy = float((classes(next(iter(scores.values())), labels) == labels).mean())
    replaced = lan["activations"]
    kinds = sorted({str(a["method"]) for a in replaced if isinstance(a, dict)}) if isinstance(replaced, list) else []
    return {
        "scheme": f"mpc {protocol}",
        "lan_seconds": lan["predicted_seconds"],
        "wan_seconds": wan["predicted_seconds"],
        "bytes_sent": lan["bytes_sent"],
        "rounds": lan["rounds"],
        "offline_bytes": lan["offline_bytes"],
        "setup_bytes": lan["setup_bytes"],
        "accuracy": accuracy,
        "activations": ", ".join(["exact", *kinds]),
        "trust": PROTOCOLS[protocol].assumption,
    }


def _ckks_row(given: Given, backend: str) -> Json:
    """A plan with automatic activations, or with quadratic ones where those do not fit."""
    if given.calibration is None:
        raise CalibrationError("a plan for CKKS needs calibration data")
    why: PiError | None = None
    for method in ("auto", "quadratic"):
        options = Options(backend=backend, activation=Activation(method), maxpool="average")
        try:
            c, _ = api.prepare(given.model, given.calibration, options, None, given.shapes)
            c = run(c, CKKS, stop_after="schedule")
        except (BudgetError, CalibrationError) as e:
            why = e
            continue
        return _ckks_figures(given, c, backend, method)
    raise why or BudgetError(f"no plan for {backend}")


def _ckks_figures(given: Given, c: Compilation, backend: str, method: str) -> Json:
    report = plan_report(c)
    circuit = Compilation.require(c.circuit, "compare", "schedule")
    params = Compilation.require(c.params, "compare", "schedule")
    levels = Compilation.require(c.levels, "compare", "schedule")
    back = sum(
        circuit.layouts[n].ciphertexts * params.ciphertext_bytes(levels[n]) for n, _ in circuit.stages.outputs.values()
    )
    cost = MpcCost(2, float(back), number(report["bytes_sent"]), compute=number(report["predicted_seconds"]))
    accuracy = None
    if given.data is not None:
        x, labels = given.data
        graph = Compilation.require(c.replaced, "compare", "approximate")
        name = graph.output_names[0]
        parts = [evaluate(graph, few)[name] for few in _batches(x)]
        accuracy = float((classes(np.concatenate(parts), labels) == labels).mean())
    return {
        "scheme": f"ckks ({backend})",
        "lan_seconds": NETWORKS["lan"].seconds(cost),
        "wan_seconds": NETWORKS["wan"].seconds(cost),
        "bytes_sent": cost.bytes,
        "rounds": cost.rounds,
        "offline_bytes": 0,
        "setup_bytes": report["key_bytes"],
        "accuracy": accuracy,
        "activations": method,
        "trust": _TRUST,
    }


def _batches(x: Mapping[str, FloatArray]) -> Iterator[dict[str, FloatArray]]:
    return api.batches(x, _BATCH)


def limited(x: Mapping[str, FloatArray], labels: NDArray[np.integer]) -> Data:
    """The samples that accuracies of a comparison are measured on."""
    return {n: v[:_SAMPLES] for n, v in x.items()}, labels[:_SAMPLES]
