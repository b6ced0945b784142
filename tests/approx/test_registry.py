"""Every registered method, on every target that it suits and on random intervals."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pi_compiler.approx.cost import evaluation_cost
from pi_compiler.approx.density import Density
from pi_compiler.approx.errors import ApproximationError, DomainError
from pi_compiler.approx.poly import Poly
from pi_compiler.approx.registry import METHODS, fit
from pi_compiler.approx.targets import TARGETS, target

PARAMS = {"clip": {"min": -1.0, "max": 2.0}, "pow": {"exponent": 3.0}, "max": {"other": 0.3}}
TARGETS_BY_NAME = {name: target(name, **PARAMS.get(name, {})) for name in TARGETS}


def interval(goal, draw):
    """Symmetric, one-sided or lopsided; away from poles and inside the function's domain."""
    if goal.poles or goal.defined_on[0] == 0.0:
        low = 10.0 ** draw(st.floats(-2.0, 1.0))
        return low, low * 10.0 ** draw(st.floats(0.1, 2.0))
    bound = 10.0 ** draw(st.floats(-1.0, 1.3))
    if draw(st.booleans()):
        return -bound, bound
    low = draw(st.floats(-1.0, 0.8)) * bound
    return low, low + bound * draw(st.floats(0.05, 1.0))


@st.composite
def cases(draw, method):
    suited = [g for g in TARGETS_BY_NAME.values() if method.suits(g, (1.0, 2.0)) or method.suits(g, (-2.0, -1.0))]
    goal = draw(st.sampled_from(suited))
    domain = interval(goal, draw)
    if method.name == "exp_limit":
        domain = (min(domain[0], 0.0) - 0.5, 0.0)
    return goal, domain, draw(st.sampled_from(method.degrees))


def probes(goal, domain):
    low, high = domain
    near = np.geomspace(1e-12, 1.0, 400) * (high - low)
    around = [p + s * near for p in (*goal.kinks, low, high) for s in (-1.0, 1.0)]
    x = np.concatenate([np.linspace(low, high, 4001), *around])
    return x[(x >= low) & (x <= high)]


@pytest.mark.parametrize("name", METHODS)
def test_the_measured_error_is_never_above_the_certificate(name):
    method = METHODS[name]

    @settings(deadline=None, max_examples=15, database=None)
    @given(cases(method))
    def check(case):
        goal, domain, degree = case
        found = fit(name, goal, domain, degree)
        x = probes(goal, domain)
        measured = np.abs(goal(x) - found.approx(x)).max()
        proof = found.certificate
        assert measured <= proof.max_error * (1.0 + 1e-9) + 1e-13 * np.abs(goal(x)).max()
        assert proof.domain == domain
        assert domain[0] <= proof.at <= domain[1]
        cost = evaluation_cost(found.approx)
        assert (cost.depth, cost.products) == (proof.depth, proof.products)
        assert METHODS[name].protocol == "mpc" or proof.comparisons + proof.divisions == 0

    check()


@pytest.mark.parametrize("name", ["chebyshev", "minimax", "least_squares_uniform"])
def test_odd_stays_odd(name):
    found = fit(name, target("tanh"), (-3.0, 3.0), 8).approx
    assert isinstance(found, Poly)
    assert all(c == 0.0 for c in found.coef[::2])


@pytest.mark.parametrize("name", ["chebyshev", "least_squares", "minimax", "hermite", "dapa"])
def test_the_basis_does_not_change_the_polynomial(name):
    found = fit(name, target("relu"), (-2.0, 3.0), 4).approx
    x = np.linspace(-2.0, 3.0, 101)
    for basis in ("power", "chebyshev"):
        np.testing.assert_allclose(found.to(basis)(x), found(x), atol=1e-12)
    h = 1e-6
    np.testing.assert_allclose(found.derivative()(x), (found(x + h) - found(x - h)) / (2 * h), atol=1e-7)


def test_a_density_is_used_and_certified():
    rng = np.random.default_rng(0)
    density = Density.of_samples(rng.normal(0.5, 1.0, 2000))
    held_out = rng.normal(0.5, 1.0, 500)
    found = fit("dapa", target("relu"), (-4.0, 5.0), 2, density=density, held_out=held_out)
    assert found.certificate.exceedance == 0.0
    assert 0.0 < found.certificate.exceedance_bound < 0.01
    assert found.approx.coef[0] == pytest.approx(0.22, abs=0.02)


def test_unknown_and_unsuited_methods_are_refused():
    with pytest.raises(ApproximationError, match="known: chebyshev"):
        fit("magic", target("relu"), (-1.0, 1.0), 3)
    with pytest.raises(ApproximationError, match="does not suit"):
        fit("dapa", target("gelu"), (-1.0, 1.0), 2)
    with pytest.raises(DomainError):
        fit("chebyshev", target("log"), (-1.0, 1.0), 2)


@pytest.mark.parametrize("domain", [(0.0, 0.0), (1.0, -1.0), (-math.inf, 1.0), (0.0, math.nan)])
@pytest.mark.parametrize("name", METHODS)
def test_every_method_refuses_a_malformed_interval(name, domain):
    suited = next(g for g in TARGETS_BY_NAME.values() if METHODS[name].suits(g, (0.5, 1.0)))
    with pytest.raises(DomainError):
        fit(name, suited, domain, METHODS[name].degrees[0])
