"""Composite signs and gates: degrees chosen by dynamic programming, certificates, bad input."""

import math

import numpy as np
import pytest

from pi_compiler.approx.composite import gated, gated_fg, sign
from pi_compiler.approx.errors import ApproximationError, DegreeError, DomainError, PrecisionError
from pi_compiler.approx.plan import plan_counts
from pi_compiler.approx.poly import Composite
from pi_compiler.approx.sign import relu_degrees, relu_error, sign_degrees, sign_stages
from pi_compiler.approx.targets import target


def cost(degrees):
    counts = [plan_counts(d, parity="odd") for d in degrees]
    return sum(c[0] for c in counts), sum(c[1] for c in counts)


# The best precision of the reference's table at each depth; ours must not need more.
@pytest.mark.parametrize(
    ("bits", "published"), [(7.0, (7, 7)), (9.7, (15, 27)), (12.0, (7, 15, 27)), (13.0, (15, 15, 27))]
)
def test_chosen_degrees_are_never_dearer_than_published_ones(bits, published):
    chosen = relu_degrees(bits)
    assert cost(chosen) <= cost(published)
    assert relu_error(chosen)[0] <= 2.0**-bits


def test_no_sequence_of_two_stages_is_cheaper_than_the_chosen_one():
    bits, allowed = 8.5, (3, 5, 7, 9, 13, 15, 27)
    chosen = relu_degrees(bits, allowed=allowed)
    for a in allowed:
        for b in allowed:
            if cost((a, b)) < cost(chosen):
                assert relu_error((a, b))[0] > 2.0**-bits


def test_stages_map_into_the_next_ones_interval():
    stages, error = sign_stages((7, 15, 27), 2.0**-8)
    x = np.geomspace(2.0**-8, 1.0, 50_001)
    for stage in stages[:-1]:
        x = stage(x)
        assert 0.0 < x.min() < x.max() <= 1.0 + 1e-12
    assert np.abs(stages[-1](x) - 1.0).max() <= error * (1 + 1e-9)


def test_a_margin_keeps_noise_between_stages_harmless():
    rng = np.random.default_rng(0)
    margin = 1e-3
    stages, _ = sign_stages((7, 7, 7), 0.05, margin=margin)
    x = np.geomspace(0.05, 1.0, 2001)
    for stage in stages[:-1]:
        x = stage(x) + rng.uniform(-0.4, 0.4, x.size) * margin
        assert np.abs(x).max() <= 1.0


@pytest.mark.parametrize(
    ("goal", "domain"),
    [
        (target("relu"), (-40.0, 30.0)),
        (target("relu"), (0.5, 3.0)),
        (target("leaky_relu", alpha=0.1), (-5.0, 5.0)),
        (target("abs"), (-4.0, 3.0)),
        (target("max", other=2.0), (-4.0, 3.0)),
    ],
)
def test_gates_reach_the_tolerance_and_the_certificate_holds(goal, domain):
    fit = gated(goal, domain, tolerance=0.02)
    assert fit.converged
    assert fit.certificate.max_error <= 0.02
    near = np.geomspace(1e-8, 1.0, 20_000) * (domain[1] - domain[0])
    x = np.concatenate([np.linspace(*domain, 20_001), near, -near, 2.0 + near, 2.0 - near])
    x = x[(x >= domain[0]) & (x <= domain[1])]
    measured = np.abs(goal(x) - fit.approx(x)).max()
    assert measured <= fit.certificate.max_error <= measured * 1.02


def test_the_certificate_of_a_long_composite_is_tight():
    fit = gated(target("relu"), (-1.0, 1.0), degrees=relu_degrees(20.0))
    x = np.geomspace(1e-9, 1.0, 400_001)
    measured = np.abs(x - fit.approx(x)).max()
    assert measured <= fit.certificate.max_error <= 1.01 * measured < 2.0**-20


def test_sign_outside_a_gap():
    fit = sign((-4.0, 3.0), 0.1, tolerance=0.01)
    assert isinstance(fit.approx, Composite)
    assert fit.converged
    x = np.geomspace(0.1, 3.0, 10_001)
    assert np.abs(fit.approx(x) - 1).max() <= fit.certificate.max_error <= 0.01
    assert np.abs(fit.approx(-x) + 1).max() <= fit.certificate.max_error
    assert cost(sign_degrees(0.025, 0.01)) == (fit.certificate.depth, fit.certificate.products)


def test_max_of_two_values_is_a_gate_of_their_difference():
    relu = gated(target("relu"), (-6.0, 6.0), tolerance=0.01)
    a, b = np.random.default_rng(1).uniform(-3.0, 3.0, (2, 1000))
    np.testing.assert_allclose(b + relu.approx(a - b), np.maximum(a, b), atol=0.01)


def test_fixed_compositions_scale_to_any_interval():
    small = gated_fg(target("relu"), (-1.0, 1.0)).certificate.max_error
    assert gated_fg(target("relu"), (-20.0, 20.0)).certificate.max_error == pytest.approx(20 * small, rel=1e-6)


def test_bad_input_is_refused():
    relu = target("relu")
    for call in (
        lambda: gated(relu, (-1.0, 1.0)),
        lambda: gated(relu, (-1.0, 1.0), degrees=(7, 7), tolerance=0.1),
        lambda: gated(target("gelu"), (-1.0, 1.0), tolerance=0.1),
        lambda: gated(relu, (-1.0, 1.0), tolerance=0.0),
        lambda: sign((-1.0, 1.0), 2.0, degrees=(7,)),
        lambda: sign_stages((7, 7), 1.5),
        lambda: sign_stages((15, 15, 15, 15), 0.5),
        lambda: gated_fg(target("max", other=1.0), (-1.0, 1.0)),
    ):
        with pytest.raises(ApproximationError):
            call()
    with pytest.raises(DegreeError):
        sign_stages((7, 8), 0.1)
    with pytest.raises(DegreeError):
        gated_fg(relu, (-1.0, 1.0), f=(5, 1))
    with pytest.raises(DomainError):
        gated(relu, (1.0, -1.0), degrees=(7,))
    with pytest.raises(PrecisionError):
        relu_degrees(31.0)
    with pytest.raises(PrecisionError):
        sign_degrees(0.1, 1e-12)
    with pytest.raises(ApproximationError, match="depth 4"):
        relu_degrees(12.0, max_depth=4)


def test_the_price_of_precision_is_about_one_level_per_bit():
    depths = [sum(plan_counts(d, parity="odd")[0] for d in relu_degrees(float(b))) for b in range(6, 15)]
    assert depths == sorted(depths)
    assert math.isclose(depths[-1] - depths[0], 9, abs_tol=1)
