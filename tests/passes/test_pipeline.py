"""Every pass keeps the meaning: graph, stages, circuit and program agree on any small network."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from networks import Builder, mlp, residual

from pi_compiler import api
from pi_compiler.errors import BudgetError, CalibrationError, ParameterError
from pi_compiler.importer import import_model
from pi_compiler.ir.program import Opcode
from pi_compiler.ir.stages import Affine, Polynomial, Square
from pi_compiler.kernels.circuit import depth_of, levels_of
from pi_compiler.models.data import load
from pi_compiler.models.zoo import model_path
from pi_compiler.ops.evaluate import evaluate
from pi_compiler.options import Activation, Options
from pi_compiler.pipelines import CKKS, run

QUADRATIC = Options(activation=Activation("quadratic"), backend="clear")


def compiled(model, samples, costs, options=QUADRATIC, stop_after=None):
    c, _ = api.prepare(model, samples, options, costs=costs)
    return run(c, CKKS, stop_after=stop_after)


def answers(c, x):
    """Outputs of the polynomial graph, of the folded stages and of the program, first output each."""
    shape = (len(x), *c.graph.inputs[0].shape)
    graph = evaluate(c.replaced, {"x": x})
    stages = c.stages.evaluate({"x": x.reshape(shape)})
    model = api.CompiledModel(c.program, c.params, c.signature, {"backend": "clear"}, {})
    program = model.session("clear").run({"x": x.reshape(shape)}).logits
    name = c.graph.output_names[0]
    return tuple(np.asarray(v[name]).reshape(len(x), -1) for v in (graph, stages, program))


@st.composite
def networks(draw):
    """A few convolutions, activations, residual sums, gates, movements, then a linear layer."""
    b = Builder(
        (1, draw(st.integers(1, 4)), draw(st.integers(3, 8)), draw(st.integers(3, 8))), draw(st.integers(0, 99))
    )
    x, depth = "x", 0
    for _ in range(draw(st.integers(1, 4))):
        _, c, h, w = b.shapes[x]
        kind = draw(st.sampled_from(["conv", "act", "act", "residual", "gate", "pool", "transpose", "pad"]))
        if kind == "conv":
            groups = draw(st.sampled_from([g for g in (1, 2) if c % g == 0]))
            stride = draw(st.sampled_from([1, 2]))
            x = b.conv(x, draw(st.sampled_from([2, 4])), kernel=3, stride=stride, groups=groups)
        elif kind == "act" and depth < 2:
            x, depth = b.same(draw(st.sampled_from(["Relu", "Sigmoid", "Tanh"])), x), depth + 1
        elif kind == "residual":
            x = b.same("Add", b.conv(x, c), x)
        elif kind == "gate" and depth < 2:
            x, depth = b.same("Mul", b.conv(x, c), x), depth + 1
        elif kind == "pool" and min(h, w) >= 2:
            x = b.op("AveragePool", x, shape=(1, c, h // 2, w // 2), kernel_shape=[2, 2], strides=[2, 2])
        elif kind == "transpose":
            x = b.op("Transpose", x, shape=(1, c, w, h), perm=[0, 1, 3, 2])
        elif kind == "pad":
            pads = b.constant([0, 0, 1, 0, 0, 0, 0, 1])
            x = b.op("Pad", x, pads, shape=(1, c, h + 1, w + 1))
    return b, b.model(b.linear(x, draw(st.integers(1, 6))))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(networks(), st.sampled_from(["quadratic", "chebyshev:5"]), st.sampled_from([None, 11]))
def test_all_forms_of_a_network_agree(costs, net, activation, log_n):
    b, model = net
    options = Options(activation=Activation.parse(activation), backend="clear", log_n=log_n, insecure=log_n is not None)
    c = compiled(model, b.samples(), costs, options)
    graph, stages, program = answers(c, b.samples(5))
    size = np.abs(graph).max() + 1e-9
    assert np.abs(stages - graph).max() <= 1e-9 * size
    assert np.abs(program - graph).max() <= 1e-4 * size  # diagonals are kept in float32


def test_a_degree_two_activation_costs_one_level(costs):
    b, model = mlp((20, 12, 8, 5))
    c = compiled(model, b.samples(), costs)
    assert c.params.max_level == 3 + 2  # three matrices, two squares


def test_chebyshev_costs_its_depth_and_folds_its_domain_map(costs):
    b, model = mlp((20, 12, 5), "Sigmoid")
    options = Options(activation=Activation("chebyshev", 7), backend="clear")
    c = compiled(model, b.samples(), costs, options)
    assert c.params.max_level == 2 + 3


def test_linear_stretches_become_one_matrix(costs):
    b = Builder((1, 2, 8, 8))
    x = b.conv(b.same("Relu", b.conv("x", 4)), 4)
    norm = [b.weight(4), b.weight(4), b.weight(4), b.positive(4)]
    x = b.same("BatchNormalization", x, *norm)
    x = b.op("AveragePool", x, shape=(1, 4, 4, 4), kernel_shape=[2, 2], strides=[2, 2])
    c = compiled(b.model(b.linear(x, 3)), b.samples(), costs)
    kinds = [type(s) for s in c.stages.stages[1:]]
    assert kinds == [Affine, Square, Affine]


def test_a_shortcut_adds_no_level_and_shares_baby_steps(costs):
    b, model = residual()
    c = compiled(model, b.samples(), costs)
    joined = [s for s in c.stages.stages if isinstance(s, Affine) and len(s.sources) == 2]
    assert len(joined) == 1
    assert c.params.max_level == 4 + 3


def test_values_are_normalized_to_one(costs):
    b, model = residual()
    c = compiled(model, b.samples(), costs)
    values = dict.fromkeys(range(len(c.stages.stages)))
    stages = c.stages
    x = b.samples(40).reshape(40, *b.shape)
    for number, stage in enumerate(stages.stages):
        probe = type(stages)(stages.stages, {"v": (number, 1.0)})
        values[number] = np.abs(probe.evaluate({"x": x})["v"]).max()
        if isinstance(stage, Square | Polynomial | Affine):
            assert values[number] < 2.0, (stage.origin, values[number])


def test_levels_are_as_low_as_the_readers_allow(costs):
    b, model = residual()
    c = compiled(model, b.samples(), costs)
    levels = levels_of(c.stages)
    for number, stage in enumerate(c.stages.stages):
        readers = c.stages.consumers()[number]
        need = max((levels[r] + depth_of(c.stages.stages[r]) for r in readers), default=0)
        assert levels[number] == need, stage.origin


def test_the_price_that_the_planner_saw_is_that_of_the_program(costs):
    b, model = residual()
    c = compiled(model, b.samples(), costs)
    counted = {op: sum(n.get(op, 0) for n in c.cost.counts.values()) for op in Opcode}
    written = {op: c.program.count(op) for op in Opcode}
    # Dropping one value twice to one level is written once.
    counted.pop(Opcode.DROP_LEVEL), written.pop(Opcode.DROP_LEVEL)
    assert written == counted
    assert {k % c.params.slots for k in c.program.rotations()} == set(c.cost.rotation_keys)


def test_too_deep_a_network_is_told_which_layers_take_the_levels(costs):
    b, model = mlp((20, *[12] * 14, 5))
    options = Options(activation=Activation("quadratic"), backend="tenseal", log_n=13)
    with pytest.raises(BudgetError, match=r"takes 29 levels, ring degree 2\^13 has \d at 10 bits") as e:
        compiled(model, b.samples(), costs, options)
    assert "levels by layer: gemm" in str(e.value)
    assert "try: --activation quadratic" in str(e.value)


def test_a_range_too_wide_for_the_error_is_refused_with_the_layer_named(costs):
    b, model = mlp(activation="Sigmoid")
    with pytest.raises(CalibrationError, match="1 of 1 nonlinearities") as e:
        compiled(model, b.samples() * 200, costs, Options(backend="clear", activation_error=1e-4))
    assert "layer 'sigmoid1' (Sigmoid)" in str(e.value)
    assert "needs a degree above 127" in str(e.value)


def test_relu_by_composite_reaches_the_error_asked_for_in_every_form(costs):
    b, model = residual()
    options = Options(activation=Activation("composite"), backend="clear", activation_error=2.0**-6)
    c = compiled(model, b.samples(), costs, options)
    assert all(r.fit.certificate.max_error <= 2.0**-6 for r in c.fits)
    assert all("a range per channel" in r.fit.notes[-1] for r in c.fits)
    graph, stages, program = answers(c, b.samples(5))
    assert np.abs(stages - graph).max() <= 1e-9
    assert np.abs(program - graph).max() <= 1e-4


def test_a_composite_costs_the_depth_of_its_stages_and_one_product(costs):
    b, model = mlp((20, 12, 5))
    options = Options(activation=Activation("composite", 7), backend="clear")  # degrees 7, 7
    c = compiled(model, b.samples(), costs, options)
    assert c.params.max_level == 2 + 3 + 3 + 1


def test_later_layers_are_fitted_to_what_the_replaced_ones_yield(costs):
    b, model = mlp((20, 12, 8, 5))
    c = compiled(model, b.samples(), costs, stop_after="approximate")
    polys = [n for n in c.replaced.nodes() if n.op == "Poly"]
    seen = {}
    evaluate(c.replaced, {"x": c.calibration["x"]}, keep=lambda n, v: seen.setdefault(id(n), v))
    values = seen[id(polys[1].inputs[0])][:32]
    assert c.ranges.of(polys[1].inputs[0]).high == pytest.approx(values.max())


def test_a_network_that_diverges_is_stopped_at_the_layer(costs):
    b, model = mlp((20, *[12] * 9, 5))
    options = Options(activation=Activation("least_squares", 8), backend="clear", margin=1.0)
    rough = np.concatenate([b.samples(36), 1e6 * b.samples(4)])
    with pytest.raises(CalibrationError):
        compiled(model, rough, costs, options)


def test_an_activation_option_for_no_layer_is_refused(costs):
    b, model = mlp()
    options = Options(activations={"nope": Activation("quadratic")}, backend="clear")
    with pytest.raises(ParameterError, match="not nonlinearities: nope"):
        compiled(model, b.samples(), costs, options)


def test_bad_calibration_data_are_all_named(costs):
    b, model = mlp()
    x = b.samples()
    x[3, 2] = np.nan
    with pytest.raises(CalibrationError, match="1 values that are NaN"):
        compiled(model, x, costs)
    with pytest.raises(CalibrationError, match="is empty"):
        compiled(model, x[:0], costs)


def test_insecure_parameters_need_the_users_word(costs):
    b, model = mlp((20, 12, 8, 5))
    options = Options(activation=Activation("quadratic"), backend="clear", log_n=11)
    with pytest.raises(BudgetError):
        compiled(model, b.samples(), costs, options)
    c = compiled(
        model, b.samples(), costs, Options(activation=Activation("quadratic"), backend="clear", log_n=11, insecure=True)
    )
    assert c.params.security == 0


def test_ranges_come_from_four_fifths_and_the_rest_is_held_out(costs):
    b, model = mlp()
    c = compiled(model, b.samples(50), costs, stop_after="calibrate")
    seen = c.ranges.of(next(n for n in c.graph.nodes() if n.op == "Relu").inputs[0])
    assert seen.samples == 40 * 12
    assert seen.held_out.size == 10 * 12
    assert seen.mass.sum() == pytest.approx(1.0)


def test_a_model_survives_disk(costs, tmp_path):
    b, model = mlp()
    m = api.compile(model, calibration=b.samples(), options=QUADRATIC, costs=costs)
    m.save(tmp_path / "m")
    again = api.CompiledModel.load(tmp_path / "m")
    x = again.sample(b.samples(3))
    name = next(iter(again.signature.outputs))
    assert np.array_equal(m.session("clear").run(x).logits[name], again.session("clear").run(x).logits[name])
    assert import_model(again.models["polynomial.onnx"]).graph.outputs[0].shape == (1, 5)


def _quadratic_layer(b, x, a, linear, constant):
    """a x^2 + b x + c as exporters write trained activations."""
    square = b.same("Mul", x, x)
    parts = b.same("Mul", square, b.values(a)), b.same("Mul", x, b.values(linear))
    return b.same("Add", b.same("Add", *parts), b.values(constant))


def test_a_spelled_out_quadratic_takes_one_level(costs):
    b = Builder((1, 6))
    x = _quadratic_layer(b, b.linear("x", 4), [0.2, -0.1, 0.3, 0.4], [0.5, 0.4, 0.3, 0.2], [0.1, 0.2, 0.3, 0.4])
    c = compiled(b.model(b.linear(x, 3)), b.samples(), costs)
    assert [type(s) for s in c.stages.stages[1:]] == [Affine, Square, Affine]
    graph, stages, program = answers(c, b.samples(5))
    assert np.allclose(stages, graph, atol=1e-12)
    assert np.allclose(program, graph, atol=1e-5)


def test_a_vertex_far_from_the_data_keeps_its_precision(costs):
    b = Builder((1, 6))
    x = _quadratic_layer(b, b.linear("x", 3), [0.2, 1e-5, 0.0], [0.5, 1.0, 1.0], [0.1, 0.0, 0.0])
    c = compiled(b.model(b.linear(x, 3)), b.samples(), costs)
    outputs = c.stages.stages[-1]
    assert isinstance(outputs, Affine)
    assert len(outputs.sources) == 2  # the square, and its operand for the two lines
    graph, stages, program = answers(c, b.samples(5))
    assert np.allclose(stages, graph, atol=1e-12)
    assert np.allclose(program, graph, atol=1e-5)


def test_polynomials_of_one_value_merge_and_of_two_do_not(costs):
    b = Builder((1, 6))
    x, y = b.linear("x", 4), b.linear("x", 4)
    cubic = b.same("Mul", b.same("Mul", x, x), x)
    mixed = b.same("Mul", x, y)
    c = compiled(b.model(b.linear(b.same("Add", cubic, mixed), 3)), b.samples(), costs, stop_after="recognize")
    ops = [n.op for n in c.graph.nodes()]
    assert ops.count("Poly") == 1
    assert ops.count("Mul") == 1


def test_a_failed_fit_by_channel_says_in_which_units_it_speaks(costs):
    b, model = residual()
    options = Options(activation=Activation("chebyshev"), backend="clear", activation_error=1e-4)
    with pytest.raises(CalibrationError, match="in units of each channel's own range"):
        compiled(model, b.samples(), costs, options)


def test_weights_that_are_the_same_for_all_tokens_stay_the_same(costs):
    """Tokens are axis 1, where channels are: a unit for each would make every diagonal of an MLP a vector."""
    samples, options = load("digits", "calibration").x, Options(backend="clear")
    c = compiled(model_path("digits_vit_he"), samples, costs, options, stop_after="fold")
    (square,) = [s for s in c.stages.stages if isinstance(s, Square) and s.shape == (1, 16, 64)]
    matrix = next(m for m in c.stages.stages[square.source].matrices if m.shape[1] == 16 * 32)
    per_token = np.sort(np.stack([block.data for block in (matrix[64 * t : 64 * (t + 1)] for t in range(16))]), axis=1)
    np.testing.assert_allclose(per_token, np.tile(per_token[:1], (16, 1)), rtol=1e-12)
    assert per_token.shape[1] == 64 * 32
