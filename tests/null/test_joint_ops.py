"""Operators that only MPC has, against ONNX's reference evaluator, and on shares."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from pi_compiler.api import compile_secure
from pi_compiler.errors import UnsupportedOperator
from pi_compiler.importer import import_model
from pi_compiler.ops import MPC_READERS
from pi_compiler.ops.evaluate import evaluate
from pi_compiler.options import Options

RNG = np.random.default_rng(0)
SHAPE = (1, 2, 5, 6)


def floats(*shape):
    return RNG.normal(size=shape).astype(np.float32)


MASK = RNG.random(SHAPE) < 0.5
CASES = {
    "MaxPool": ([("MaxPool", ["x"], dict(kernel_shape=[2, 3], strides=[2, 2], pads=[1, 0, 0, 1]))], {}),
    "MaxPool dilated": ([("MaxPool", ["x"], dict(kernel_shape=[2, 2], dilations=[2, 1], strides=[1, 3]))], {}),
    "GlobalMaxPool": ([("GlobalMaxPool", ["x"], {})], {}),
    "ReduceMax": ([("ReduceMax", ["x"], dict(axes=[-1, 1], keepdims=0))], {}),
    "Max": ([("Neg", ["x"], {}), ("Max", ["x", 0], {})], {}),
    "Min": ([("Mul", ["x", "c"], {}), ("Min", [0, "x"], {})], {"c": floats(6)}),
    "Min with a bound": ([("Min", ["x", "c"], {})], {"c": np.array(0.25, np.float32)}),
    "Greater": ([("Neg", ["x"], {}), ("Greater", ["x", 0], {}), ("Cast", [1], dict(to=1))], {}),
    "GreaterOrEqual": ([("GreaterOrEqual", ["x", "c"], {}), ("Cast", [0], dict(to=1))], {"c": floats(6)}),
    "Less": ([("Less", ["c", "x"], {}), ("Cast", [0], dict(to=1))], {"c": floats(6)}),
    "LessOrEqual": ([("Neg", ["x"], {}), ("LessOrEqual", [0, "x"], {}), ("Cast", [1], dict(to=1))], {}),
    "Where encrypted": ([("Less", ["x", "c"], {}), ("Neg", ["x"], {}), ("Where", [0, "x", 1], {})], {"c": floats(6)}),
    "Where constant": ([("Neg", ["x"], {}), ("Where", ["m", 0, "x"], {})], {"m": MASK}),
    "Where with a number": ([("Where", ["m", "c", "x"], {})], {"m": MASK, "c": np.array(2.0, np.float32)}),
    "Add": ([("Add", ["x", "c"], {})], {"c": floats(6)}),
    "Softmax": ([("Softmax", ["x"], dict(axis=2)), ("Neg", [0], {})], {}),
    "Softmax masked": (
        [("Where", ["m", "x", "c"], {}), ("Softmax", [0], dict(axis=-1)), ("Neg", [1], {})],
        {"m": MASK | (np.arange(6) == 3), "c": np.array(-np.inf, np.float32)},
    ),
    "ArgMax": ([("ArgMax", ["x"], dict(axis=2, keepdims=0)), ("Cast", [0], dict(to=1)), ("Neg", [1], {})], {}),
    "LayerNormalization": (
        [("LayerNormalization", ["x", "s", "b"], dict(axis=2))],
        {"s": floats(5, 6), "b": floats(5, 6)},
    ),
    "MatMul": ([("Transpose", ["x"], dict(perm=[0, 1, 3, 2])), ("MatMul", ["x", 0], {})], {}),
}


def model(case: str, shape=SHAPE):
    steps, constants = CASES[case]
    names: list[str] = []
    nodes = []
    for n, (op, inputs, attrs) in enumerate(steps):
        named = [names[i] if isinstance(i, int) else i for i in inputs]
        names.append(f"v{n}")
        nodes.append(helper.make_node(op, named, [names[-1]], f"n{n}", **attrs))
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    y = helper.make_tensor_value_info(names[-1], TensorProto.FLOAT, None)
    weights = [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()]
    graph = helper.make_graph(nodes, "joint", [x], [y], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def test_every_reader_is_compared():
    named = {op for steps, _ in CASES.values() for op, _, _ in steps}
    assert set(MPC_READERS) <= named


@pytest.mark.parametrize("case", CASES)
def test_an_operator_means_what_onnx_means_and_runs_on_shares(case):
    made = model(case)
    x = floats(3, *SHAPE)
    reference = ReferenceEvaluator(made)
    wanted = np.stack([np.asarray(reference.run(None, {"x": v})[0], np.float64) for v in x])
    graph = import_model(made, target="mpc").graph
    found = evaluate(graph, {"x": x}, client=True)[graph.output_names[0]]
    np.testing.assert_allclose(found, wanted.reshape(found.shape), atol=1e-5)
    options = Options(target="mpc", activation_error=2.0**-11)
    compiled = compile_secure(made, calibration=floats(24, *SHAPE), options=options)
    outputs = next(iter(compiled.run(x, backend="mpc-sim").outputs.values()))
    np.testing.assert_allclose(outputs, wanted.reshape(outputs.shape), atol=5e-3)


def test_a_row_without_an_open_place_is_refused():
    case = "Softmax masked"
    steps, constants = CASES[case]
    CASES["closed"] = (steps, {**constants, "m": np.zeros(SHAPE, bool)})
    try:
        with pytest.raises(UnsupportedOperator, match="whole row is masked"):
            import_model(model("closed"), target="mpc")
    finally:
        del CASES["closed"]
