"""A graph written as ONNX is a valid model that runs elsewhere and means the same."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper
from small_onnx import make_onnx

from pi_compiler.errors import ModelError, ParameterError
from pi_compiler.exporter import export
from pi_compiler.importer import import_model
from pi_compiler.ir.graph import Graph, Node
from pi_compiler.ops.evaluate import evaluate

RNG = np.random.default_rng(0)


def residual() -> Graph:
    """Convolution, normalization, residual, pooling, dense, softmax: the usual network."""
    constants = {
        "w": RNG.normal(size=(4, 3, 3, 3)).astype(np.float32),
        "v": RNG.normal(size=(4, 4, 1, 1)).astype(np.float32),
        "scale": RNG.uniform(0.5, 1.0, 4).astype(np.float32),
        "shift": RNG.normal(size=4).astype(np.float32),
        "g": RNG.normal(size=(4, 5)).astype(np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], "stem/conv", pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["a", "scale", "shift", "shift", "scale"], ["b"], "stem/norm"),
        helper.make_node("Relu", ["b"], ["c"], "stem/relu"),
        helper.make_node("Conv", ["c", "v"], ["d"], "block/conv"),
        helper.make_node("Add", ["c", "d"], ["e"], "block/add"),
        helper.make_node("Gelu", ["e"], ["f"], "block/gelu"),
        helper.make_node("GlobalAveragePool", ["f"], ["h"], "head/pool"),
        helper.make_node("Flatten", ["h"], ["i"], "head/flat"),
        helper.make_node("Gemm", ["i", "g"], ["logits"], "head/fc"),
        helper.make_node("Softmax", ["logits"], ["y"], "head/softmax"),
    ]
    return import_model(make_onnx(nodes, constants, shape=(1, 3, 6, 6), opset=20)).graph


def approximated(graph: Graph) -> Graph:
    """Activations replaced by polynomials, as later passes do: one shared, one per channel."""
    low, high = -3.0 - RNG.random(4), 3.0 + RNG.random(4)
    by_op = {
        "Relu": {"basis": "power", "coef": RNG.normal(size=(3, 4)), "domain": np.array([low, high])},
        "Gelu": {"basis": "chebyshev", "coef": RNG.normal(size=6), "domain": np.array([-4.0, 5.0])},
    }
    change = {n: Node("Poly", n.inputs, n.shape, by_op[n.op], n.origin) for n in graph.nodes() if n.op in by_op}
    return graph.rewrite(change)


def run(model: onnx.ModelProto, samples: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.stack([session.run(None, {"x": s})[0] for s in samples])


@pytest.mark.parametrize("make", [residual, lambda: approximated(residual())], ids=["exact", "polynomial"])
def test_an_exported_network_is_valid_and_agrees_with_onnxruntime(make):
    graph = make()
    model = export(graph, None)
    onnx.checker.check_model(model, full_check=True)
    x = RNG.uniform(-0.3, 0.3, (4, *graph.inputs[0].shape)).astype(np.float32)
    found = evaluate(graph, {"x": x}, client=True)["y"]
    np.testing.assert_allclose(run(model, x), found, atol=1e-5)
    again = import_model(model).graph
    np.testing.assert_allclose(evaluate(again, {"x": x}, client=True)["y"], found, atol=1e-6)


def test_layers_and_ports_keep_their_names():
    graph = approximated(residual())
    model = export(graph, None)
    assert [i.name for i in model.graph.input] == ["x"]
    assert [o.name for o in model.graph.output] == ["y"]
    names = {n.origin for n in import_model(model).graph.nodes()}
    assert {"x", "stem/conv", "stem/relu", "block/conv", "block/add", "block/gelu", "head/fc"} <= names


def test_polynomials_of_one_kind_share_a_function():
    x = Node("Input", (), (1, 3), {}, "x")
    attrs = {"basis": "chebyshev", "coef": np.arange(4.0), "domain": np.array([-1.0, 1.0])}
    first = Node("Poly", (x,), x.shape, attrs, "p1")
    second = Node("Poly", (first,), x.shape, {**attrs, "coef": -np.arange(4.0)}, "p2")
    model = export(Graph((x,), (second,), ("y",)), None)
    assert [f.name for f in model.functions] == ["Poly_chebyshev_3"]


def test_what_the_client_does_is_written_too():
    x = Node("Input", (), (1, 3), {}, "x")
    client = (("ArgMax", {"axis": 1, "keepdims": 0, "select_last_index": 0}),)
    model = export(Graph((x,), (x,), ("y",), (client,)), None)
    onnx.checker.check_model(model, full_check=True)
    assert model.graph.output[0].type.tensor_type.elem_type == TensorProto.INT64
    assert run(model, np.array([[[0.0, 2.0, 1.0]]], np.float32)).tolist() == [[1]]
    assert import_model(model).graph.client_ops == (client,)


def test_an_input_or_one_value_twice_may_be_output():
    x = Node("Input", (), (1, 3), {}, "x")
    relu = Node("Relu", (x,), x.shape, {}, "act")
    model = export(Graph((x,), (x, relu, relu), ("same", "once", "twice")), None)
    onnx.checker.check_model(model, full_check=True)
    sample = np.array([[-1.0, 2.0, 0.5]])
    found = evaluate(import_model(model).graph, {"x": sample})
    assert found["same"].tolist() == [sample.tolist()]
    assert found["once"].tolist() == found["twice"].tolist() == [[[0.0, 2.0, 0.5]]]


def test_nodes_of_one_layer_or_without_a_name_get_different_names():
    x = Node("Input", (), (1, 3), {}, "x")
    scaled = Node("Affine", (x,), x.shape, {"scale": np.full(3, 2.0), "shift": np.ones(3)}, "norm")
    model = export(Graph((x,), (Node("Relu", (scaled,), x.shape, {}, ""),), ("y",)), None)
    names = [n.name for n in model.graph.node]
    assert len(set(names)) == len(names) == 3
    assert all(names)


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    graph = residual()
    export(graph, tmp_path / "m.onnx")
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]
    assert import_model(tmp_path / "m.onnx").graph.output_names == ("y",)
    with pytest.raises(ParameterError, match="cannot write"):
        export(graph, tmp_path / "no folder" / "m.onnx")
    (tmp_path / "taken.onnx").mkdir()
    with pytest.raises(ParameterError, match="cannot write"):
        export(graph, tmp_path / "taken.onnx")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.onnx", "taken.onnx"]


def test_constants_beyond_float32_are_refused_by_layer():
    x = Node("Input", (), (1, 3), {}, "x")
    huge = Node("Affine", (x,), x.shape, {"scale": np.full(3, 1e60), "shift": np.zeros(3)}, "norm")
    with pytest.raises(ModelError, match="'norm' do not fit into float32"):
        export(Graph((x,), (huge,), ("y",)), None)
