"""Token numbers are looked up by their owner: rows of the table are encrypted, and what follows of them alone."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from networks_mpc import Transformer
from onnx import TensorProto, helper, numpy_helper

from pi_compiler import api
from pi_compiler.answers import answer
from pi_compiler.errors import CalibrationError, ModelError, ShapeMismatch, UnsupportedOperator
from pi_compiler.importer import import_model
from pi_compiler.importer.reference import reference
from pi_compiler.ir import front as files
from pi_compiler.ops.evaluate import evaluate
from pi_compiler.ops.front import encrypted_inputs, joined, split
from pi_compiler.options import Activation, Options

ROWS, WIDTH, TOKENS = 19, 6, 5
QUADRATIC = Options(activation=Activation("quadratic"), backend="clear")


def classifier():
    """Lookup, positions, normalization, a layer, ReLU, the mean over tokens, scores."""
    rng = np.random.default_rng(4)
    weights = {
        "table": rng.normal(size=(ROWS, WIDTH)),
        "pos": rng.normal(size=(1, TOKENS, WIDTH)),
        "g": rng.normal(size=WIDTH),
        "w": rng.normal(size=(WIDTH, WIDTH)) / 2,
        "v": rng.normal(size=(WIDTH, 3)),
    }
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["e"], "lookup"),
        helper.make_node("Add", ["e", "pos"], ["h"], "positions"),
        helper.make_node("LayerNormalization", ["h", "g"], ["n"], "norm"),
        helper.make_node("MatMul", ["n", "w"], ["m"], "layer"),
        helper.make_node("Relu", ["m"], ["r"], "relu"),
        helper.make_node("ReduceMean", ["r"], ["p"], "pool", axes=[1], keepdims=0),
        helper.make_node("MatMul", ["p", "v"], ["y"], "scores"),
    ]
    ids = helper.make_tensor_value_info("ids", TensorProto.INT64, [1, TOKENS])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    constants = [numpy_helper.from_array(v.astype(np.float32), k) for k, v in weights.items()]
    graph = helper.make_graph(nodes, "tokens", [ids], [y], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def sentences(count, seed=0):
    return np.random.default_rng(seed).integers(0, ROWS, (count, TOKENS))


@pytest.fixture(scope="module")
def compiled(costs):
    return api.compile(classifier(), calibration=sentences(32), options=QUADRATIC, costs=costs)


def test_lookups_sums_and_their_normalization_leave_the_network():
    """A normalization of what its owner knows takes no level; products with the model's matrices stay at the server."""
    before, rest = split(import_model(classifier()).graph)
    assert [n.op for n in before.nodes()] == ["Input", "Embedding", "Affine", "LayerNorm"]
    assert [n.op for n in rest.nodes()][:2] == ["Input", "Gemm"]


def test_front_and_rest_together_are_the_network():
    model = Transformer("gpt", vocabulary=7)
    graph = import_model(model.model()).graph
    x = model.samples(4)
    before, rest = split(graph)
    (whole,) = evaluate(graph, {"x": x}).values()
    (parts,) = evaluate(rest, encrypted_inputs(before, {"x": x})).values()
    np.testing.assert_allclose(parts, whole, rtol=1e-12)
    (again,) = evaluate(joined(before, rest), {"x": x}).values()
    np.testing.assert_array_equal(again, parts)


def test_a_network_of_real_numbers_has_no_front():
    graph = import_model(Transformer("bert").model()).graph
    assert split(graph) == (None, graph)


def test_a_front_written_and_read_is_the_same_function():
    before, _ = split(import_model(classifier()).graph)
    head, arrays = files.described(before)
    again = files.restored(head, arrays)
    x = {"ids": sentences(3)[:, None]}
    for name, values in encrypted_inputs(before, x).items():
        np.testing.assert_array_equal(encrypted_inputs(again, x)[name], values)


def test_tokens_of_a_batch_are_looked_up_each_and_run_together(compiled, costs):
    """Five sentences in batches of four, the last one not full: as one by one."""
    options = dataclasses.replace(QUADRATIC, batch=4)
    many = api.compile(classifier(), calibration=sentences(32), options=options, costs=costs)
    x = {"ids": sentences(5, seed=2)[:, None]}
    for backend, atol in (("clear", 1e-9), ("sim", 1e-2)):
        (found,) = answer(many.session(backend), x).outputs.values()
        (exact,) = answer(compiled.session("clear"), x).outputs.values()
        np.testing.assert_allclose(found, exact, atol=atol)
    (pair,) = many.run(sentences(2, seed=2), backend="clear").outputs.values()
    np.testing.assert_allclose(pair, exact[:2], atol=1e-9)
    with pytest.raises(ShapeMismatch, match="whole numbers from 0 to 18"):
        many.run(sentences(2) + ROWS, backend="clear")


def test_answers_are_those_of_the_polynomial_onnx_file(compiled, tmp_path):
    """Its input is token numbers, as the user's file has them; so are the compiled model's, also after loading."""
    compiled.save(tmp_path / "m")
    loaded = api.CompiledModel.load(tmp_path / "m")
    x = sentences(3, seed=1)
    (expected,) = reference(loaded.models["polynomial.onnx"], {"ids": x[:, None]}).values()
    for i, sentence in enumerate(x):
        (found,) = loaded.run(sentence, backend="clear").outputs.values()
        np.testing.assert_allclose(found, expected[i], atol=1e-3)
    (batch,) = loaded.run({"ids": x[:, None]}, backend="clear").outputs.values()
    np.testing.assert_allclose(batch, expected, atol=1e-3)


def test_the_note_says_what_the_client_will_know(compiled):
    assert any("lookup" in note and "client" in note for note in compiled.report["notes"])


@pytest.mark.parametrize(
    ("ids", "says"),
    [(np.full((1, TOKENS), ROWS), f"0 to {ROWS - 1}"), (np.full((1, TOKENS), 0.5), "whole"), (np.zeros((1, 9)), "9")],
    ids=["no such row", "a fraction", "another length"],
)
def test_numbers_that_no_row_has_are_refused_before_encryption(compiled, ids, says):
    with pytest.raises(ShapeMismatch, match=says):
        compiled.run(ids)


def test_calibration_with_numbers_that_no_row_has_is_refused(costs):
    with pytest.raises(CalibrationError, match=f"needed are whole numbers from 0 to {ROWS - 1}"):
        api.compile(classifier(), calibration=sentences(8) + ROWS, options=QUADRATIC, costs=costs)


def test_a_lookup_by_a_computed_number_is_refused():
    """Nobody knows the number in clear."""
    nodes = [
        helper.make_node("Relu", ["x"], ["r"], "relu"),
        helper.make_node("Cast", ["r"], ["c"], "cast", to=TensorProto.INT64),
        helper.make_node("Gather", ["t", "c"], ["y"], "lookup"),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    t = numpy_helper.from_array(np.ones((3, 2), np.float32), "t")
    graph = helper.make_graph(nodes, "g", [x], [y], [t])
    with pytest.raises(UnsupportedOperator, match="cast"):
        import_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9))


def test_a_length_without_a_bound_is_refused_by_name():
    """Slots are packed for one length; the message says which input lacks a size, and where to give it."""
    model = classifier()
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "tokens"
    with pytest.raises(ModelError, match=r"'ids' is \[1, tokens\]: no size for dimension 1(.|\n)*input_shapes"):
        import_model(model)
    graph = import_model(model, input_shapes={"ids": (1, TOKENS)}).graph
    assert graph.inputs[0].shape == (1, TOKENS)
