"""From graphs to programs on shares: equal meaning, and exactly the comparisons, rounds and bytes that are needed."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from networks import Builder, mlp, residual

from pi_compiler.api import compile_secure
from pi_compiler.cost_mpc import load_mpc_prices, total_cost
from pi_compiler.errors import BudgetError, UnsupportedOperator
from pi_compiler.importer import import_model
from pi_compiler.importer.reference import reference
from pi_compiler.ir.protocols import PROTOCOLS
from pi_compiler.mpc import CompiledMpc
from pi_compiler.options import Activation, Options

MPC = Options(target="mpc")


def secure(b: Builder, model: object, options: Options = MPC, **more: object) -> CompiledMpc:
    return compile_secure(model, calibration=b.samples(40), options=options, **more)


def ladder(b: Builder, model: object, compiled: CompiledMpc, count: int = 8) -> tuple[float, float]:
    """Largest error of the program in floats against ONNX, and of the simulation against those."""
    x = b.samples(count).reshape(count, *b.shape)
    exact = reference(model.SerializeToString(), {"x": x})
    clear, sim = compiled.run(x, backend="mpc-clear").logits, compiled.run(x, backend="mpc-sim").logits
    return max(np.abs(clear[n] - exact[n]).max() for n in exact), max(np.abs(clear[n] - sim[n]).max() for n in exact)


def ops(compiled: CompiledMpc) -> Counter[str]:
    return Counter(str(i.op) for i in compiled.program.instrs)


def elementwise(op: str, shape: tuple[int, ...] = (1, 3, 4, 4), **attrs: object) -> tuple[Builder, object]:
    """conv, a nonlinearity, conv."""
    b = Builder(shape)
    x = b.same(op, b.conv("x", 4), **attrs)
    return b, b.model(b.conv(x, 2))


EXACT = ("Relu", "LeakyRelu", "Abs", "HardSwish", "HardSigmoid")


@pytest.mark.parametrize("op", [*EXACT, "Elu", "Sigmoid", "Tanh", "Gelu"])
def test_a_network_on_shares_means_what_its_file_means(op):
    """The ladder: ONNX, program in floats, program in fixed point; piecewise functions are exact."""
    b, model = elementwise(op)
    compiled = secure(b, model)
    clear, sim = ladder(b, model, compiled)
    assert clear < (2e-3 if op in EXACT else 0.1)
    assert sim < 2e-3
    assert op not in EXACT or ops(compiled)["ltz"] == 1


@pytest.mark.parametrize("make", [mlp, residual])
def test_networks_keep_their_relus_and_cost_one_comparison_per_element(make):
    b, model = make()
    compiled = secure(b, model)
    assert max(ladder(b, model, compiled)) < 2e-3
    relus = sum(n.size for n in import_model(model).graph.nodes() if n.op == "Relu")
    assert compiled.report["comparisons"] == relus


def test_a_form_of_gelu_asked_for_everywhere_leaves_other_layers_alone():
    b, model = elementwise("Relu")
    compiled = secure(b, model, Options(target="mpc", activation=Activation("puma", 6)))
    assert [e["op"] for e in compiled.report["exact"]] == ["Relu"]


def test_clip_and_a_slope_per_channel_are_exact():
    b = Builder((1, 3, 4, 4))
    x = b.op("Clip", b.conv("x", 4), b.values(-0.5), b.values(1.5), shape=(1, 4, 4, 4))
    slopes = b.values(np.array([0.1, 0.2, 0.3, -0.4]).reshape(4, 1, 1))
    x = b.op("PRelu", x, slopes, shape=(1, 4, 4, 4))
    model = b.model(b.conv(x, 2))
    compiled = secure(b, model)
    assert max(ladder(b, model, compiled)) < 2e-3
    # Two bounds are compared in one instruction.
    assert ops(compiled)["ltz"] == 2


def test_a_relu_layer_costs_what_the_protocol_says():
    """By hand for 64 elements: 209 opened words of the sign's carry (63 + 16*7 + 4*7 + 6), then bit and value."""
    b = Builder((1, 64))
    model = b.model(b.linear(b.same("Relu", b.linear("x", 64)), 2))
    compiled = secure(b, model)
    (layer,) = (e for e in compiled.report["layers"] if e["name"].startswith("relu"))
    assert layer["rounds"] == 5
    assert layer["bytes_to_model"] == layer["bytes_to_data"] == 8 * 209 + 8 * (1 + 64)


def test_linear_layers_send_the_mask_of_their_input_only():
    """The weights' masks are opened once, at set-up."""
    b, model = mlp((20, 12, 5), "Relu")
    compiled = secure(b, model)
    first, last = (e for e in compiled.report["layers"] if e["name"].startswith("gemm"))
    assert first["bytes_to_model"] == 8 * 20
    assert first["bytes_to_data"] == 0
    assert last["bytes_to_data"] == 8 * 5
    assert compiled.report["setup_bytes"] == 8 * (20 * 12 + 12 * 5)
    # One round each for the masks, five for the comparison, one to reveal.
    assert compiled.report["rounds"] == 1 + 5 + 1 + 1


def masked(form: str, keep: float) -> tuple[Builder, object, int]:
    """y = m ReLU(x) + (1 - m) x, as sums of products or as a choice by a constant mask."""
    b = Builder((1, 8, 8, 8))
    x = b.conv("x", 8)
    mask = np.random.default_rng(0).random((1, 8, 8, 8)) < keep
    relu = b.same("Relu", x)
    if form == "mul":
        y = b.same("Add", b.same("Mul", relu, b.values(mask)), b.same("Mul", x, b.values(1.0 - mask)))
    else:
        from onnx import numpy_helper

        b.weights.append(numpy_helper.from_array(mask, "mask"))
        y = b.op("Where", "mask", relu, x, shape=(1, 8, 8, 8))
    return b, b.model(b.conv(y, 2)), int(mask.sum())


@pytest.mark.parametrize("form", ["mul", "where"])
def test_ten_percent_of_the_relus_cost_ten_percent(form):
    """Masked elements are gathered by a public index before they are compared."""
    b, model, kept = masked(form, 0.1)
    compiled = secure(b, model)
    assert max(ladder(b, model, compiled)) < 2e-3
    assert compiled.report["comparisons"] == kept
    full = secure(*elementwise("Relu", (1, 8, 8, 8)))
    part = next(e for e in compiled.report["layers"] if e["name"].startswith("relu"))
    whole = next(e for e in full.report["layers"] if e["name"].startswith("relu"))
    share = kept / whole["comparisons"]
    assert part["bytes_to_model"] / whole["bytes_to_model"] < 1.5 * share


def test_comparisons_that_a_model_gathers_itself_are_local_movements_and_fewer_comparisons():
    """The form in which reduced networks are written: kept elements compared, the rest moved around them."""
    b = Builder((1, 4, 4, 4))
    flat = b.op("Reshape", b.conv("x", 4), b.constant([1, 64]), shape=(1, 64))
    keep = np.random.default_rng(2).permutation(64)
    stay, go = np.sort(keep[:7]), np.sort(keep[7:])
    compared = b.same("Relu", b.op("Gather", flat, b.constant(stay), shape=(1, 7), axis=1))
    joined = b.op(
        "Concat", compared, b.op("Gather", flat, b.constant(go), shape=(1, 57), axis=1), shape=(1, 64), axis=1
    )
    order = b.constant(np.argsort(np.concatenate([stay, go])))
    y = b.op(
        "Reshape", b.op("Gather", joined, order, shape=(1, 64), axis=1), b.constant([1, 4, 4, 4]), shape=(1, 4, 4, 4)
    )
    model = b.model(b.conv(y, 2))
    compiled = secure(b, model)
    assert max(ladder(b, model, compiled)) < 2e-3
    assert compiled.report["comparisons"] == 7
    assert compiled.report["rounds"] == 1 + 5 + 1 + 1


def test_a_mask_that_keeps_nothing_costs_nothing():
    b, model, kept = masked("mul", 0.0)
    compiled = secure(b, model)
    assert kept == compiled.report["comparisons"] == 0
    assert max(ladder(b, model, compiled)) < 2e-3


def test_quadratics_take_one_round_and_their_scale_goes_into_the_next_layer():
    b, model = elementwise("Relu")
    compiled = secure(b, model, Options(target="mpc", activation=Activation("quadratic")))
    found = ops(compiled)
    assert found["ltz"] == 0
    assert found["square"] == 1
    # The shift that completes the square is local; nothing else stands between the convolutions.
    assert found["scale"] == 1
    assert compiled.report["rounds"] == 1 + 1 + 1 + 1


def test_normalization_and_averages_go_into_the_weights_around_them():
    b = Builder((1, 3, 8, 8))
    x = b.conv("x", 4)
    channels = [b.positive(4), b.weight(4, scale=0.3), b.weight(4, scale=0.3), b.positive(4)]
    x = b.op("BatchNormalization", x, *channels, shape=(1, 4, 8, 8))
    x = b.op("AveragePool", x, shape=(1, 4, 4, 4), kernel_shape=[2, 2], strides=[2, 2])
    model = b.model(b.conv(x, 5))
    compiled = secure(b, model)
    assert max(ladder(b, model, compiled)) < 2e-3
    assert ops(compiled)["scale"] == 0
    assert compiled.report["rounds"] == 3


def test_data_movements_between_two_layers_are_one_public_index():
    b = Builder((1, 4, 4, 4))
    x = b.op("Transpose", b.conv("x", 4), shape=(1, 4, 4, 4), perm=[0, 2, 3, 1])
    x = b.op("Reshape", x, b.constant([1, 8, 8]), shape=(1, 8, 8))
    x = b.op("Slice", x, b.constant([1]), b.constant([7]), b.constant([2]), shape=(1, 8, 6))
    model = b.model(b.linear(b.op("Flatten", x, shape=(1, 48)), 3))
    compiled = secure(b, model)
    assert max(ladder(b, model, compiled)) < 2e-3
    assert ops(compiled)["gather"] == 1
    assert compiled.report["rounds"] == 3


def test_a_shift_before_a_padded_convolution_is_right_at_the_borders():
    """A bias per channel would be wrong where the window sees padding."""
    b = Builder((1, 2, 5, 5))
    x = b.same("Add", b.same("Mul", "x", b.values(3.0)), b.values(np.array([1.0, -2.0]).reshape(1, 2, 1, 1)))
    model = b.model(b.conv(x, 3))
    compiled = secure(b, model)
    assert max(ladder(b, model, compiled)) < 2e-3
    assert ops(compiled)["scale"] == 0


@pytest.mark.parametrize("kernel", [2, 3])
def test_max_pooling_is_exact(kernel):
    b = Builder((1, 2, 6, 6))
    x = b.op(
        "MaxPool",
        b.conv("x", 3),
        shape=(1, 3, 6 // kernel, 6 // kernel),
        kernel_shape=[kernel] * 2,
        strides=[kernel] * 2,
    )
    model = b.model(b.linear(x, 3))
    compiled = secure(b, model)
    assert max(ladder(b, model, compiled)) < 2e-3
    averaged = secure(b, model, Options(target="mpc", maxpool="average"))
    assert averaged.report["comparisons"] == 0


def test_a_relu_before_pooling_is_compared_after_it():
    """The maximum of ReLUs is the ReLU of the maximum: a quarter of the comparisons with zero."""
    b = Builder((1, 2, 8, 8))
    x = b.same("Relu", b.conv("x", 3))
    x = b.op("MaxPool", x, shape=(1, 3, 4, 4), kernel_shape=[2, 2], strides=[2, 2])
    model = b.model(b.linear(x, 3))
    compiled = secure(b, model)
    assert max(ladder(b, model, compiled)) < 2e-3
    relu = next(e for e in compiled.report["layers"] if e["name"].startswith("relu"))
    assert relu["comparisons"] == 3 * 4 * 4


@pytest.mark.parametrize("op", ["Relu", "Abs", "HardSwish"])
def test_branches_side_by_side_compare_at_the_same_time(op):
    """Two branches take the rounds of one; their convolutions still send their masks one after the other."""
    b = Builder((1, 3, 6, 6))
    x = b.conv("x", 4)
    left, right = b.same(op, b.conv(x, 2, kernel=1, pad=0)), b.same(op, b.conv(x, 5))
    model = b.model(b.conv(b.op("Concat", left, right, shape=(1, 7, 6, 6), axis=1), 2))
    compiled = secure(b, model)
    assert max(ladder(b, model, compiled)) < 2e-3
    alone, lone = elementwise(op)
    assert ops(compiled)["ltz"] == 1
    # Selections that broadcast, as those of pieces with bounds do, are not joined: one round more.
    rounds = secure(alone, lone).report["rounds"] + 2 + (op == "HardSwish")
    assert compiled.report["rounds"] == rounds
    assert compiled.report["comparisons"] == 7 * 36 * (2 if op == "HardSwish" else 1)


def test_public_weights_make_linear_layers_local():
    b, model = mlp()
    compiled = secure(b, model, Options(target="mpc", public_weights=True))
    assert max(ladder(b, model, compiled)) < 2e-3
    assert {c.owner for c in compiled.program.consts} == {"public"}
    assert compiled.report["rounds"] == 5 + 1
    assert any("all weights" in line for line in compiled.report["threat_model"])


def test_private_weights_are_never_public_constants():
    """Whatever scale or bias is folded where: no array of the model's numbers may be known to all."""
    b, model = residual()
    compiled = secure(b, model)
    arrays = [c.values for c in compiled.program.consts if c.owner == "public" and np.unique(c.values).size > 2]
    assert arrays == []


def test_products_that_would_wrap_too_often_get_fewer_fractional_bits():
    b = Builder((1, 16))
    x = b.same("Relu", b.linear("x", 16))
    model = b.model(b.linear(b.op("Mul", x, b.values(3000.0), shape=(1, 16)), 2))
    first = secure(b, model)
    tight = secure(b, model, Options(target="mpc", wrap_budget=first.report["expected_wraps"] / 8))
    assert tight.report["frac_bits"] + tight.report["weight_frac_bits"] < 32
    assert any("would wrap" in note for note in tight.report["notes"])
    with pytest.raises(BudgetError, match=r"gemm.*values up to"):
        secure(b, model, Options(target="mpc", wrap_budget=1e-12))
    # Protocols that truncate interactively have no such failure.
    assert secure(b, model, Options(target="mpc", wrap_budget=1e-12, protocol="semi2k")).report["expected_wraps"] == 0


def test_values_beyond_fixed_point_are_refused_with_their_layer():
    b = Builder((1, 4))
    x = b.op("Mul", b.linear("x", 4), b.values(1e12), shape=(1, 4))
    square = b.same("Mul", x, x)
    with pytest.raises(BudgetError, match="layer 'gemm"):
        secure(b, b.model(b.linear(square, 2)))


def test_comparisons_may_leave_out_low_bits():
    """Circa: fewer positions to add, and faults for small positive values only."""
    b, model = elementwise("Relu")
    exact = secure(b, model)
    loose = secure(b, model, Options(target="mpc", stochastic_bits=14))
    assert loose.report["bytes_sent"] < exact.report["bytes_sent"]
    _, error = ladder(b, model, loose)
    # 36 inputs per output, each wrong by less than 2^-2 times its weight.
    assert 1e-2 < error < 2.0**-2 * 36


def test_a_budget_replaces_what_the_protocol_finds_dear():
    """Where bandwidth is scarce a square is cheaper than a comparison with a dealer, and dearer under Cheetah."""
    b, model = residual()
    slow = "0.1,0.5"
    everything = secure(b, model, Options(target="mpc", max_accuracy_drop=0.99, network=slow))
    assert everything.report["comparisons"] == 0
    nothing = secure(b, model, Options(target="mpc", max_accuracy_drop=0.99, network=slow, protocol="cheetah"))
    assert nothing.report["comparisons"] == secure(b, model).report["comparisons"]
    some = secure(b, model, Options(target="mpc", max_accuracy_drop=0.0))
    assert some.report["comparisons"] > 0


def test_a_latency_is_met_or_refused_with_what_is_possible():
    b, model = residual()
    wan = Options(target="mpc", network="wan")
    exact = secure(b, model, wan).report["predicted_seconds"]
    wanted = 0.8 * exact
    found = secure(b, model, Options(target="mpc", network="wan", max_latency=wanted)).report
    assert found["predicted_seconds"] <= wanted * 1.02
    assert found["comparisons"] > 0
    with pytest.raises(BudgetError, match="no plan stays below"):
        secure(b, model, Options(target="mpc", network="wan", max_latency=1e-3))


def test_every_protocol_prices_the_same_program():
    b, model = mlp()
    program = secure(b, model).program
    costs = {name: total_cost(program, load_mpc_prices(name)) for name in PROTOCOLS}
    assert costs["semi2k"].dealt == costs["crypten-tfp"].dealt == 0 < costs["crypten-ttp"].dealt
    assert costs["cheetah"].bytes > 10 * costs["crypten-ttp"].bytes
    assert costs["aby3"].rounds > costs["crypten-ttp"].rounds


def test_all_layers_without_a_lowering_are_named_at_once():
    """A transposed convolution whose matrix would be too large, twice."""
    b = Builder((1, 8, 32, 32))
    x = "x"
    for _ in range(2):
        x = b.op("ConvTranspose", x, b.weight(8, 8, 3, 3), shape=(1, 8, 32, 32), kernel_shape=[3, 3], pads=[1, 1, 1, 1])
    with pytest.raises(UnsupportedOperator) as caught:
        secure(b, b.model(x))
    assert len(caught.value.details) == 2


def test_small_transposed_convolutions_run_as_one_matrix():
    b = Builder((1, 2, 4, 4))
    x = b.op("ConvTranspose", "x", b.weight(2, 3, 2, 2), shape=(1, 3, 5, 5), kernel_shape=[2, 2])
    model = b.model(b.linear(x, 2))
    assert max(ladder(b, model, secure(b, model))) < 2e-3
