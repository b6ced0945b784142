"""Evaluation plans: published depths and products, and that walking them gives the polynomial."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pi_compiler.approx.errors import DegreeError
from pi_compiler.approx.plan import evaluate, least_depth, make_plan, plan_counts
from pi_compiler.approx.poly import Poly

# Lee et al., ICML 2022: optimal odd baby-step giant-step.
PUBLISHED_ODD = {
    3: (2, 2), 5: (3, 3), 7: (3, 5), 9: (4, 5), 11: (4, 6), 13: (4, 7), 15: (4, 8), 17: (5, 8), 19: (5, 8),
    21: (5, 9), 25: (5, 10), 27: (5, 10), 29: (5, 11), 31: (5, 12), 33: (6, 11), 39: (6, 11), 45: (6, 13),
    55: (6, 14), 59: (6, 15), 63: (6, 17),
}  # fmt: skip
FEWER = {17: 7, 21: 8, 33: 10}


@pytest.mark.parametrize("basis", ["power", "chebyshev"])
@pytest.mark.parametrize("degree", PUBLISHED_ODD)
def test_odd_degrees_take_the_published_depth_and_no_more_products(degree, basis):
    depth, products = PUBLISHED_ODD[degree]
    assert plan_counts(degree, parity="odd", basis=basis) == (depth, FEWER.get(degree, products))


def test_a_line_on_top_of_an_even_polynomial_costs_no_product():
    even = [1.0 / (1.0 + i) if i % 2 == 0 else 0.0 for i in range(31)]
    with_line = [*even]
    with_line[1] = 0.5
    plain, lined = (make_plan(Poly("chebyshev", tuple(c), (-1.0, 1.0))) for c in (even, with_line))
    assert plain.products == lined.products == plan_counts(30, parity="even")[1]
    assert lined.depth == 5


@st.composite
def polynomials(draw):
    degree = draw(st.integers(0, 70))
    seed = draw(st.integers(0, 2**31))
    rng = np.random.default_rng(seed)
    coef = rng.uniform(-1.0, 1.0, degree + 1)
    coef[rng.random(degree + 1) < draw(st.sampled_from([0.0, 0.0, 0.4, 0.9]))] = 0.0
    match draw(st.sampled_from(["dense", "odd", "even"])):
        case "odd":
            coef[::2] = 0.0
        case "even":
            coef[1::2] = 0.0
    low = draw(st.floats(-3.0, 0.5))
    domain = (low, low + draw(st.floats(0.5, 4.0)))
    basis = draw(st.sampled_from(["power", "chebyshev"]))
    return Poly(basis, tuple(coef), domain if basis == "chebyshev" else (-1.0, 1.0))


def levels(plan):
    """Levels consumed by each part, recomputed from what the walker does."""
    depth = {0: 0, 1: 0}
    for step in plan.steps:
        assert step.left + step.right == step.index
        needed = [step.left, step.right] + ([step.left - step.right] if plan.basis == "chebyshev" else [])
        assert all(i in depth for i in needed)
        depth[step.index] = 1 + max(depth[step.left], depth[step.right])
        assert depth[step.index] == step.depth

    def of(node):
        if node is None:
            return 0
        if hasattr(node, "terms"):
            return max((1 + depth[i] for i, _ in node.terms), default=0)
        return max(1 + max(of(node.high), depth[node.index]), of(node.low))

    return max(of(plan.root), depth[plan.unit] if plan.unit is not None else 0)


@settings(deadline=None)
@given(polynomials(), st.booleans())
def test_walking_the_plan_gives_the_polynomial_within_its_levels(poly, fold):
    plan = make_plan(poly, fold_scale=fold and abs(poly.coef[poly.degree]) > 0.1)
    x = np.linspace(*poly.domain, 41)
    np.testing.assert_allclose(evaluate(plan, x), poly(x), atol=1e-9)
    assert levels(plan) <= plan.depth
    assert plan.depth == least_depth(poly.degree, unit=plan.unit is not None)


@pytest.mark.parametrize(("degree", "depth"), [(2, 1), (4, 2), (8, 3), (16, 4), (32, 5)])
def test_folding_the_leading_coefficient_saves_one_level_at_powers_of_two(degree, depth):
    poly = Poly("chebyshev", tuple(np.linspace(0.3, 0.9, degree + 1)), (-2.0, 3.0))
    assert make_plan(poly).depth == depth + 1
    folded = make_plan(poly, fold_scale=True)
    assert (folded.depth, folded.unit) == (depth, degree)
    x = np.linspace(-2.0, 3.0, 50)
    np.testing.assert_allclose(evaluate(folded, x), poly(x), atol=1e-12)


def test_a_bare_square_is_one_product_and_one_level():
    plan = make_plan(Poly("power", (0.0, 0.0, 1.0), (-1.0, 1.0)))
    assert (plan.depth, plan.products, plan.plain_products) == (1, 1, 0)


def test_coefficients_that_cancel_in_a_division_leave_the_tree_sound():
    poly = Poly("chebyshev", (0.0, 0.5, 0.0, 0.5, 0.0, 0.5, 0.0, 0.5), (-1.0, 1.0))
    x = np.linspace(-1.0, 1.0, 33)
    np.testing.assert_allclose(evaluate(make_plan(poly), x), poly(x), atol=1e-13)


def test_degrees_are_checked():
    with pytest.raises(DegreeError, match="not odd"):
        plan_counts(4, parity="odd")
    with pytest.raises(DegreeError, match="1024"):
        plan_counts(1024)
