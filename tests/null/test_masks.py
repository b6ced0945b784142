"""Attention masks as inputs: however an exporter writes them, the network gets zeros and ones from their owner."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from pi_compiler.api import compile, compile_secure
from pi_compiler.errors import ParameterError, UnsupportedOperator
from pi_compiler.exporter import export
from pi_compiler.importer import import_model
from pi_compiler.importer.reference import reference
from pi_compiler.ops.evaluate import evaluate
from pi_compiler.ops.front import encrypted_inputs, split
from pi_compiler.options import Options
from pi_compiler.passes.compilation import Compilation, Limits
from pi_compiler.passes.forms import forms
from pi_compiler.passes.front import front

TOKENS, WIDTH = 5, 4
LOWEST = float(np.finfo(np.float32).min)
N = helper.make_node

SPELLINGS = {
    "one minus, times the lowest number": [
        N("Unsqueeze", ["mask", "axes"], ["u"], "unsqueeze"),
        N("Cast", ["u"], ["f"], "float", to=TensorProto.FLOAT),
        N("Sub", ["one", "f"], ["s"], "minus"),
        N("Mul", ["s", "lowest"], ["m"], "times"),
    ],
    "expanded, cast to bool, chosen": [
        N("Unsqueeze", ["mask", "axes"], ["u"], "unsqueeze"),
        N("Expand", ["u", "square"], ["e"], "expand"),
        N("Cast", ["e"], ["f"], "float", to=TensorProto.FLOAT),
        N("Sub", ["one", "f"], ["s"], "minus"),
        N("Cast", ["s"], ["b"], "bool", to=TensorProto.BOOL),
        N("Where", ["b", "lowest", "s"], ["m"], "where"),
    ],
    "looked up": [
        N("Gather", ["table", "mask"], ["g"], "lookup", axis=0),
        N("Transpose", ["g"], ["m"], "row", perm=[0, 2, 1]),
    ],
    "booleans and a causal mask": [
        N("Cast", ["mask"], ["b"], "bool", to=TensorProto.BOOL),
        N("Unsqueeze", ["b", "axes"], ["u"], "unsqueeze"),
        N("And", ["u", "causal"], ["a"], "and"),
        N("Not", ["a"], ["n"], "not"),
        N("Cast", ["n"], ["f"], "float", to=TensorProto.FLOAT),
        N("Mul", ["f", "lowest"], ["m"], "times"),
    ],
}


def attention(spelling, kind=TensorProto.INT64):
    """Softmax of scores between hidden states, under a mask, times the states."""
    constants = {
        "axes": np.array([1]),
        "square": np.array([1, TOKENS, TOKENS]),
        "one": np.float32(1),
        "lowest": np.float32(LOWEST),
        "table": np.array([[-30.0], [0.0]], np.float32),
        "causal": np.tril(np.ones((1, TOKENS, TOKENS), bool)),
    }
    nodes = [
        *SPELLINGS[spelling],
        N("Transpose", ["x"], ["t"], "transpose", perm=[0, 2, 1]),
        N("MatMul", ["x", "t"], ["q"], "scores"),
        N("Add", ["q", "m"], ["z"], "hide"),
        N("Softmax", ["z"], ["w"], "softmax"),
        N("MatMul", ["w", "x"], ["y"], "mix"),
    ]
    used = {i for n in nodes for i in n.input}
    weights = [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items() if k in used]
    inputs = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, TOKENS, WIDTH]),
        helper.make_tensor_value_info("mask", kind, [1, TOKENS]),
    ]
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "masked", inputs, [y], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def samples(count=12):
    rng = np.random.default_rng(3)
    lengths = rng.integers(2, TOKENS + 1, count)
    mask = (np.arange(TOKENS) < lengths[:, None]).astype(np.int64)[:, None]
    return {"x": rng.normal(size=(count, 1, TOKENS, WIDTH)) / 2, "mask": mask}


@pytest.mark.parametrize("target", ["ckks", "mpc"])
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_mask_is_read_however_it_is_written(spelling, target):
    model, x = attention(spelling), samples()
    graph = import_model(model, target=target).graph
    (expected,) = reference(model.SerializeToString(), x).values()
    (found,) = evaluate(graph, x).values()
    np.testing.assert_allclose(found, expected, atol=1e-6)
    again = import_model(export(graph, None), target=target).graph
    np.testing.assert_allclose(next(iter(evaluate(again, x).values())), expected, atol=1e-6)


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_the_owner_makes_zeros_and_ones_of_it(spelling):
    """Nothing as large as the lowest number may be encrypted; axes along which a mask repeats are sent once."""
    before, rest = split(import_model(attention(spelling)).graph)
    x = samples()
    sent = encrypted_inputs(before, x)
    (places,) = (v for k, v in sent.items() if k != "x")
    assert set(np.unique(places)) == {0.0, 1.0}
    assert places[0].size == (TOKENS * TOKENS if "causal" in spelling else TOKENS)
    np.testing.assert_array_equal(sent["x"], x["x"])
    assert {n.op for n in rest.nodes()} >= {"InnerSoftmax", "Dot"}


@pytest.mark.parametrize("softmax", ["max-exp", "power", "cgf"])
def test_hidden_places_weigh_nothing_in_any_form(softmax):
    x = samples()
    graph = import_model(attention("expanded, cast to bool, chosen")).graph
    c = forms(front(Compilation(Options(softmax=softmax), graph, None, Limits(16, 60, 1), x)))
    inputs = {k: v.copy() for k, v in c.calibration.items()}
    (before,) = evaluate(c.graph, inputs).values()
    hidden = x["mask"][:, 0] == 0
    inputs["x"][:, 0][hidden] += 0.3
    (after,) = evaluate(c.graph, inputs).values()
    shown = ~hidden
    np.testing.assert_allclose(after[:, 0][shown], before[:, 0][shown], atol=1e-12)


def cumulants(x, mask):
    """Attention by mean and variance of each row's open places."""
    scores, opened = x @ np.swapaxes(x, -1, -2), np.broadcast_to(mask[..., None, :] > 0, (*x.shape[:-1], x.shape[-2]))
    mean = scores.mean(axis=-1, keepdims=True, where=opened)
    variance = scores.var(axis=-1, keepdims=True, where=opened)
    return opened * np.exp(scores - mean - variance / 2) / opened.sum(axis=-1, keepdims=True) @ x


@pytest.mark.parametrize("target", ["ckks", "mpc"])
@pytest.mark.parametrize("spelling", ["one minus, times the lowest number", "looked up"])
def test_the_owner_sends_open_places_over_their_number_where_no_row_is_divided(spelling, target):
    """Mean and variance want one over a number that only the mask's owner knows; the mask itself then stays at home."""
    x = samples()
    graph = import_model(attention(spelling), target=target).graph
    c = forms(front(Compilation(Options(softmax="cgf", target=target), graph, None, Limits(16, 60, 1), x)))
    sent = encrypted_inputs(c.front, x)
    assert set(sent) == set(c.calibration) == {n.origin for n in c.graph.inputs} == {"x", "softmax/shares"}
    np.testing.assert_allclose(sent["softmax/shares"].sum(axis=-1), 1.0)
    assert not any(n.op == "Reciprocal" for n in c.graph.nodes())
    (found,) = evaluate(c.graph, sent).values()
    np.testing.assert_allclose(found, cumulants(x["x"], x["mask"]), atol=1e-9)


def test_attention_by_cumulants_runs_under_a_mask():
    """Through packing, levels and noise, and between two parties."""
    x = samples(64)
    wanted = cumulants(x["x"], x["mask"])[:6]
    model, few = attention("one minus, times the lowest number"), {k: v[:6] for k, v in x.items()}
    options = Options(softmax="cgf", activation_error=2.0**-10, backend="native")
    for backend in ("clear", "sim"):
        found = compile(model, calibration=x, options=options).run(few, backend=backend).outputs["y"]
        assert np.abs(found - wanted).max() < 1e-2
    secure = replace(options, target="mpc", backend="auto")
    found = compile_secure(model, calibration=x, options=secure).run(few, backend="mpc-sim").logits["y"]
    assert np.abs(found - wanted).max() < 1e-2


def test_a_mask_that_its_owner_does_not_compute_is_refused_where_its_number_is_wanted():
    """Looked up between the parties, how many places are open is nobody's to know."""
    graph = import_model(attention("looked up"), target="mpc").graph
    options = Options(softmax="cgf", target="mpc", embedding="secret")
    c = front(Compilation(options, graph, None, Limits(16, 60, 1), samples()))
    with pytest.raises(ParameterError, match=r"(?s)'softmax'.*--embedding client"):
        forms(c)


def test_on_shares_a_mask_costs_squarings_only():
    """Its owner adds the distance in clear; the exponential reaches further, which takes squarings."""
    x = samples(32)
    model = attention("one minus, times the lowest number")
    options = Options(target="mpc", activation_error=2.0**-10)
    compiled = compile_secure(model, calibration=x, options=options)
    (expected,) = reference(model.SerializeToString(), x).values()
    found = compiled.run(x, backend="mpc-sim").logits["y"]
    assert np.abs(found - expected).max() < 1e-2
    bare = attention("one minus, times the lowest number")
    bare.graph.node[-2].input[0] = "q"
    for _ in range(4):
        del bare.graph.node[0]
    del bare.graph.node[2], bare.graph.input[1]
    unmasked = compile_secure(bare, calibration={"x": x["x"]}, options=options)
    assert compiled.report["rounds"] <= unmasked.report["rounds"] + 2


def test_a_mask_of_computed_values_is_refused():
    """Whether an encrypted number is zero is a comparison."""
    model = attention("expanded, cast to bool, chosen", TensorProto.FLOAT)
    with pytest.raises(UnsupportedOperator, match="'bool'"):
        import_model(model)


def test_a_summand_that_does_more_than_hide_is_refused():
    """A bias by position is not a mask; taken for one, it would be forgotten in silence."""
    model = attention("one minus, times the lowest number")
    (lowest,) = (w for w in model.graph.initializer if w.name == "lowest")
    lowest.CopyFrom(numpy_helper.from_array(np.float32(-3.0), "lowest"))
    with pytest.raises(UnsupportedOperator, match=r"'softmax': a mask of unknown form: it adds -3 to scores"):
        import_model(model)


def test_a_mean_over_open_places_is_divided_by_the_owner():
    """How many there are follows from the mask alone: no reciprocal on ciphertexts."""
    counts = [
        N("Cast", ["mask"], ["f"], "float", to=TensorProto.FLOAT),
        N("Unsqueeze", ["f", "axis"], ["p"], "places"),
        N("MatMul", ["p", "x"], ["s"], "sum"),
        N("ReduceSum", ["p", "last"], ["n"], "count", keepdims=1),
        N("Div", ["s", "n"], ["y"], "mean"),
    ]
    weights = [numpy_helper.from_array(np.array([v]), k) for k, v in (("axis", 1), ("last", 2))]
    inputs = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, TOKENS, WIDTH]),
        helper.make_tensor_value_info("mask", TensorProto.INT64, [1, TOKENS]),
    ]
    graph = helper.make_graph(
        counts, "m", inputs, [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)], weights
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    before, rest = split(import_model(model).graph)
    assert "Reciprocal" not in {n.op for n in rest.nodes()}
    x = samples()
    (expected,) = reference(model.SerializeToString(), x).values()
    (found,) = evaluate(rest, encrypted_inputs(before, x)).values()
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_table_of_one_row_may_stand_before_a_mask():
    """Token types of some exporters have a single row; the check must not ask for a second one."""
    model = attention("looked up")
    (table,) = (w for w in model.graph.initializer if w.name == "table")
    table.CopyFrom(numpy_helper.from_array(np.zeros((1, 1), np.float32), "table"))
    graph = import_model(model).graph
    x = samples() | {"mask": np.zeros((12, 1, TOKENS), np.int64)}
    (expected,) = reference(model.SerializeToString(), x).values()
    np.testing.assert_allclose(next(iter(evaluate(graph, x).values())), expected, atol=1e-6)
