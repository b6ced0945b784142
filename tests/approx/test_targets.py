"""Targets: slopes, parities, limits and domains are what they claim."""

import math

import numpy as np
import pytest

from pi_compiler.approx.errors import ApproximationError, DomainError
from pi_compiler.approx.targets import TARGETS, target

PARAMS = {"clip": {"min": -1.0, "max": 2.0}, "pow": {"exponent": 3.0}, "max": {"other": 0.5}}


def make(name):
    return target(name, **PARAMS.get(name, {}))


def points(goal):
    positive = goal.poles or goal.defined_on[0] == 0.0
    x = np.linspace(0.07, 4.0, 60) if positive else np.linspace(-4.03, 4.0, 60)
    return x[[np.abs(x_i - np.array([*goal.kinks, 99.0])).min() > 1e-3 for x_i in x]]


@pytest.mark.parametrize("name", TARGETS)
def test_the_derivative_is_the_slope(name):
    goal, h = make(name), 1e-6
    x = points(goal)
    np.testing.assert_allclose(goal.derivative(x), (goal(x + h) - goal(x - h)) / (2 * h), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", [n for n in TARGETS if make(n).parity])
def test_parity_holds_after_the_offset(name):
    goal = make(name)
    x = np.linspace(0.1, 5.0, 40)
    sign = 1.0 if goal.parity == "even" else -1.0

    def rest(x):
        return goal(x) - goal.offset[0] - goal.offset[1] * x

    np.testing.assert_allclose(rest(-x), sign * rest(x), atol=1e-12)


@pytest.mark.parametrize("name", TARGETS)
def test_asymptotes_are_approached(name):
    goal = make(name)
    for line, x in zip(goal.asymptotes, (-1e12, 1e12), strict=True):
        if line is not None:
            value = float(goal(np.array([x]))[0])
            assert value == pytest.approx(line[0] * x + line[1], abs=1e-5)


def test_values_match_the_onnx_definitions():
    x = np.array([-4.0, -0.5, 0.0, 0.5, 4.0])
    np.testing.assert_allclose(target("hard_swish")(x), x * np.clip(x / 6 + 0.5, 0, 1))
    np.testing.assert_allclose(target("elu", alpha=2.0)(x), np.where(x > 0, x, 2.0 * np.expm1(x)))
    np.testing.assert_allclose(target("celu", alpha=2.0)(x), np.maximum(x, 0) + np.minimum(0, 2 * np.expm1(x / 2)))
    np.testing.assert_allclose(target("gelu")(x), [0.5 * v * (1 + math.erf(v / math.sqrt(2))) for v in x])


def test_poles_undefined_points_and_bad_parameters_are_refused():
    with pytest.raises(DomainError, match="pole at 0"):
        target("reciprocal").check((-1.0, 1.0))
    with pytest.raises(DomainError, match="defined on"):
        target("sqrt").check((-1.0, 1.0))
    assert target("sqrt").check((0, 1)) == (0.0, 1.0)
    for call in (
        lambda: target("nonsense"),
        lambda: target("relu", alpha=1.0),
        lambda: target("elu", alpha=math.nan),
        lambda: target("clip", min=2.0, max=1.0),
        lambda: target("celu", alpha=0.0),
    ):
        with pytest.raises(ApproximationError):
            call()
