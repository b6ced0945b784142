"""Least squares, Chebyshev fits, densities, the completed square and certificates."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pi_compiler.approx import chebyshev, least_squares
from pi_compiler.approx.certificate import certify, exceedance, largest
from pi_compiler.approx.cost import evaluation_cost
from pi_compiler.approx.density import Density
from pi_compiler.approx.errors import ApproximationError, DegreeError, DensityError, DomainError, PrecisionError
from pi_compiler.approx.poly import Composite, Poly
from pi_compiler.approx.square import complete_square
from pi_compiler.approx.targets import custom, target

BAD_INTERVALS = [(1.0, 1.0), (2.0, 1.0), (0.0, math.inf), (-math.inf, 0.0), (math.nan, 1.0)]


@pytest.mark.parametrize("domain", BAD_INTERVALS)
@pytest.mark.parametrize("fit", [chebyshev.interpolate, chebyshev.project])
def test_bad_intervals_are_refused(fit, domain):
    with pytest.raises(DomainError):
        fit(target("gelu"), domain, 4)


@pytest.mark.parametrize(
    ("name", "bound", "degree", "error"),
    [("gelu", 8, 31, 9.2e-5), ("silu", 8, 31, 1.9e-5), ("relu", 8, 31, 0.125), ("gelu", 16, 63, 6.3e-5)],
)
def test_interpolation_reproduces_known_errors(name, bound, degree, error):
    found = chebyshev.interpolate(target(name), (-bound, bound), degree).certificate.max_error
    assert found == pytest.approx(error, rel=0.02)


def test_parity_is_kept_exactly_so_that_odd_terms_cost_nothing():
    fit = chebyshev.interpolate(target("gelu"), (-6.0, 6.0), 30)
    assert all(c == 0.0 for c in fit.approx.coef[3::2])
    assert fit.approx.coef[1] == 3.0
    assert chebyshev.interpolate(target("gelu"), (-6.0, 5.0), 30).approx.coef[3] != 0.0


def test_the_smallest_degree_is_the_smallest():
    fit = chebyshev.smallest(target("sigmoid"), (-6.0, 6.0), 1e-4)
    assert fit.converged
    assert fit.certificate.max_error <= 1e-4
    assert chebyshev.interpolate(target("sigmoid"), (-6.0, 6.0), fit.approx.degree - 2).certificate.max_error > 1e-4


def test_an_unreachable_error_is_said_and_not_hidden():
    fit = chebyshev.smallest(target("relu"), (-8.0, 8.0), 1e-3, largest_degree=63)
    assert not fit.converged
    assert "63" in fit.message
    with pytest.raises(PrecisionError):
        chebyshev.smallest(target("gelu"), (-8.0, 8.0), 1e-16)


def test_least_squares_under_a_gaussian_is_the_closed_form():
    fit = least_squares.weighted(target("relu"), 2, Density.normal(0.0, 1.0), basis="power")
    np.testing.assert_allclose(fit.approx.coef, [0.19947, 0.5, 0.19947], atol=5e-5)
    assert fit.certificate.weighted_error == pytest.approx(math.sqrt(0.011268), rel=1e-3)


@settings(deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 6))
def test_least_squares_beats_every_perturbation(seed, degree):
    rng = np.random.default_rng(seed)
    samples = rng.normal(rng.uniform(-1, 1), rng.uniform(0.5, 2.0), 300)
    density = Density.of_samples(samples)
    fit = least_squares.weighted(target("silu"), degree, density)
    best = np.mean((fit.approx(samples) - target("silu")(samples)) ** 2)
    other = Poly("chebyshev", tuple(np.array(fit.approx.coef) + 1e-3 * rng.normal(size=degree + 1)), fit.approx.domain)
    assert best <= np.mean((other(samples) - target("silu")(samples)) ** 2)
    assert fit.certificate.weighted_error == pytest.approx(math.sqrt(best), rel=1e-6, abs=1e-12)


def test_histogram_and_samples_agree():
    samples = np.random.default_rng(3).normal(size=50_000)
    mass, edges = np.histogram(samples, bins=400)
    a = least_squares.weighted(target("gelu"), 4, Density.of_samples(samples), basis="power")
    b = least_squares.weighted(target("gelu"), 4, Density.of_histogram(edges, mass), basis="power")
    np.testing.assert_allclose(a.approx.coef, b.approx.coef, atol=2e-3)


def test_uniform_least_squares_matches_dense_sampling():
    fit = least_squares.uniform(target("gelu"), 6, (-4.0, 3.0))
    x = np.linspace(-4.0, 3.0, 200_001)
    reference = np.polynomial.Chebyshev.fit(x, target("gelu")(x), 6)
    np.testing.assert_allclose(fit.approx(x), reference(x), atol=1e-4)


def test_densities_without_mass_or_with_too_few_points_are_refused():
    few = Density.of_samples([0.0, 1.0, 1.0])
    for call in (
        lambda: Density.of_samples([]),
        lambda: Density.of_samples([0.0, math.nan]),
        lambda: Density.of_histogram([0, 1, 2], [0, 0]),
        lambda: Density.of_histogram([0, 2, 1], [1, 1]),
        lambda: Density.of_histogram([0, 1], [1, 1]),
        lambda: least_squares.weighted(target("relu"), 2, few),
        lambda: least_squares.weighted(target("relu"), 1, few, domain=(5.0, 6.0)),
    ):
        with pytest.raises(DensityError):
            call()
    assert least_squares.weighted(target("relu"), 2, few, floor=1e-3).approx.degree == 2
    with pytest.raises(DegreeError):
        least_squares.weighted(target("relu"), -1, few)


@given(st.floats(-5, 5), st.floats(-5, 5), st.floats(-5, 5))
def test_the_completed_square_is_the_quadratic(w0, w1, w2):
    x = np.linspace(-3.0, 3.0, 25)
    np.testing.assert_allclose(complete_square(w0, w1, w2)(x), w0 + w1 * x + w2 * x * x, atol=2e-4)


def test_without_a_quadratic_term_the_square_is_a_line():
    done = complete_square([1.0, 2.0], [3.0, 4.0], [0.0, -2.0])
    assert done.square.tolist() == [False, True]
    np.testing.assert_allclose(done(np.array([2.0, 2.0])), [7.0, 2.0])
    with pytest.raises(ApproximationError):
        complete_square(0.0, math.nan, 1.0)


def test_the_peak_of_a_narrow_bump_beside_a_kink_is_found():
    def bump(x):
        return 0.1 * np.sin(3 * x) + np.exp(-(((x - 1.23456) / 0.01) ** 2))

    peak = largest(bump, (-4.0, 4.0))
    assert peak.resolved
    assert peak.at == pytest.approx(1.23456, abs=1e-3)
    x = np.linspace(1.2, 1.3, 100_001)
    assert np.abs(bump(x)).max() <= peak.bound <= np.abs(bump(x)).max() * (1 + 1e-5)


def test_a_jump_counts_with_both_of_its_sides():
    goal = target("sign")
    fit = Poly("power", (0.0, 1.0), (-1.0, 1.0))
    assert certify(goal, fit, (-1.0, 1.0)).max_error == pytest.approx(1.0, rel=1e-5)
    gapped = certify(goal, fit, (-1.0, 1.0), intervals=[(-1.0, -0.5), (0.5, 1.0)])
    assert gapped.max_error == pytest.approx(0.5, rel=1e-5)


@settings(deadline=None)
@given(st.integers(0, 2**31), st.sampled_from(["relu", "gelu", "elu", "softsign", "mish", "hard_swish"]))
def test_certificates_are_never_below_a_dense_measurement(seed, name):
    rng = np.random.default_rng(seed)
    low, width = rng.uniform(-9, 3), 10.0 ** rng.uniform(-1, 1)
    poly = Poly("chebyshev", tuple(rng.normal(size=rng.integers(1, 12))), (low, low + width))
    proof = certify(target(name), poly, poly.domain)
    x = np.linspace(low, low + width, 20_001)
    measured = np.abs(target(name)(x) - poly(x)).max()
    assert measured <= proof.max_error <= measured * 1.01 + 1e-12


def test_exceedance_has_a_clopper_pearson_bound():
    inside = np.zeros(300)
    assert exceedance(inside, (-1.0, 1.0)) == (0.0, pytest.approx(1 - 0.05 ** (1 / 300)))
    values = np.concatenate([np.zeros(97), [5.0, -5.0, math.nan]])
    fraction, bound = exceedance(values, (-1.0, 1.0))
    assert fraction == 0.03
    assert bound == pytest.approx(0.0757, abs=2e-4)
    assert exceedance([9.0], (0.0, 1.0)) == (1.0, 1.0)


def test_costs_of_lines_squares_and_composites():
    line, square = Poly("power", (1.0, 2.0), (0.0, 1.0)), Poly("power", (1.0, 2.0, 3.0), (0.0, 1.0))
    cube = Poly("power", (0.0, 1.0, 0.0, 1.5), (0.0, 1.0))
    assert (evaluation_cost(line).depth, evaluation_cost(line).products) == (0, 0)
    assert (evaluation_cost(square).depth, evaluation_cost(square).products) == (1, 1)
    both = evaluation_cost(Composite((cube, cube, square)))
    assert (both.depth, both.products) == (5, 5)


def test_a_replacement_that_is_not_finite_is_refused():
    bad = custom("bad", lambda x: 1.0 / x)
    with pytest.raises(ApproximationError, match="not finite"):
        certify(bad, Poly("power", (0.0,), (-1.0, 1.0)), (-1.0, 1.0))
