"""Published constants and errors that can be checked by computing them again."""

import math

import numpy as np
import pytest

from pi_compiler.approx import composite, exponential, hermite, newton, piecewise
from pi_compiler.approx.density import Density
from pi_compiler.approx.gaussian import dapa, dapa_fit, dapa_loss
from pi_compiler.approx.least_squares import weighted
from pi_compiler.approx.poly import Poly
from pi_compiler.approx.targets import target

RELU, GELU = target("relu"), target("gelu")


@pytest.mark.parametrize(
    ("mean", "std", "degree", "coef"),
    [
        (0.0, 1.0, 2, (0.19947, 0.5, 0.19947)),
        (0.0, 1.0, 4, (0.1496, 0.5, 0.29921, 0.0, -0.01662)),
        (0.5, 1.0, 2, (0.22004, 0.51543, 0.17603)),
        (-0.7, 2.0, 2, (0.42121, 0.4945, 0.09381)),
        (1.0, 0.5, 2, (0.06749, 0.86927, 0.05399)),
    ],
)
def test_dapa_vectors_of_autorep(mean, std, degree, coef):
    np.testing.assert_allclose(dapa(mean, std, degree), coef, atol=6e-6)


@pytest.mark.parametrize(("degree", "loss"), [(1, 0.090845), (2, 0.011268), (3, 0.011268), (4, 0.004636)])
def test_dapa_losses_at_the_standard_normal(degree, loss):
    assert float(dapa_loss(0.0, 1.0, degree)) == pytest.approx(loss, abs=1e-6)


def test_dapa_formulas_of_degree_one_three_and_four():
    u, s = 0.4, 1.7
    phi, q = math.exp(-(u**2) / (2 * s**2)), math.erfc(u / (math.sqrt(2) * s))
    r = math.sqrt(2 * math.pi)
    np.testing.assert_allclose(dapa(u, s, 1), [s * phi / r, 1 - q / 2])
    third = [
        phi / (2 * r) * (u**4 / (3 * s**3) + s),
        1 - q / 2 - u * phi / (2 * r) * (u**2 / s**3 + 1 / s),
        phi / (2 * r) * (u**2 / s**3 + 1 / s),
        -u * phi / (6 * r * s**3),
    ]
    np.testing.assert_allclose(dapa(u, s, 3), third)
    fourth = dapa(u, s, 4)
    assert fourth[4] == pytest.approx(phi / (24 * r) * (u**2 / s**5 - 1 / s**3))
    assert fourth[3] == pytest.approx(-(u**3) * phi / (6 * r * s**5))
    assert fourth[2] == pytest.approx(phi / (4 * r) * (u**4 / s**5 + 3 / s))


def test_dapa_per_channel_is_dapa_of_each_channel():
    means, stds = np.array([0.3, -1.0, 0.0]), np.array([1.0, 0.4, 2.0])
    together = dapa(means, stds, 3)
    for i in range(3):
        np.testing.assert_allclose(together[:, i], dapa(means[i], stds[i], 3))


def test_the_released_dapa_starts_at_a_hundredth_of_its_quadratic_optimum():
    paper, released = dapa(0.0, 1.0, 2), dapa(0.0, 1.0, 2, mode="as_released")
    np.testing.assert_allclose(released, paper * [0.2, 1.0, 0.01])
    np.testing.assert_allclose(dapa(0.0, 0.1, 2, mode="as_released")[2], dapa(0.0, 0.5, 2)[2] / 100)
    np.testing.assert_allclose(dapa(0.0, 3.0, 2, mode="as_released", scale_x2=2.0)[2], dapa(0.0, 9.0, 2)[2] / 5)


def test_dapa_is_the_weighted_least_squares_fit_for_leaky_relu_too():
    leaky = target("leaky_relu", alpha=0.1)
    closed = dapa_fit(0.2, 1.3, 2, goal=leaky).approx
    numeric = weighted(leaky, 2, Density.normal(0.2, 1.3), basis="power").approx
    np.testing.assert_allclose(closed.coef, numeric.coef, atol=3e-5)


def test_hermite_coefficients_of_relu():
    expected = [1 / math.sqrt(2 * math.pi), 0.5, 1 / math.sqrt(4 * math.pi), 0.0, -0.08143]
    np.testing.assert_allclose(hermite.coefficients(RELU, 4), expected, atol=5e-6)


def test_a_folded_aespa_activation_is_the_activation():
    rng = np.random.default_rng(0)
    gamma, beta = rng.normal(size=4), rng.normal(size=4)
    means, variances = rng.normal(size=(3, 4)), rng.uniform(0.2, 2.0, (3, 4))
    x = rng.normal(size=(50, 4))
    basis = [np.ones_like(x), x, (x * x - 1) / math.sqrt(2)]
    f = hermite.coefficients(RELU, 2)
    direct = beta + gamma * sum(f[k] * (basis[k] - means[k]) / np.sqrt(variances[k] + 1e-5) for k in range(3))
    w0, w1, w2 = hermite.fold_aespa(gamma, beta, means, variances)
    np.testing.assert_allclose(w0 + w1 * x + w2 * x * x, direct, atol=1e-12)


# Lee et al. 2022, computed here with the best gap: at least as good as the published precision.
@pytest.mark.parametrize(
    ("degrees", "depth", "bits"),
    [
        ((7, 7), 7, 7.02),
        ((15, 15), 9, 8.84),
        ((7, 27), 9, 8.75),
        ((15, 27), 10, 9.79),
        ((7, 7, 13), 11, 9.94),
        ((7, 7, 27), 12, 11.0),
        ((7, 15, 15), 12, 11.1),
        ((7, 15, 27), 13, 12.04),
        ((15, 15, 27), 14, 13.08),
        ((15, 27, 29), 15, 13.83),
    ],
)
def test_relu_composites_reach_the_published_precision_and_depth(degrees, depth, bits):
    found = composite.gated(RELU, (-1.0, 1.0), degrees=degrees).certificate
    assert bits <= -math.log2(found.max_error) <= bits + 0.3
    assert found.depth == depth


def test_the_composite_of_fifteen_fifteen_twentyseven_takes_26_products_and_one():
    assert composite.gated(RELU, (-1.0, 1.0), degrees=(15, 15, 27)).certificate.products == 27
    assert composite.gated(RELU, (-1.0, 1.0), degrees=(7, 15, 27)).certificate.products == 24


@pytest.mark.parametrize(
    ("f", "g", "bits"),
    [
        ((1, 1), (2, 1), 4.76),
        ((2, 1), (2, 1), 5.50),
        ((2, 1), (3, 1), 5.93),
        ((1, 2), (1, 2), 6.17),
        ((4, 2), (4, 2), 10.51),
    ],
)
def test_fixed_compositions_have_the_published_relu_errors(f, g, bits):
    found = composite.gated_fg(RELU, (-1.0, 1.0), f=f, g=g).certificate.max_error
    assert -math.log2(found) == pytest.approx(bits, abs=0.006)


def test_ten_stages_of_f3_and_g3_leave_an_error_that_only_a_graded_search_finds():
    fit = composite.gated_fg(RELU, (-1.0, 1.0), f=(3, 3), g=(3, 7))
    assert -math.log2(fit.certificate.max_error) == pytest.approx(21.42, abs=0.01)
    x = np.array([fit.certificate.at])
    assert np.abs(fit.approx(x) - RELU(x))[0] == pytest.approx(fit.certificate.max_error, rel=1e-4)


def test_pumas_gelu_errs_by_two_hundredths_at_three():
    found = piecewise.puma_gelu((-8.0, 8.0)).certificate
    assert found.max_error == pytest.approx(0.0199, abs=1e-4)
    assert found.at == pytest.approx(3.0)
    assert found.comparisons == 3
    x = np.linspace(-8.0, 8.0, 100_001)
    assert np.abs(piecewise.puma_gelu((-8.0, 8.0)).approx(x) - GELU(x)).mean() == pytest.approx(1.8e-3, rel=0.02)


def test_bumblebees_quartic_and_mpcformers_quads():
    assert piecewise.bumblebee_gelu((-8.0, 8.0)).certificate.max_error == pytest.approx(5.2e-3, abs=1e-4)
    assert piecewise.bumblebee_gelu((-8.0, 8.0), cut=2.7).certificate.max_error == pytest.approx(9.4e-3, abs=1e-4)
    assert piecewise.mpcformer_quad((-4.0, 4.0)).certificate.max_error == pytest.approx(1.50, abs=1e-3)
    assert piecewise.mpcformer_quad((-1.0, 1.0)).certificate.max_error == pytest.approx(0.56, abs=1e-3)
    bench = piecewise.mpcformer_quad((-4.0, 4.0), version="benchmark")
    assert bench.certificate.max_error == pytest.approx(0.25, abs=2e-3)


@pytest.mark.parametrize(("t", "error"), [(4, 1.7e-2), (5, 8.6e-3), (6, 4.3e-3), (7, 2.1e-3), (8, 1.1e-3)])
def test_pumas_exponential(t, error):
    found = exponential.limit((-20.0, 0.0), t, cutoff=-14.0).certificate
    assert found.max_error == pytest.approx(error, rel=0.04)
    assert found.at == pytest.approx(-2.0, abs=0.05)


@pytest.mark.parametrize(
    ("e", "plain", "relaxed"), [(1e-2, 10, 6), (1e-3, 14, 8), (2.0**-11, 15, 8), (2.0**-18, 22, 12)]
)
def test_thors_over_relaxation_needs_the_published_iterations(e, plain, relaxed):
    assert newton.iterations_needed(e, 1e-4, relaxed=False) == plain
    assert newton.iterations_needed(e, 1e-4) == relaxed


def test_nexus_inverse_square_root_needs_fifteen_newton_steps():
    seed = Poly("power", (0.129054537, -1.29054537e-4), (1e-4, 1e3))
    enough = newton.inv_sqrt((1e-4, 900.0), seed=seed, newton=15, goldschmidt=5)
    assert enough.certificate.max_error == pytest.approx(4e-7 * 100, rel=0.02)
    few = newton.inv_sqrt((1e-4, 900.0), seed=seed, newton=8, goldschmidt=3).certificate
    assert few.max_error == pytest.approx(0.89 * 100, rel=0.01)
    assert few.at == pytest.approx(1e-4)


def test_nexus_seed_vanishes_at_the_end_of_its_own_interval():
    seed = Poly("power", (0.129054537, -1.29054537e-4), (1e-4, 1e3))
    found = newton.inv_sqrt((1e-4, 1e3), seed=seed, newton=15, goldschmidt=5).certificate
    assert found.at == pytest.approx(1e3)
    assert found.max_error == pytest.approx(1e3**-0.5)


def test_a_fitted_and_relaxed_seed_halves_nexus_steps():
    ours = newton.inv_sqrt((1e-4, 1e3), tolerance=4e-5).certificate
    theirs = newton.inv_sqrt(
        (1e-4, 900.0), seed=Poly("power", (0.129054537, -1.29054537e-4), (1e-4, 1e3)), newton=15, goldschmidt=5
    ).certificate
    assert ours.max_error <= 4e-5
    assert ours.depth <= 24 < 42 <= theirs.depth
