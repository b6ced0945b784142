"""The ONNX project's own backend tests, for the operators that the compiler knows.

A node test feeds every operand from outside. Here one operand (or, for arithmetic, each choice of
them) is the encrypted input and the others become constants of the model, as in a real network. The
tests of whole modules (``pytorch-converted`` and others) have their weights inside already.
``python tests/null/test_onnx_conformance.py`` prints how many pass.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from pi_compiler.errors import PiError, UnsupportedOperator
from pi_compiler.importer import import_model
from pi_compiler.ir.client_ops import CLIENT_OPS
from pi_compiler.ops import READERS
from pi_compiler.ops.evaluate import evaluate

PASS = {"node": 340, "pytorch-converted": 64, "pytorch-operator": 26, "simple": 5}
"""At least so many pass. With onnx 1.23 it is 349, 66, 27 and 5; other versions ship a few more or fewer."""
ARITHMETIC = {"Add", "Sub", "Mul", "Div", "Sum", "Concat", "MatMul", "Gemm"}
HALF = {onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16}
FLOATS = {onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE, *HALF}
PURPOSE = (
    "a maximum needs comparisons",
    "Max of two encrypted values comes later",
    "Min of two encrypted values comes later",
    "bound differs between elements",
    "exponent differs between elements",
    "training_mode is on",
    "mode 'linear' comes later",
    "mode 'cubic' comes later",
    "the product of two encrypted matrices comes later",
    "the product of an encrypted vector",
    "keys and values of earlier calls",
    "Attention with softcap",
    "results besides the first",
    "Einsum",
    "is computed from the encrypted input",
)
"""Why a case may be refused."""


@dataclass
class Case:
    """One test of ONNX: a model, and per input and output its value."""

    name: str
    model: onnx.ModelProto
    inputs: list[np.ndarray]
    outputs: list[np.ndarray]
    rtol: float
    atol: float


@dataclass
class Report:
    """What became of each case: names, with a reason where there is one."""

    kind: str = ""
    passed: list[str] = field(default_factory=list)
    wrong: dict[str, str] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    excluded: dict[str, str] = field(default_factory=dict)


def cases(kind: str) -> Iterator[Case]:
    """The tests that the onnx package ships."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        from onnx.backend.test.loader import load_model_tests

        found = load_model_tests(kind=kind)
    for test in found:
        if test.model_dir is None:
            inputs, outputs = ([_array(v) for v in values] for values in test.data_sets[0])
            yield Case(test.name, test.model, inputs, outputs, test.rtol, test.atol)
            continue
        folder = Path(test.model_dir)
        data = folder / "test_data_set_0"
        inputs, outputs = ([_stored(f) for f in sorted(data.glob(f"{w}_*.pb"))] for w in ("input", "output"))
        yield Case(test.name, onnx.load(folder / "model.onnx"), inputs, outputs, test.rtol, test.atol)


def _array(value: object) -> np.ndarray | None:
    """Element types that numpy lacks come as ONNX tensors; sequences and optionals are None."""
    if isinstance(value, onnx.TensorProto):
        return numpy_helper.to_array(value)
    return value if isinstance(value, np.ndarray | np.generic) else None


def _stored(file: Path) -> np.ndarray | None:
    try:
        return numpy_helper.to_array(onnx.TensorProto.FromString(file.read_bytes()))
    except Exception:
        return None


def run(kind: str) -> Report:
    """Every test whose operators are all known to the importer."""
    report = Report(kind)
    known = {("", op) for op in chain(READERS, CLIENT_OPS, ("Constant",))}
    for case in cases(kind):
        if not {(n.domain, n.op_type) for n in case.model.graph.node} <= known:
            continue
        if reason := _excluded(case):
            report.excluded[case.name] = reason
            continue
        try:
            for encrypted in _choices(case.model, kind):
                _compare(case, encrypted)
        except UnsupportedOperator as error:
            report.refused[case.name] = error.details[0]
        except (PiError, AssertionError) as error:
            report.wrong[case.name] = str(error)
        else:
            report.passed.append(case.name)
    return report


def _inputs(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    weights = {t.name for t in model.graph.initializer}
    return [i for i in model.graph.input if i.name not in weights]


def _excluded(case: Case) -> str | None:
    """Why a case says nothing about encrypted inference."""
    ports = _inputs(case.model)
    if not ports or any(v is None for v in chain(case.inputs, case.outputs)):
        return "no tensor to encrypt"
    if ports[0].type.tensor_type.elem_type not in FLOATS:
        return "not floating point"
    operators = {n.op_type for n in case.model.graph.node}
    kinds = {p.type.tensor_type.elem_type for p in case.model.graph.output}
    if operators & {"Cast", "CastLike"} and not kinds <= FLOATS:
        return "casts to integers or 8-bit floats"
    if any(v.size == 0 for v in (case.inputs[0], *case.outputs)):
        return "empty tensor"
    if len(case.model.graph.output) > 1 and operators & {"Dropout", "MaxPool", "BatchNormalization"}:
        return "asks for masks, indices or training statistics"
    if any(a.name == "training_mode" and a.i for n in case.model.graph.node for a in n.attribute):
        return "training mode"
    if "PRelu" in operators and case.model.opset_import[0].version < 7:
        return "PRelu of an operator set where it meant something else"
    return None


def _choices(model: onnx.ModelProto, kind: str) -> Iterator[set[str]]:
    """Which inputs are encrypted."""
    ports = _inputs(model)
    names = [p.name for p in ports]
    operator = model.graph.node[0].op_type
    if kind != "node":
        yield {p.name for p in ports if p.type.tensor_type.elem_type in FLOATS}
        return
    yield {names[0]}
    if len(model.graph.node) == 1 and operator in ARITHMETIC and len(names) > 1:
        yield {names[1]}
        if operator not in ("MatMul", "Gemm"):
            yield set(names)


def _compare(case: Case, encrypted: set[str]) -> None:
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    ports = _inputs(model)
    values = dict(zip([p.name for p in ports], case.inputs, strict=False))
    constants = [numpy_helper.from_array(v, k) for k, v in values.items() if k not in encrypted]
    kept = [p for p in model.graph.input if p.name in encrypted or p.name not in values]
    del model.graph.input[:]
    model.graph.input.extend(kept)
    model.graph.initializer.extend(constants)
    model.ir_version = max(model.ir_version, 4)  # constants need not be inputs from here on
    graph = import_model(model).graph
    found = evaluate(graph, {k: values[k].astype(np.float64)[None] for k in encrypted}, client=True)
    types = {p.type.tensor_type.elem_type for p in (*case.model.graph.input, *case.model.graph.output)}
    rounding = 1e-2 if types & HALF else 1e-5
    for port, wanted in zip(case.model.graph.output, case.outputs, strict=True):
        np.testing.assert_allclose(
            found[port.name][0], wanted.astype(np.float64), rtol=case.rtol, atol=max(case.atol, rounding)
        )


@pytest.fixture(scope="module", params=list(PASS))
def report(request) -> Report:
    return run(request.param)


def test_no_conformance_case_gives_a_wrong_result(report):
    assert report.wrong == {}


def test_what_conformance_refuses_is_refused_on_purpose(report):
    accidents = {n: r for n, r in report.refused.items() if not any(p in r for p in PURPOSE)}
    assert accidents == {}


def test_conformance_cases_pass(report):
    assert len(report.passed) >= PASS[report.kind]


if __name__ == "__main__":
    for kind in PASS:
        found = run(kind)
        considered = len(found.passed) + len(found.wrong) + len(found.refused)
        print(f"{kind}: {len(found.passed)} of {considered} pass, {len(found.wrong)} wrong")
        for name, why in found.wrong.items():
            print(f"  {name}: {why}")
        reasons = Counter(next((p for p in PURPOSE if p in r), r) for r in found.refused.values())
        print("  refused:", dict(reasons))
        print("  excluded:", dict(Counter(found.excluded.values())))
