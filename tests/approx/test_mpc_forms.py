"""Replacements for protocols that compare or divide: pieces, rational functions, fixed point."""

import numpy as np
import pytest

from pi_compiler.approx import piecewise, rounding
from pi_compiler.approx.errors import ApproximationError, DegreeError
from pi_compiler.approx.minimax import remez
from pi_compiler.approx.poly import Piecewise, Poly
from pi_compiler.approx.rational import fit_rational
from pi_compiler.approx.targets import target

GELU = target("gelu")


@pytest.mark.parametrize(
    ("name", "degree", "tolerance"),
    [("gelu", 3, 1e-2), ("mish", 4, 1e-3), ("sigmoid", 3, 1e-3), ("sigmoid", 4, 2.0**-10)],
)
@pytest.mark.parametrize("domain", [(-8.0, 8.0), (-12.666958364152501, 6.7283294237647535)])
def test_fitted_pieces_are_within_the_tolerance(name, degree, tolerance, domain):
    """Exactly: what chooses among fits takes none that is over it by a millionth."""
    goal = target(name)
    fit = piecewise.fitted(goal, domain, degree, tolerance)
    assert fit.converged
    x = np.linspace(*domain, 40_001)
    assert np.abs(goal(x) - fit.approx(x)).max() <= fit.certificate.max_error <= tolerance
    assert fit.certificate.comparisons == len(fit.approx.breaks) + fit.approx.fold


def test_folding_halves_the_pieces_of_gelu_and_beats_puma_with_fewer_comparisons():
    fit = piecewise.fitted(GELU, (-8.0, 8.0), 3, 1e-2)
    puma = piecewise.puma_gelu((-8.0, 8.0)).certificate
    assert fit.approx.fold
    assert fit.certificate.max_error < puma.max_error
    assert fit.certificate.comparisons < puma.comparisons


def test_an_interval_inside_an_asymptote_is_one_line():
    fit = piecewise.fitted(target("relu"), (-5.0, -1.0), 3, 1e-3)
    assert fit.approx.breaks == ()
    assert fit.certificate.max_error < 1e-12


def test_too_few_pieces_are_said():
    fit = piecewise.fitted(target("exp"), (-4.0, 4.0), 1, 1e-4, largest_count=3)
    assert not fit.converged
    assert "3 pieces" in fit.message


def test_a_break_belongs_to_the_right_piece():
    steps = Piecewise((0.0,), (Poly("power", (1.0,), (-1.0, 1.0)), Poly("power", (2.0,), (-1.0, 1.0))), (-1.0, 1.0))
    assert steps([-1e-9, 0.0, 1.0]).tolist() == [1.0, 2.0, 2.0]


@pytest.mark.parametrize(("name", "gain"), [("gelu", 5), ("relu", 3), ("tanh", 100), ("sigmoid", 1000)])
def test_rational_functions_beat_polynomials_of_as_many_coefficients(name, gain):
    fit = fit_rational(target(name), (-4.0, 4.0))
    assert fit.certificate.max_error * gain < remez(target(name), (-4.0, 4.0), 9).certificate.max_error
    x = np.linspace(-4.0, 4.0, 10_001)
    assert (fit.approx.denominator(x) > 0.0).all()
    assert fit.certificate.divisions == 1


def test_rational_fits_refuse_large_degrees():
    with pytest.raises(DegreeError):
        fit_rational(GELU, (-1.0, 1.0), 41, 4)


@pytest.mark.parametrize("bits", [4, 8, 12, 16])
def test_rounded_coefficients_are_multiples_and_better_than_nearest(bits):
    best = remez(GELU, (-5.0, 5.0), 6)
    fit = rounding.round_coefficients(GELU, best, bits)
    scaled = np.array(fit.approx.coef) * 2.0**bits
    np.testing.assert_array_equal(scaled, np.round(scaled))
    nearest = np.round(np.array(best.approx.to("power").coef) * 2.0**bits) / 2.0**bits
    x = np.linspace(-5.0, 5.0, 20_001)
    assert fit.certificate.max_error < np.abs(np.polynomial.polynomial.polyval(x, nearest) - GELU(x)).max()
    assert np.abs(fit.approx(x) - GELU(x)).max() <= fit.certificate.max_error


def test_the_fewest_bits_keep_the_allowed_error():
    best = remez(GELU, (-4.0, 4.0), 6)
    allowed = 1.25 * best.certificate.max_error
    fit = rounding.fewest_bits(GELU, best, allowed=allowed)
    bits = int(fit.notes[0].split()[0])
    assert fit.converged
    assert fit.certificate.max_error <= allowed
    assert not rounding.round_coefficients(GELU, best, bits - 2, allowed=allowed).converged
    kept = rounding.fewest_bits(GELU, best)
    assert kept.certificate.max_error <= best.certificate.max_error * (1 + 2**-10)


def test_rounding_that_misses_the_certificate_is_said():
    best = remez(GELU, (-5.0, 5.0), 6)
    fit = rounding.round_coefficients(GELU, best, 4)
    assert not fit.converged
    assert "4 fractional bits" in fit.message
    with pytest.raises(ApproximationError):
        rounding.round_coefficients(GELU, piecewise.puma_gelu((-5.0, 5.0)), 8)
    with pytest.raises(ApproximationError):
        rounding.round_coefficients(GELU, best, 60)
