"""Reciprocals and inverse square roots of least depth."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pi_compiler.approx.errors import ApproximationError, DomainError
from pi_compiler.approx.formula import plan_formula
from pi_compiler.approx.inverse import shallowest
from pi_compiler.approx.poly import Formula


@settings(max_examples=20, deadline=None)
@given(st.sampled_from(["reciprocal", "inv_sqrt"]), st.floats(0.01, 10.0), st.sampled_from([1.5, 6.0, 40.0]))
def test_the_relative_error_is_what_was_asked_for(name: str, low: float, ratio: float) -> None:
    fit = shallowest(name, (low, low * ratio), 2.0**-8)
    x = np.geomspace(low, low * ratio, 3001)
    exact = 1.0 / x if name == "reciprocal" else 1.0 / np.sqrt(x)
    assert np.abs(fit.approx(x) / exact - 1.0).max() <= 2.0**-8 * 1.001
    assert isinstance(fit.approx, Formula)
    plan = plan_formula(fit.approx)
    np.testing.assert_allclose(plan.gain * plan.inner(plan.slope * x), fit.approx(x), rtol=1e-9)
    moved = plan.shifted(0.25)
    np.testing.assert_allclose(moved.inner(plan.slope * x - 0.25), plan.inner(plan.slope * x), rtol=1e-9)


def test_the_reciprocal_is_as_shallow_as_any_polynomial() -> None:
    """1 / T_m bounds the relative error of all polynomials of degree m - 1; n levels reach m = 2^n at most."""
    for ratio in (4.0, 20.0, 100.0):
        depth = plan_formula(shallowest("reciprocal", (1.0, ratio), 2.0**-9).approx).depth  # type: ignore[arg-type]
        z = (ratio + 1.0) / (ratio - 1.0)
        assert 1.0 / np.cosh(2.0 ** (depth - 1) * np.arccosh(z)) > 2.0**-9


def test_intervals_that_reach_zero_and_errors_out_of_reach_are_refused() -> None:
    with pytest.raises(DomainError, match="above 0"):
        shallowest("reciprocal", (0.0, 1.0), 0.01)
    with pytest.raises(ApproximationError, match="factor"):
        shallowest("inv_sqrt", (1e-9, 1.0), 2.0**-20)
