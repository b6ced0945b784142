"""Remez: levelled errors, several intervals, parity, weights, precision, and refusal of bad input."""

import math

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pi_compiler.approx import chebyshev
from pi_compiler.approx.errors import ApproximationError, DegreeError, DomainError
from pi_compiler.approx.exchange import exchange
from pi_compiler.approx.minimax import remez
from pi_compiler.approx.targets import target


def alternations(error):
    """Sign changes between extrema that are within a part in 10^4 of the largest error."""
    high = np.abs(error) >= np.abs(error).max() * (1 - 1e-4)
    return 1 + int((np.diff(np.sign(error[high])) != 0).sum())


@pytest.mark.parametrize(
    ("name", "domain", "degree"),
    [("gelu", (-4.0, 3.0), 9), ("exp", (-2.0, 1.0), 5), ("relu", (-1.0, 2.0), 8), ("sqrt", (0.0, 1.0), 6)],
)
def test_the_error_alternates_degree_plus_two_times(name, domain, degree):
    fit = remez(target(name), domain, degree)
    assert fit.converged
    x = domain[0] + (domain[1] - domain[0]) * np.sin(0.5 * np.pi * np.linspace(0, 1, 400_001)) ** 2
    assert alternations(target(name)(x) - fit.approx(x)) >= degree + 2


@settings(deadline=None, max_examples=25)
@given(st.floats(-6.0, 2.0), st.floats(0.5, 8.0), st.integers(1, 20), st.sampled_from(["gelu", "silu", "relu", "mish"]))
def test_no_interpolant_is_better(low, width, degree, name):
    domain = (low, low + width)
    best = remez(target(name), domain, degree).certificate.max_error
    assert best <= chebyshev.interpolate(target(name), domain, degree).certificate.max_error * (1 + 1e-6) + 1e-13


def test_minimax_of_relu_beats_interpolation_threefold():
    best = remez(target("relu"), (-8.0, 8.0), 31).certificate.max_error
    assert best < 0.0374 < 0.3 * chebyshev.interpolate(target("relu"), (-8.0, 8.0), 31).certificate.max_error


def test_parity_is_exact_on_symmetric_intervals():
    fit = remez(target("gelu"), (-5.0, 5.0), 12)
    assert all(c == 0.0 for c in fit.approx.coef[3::2])
    assert remez(target("tanh"), (-5.0, 5.0), 9).approx.coef[::2] == (0.0,) * 5
    forced = remez(target("exp"), (-1.0, 1.0), 5, parity="odd")
    assert forced.approx.coef[::2] == (0.0,) * 3


def test_several_intervals_leave_the_gap_out_of_account():
    sign = target("sign")
    fit = remez(sign, (-1.0, 1.0), 15, intervals=[(-1.0, -0.1), (0.1, 1.0)])
    assert fit.converged
    assert fit.certificate.max_error == pytest.approx(0.12063, abs=1e-5)
    lopsided = remez(sign, (-1.0, 1.0), 14, intervals=[(-1.0, -0.2), (0.1, 1.0)])
    assert lopsided.converged
    assert lopsided.certificate.max_error < 0.12


@pytest.mark.parametrize("eps", [0.5, 2.0**-5, 2.0**-9, 2.0**-16])
@pytest.mark.parametrize("degree", [7, 27, 63])
def test_odd_sign_polynomials_level_from_some_start(eps, degree):
    found = exchange(np.ones_like, [(eps, 1.0)], range(1, degree + 1, 2), (-1.0, 1.0))
    assert found.converged
    x = np.geomspace(eps, 1.0, 20_001)
    error = np.abs(1.0 - np.polynomial.chebyshev.chebval(x, found.coef))
    assert error.max() <= found.error * (1 + 1e-6) + 1e-14


def test_a_weight_moves_the_error_where_it_counts_less():
    weighted = remez(target("exp"), (-3.0, 3.0), 4, weight=lambda x: np.exp(-x))
    x = np.linspace(-3.0, 3.0, 2001)
    relative = np.abs(weighted.approx(x) / np.exp(x) - 1).max()
    plain = np.abs(remez(target("exp"), (-3.0, 3.0), 4).approx(x) / np.exp(x) - 1).max()
    assert relative < 0.1 * plain


def test_mpmath_agrees_and_goes_where_double_precision_cannot():
    double = remez(target("gelu"), (-3.0, 2.0), 6, precision="double")
    precise = remez(target("gelu"), (-3.0, 2.0), 6, precision="mpmath")
    assert precise.notes == ("mpmath",)
    np.testing.assert_allclose(precise.approx.coef, double.approx.coef, atol=1e-8)
    tiny = exchange(np.exp, [(-1.0, 1.0)], range(21), (-1.0, 1.0), precise=mpmath.exp, precision="mpmath")
    assert tiny.converged
    assert 1e-27 < tiny.error < 1e-25
    with pytest.raises(ApproximationError, match="mpmath"):
        remez(target("mish"), (-1.0, 1.0), 3, precision="mpmath")


def test_the_smallest_degree_by_minimax_saves_a_level_here():
    by = {m: chebyshev.smallest(target("sigmoid"), (-8.0, 8.0), 1e-3, method=m) for m in ("interpolate", "minimax")}
    assert by["minimax"].approx.degree < by["interpolate"].approx.degree
    assert (by["minimax"].certificate.depth, by["interpolate"].certificate.depth) == (4, 5)


def test_bad_input_is_refused():
    gelu = target("gelu")
    with pytest.raises(DegreeError):
        remez(target("tanh"), (-1.0, 1.0), 0)
    with pytest.raises(DegreeError):
        remez(gelu, (-1.0, 1.0), 128)
    with pytest.raises(DomainError, match="pole"):
        remez(target("reciprocal"), (-1.0, 1.0), 3)
    with pytest.raises(DomainError):
        remez(gelu, (1.0, math.inf), 3)
    for call in (
        lambda: remez(gelu, (-1.0, 2.0), 3, parity="odd"),
        lambda: remez(gelu, (-1.0, 1.0), 3, intervals=[(-1.0, 0.5), (0.0, 1.0)]),
        lambda: remez(gelu, (-1.0, 1.0), 3, intervals=[(-2.0, 0.5)]),
        lambda: remez(gelu, (-1.0, 1.0), 3, weight=lambda x: x),
    ):
        with pytest.raises(ApproximationError):
            call()


def test_a_jump_that_cannot_be_levelled_is_said():
    fit = remez(target("step"), (-1.0, 2.0), 16)
    assert fit.certificate.max_error >= 0.5
    assert fit.converged or "could not be levelled" in fit.message
