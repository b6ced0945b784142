"""Softmax and normalization as sums, products and inverses: the same function, and intervals that hold."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from pi_compiler.api import compile_secure
from pi_compiler.errors import CalibrationError, ParameterError
from pi_compiler.importer import import_model
from pi_compiler.ir.graph import Graph
from pi_compiler.ops.evaluate import evaluate
from pi_compiler.options import Activation, Options
from pi_compiler.passes import forms
from pi_compiler.passes.approximate import wanted_for
from pi_compiler.passes.commute import commute
from pi_compiler.passes.compilation import Compilation, Limits

RNG = np.random.default_rng(2)


def model(op, mask=False, epsilon=1e-5):
    inputs, constants = ["x"], {}
    nodes = []
    if mask:
        constants["m"] = np.triu(np.full((6, 6), -np.inf, np.float32), 1)
        nodes.append(helper.make_node("Add", ["x", "m"], ["s"], "mask"))
        inputs = ["s"]
    if op == "LayerNormalization":
        constants["g"] = RNG.normal(size=6).astype(np.float32)
        nodes.append(helper.make_node(op, ["x", "g"], ["w"], "norm", epsilon=epsilon))
    else:
        nodes.append(helper.make_node(op, inputs, ["w"], "weights", axis=-1))
    nodes.append(helper.make_node("Neg", ["w"], ["y"], "neg"))
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 6, 6))
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    weights = [numpy_helper.from_array(v, k) for k, v in constants.items()]
    graph = helper.make_graph(nodes, "joint", [x], [y], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def compilation(source, samples, **options):
    graph = import_model(source).graph
    return Compilation(Options(**options), graph, None, Limits(16, 60, 1), {"x": samples})


@pytest.mark.parametrize(("op", "mask"), [("Softmax", False), ("Softmax", True), ("LayerNormalization", False)])
def test_without_retraining_the_function_stays_the_same(op, mask):
    samples = RNG.normal(size=(20, 1, 6, 6))
    c = compilation(model(op, mask), samples)
    done = forms.forms(c)
    kinds = {n.op for n in done.graph.nodes()}
    assert not kinds & {"InnerSoftmax", "LayerNorm"}
    before, after = (evaluate(g, {"x": samples})["y"] for g in (c.graph, done.graph))
    np.testing.assert_allclose(after, before, atol=1e-9)
    assert len(done.notes) == 1


@pytest.mark.parametrize("softmax", ["max-exp", "2quad", "power"])
def test_the_interval_of_a_divisor_holds_what_calibration_showed(softmax):
    """And no more than the margin beyond: a wide interval costs levels."""
    samples = RNG.normal(size=(20, 1, 6, 6))
    graph = forms.forms(compilation(model("Softmax", True), samples, softmax=softmax)).graph
    (inverse,) = (n for n in graph.nodes() if n.op == "Reciprocal")
    low, high = inverse.attrs["interval"]
    seen = []
    evaluate(graph, {"x": samples}, keep=lambda n, v: seen.append(v) if n is inverse.inputs[0] else None)
    assert low <= seen[0].min()
    assert seen[0].max() <= high
    assert high <= 1.4**2 * seen[0].max() * (1 + 1e-12)


def test_power_softmax_never_divides_by_less_than_its_epsilon():
    """The mean of even powers is not negative, whatever the data: zero scores calibrate too."""
    samples = np.zeros((20, 1, 6, 6))
    samples[:10] = RNG.normal(size=(10, 1, 6, 6))
    graph = forms.forms(compilation(model("Softmax"), samples, softmax="power")).graph
    (inverse,) = (n for n in graph.nodes() if n.op == "Reciprocal")
    assert inverse.attrs["interval"][0] == pytest.approx(forms.EPS)


def test_quadratics_for_all_layers_leave_divisors_alone():
    """A parabola that stands for 1/x on an interval widened below 0 was refused; what is asked for by name is taken."""
    c = forms.forms(compilation(model("Softmax"), RNG.normal(size=(20, 1, 6, 6)), activation=Activation("quadratic")))
    (inverse,) = (n for n in c.graph.nodes() if n.op == "Reciprocal")
    (other,) = (n for n in c.graph.nodes() if n.op == "Exp")
    assert wanted_for(inverse, c.options) == Activation()
    assert wanted_for(other, c.options) == Activation("quadratic")
    named = Options(activation=Activation("quadratic"), activations={inverse.origin: Activation("chebyshev", 7)})
    assert wanted_for(inverse, named) == Activation("chebyshev", 7)


def test_a_variance_that_reaches_zero_is_refused_by_name():
    samples = np.ones((20, 1, 6, 6))
    with pytest.raises(CalibrationError, match=r"norm/inverse.*variance is in \[0, 0\]"):
        forms.forms(compilation(model("LayerNormalization", epsilon=0.0), samples))


def test_a_form_that_compares_is_refused_by_name():
    with pytest.raises(ParameterError, match=r"2relu.*weights"):
        forms.forms(compilation(model("Softmax"), np.ones((4, 1, 6, 6)), softmax="2relu"))


FORMS = {
    "normalize-square": lambda x: np.exp(x) / np.exp(x).sum(axis=-1, keepdims=True),
    "normalize-square:2": lambda x: np.exp(x) / np.exp(x).sum(axis=-1, keepdims=True),
    "cgf": lambda x: np.exp(x - x.mean(axis=-1, keepdims=True) - x.var(axis=-1, keepdims=True) / 2) / 6,
    "relu": lambda x: np.maximum(x, 0.0) / 6,
    "sigmoid": lambda x: 1.0 / (1.0 + np.exp(np.log(6) - x)),
    "square": lambda x: x**2 / 6,
    "linear": lambda x: x / 6,
}


@pytest.mark.parametrize("softmax", FORMS)
def test_a_form_is_its_formula(softmax):
    """Before fits take the place of its functions."""
    samples = RNG.normal(size=(20, 1, 6, 6))
    graph = forms.forms(compilation(model("Softmax"), samples, softmax=softmax)).graph
    found = -evaluate(graph, {"x": samples})["y"]
    np.testing.assert_allclose(found, FORMS[softmax](samples), atol=1e-9)


def rows_of(length, deviation, seed=5, mask=None):
    """A softmax over rows of normal scores: its graph, and samples."""
    nodes = [helper.make_node("Softmax", ["s"], ["w"], "weights"), helper.make_node("Neg", ["w"], ["y"], "neg")]
    constants = [] if mask is None else [numpy_helper.from_array(mask.astype(np.float32), "m")]
    nodes.insert(0, helper.make_node("Identity" if mask is None else "Add", ["x", "m"][: 1 + len(constants)], ["s"]))
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 8, length))
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "rows", [x], [y], constants)
    source = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return source, deviation * np.random.default_rng(seed).normal(size=(50, 1, 8, length))


@pytest.mark.parametrize("deviation", [0.25, 0.5, 1.0])
@pytest.mark.parametrize("length", [32, 128])
def test_two_cumulants_are_softmax_for_normal_scores(length, deviation):
    """All weights of a row are off by one factor: what the third and fourth cumulants add to the logarithm of the sum.

    Of n normal scores of deviation s these are 0 but for chance, with deviations sqrt(6 / n) s³ / 6 and
    sqrt(24 / n) s⁴ / 24; what follows is at most as large for s up to 1. 400 rows stay within six of their sum.
    """
    source, samples = rows_of(length, deviation)
    c = compilation(source, samples, softmax="cgf")
    exact, found = (-evaluate(g, {"x": samples})["y"] for g in (c.graph, forms.forms(c).graph))
    factor = np.log(found / exact)
    np.testing.assert_allclose(factor, factor[..., :1] + np.zeros_like(factor), atol=1e-9)
    chance = np.sqrt(6 / length) * deviation**3 / 6 + np.sqrt(24 / length) * deviation**4 / 24
    assert np.abs(factor).max() < 6 * chance


@pytest.mark.parametrize("target", ["ckks", "mpc"])
def test_hidden_places_take_no_part_in_mean_and_variance(target):
    """Each row of a causal mask has a number of its own; what stands at its hidden places changes nothing."""
    mask = np.where(np.tril(np.ones((8, 8))) > 0, 0.0, -np.inf)
    source, samples = rows_of(8, 0.5, mask=mask)
    graph = forms.forms(compilation(source, samples, softmax="cgf", target=target)).graph
    found = -evaluate(graph, {"x": samples})["y"]
    for row in range(8):
        x = samples[..., row, : row + 1]
        wanted = np.exp(x - x.mean(axis=-1, keepdims=True) - x.var(axis=-1, keepdims=True) / 2) / (row + 1)
        np.testing.assert_allclose(found[..., row, : row + 1], wanted, atol=1e-9)
        assert not found[..., row, row + 1 :].any()
    moved = np.where(np.isinf(mask), samples + 0.5, samples)
    np.testing.assert_allclose(-evaluate(graph, {"x": moved})["y"], found, atol=1e-12)


def test_a_row_becomes_a_factor_where_rows_are_about_as_high_and_stays_a_difference_elsewhere():
    """The exponential of a score 12 above its row's would lose e^12 of its error to the factor."""
    source, samples = rows_of(8, 0.5)
    high = samples + 12.0 * (np.arange(8) == 3)[:, None]
    for x, split in ((samples, True), (high, False)):
        c = compilation(source, x, softmax="cgf")
        graph = forms.forms(c).graph
        assert sum(n.op == "Exp" for n in graph.nodes()) == 1 + split
        exact = np.exp(x - x.mean(axis=-1, keepdims=True) - x.var(axis=-1, keepdims=True) / 2) / 8
        np.testing.assert_allclose(-evaluate(graph, {"x": x})["y"], exact, atol=1e-9)


def test_a_factor_per_row_moves_behind_the_product_of_matrices():
    """Constants between them move too; the product then runs beside what makes the factor."""
    nodes = [
        helper.make_node("Softmax", ["x"], ["w"], "weights"),
        helper.make_node("Transpose", ["x"], ["t"], "turn", perm=[0, 2, 1]),
        helper.make_node("MatMul", ["w", "t"], ["y"], "mix"),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 8, 6))
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "attention", [x], [y])
    source = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    samples = RNG.normal(size=(20, 1, 8, 6)) / 2
    for softmax in ("cgf", "max-exp"):
        before = forms.forms(compilation(source, samples, softmax=softmax))
        after = commute(before).graph
        (dot,) = (n for n in after.nodes() if n.op == "Dot")
        below = {n.op for n in Graph((), (dot.inputs[0],), ("",)).nodes()}
        assert below == {"Input", "Affine", "Exp"}
        found, exact = (evaluate(g, {"x": samples})["y"] for g in (after, before.graph))
        np.testing.assert_allclose(found, exact, atol=1e-9)


def test_how_far_two_cumulants_are_from_softmax_is_told():
    """Six scores of one row are hardly normal: calibration shows it, and the note says how much."""
    source, samples = rows_of(8, 1.5)
    c = compilation(source, samples, softmax="cgf")
    done = forms.forms(c)
    exact, found = (evaluate(g, {"x": samples[:40]})["y"] for g in (c.graph, done.graph))
    assert f"within {np.abs(found - exact).max():.2g} of softmax's" in done.notes[0]


def test_sums_of_squared_weights_have_an_interval_that_no_data_leave():
    """Weights of mean 1: the mean of their squares lies between 1 and the length, whatever calibration showed."""
    samples = RNG.normal(size=(20, 1, 6, 6))
    samples[0, 0, 0] = [9, -9, -9, -9, -9, -9]
    graph = forms.forms(compilation(model("Softmax"), samples, softmax="normalize-square:3")).graph
    later = [n for n in graph.nodes() if n.op == "Reciprocal"][1:]
    assert len(later) == 3
    for inverse in later:
        low, high = inverse.attrs["interval"]
        assert low >= 1 / 1.0625
        assert high <= 6 * 1.0625


def test_a_layer_may_have_its_own_form():
    """Wide scores need another one than narrow ones; names that are no softmax are refused together."""
    samples = RNG.normal(size=(20, 1, 6, 6))
    c = compilation(model("Softmax"), samples, softmaxes={"weights": "sigmoid"})
    assert {n.op for n in forms.forms(c).graph.nodes()} >= {"Sigmoid"}
    with pytest.raises(ParameterError, match=r"here, there(.|\n)*those of this model: weights"):
        forms.forms(compilation(model("Softmax"), samples, softmaxes={"here": "power", "there": "power:2"}))


@pytest.mark.parametrize("text", ["power:3", "power:", "relu:1", "normalize-square:0", "max", "2quad:-1", "power:nan"])
def test_a_form_that_does_not_exist_is_refused(text):
    with pytest.raises(ParameterError, match=r"is not known; known: max-exp"):
        Options(softmax=text)


def test_scores_under_an_unknown_mask_are_refused_by_name():
    """Very negative numbers that the model takes as an input: nobody says where they come from."""
    samples = RNG.normal(size=(20, 1, 6, 6))
    samples[..., 4:] = -1e9
    with pytest.raises(CalibrationError, match=r"'weights': scores reach -1e\+09, needed: above -1000"):
        forms.forms(compilation(model("Softmax"), samples))


def test_on_shares_a_divisor_keeps_its_certified_interval_too():
    """Power-Softmax that was trained in arrives spelled out; widened on both sides its divisor would reach zero."""
    nodes = [
        helper.make_node("Mul", ["x", "x"], ["p"], "power"),
        helper.make_node("ReduceMean", ["p"], ["m"], "mean", axes=[-1]),
        helper.make_node("Add", ["m", "e"], ["d"], "epsilon"),
        helper.make_node("Div", ["p", "d"], ["y"], "divide"),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 6, 6))
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "power", [x], [y], [numpy_helper.from_array(np.float32(1e-2), "e")])
    source = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    samples = np.random.default_rng(4).normal(size=(40, 1, 6, 6)) * np.geomspace(0.05, 1.5, 6)[:, None]
    secure = compile_secure(source, calibration=samples, options=Options(target="mpc", activation_error=2.0**-10))
    found = secure.run(samples[:4], backend="mpc-sim").logits["y"]
    powered = samples[:4] ** 2
    np.testing.assert_allclose(found, powered / (powered.mean(axis=-1, keepdims=True) + 1e-2), atol=3e-2)
