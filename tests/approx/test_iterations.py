"""Exponential, reciprocal, roots, domain extension: iterations with a certificate."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pi_compiler.approx import exponential, extension, newton
from pi_compiler.approx.cost import evaluation_cost
from pi_compiler.approx.errors import ApproximationError, DomainError, PrecisionError
from pi_compiler.approx.minimax import remez
from pi_compiler.approx.poly import Apply, Formula, Poly, Sum, Times
from pi_compiler.approx.targets import target


@settings(deadline=None, max_examples=25)
@given(st.floats(1e-3, 10.0), st.floats(1.5, 200.0), st.booleans(), st.booleans())
def test_reciprocals_reach_their_tolerance_on_either_side_of_zero(low, ratio, relaxed, negative):
    domain = (-low * ratio, -low) if negative else (low, low * ratio)
    tolerance = 1e-3 / low
    fit = newton.reciprocal(domain, tolerance=tolerance, relaxed=relaxed)
    x = np.linspace(*domain, 5001)
    measured = np.abs(1.0 / x - fit.approx(x)).max()
    assert fit.converged
    assert measured <= fit.certificate.max_error <= tolerance


def test_over_relaxation_saves_levels():
    plain = newton.reciprocal((2.0**-11, 1.0), tolerance=0.2, relaxed=False).certificate
    relaxed = newton.reciprocal((2.0**-11, 1.0), tolerance=0.2).certificate
    assert relaxed.depth <= plain.depth - 6
    assert relaxed.plain_products == plain.plain_products == 0


def test_an_iteration_costs_one_level_and_two_products():
    costs = [newton.reciprocal((0.1, 1.0), iterations=n).certificate for n in (3, 4, 5)]
    assert [c.depth for c in costs] == [3, 4, 5]
    assert [c.products for c in costs] == [4, 6, 8]


@settings(deadline=None, max_examples=20)
@given(st.floats(1e-3, 10.0), st.floats(2.0, 1000.0), st.integers(1, 3), st.integers(0, 2), st.booleans())
def test_inverse_square_roots_reach_their_tolerance(low, ratio, seed_degree, goldschmidt, relaxed):
    domain = (low, low * ratio)
    tolerance = 1e-3 / math.sqrt(low)
    fit = newton.inv_sqrt(
        domain, seed_degree=seed_degree, goldschmidt=goldschmidt, tolerance=tolerance, relaxed=relaxed
    )
    x = np.geomspace(*domain, 5001)
    assert np.abs(x**-0.5 - fit.approx(x)).max() <= fit.certificate.max_error <= tolerance


def test_relaxed_newton_saves_steps_and_the_root_follows():
    plain = newton.inv_sqrt((1e-3, 1.0), tolerance=1e-3, relaxed=False).certificate
    assert newton.inv_sqrt((1e-3, 1.0), tolerance=1e-3).certificate.depth < plain.depth
    root = newton.sqrt((1e-2, 4.0), tolerance=1e-3)
    x = np.linspace(1e-2, 4.0, 5001)
    assert np.abs(np.sqrt(x) - root.approx(x)).max() <= root.certificate.max_error <= 1e-3


def test_iterations_refuse_bad_input():
    for call in (
        lambda: newton.reciprocal((0.1, 1.0)),
        lambda: newton.reciprocal((0.1, 1.0), iterations=0),
        lambda: newton.inv_sqrt((0.1, 1.0), newton=-1),
        lambda: newton.inv_sqrt((0.1, 1.0), newton=2, tolerance=0.1),
        lambda: newton.iterations_needed(0.0, 0.1),
        lambda: exponential.limit((-1.0, 0.0), 0),
        lambda: exponential.scaling_squaring((-1.0, 0.0), 3, 17),
        lambda: extension.extended(target("exp"), (-9.0, 9.0), 7, 2),
        lambda: extension.folding_map(1.0, 1, 3.0),
        lambda: extension.folding_map(0.0, 1),
    ):
        with pytest.raises(ApproximationError):
            call()
    for domain in ((-1.0, 1.0), (0.0, 1.0)):
        with pytest.raises(DomainError):
            newton.reciprocal(domain, iterations=3)
        with pytest.raises(DomainError):
            newton.inv_sqrt(domain, newton=3)
    with pytest.raises(PrecisionError):
        newton.reciprocal((0.1, 1.0), tolerance=1e-16)
    with pytest.raises(PrecisionError):
        exponential.smallest((-1.0, 1.0), 1e-16)


@pytest.mark.parametrize(
    ("domain", "tolerance", "depth"),
    [((-8.0, 8.0), 1e-2, 4), ((-30.0, 0.0), 1e-6, 5), ((-60.0, 0.0), 1e-3, 5), ((-1.0, 1.0), 1e-8, 4)],
)
def test_exp_by_squaring_reaches_the_tolerance_in_few_levels(domain, tolerance, depth):
    fit = exponential.smallest(domain, tolerance)
    assert fit.converged
    x = np.linspace(*domain, 20_001)
    assert np.abs(np.exp(x) - fit.approx(x)).max() <= fit.certificate.max_error <= tolerance
    assert fit.certificate.depth <= depth


def test_the_limit_form_without_cutoff_explodes_below_its_reach_and_says_so():
    assert exponential.limit((-20.0, 0.0), 3).certificate.max_error > 1.0
    assert exponential.limit((-20.0, 0.0), 3, cutoff=-8.0).certificate.max_error < 0.04


@pytest.mark.parametrize(("factor", "extensions"), [(1.5, 3), (2.0, 2), (extension.LARGEST_FACTOR, 2)])
def test_the_folding_map_stays_within_the_radius(factor, extensions):
    u = x = np.linspace(-3.0 * factor**extensions, 3.0 * factor**extensions, 10_001)
    for stage in extension.folding_map(3.0, extensions, factor):
        u = stage(u)
    assert np.abs(u).max() <= 3.0 + 1e-9
    if factor <= 1.5:
        assert (np.diff(u) > -1e-12).all()
    assert abs(u[np.abs(x).argmin()]) < 1e-12


def test_extension_beats_a_polynomial_of_more_products_on_a_wide_interval():
    wide = extension.extended(target("tanh"), (-40.0, 40.0), 15, 3, factor=2.0).certificate
    plain = remez(target("tanh"), (-40.0, 40.0), 63).certificate
    assert wide.max_error < 0.2 * plain.max_error
    assert wide.products < plain.products


def test_formulas_cost_what_their_steps_say():
    square = Formula((Times(0, 0), Sum(((3.0, 1), (-1.0, 0)), 2.0)), (-1.0, 1.0))
    assert square(np.array([2.0]))[0] == 12.0
    assert (evaluation_cost(square).depth, evaluation_cost(square).plain_products) == (1, 0)
    scaled = Formula((Times(0, 0), Sum(((0.3, 1), (-1.0, 0)))), (-1.0, 1.0))
    assert (evaluation_cost(scaled).depth, evaluation_cost(scaled).plain_products) == (2, 1)
    cube = Poly("power", (0.0, 1.0, 0.0, 1.5), (-1.0, 1.0))
    gate = Formula((Apply(cube, 0), Times(0, 1)), (-1.0, 1.0))
    assert (evaluation_cost(gate).depth, evaluation_cost(gate).products) == (3, 3)
