"""From files that exporters write to graphs, and what is said about files that cannot be read."""

from __future__ import annotations

import contextlib
import os
import time
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, external_data_helper, helper, numpy_helper
from small_onnx import dense, make_onnx

from pi_compiler.errors import ModelError, ShapeMismatch, UnsupportedOperator
from pi_compiler.importer import import_model, inspect_model
from pi_compiler.ops.evaluate import evaluate

node = helper.make_node
FUZZ = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))


def weights(**named):
    return {
        k: np.asarray(v) if np.asarray(v).dtype == np.int64 else np.asarray(v, np.float32) for k, v in named.items()
    }


def session(model: onnx.ModelProto | Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    source = str(model) if isinstance(model, Path) else model.SerializeToString()
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def ops_of(model, **options) -> list[str]:
    return [n.op for n in import_model(model, **options).graph.nodes()]


# --- activations that exporters write out ------------------------------------------------------------

HALF = weights(half=0.5, one=1.0, root=2**0.5, three=3.0, six=6.0, zero=0.0)
SPELLED = {
    "Gelu": [
        node("Div", ["x", "root"], ["a"]),
        node("Erf", ["a"], ["b"]),
        node("Add", ["b", "one"], ["c"]),
        node("Mul", ["x", "c"], ["d"]),
        node("Mul", ["d", "half"], ["y"]),
    ],
    "SiLU": [node("Sigmoid", ["x"], ["a"]), node("Mul", ["a", "x"], ["y"])],
    "HardSwish": [
        node("Add", ["x", "three"], ["a"]),
        node("Clip", ["a", "zero", "six"], ["b"]),
        node("Mul", ["x", "b"], ["c"]),
        node("Div", ["c", "six"], ["y"]),
    ],
    "Mish": [node("Softplus", ["x"], ["a"]), node("Tanh", ["a"], ["b"]), node("Mul", ["x", "b"], ["y"])],
    "Softsign": [node("Abs", ["x"], ["a"]), node("Add", ["a", "one"], ["b"]), node("Div", ["x", "b"], ["y"])],
    "LeakyRelu": [
        node("Greater", ["x", "zero"], ["a"]),
        node("Mul", ["x", "half"], ["b"]),
        node("Where", ["a", "x", "b"], ["y"]),
    ],
    "Relu": [node("Clip", ["x", "zero"], ["y"])],
    "Sigmoid": [
        node("Neg", ["x"], ["a"]),
        node("Exp", ["a"], ["b"]),
        node("Add", ["b", "one"], ["c"]),
        node("Reciprocal", ["c"], ["y"]),
    ],
    "Square": [node("Mul", ["x", "x"], ["y"])],
}


@pytest.mark.parametrize("op", SPELLED)
def test_a_spelled_out_activation_becomes_one_node(op):
    model = make_onnx(SPELLED[op], HALF)
    assert ops_of(model) == ["Input", op]
    x = np.random.default_rng(0).normal(size=(3, 1, 4)).astype(np.float32)
    found = evaluate(import_model(model).graph, {"x": x})["y"]
    run = session(model)
    np.testing.assert_allclose(found, np.stack([run.run(None, {"x": v})[0] for v in x]), atol=1e-5)


def test_x_sigmoid_of_a_multiple_keeps_its_rate():
    nodes = [node("Mul", ["x", "r"], ["a"]), node("Sigmoid", ["a"], ["b"]), node("Mul", ["x", "b"], ["y"])]
    graph = import_model(make_onnx(nodes, weights(r=1.702))).graph
    assert graph.outputs[0].op == "SiLU"
    assert graph.outputs[0].attrs["rate"] == pytest.approx(1.702, abs=1e-5)


def test_an_activation_whose_inside_is_used_elsewhere_keeps_the_inside():
    nodes = [node("Sigmoid", ["x"], ["a"]), node("Mul", ["a", "x"], ["b"]), node("Add", ["a", "b"], ["y"])]
    assert Counter(ops_of(make_onnx(nodes))) == Counter(["Input", "Sigmoid", "SiLU", "Add"])


def test_a_function_that_is_no_known_activation_stays_as_it_is():
    nodes = [node("Tanh", ["x"], ["a"]), node("Mul", ["a", "x"], ["y"])]
    assert ops_of(make_onnx(nodes)) == ["Input", "Tanh", "Mul"]


def test_scales_per_channel_do_not_make_an_activation():
    nodes = [node("Mul", ["x", "s"], ["a"]), node("Sigmoid", ["a"], ["b"]), node("Mul", ["x", "b"], ["y"])]
    assert "SiLU" not in ops_of(make_onnx(nodes, weights(s=[1.0, 1.1, 1.2, 1.3])))


def test_a_comparison_that_is_no_activation_is_refused():
    nodes = [node("Greater", ["x", "c"], ["a"], "cmp"), node("Where", ["a", "x", "c"], ["y"], "pick")]
    with pytest.raises(UnsupportedOperator) as caught:
        import_model(make_onnx(nodes, weights(c=1.0)))
    assert "Greater 'cmp'" in str(caught.value)
    assert "Where 'pick'" in str(caught.value)


# --- clean-up ----------------------------------------------------------------------------------------


def test_what_changes_no_value_leaves_no_node():
    nodes = [node("Identity", ["x"], ["a"]), node("Dropout", ["a"], ["b"]), node("Cast", ["b"], ["y"], to=1)]
    assert ops_of(make_onnx(nodes)) == ["Input"]


def test_shape_arithmetic_is_folded_away():
    nodes = [
        node("Shape", ["x"], ["s"]),
        node("Gather", ["s", "zero"], ["n"]),
        node("Unsqueeze", ["n", "axis"], ["m"]),
        node("Concat", ["m", "rest"], ["t"], axis=0),
        node("Reshape", ["x", "t"], ["y"]),
    ]
    constants = weights(zero=np.int64(0), axis=np.array([0]), rest=np.array([2, -1]))
    assert ops_of(make_onnx(nodes, constants, shape=("N", 4))) == ["Input", "Reshape"]


def test_shapes_that_exporters_make_of_one_value_are_known():
    """What ``expand`` becomes: a one stands where a size is -1; the reshape behind it needs the shape."""
    nodes = [
        node("ConstantOfShape", ["rank"], ["ones"], value=numpy_helper.from_array(np.array([1]))),
        node("Mul", ["ones", "minus"], ["open"]),
        node("Equal", ["sizes", "open"], ["is_open"]),
        node("Where", ["is_open", "ones", "sizes"], ["shape"]),
        node("Expand", ["table", "shape"], ["rows"]),
        node("Add", ["x", "rows"], ["sum"]),
        node("Reshape", ["sum", "flat"], ["y"]),
    ]
    constants = weights(
        rank=np.array([2]), minus=np.array(-1), sizes=np.array([-1, 4]), table=np.ones((1, 1)), flat=np.array([-1])
    )
    assert ops_of(make_onnx(nodes, constants, shape=(1, 4))) == ["Input", "Affine", "Reshape"]


def test_the_batch_dimension_is_fixed_to_one_without_being_asked():
    graph = import_model(make_onnx([node("Relu", ["x"], ["y"])], shape=("N", 4))).graph
    assert graph.inputs[0].shape == (1, 4)


def test_constants_of_constants_are_computed_once():
    nodes = [node("Split", ["w"], ["a", "b"], axis=0), node("Mul", ["a", "b"], ["c"]), node("Add", ["x", "c"], ["y"])]
    graph = import_model(make_onnx(nodes, weights(w=np.arange(8.0).reshape(2, 4)))).graph
    np.testing.assert_allclose(graph.outputs[0].attrs["shift"], [[0.0, 5.0, 12.0, 21.0]])


def test_old_operator_sets_are_upgraded():
    nodes = [node("Unsqueeze", ["x"], ["a"], axes=[0]), node("Clip", ["a"], ["y"], min=0.0, max=6.0)]
    assert ops_of(make_onnx(nodes, opset=9)) == ["Input", "Reshape", "Clip"]


def test_local_functions_are_inlined():
    body = [node("Relu", ["a"], ["b"], "inside"), node("Mul", ["b", "b"], ["c"])]
    function = helper.make_function("own", "Act", ["a"], ["c"], body, [helper.make_opsetid("", 17)])
    model = make_onnx([node("Act", ["x"], ["y"], domain="own")])
    model.functions.append(function)
    model.opset_import.append(helper.make_opsetid("own", 1))
    assert ops_of(model) == ["Input", "Relu", "Square"]


# --- the client's part -------------------------------------------------------------------------------


def test_a_final_softmax_and_argmax_go_to_the_client():
    nodes = [
        node("Relu", ["x"], ["a"]),
        node("Softmax", ["a"], ["b"]),
        node("ArgMax", ["b"], ["y"], axis=1, keepdims=0),
    ]
    model = make_onnx(nodes)
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.INT64
    imported = import_model(model)
    assert [n.op for n in imported.graph.nodes()] == ["Input", "Relu"]
    assert [op for op, _ in imported.graph.client_ops[0]] == ["Softmax", "ArgMax"]
    assert imported.notes == ("the client applies Softmax and ArgMax at output 'y' after decryption",)
    found = evaluate(imported.graph, {"x": np.array([[1.0, 3.0, 2.0, 0.0]])}, client=True)
    assert found["y"].tolist() == [[1.0]]


def test_logits_and_probabilities_may_both_be_outputs():
    nodes = [node("Relu", ["x"], ["y"]), node("LogSoftmax", ["y"], ["z"])]
    model = make_onnx(nodes)
    model.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, None))
    graph = import_model(model).graph
    assert graph.outputs[0] is graph.outputs[1]
    assert [len(ops) for ops in graph.client_ops] == [0, 1]


def test_a_hidden_logarithm_of_softmax_is_refused_by_name():
    """A softmax the network can hold; its logarithm only the client."""
    nodes = [node("LogSoftmax", ["x"], ["a"], "attention"), node("Relu", ["a"], ["y"])]
    with pytest.raises(UnsupportedOperator, match=r"LogSoftmax 'attention'.*later"):
        import_model(make_onnx(nodes))


# --- MaxPool -----------------------------------------------------------------------------------------


def test_max_pooling_is_replaced_only_when_asked_and_says_so():
    model = make_onnx([node("MaxPool", ["x"], ["y"], "pool", kernel_shape=[2, 2])], shape=(1, 2, 4, 4))
    with pytest.raises(UnsupportedOperator, match=r"MaxPool 'pool'.*AveragePool"):
        import_model(model)
    imported = import_model(model, maxpool="average")
    assert [n.op for n in imported.graph.nodes()] == ["Input", "AveragePool"]
    assert "'pool' was replaced" in imported.notes[0]
    assert "accuracy" in imported.notes[0]


# --- inspection --------------------------------------------------------------------------------------


def test_inspection_lists_everything_unsupported_and_counts_relus():
    nodes = [
        node("Relu", ["x"], ["a"], "act"),
        node("TopK", ["a", "k"], ["b", "i"], "top"),
        node("Sin", ["b"], ["c"], "wave"),
        node("Foo", ["c"], ["d"], "custom", domain="com.example"),
        node("Cos", ["d"], ["y"], "behind"),
    ]
    model = make_onnx(nodes, weights(k=np.array([1])))
    model.opset_import.append(helper.make_opsetid("com.example", 1))
    found = inspect_model(model)
    assert [(u.node, u.op) for u in found.unsupported] == [
        ("top", "TopK"), ("wave", "Sin"), ("custom", "Foo"), ("behind", "Cos"),
    ]  # fmt: skip
    assert found.relu_count == 4
    assert found.operators["Relu"] == 1
    assert [(a.origin, a.op, a.elements) for a in found.nonlinearities] == [("act", "Relu", 4)]
    with pytest.raises(UnsupportedOperator) as caught:
        import_model(model)
    for name in ("top", "wave", "custom", "behind"):
        assert f"'{name}'" in str(caught.value)


def test_relus_used_twice_count_once():
    nodes = [node("Relu", ["x"], ["a"]), node("Add", ["a", "a"], ["y"])]
    assert inspect_model(make_onnx(nodes)).relu_count == 4


# --- what is wrong with a model ----------------------------------------------------------------------


def test_all_weights_that_are_not_finite_are_named_at_once():
    model = dense()
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor).copy()
        values.flat[:2] = [np.nan, np.inf]
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    with pytest.raises(ModelError) as caught:
        import_model(model)
    assert "'a' (Gemm 'first'): 2 of 12" in str(caught.value)
    assert "'b' (Gemm 'last'): 2 of 6" in str(caught.value)


def test_infinite_bounds_are_no_faulty_weights():
    nodes = [node("Clip", ["x", "low", "high"], ["y"])]
    assert ops_of(make_onnx(nodes, weights(low=0.0, high=np.inf))) == ["Input", "Relu"]


def test_all_open_dimensions_are_named_and_can_be_given():
    model = make_onnx([node("Relu", ["x"], ["y"])], shape=("N", 3, "height", "width"))
    with pytest.raises(ModelError, match=r"dimension 2, 3[\s\S]*input_shapes"):
        import_model(model)
    graph = import_model(model, input_shapes={"x": (1, 3, 8, 6)}).graph
    assert graph.outputs[0].shape == (1, 3, 8, 6)


@pytest.mark.parametrize(
    ("shapes", "says"),
    [({"z": (1, 4)}, "no input 'z'"), ({"x": (1, 2, 2)}, "2 dimensions"), ({"x": (1, -4)}, "no size")],
)
def test_given_shapes_that_do_not_fit_are_refused(shapes, says):
    with pytest.raises(ModelError, match=says):
        import_model(make_onnx([node("Relu", ["x"], ["y"])]), input_shapes=shapes)


def test_inputs_that_are_no_numbers_are_refused():
    model = make_onnx([node("Cast", ["x"], ["y"], to=1)])
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.STRING
    with pytest.raises(ModelError, match="string, needed are floats or whole numbers"):
        import_model(model)


def test_an_output_that_no_input_reaches_is_refused():
    with pytest.raises(ModelError, match="does not depend"):
        import_model(make_onnx([node("Relu", ["w"], ["y"])], weights(w=[1.0])))


def test_control_flow_is_refused_with_advice():
    branch = helper.make_graph([node("Relu", ["x"], ["b"])], "g", [], [helper.make_tensor_value_info("b", 1, None)])
    nodes = [
        node("ReduceSum", ["x"], ["s"], keepdims=0),
        node("Cast", ["s"], ["c"], "decide", to=9),
        node("If", ["c"], ["y"], "branch", then_branch=branch, else_branch=branch),
    ]
    with pytest.raises(UnsupportedOperator, match="If 'branch': control flow"):
        import_model(make_onnx(nodes))


def test_a_product_of_two_encrypted_matrices_is_one_operator():
    nodes = [node("Transpose", ["x"], ["t"]), node("MatMul", ["x", "t"], ["y"], "attention")]
    (found,) = import_model(make_onnx(nodes)).graph.outputs
    assert (found.op, found.origin) == ("Dot", "attention")


def test_gemm_of_two_encrypted_matrices_is_refused():
    nodes = [node("Transpose", ["x"], ["t"]), node("Gemm", ["x", "t"], ["y"], "attention")]
    with pytest.raises(UnsupportedOperator, match=r"Gemm 'attention'.*two encrypted matrices comes later"):
        import_model(make_onnx(nodes))


def test_newer_operator_sets_than_the_library_knows_are_refused():
    model = make_onnx([node("Relu", ["x"], ["y"])])
    model.opset_import[0].version = onnx.defs.onnx_opset_version() + 1
    with pytest.raises(ModelError, match=r"operator set \d+[\s\S]*opset 17"):
        import_model(model)


@pytest.mark.parametrize("source", [b"", b"PK\x03\x04rest", b"not a model", np.zeros(3), "no such file.onnx", "."])
def test_what_is_no_model_is_a_model_error(source):
    with pytest.raises(ModelError):
        import_model(source)


def test_external_data_are_loaded_and_missed(tmp_path):
    model = dense()
    external_data_helper.convert_model_to_external_data(model, location="w.bin", size_threshold=0)
    onnx.save(model, tmp_path / "m.onnx")
    graph = import_model(tmp_path / "m.onnx").graph
    x = np.random.default_rng(0).normal(size=(2, 4))
    np.testing.assert_allclose(evaluate(graph, {"x": x})["y"], evaluate(import_model(dense()).graph, {"x": x})["y"])
    with pytest.raises(ModelError, match=r"outside the model, in 'w.bin'[\s\S]*path"):
        import_model((tmp_path / "m.onnx").read_bytes())
    (tmp_path / "w.bin").unlink()
    with pytest.raises(ModelError, match=r"missing[\s\S]*'w.bin' with 2 tensors"):
        import_model(tmp_path / "m.onnx")


def test_the_model_handed_in_stays_as_it_was():
    model = make_onnx([node("Relu", ["x"], ["y"])], shape=("N", 4))
    before = model.SerializeToString()
    assert import_model(model).model == before
    assert model.SerializeToString() == before


# --- damage ------------------------------------------------------------------------------------------


def network() -> onnx.ModelProto:
    """Most kinds of attributes and operands in few bytes."""
    rng = np.random.default_rng(0)
    constants = weights(
        w=rng.normal(size=(2, 1, 3, 3)), b=rng.normal(size=2), g=rng.normal(size=(8, 3)), t=np.array([1, 8]),
        one=np.ones(2), zero=np.zeros(2), s=np.array([0]), e=np.array([2]), a=np.array([2]),
    )  # fmt: skip
    nodes = [
        node("Conv", ["x", "w", "b"], ["c"], "conv", pads=[1, 1, 1, 1], strides=[1, 1], kernel_shape=[3, 3]),
        node("BatchNormalization", ["c", "one", "zero", "zero", "one"], ["n"], "norm"),
        node("Relu", ["n"], ["r"], "act"),
        node("Add", ["r", "c"], ["d"], "add"),
        node("AveragePool", ["d"], ["p"], "pool", kernel_shape=[2, 2], strides=[2, 2]),
        node("Slice", ["p", "s", "e", "a"], ["q"], "slice"),
        node("Reshape", ["q", "t"], ["f"], "flat"),
        node("Gemm", ["f", "g"], ["h"], "dense", alpha=0.5),
        node("Softmax", ["h"], ["y"], "soft", axis=1),
    ]
    return make_onnx(nodes, constants, shape=(1, 1, 4, 4))


SOUND = network()
BYTES = SOUND.SerializeToString()
SOME = st.sampled_from([0, -1, 1, 2, 3, 7, 255, 2**31 - 1, -(2**31), 2**40, 2**62, -(2**63), 2**63 - 1])


def either_works_or_is_a_model_error(model) -> None:
    for read in (import_model, inspect_model):
        with contextlib.suppress(ModelError):
            read(model)


def test_the_model_to_be_damaged_is_sound():
    assert import_model(SOUND).graph.outputs[0].shape == (1, 3)


@FUZZ
@given(st.lists(st.tuples(st.integers(0, len(BYTES) - 1), st.integers(0, 255)), min_size=1, max_size=4))
def test_flipped_bytes_are_noticed_or_harmless(flips):
    data = bytearray(BYTES)
    for at, value in flips:
        data[at] = value
    either_works_or_is_a_model_error(bytes(data))


@FUZZ
@given(st.integers(0, len(BYTES) - 1))
def test_truncated_files_are_noticed(length):
    with pytest.raises(ModelError):
        import_model(BYTES[:length])


@FUZZ
@given(st.data())
def test_wrong_ranks_sizes_operands_and_attributes_are_noticed_or_harmless(data):
    model = onnx.ModelProto()
    model.CopyFrom(SOUND)
    for _ in range(data.draw(st.integers(1, 2))):
        damage(model.graph, data.draw)
    either_works_or_is_a_model_error(model)


def readable(tensor: onnx.TensorProto) -> np.ndarray:
    """A tensor's values; something else where an earlier damage made them unreadable."""
    try:
        return numpy_helper.to_array(tensor) if tensor.dims else np.zeros(1, np.float32)
    except (TypeError, ValueError):
        return np.zeros(1, np.float32)


def damage(graph: onnx.GraphProto, draw) -> None:
    names = [t.name for t in graph.initializer] + [o for n in graph.node for o in n.output] + ["", "nowhere"]
    victim = draw(st.sampled_from(list(graph.node)))
    tensor = draw(st.sampled_from(list(graph.initializer)))
    values = readable(tensor)
    match draw(
        st.sampled_from(["operand", "operator", "rank", "values", "dims", "type", "attribute", "input", "drop"])
    ):
        case "operand":
            victim.input[draw(st.integers(0, len(victim.input) - 1))] = draw(st.sampled_from(names))
        case "operator":
            victim.op_type = draw(
                st.sampled_from(["Conv", "Gemm", "Gather", "Concat", "Split", "Pad", "Resize", "Bogus"])
            )
        case "rank":
            shape = draw(st.sampled_from([(-1,), (1, *values.shape), values.shape[::-1]]))
            tensor.CopyFrom(numpy_helper.from_array(values.reshape(shape), tensor.name))
        case "values":
            other = np.full(values.shape, draw(SOME)).astype(values.dtype)
            tensor.CopyFrom(numpy_helper.from_array(other, tensor.name))
        case "dims":
            del tensor.dims[:]
            tensor.dims.extend(draw(st.lists(SOME, max_size=3)))
        case "type":
            tensor.data_type = draw(st.integers(0, 25))
        case "attribute" if victim.attribute:
            chosen = draw(st.sampled_from(list(victim.attribute)))
            chosen.i, chosen.f = draw(SOME), draw(st.floats(width=32))
            if chosen.ints:
                chosen.ints[0] = draw(SOME)
                chosen.ints.extend(draw(st.lists(SOME, max_size=1)))
        case "input":
            graph.input[0].type.tensor_type.shape.dim[draw(st.integers(0, 3))].dim_value = draw(SOME)
        case _:
            graph.node.remove(victim)


# --- models of others --------------------------------------------------------------------------------


def test_published_resnet_imports_fast_and_agrees_with_onnxruntime():
    folder = os.environ.get("PI_DATA_DIR")
    path = Path(folder or ".") / "weights" / "resnet20_cifar10_pre.onnx"
    if not path.is_file():
        pytest.skip("PI_DATA_DIR has no published ResNet-20")
    start = time.perf_counter()
    graph = import_model(path).graph
    assert time.perf_counter() - start < 2.0
    assert inspect_model(path).relu_count == 188_416
    x = np.random.default_rng(0).normal(size=(2, 3, 32, 32)).astype(np.float32)
    run = session(path)
    expected = np.stack([run.run(None, {"input": v[None]})[0] for v in x])
    np.testing.assert_allclose(evaluate(graph, {"input": x})["output"], expected, atol=2e-5)


@pytest.mark.parametrize("dynamo", [False, True])
def test_what_torch_exports_agrees_with_onnxruntime(tmp_path, dynamo):
    torch = pytest.importorskip("torch")
    nn = torch.nn

    class Network(nn.Module):
        """A residual, a gate, both kinds of convolution, and activations that exporters write out."""

        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
            self.deep, self.up = nn.Conv2d(8, 8, 3, padding=1, groups=2), nn.ConvTranspose2d(8, 8, 2, 2)
            self.gate, self.pool, self.last = nn.Linear(8, 8), nn.AvgPool2d(4), nn.Linear(8 * 4 * 4, 10)
            self.norm.running_mean.normal_()
            self.norm.running_var.uniform_(0.5, 2.0)

        def forward(self, x):
            x = nn.functional.gelu(self.norm(self.conv(x)))
            y = nn.functional.silu(self.deep(x)) + nn.functional.gelu(x, approximate="tanh")
            y = y * torch.sigmoid(self.gate(y.mean((2, 3))))[:, :, None, None]
            y = nn.functional.mish(nn.functional.hardswish(y)) - nn.functional.softplus(y)
            y = self.pool(self.up(y)).flatten(1)
            return torch.softmax(self.last(nn.functional.dropout(y, training=self.training)), 1)

    torch.manual_seed(0)
    path = tmp_path / "net.onnx"
    options = {"verbose": False, "external_data": False} if dynamo else {"opset_version": 17}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            Network().eval(), (torch.zeros(1, 3, 8, 8),), str(path), input_names=["x"], output_names=["y"],
            dynamo=dynamo, **options,
        )  # fmt: skip
    graph = import_model(path).graph
    kinds = {n.op for n in graph.nodes()}
    assert {"Gelu", "GeluTanh", "SiLU", "HardSwish", "Mish", "Softplus", "Sigmoid"} <= kinds
    assert not kinds & {"Erf", "Tanh", "Clip", "Where"}
    x = np.random.default_rng(0).normal(size=(3, 3, 8, 8)).astype(np.float32)
    run = session(path)
    expected = np.stack([run.run(None, {"x": v[None]})[0] for v in x])
    np.testing.assert_allclose(evaluate(graph, {"x": x}, client=True)["y"], expected, atol=1e-6)


# --- evaluation --------------------------------------------------------------------------------------


def test_every_value_is_observed_once_operands_first():
    graph = import_model(dense("Relu")).graph
    seen = []
    evaluate(graph, {"x": np.ones((5, 4))}, keep=lambda n, v: seen.append((n.op, v.shape)))
    assert seen == [("Input", (5, 1, 4)), ("Gemm", (5, 1, 3)), ("Relu", (5, 1, 3)), ("Gemm", (5, 1, 2))]


@pytest.mark.parametrize(
    "inputs", [{}, {"z": np.ones((2, 4))}, {"x": np.ones((2, 5))}, {"x": np.ones(4)}, {"x": np.array([["a"] * 4])}]
)
def test_samples_that_do_not_fit_are_refused(inputs):
    with pytest.raises(ShapeMismatch):
        evaluate(import_model(dense()).graph, inputs)
