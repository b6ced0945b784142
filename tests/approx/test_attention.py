"""Power-Softmax algebra and the softmax replacements it is compared with."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pi_compiler.approx import composite, softmax
from pi_compiler.approx.errors import ApproximationError, DomainError
from pi_compiler.approx.minimax import remez
from pi_compiler.approx.power_softmax import (
    calibrated,
    denominators,
    length_agnostic,
    power_softmax,
    stable,
)
from pi_compiler.approx.targets import target


def scores(seed, shape=(20, 32), scale=1.0):
    return scale * np.random.default_rng(seed).normal(size=shape)


def test_the_worked_vector():
    np.testing.assert_allclose(power_softmax([2.0, 1.0, 0.0, -1.0], 4, eps=0.0), np.array([16, 1, 0, 1]) / 18)


@settings(deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([2, 4, 6]), st.floats(0.1, 50.0))
def test_weights_without_eps_ignore_the_scale_and_sum_to_one(seed, p, scale):
    x = scores(seed)
    w = power_softmax(x, p, eps=0.0)
    np.testing.assert_allclose(w, power_softmax(scale * x, p, eps=0.0), rtol=1e-9)
    np.testing.assert_allclose(w.sum(axis=-1), 1.0)
    np.testing.assert_allclose(w, stable(x, p, eps=0.0), rtol=1e-9)


@given(st.integers(0, 2**31), st.sampled_from([2, 4, 8]))
def test_the_mean_form_is_the_sum_form_times_the_length(seed, p):
    x = scores(seed)
    np.testing.assert_allclose(length_agnostic(x, p, eps=1e-3), 32 * power_softmax(x, p, eps=32e-3), rtol=1e-9)


def test_a_mask_multiplies_and_hides():
    x, mask = scores(1), np.ones(32)
    mask[10:] = 0.0
    for form in (power_softmax, stable, length_agnostic):
        w = form(x, 4, mask=mask)
        assert (w[:, 10:] == 0.0).all()
    np.testing.assert_allclose(power_softmax(x, 4, mask=mask)[:, :10], power_softmax(x[:, :10], 4))


def test_short_rows_have_the_wider_denominators():
    ratio = {}
    for length in (16, 128, 1024):
        d = denominators(scores(0, (500, length)), 4, eps=0.0)
        ratio[length] = d.max() / d.min()
    assert ratio[16] > 10 * ratio[128] > 20 * ratio[1024]


def test_the_certified_division_keeps_weights_within_its_tolerance():
    train, test = scores(2, (400, 64)), scores(3, (200, 64))
    found = calibrated(train, 4, held_out=test, tolerance=1e-3)
    low, high = found.domain
    assert low < denominators(train).min()
    assert denominators(train).max() < high
    assert found.exceedance == 0.0
    assert found.exceedance_bound < 0.02
    w = found(test)
    exact = power_softmax(test, 4, eps=64e-3)
    assert np.abs(w.sum(-1) - exact.sum(-1)).max() <= found.weight_error() <= 1e-3
    assert found.depth == 2 + found.reciprocal.certificate.depth + 1


def test_power_softmax_takes_fewer_levels_than_any_exponential_one():
    train = scores(2, (400, 64))
    ours = calibrated(train, 4, tolerance=1e-3).depth
    assert ours < softmax.squaring_goldschmidt((-4.0, 4.0), 64, tolerance=1e-3).depth
    assert ours < softmax.normalize_and_square((-4.0, 4.0), 64, rounds=1, tolerance=1e-3).depth


@pytest.mark.parametrize("make", [softmax.squaring_goldschmidt, softmax.normalize_and_square])
def test_exponential_replacements_approach_softmax(make):
    replacement = make((-4.0, 4.0), 32)
    x = np.random.default_rng(0).uniform(-4.0, 4.0, (100, 32))
    assert np.abs(replacement(x) - softmax.exact(x)).max() < 2e-3
    mask = np.ones(32)
    mask[20:] = 0.0
    masked = replacement(x, mask)
    assert (masked[:, 20:] == 0.0).all()
    assert np.abs(masked - softmax.exact(x, mask)).max() < 5e-3


def test_squaring_twice_is_softmax_of_the_quadruple():
    replacement = softmax.normalize_and_square((-16.0, 16.0), 16)
    x = np.random.default_rng(4).uniform(-16.0, 16.0, (50, 16))
    assert np.abs(replacement(x) - softmax.exact(x)).max() < 5e-3


def test_cgf_is_right_for_gaussian_scores():
    replacement = softmax.cgf((-20.0, 1.0), tolerance=1e-4)
    x = scores(5, (50, 4096), 0.7)
    assert np.abs(replacement(x).sum(-1) - 1.0).max() < 0.2
    assert np.abs(replacement(x) - softmax.exact(x)).max() < 5e-3


def test_replacements_to_train_in_compute_their_formula():
    x = np.random.default_rng(6).uniform(-3.0, 3.0, (20, 8))
    square = (x + 5.0) ** 2
    np.testing.assert_allclose(softmax.two_quad((-3.0, 3.0), 8)(x), square / square.sum(-1, keepdims=True), rtol=2e-3)
    relu = composite.gated(target("relu"), (-3.0, 3.0), tolerance=1e-3)
    above = np.maximum(x, 0.0) + 0.1 / 8
    np.testing.assert_allclose(softmax.two_relu(relu, 8, eps=0.1)(x), above / above.sum(-1, keepdims=True), atol=5e-3)
    np.testing.assert_allclose(softmax.relu_attention(relu, 8)(x), np.maximum(x, 0.0) / 8, atol=1e-3)
    gate = remez(target("sigmoid"), (-6.0, 2.0), 15)
    expected = 1 / (1 + np.exp(-(x - np.log(8))))
    np.testing.assert_allclose(softmax.sigmoid_attention(gate, 8)(x), expected, atol=1e-4)


def test_bad_input_is_refused():
    x = scores(0)
    for call in (
        lambda: power_softmax(x, 3),
        lambda: power_softmax(x, 4, eps=-1.0),
        lambda: calibrated(np.zeros((0, 4)), 4),
        lambda: calibrated(x, 4, margin=0.5),
        lambda: softmax.relu_attention(composite.gated(target("relu"), (-1.0, 1.0), tolerance=0.1), 0),
        lambda: softmax.two_relu(composite.gated(target("relu"), (-1.0, 1.0), tolerance=0.1), 8, eps=1e-3),
        lambda: softmax.normalize_and_square((-1.0, 1.0), 4, rounds=-1),
    ):
        with pytest.raises(ApproximationError):
            call()
    with pytest.raises(DomainError):
        calibrated(np.full((2, 4), np.nan), 4)
    with pytest.raises(DomainError):
        calibrated(np.zeros((2, 4)), 4, eps=0.0)
    with pytest.raises(DomainError):
        softmax.two_quad((-6.0, 1.0), 4)
