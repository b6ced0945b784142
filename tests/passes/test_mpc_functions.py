"""Functions on shares: polynomials and pieces in their fewest rounds, maxima, softmax, normalization."""

from __future__ import annotations

from math import ceil, log2

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pi_compiler.approx import newton, piecewise
from pi_compiler.approx.poly import Piecewise, Poly
from pi_compiler.approx.targets import target
from pi_compiler.cost_mpc import Network, load_mpc_prices
from pi_compiler.ir.mpc_program import MpcOp, MpcPort, MpcProgram, check
from pi_compiler.passes.mpc.build import Builder
from pi_compiler.passes.mpc.functions import formula, function
from pi_compiler.passes.mpc.joint import Deal, maximum
from pi_compiler.runtime.mpc.sim import RingEngine
from pi_compiler.runtime.mpc.walk import execute

SPEED = settings(max_examples=25, deadline=None)


def built(shape: tuple[int, ...], make: object) -> MpcProgram:
    b = Builder(16, 16)
    b.at("layer")
    x = b.input(shape)
    y = b.reveal(make(b, x), 1)
    program = b.program({"x": MpcPort(x, shape)}, {"y": MpcPort(y, b.shape(y))}, "crypten-ttp", {})
    check(program)
    return program


def values(program: MpcProgram, x: np.ndarray) -> np.ndarray:
    """In fixed point, with the errors of local truncation."""
    found, _ = execute(program, RingEngine(program, rng=np.random.default_rng(1)), {"x": x[None]})
    return found["y"][0]


def product_rounds(program: MpcProgram) -> int:
    return sum(i.op in (MpcOp.MUL, MpcOp.SQUARE) for i in program.instrs)


@SPEED
@given(st.integers(1, 16), st.integers(0, 2**16), st.booleans(), st.floats(0.5, 20.0))
def test_polynomials_of_degree_n_take_log2_n_rounds(degree, seed, series, reach):
    rng = np.random.default_rng(seed)
    coef = rng.normal(size=degree + 1)
    size = 1 + np.abs(coef).sum()
    if not series:
        coef /= reach ** np.arange(degree + 1)
    poly = Poly("chebyshev" if series else "power", tuple(coef), (-reach, reach))
    program = built((65,), lambda b, x: function(b, x, poly).made(b))
    assert product_rounds(program) <= max(0, ceil(log2(degree)))
    x = np.linspace(-reach, reach, 65)
    # A factor of x^2 is rounded to 2^-17, and the completed square reaches (2 reach)^2.
    bound = 2e-4 * (degree + 3) * size + 2.0**-14 * reach**2
    # The factor 1 / reach is rounded to 2^-17, and T_n has slope n^2 at the ends.
    bound += degree**2 * size * reach * 2.0**-17 if series else 0.0
    np.testing.assert_allclose(values(program, x), poly(x), atol=bound)


@pytest.mark.parametrize("fit", [
    piecewise.puma_gelu((-8.0, 8.0)), piecewise.bumblebee_gelu((-8.0, 8.0)),
    piecewise.fitted(target("sigmoid"), (-9.0, 9.0), 3, 1e-3), piecewise.fitted(target("mish"), (-8.0, 8.0), 4, 1e-3),
])  # fmt: skip
def test_pieces_take_one_comparison_one_selection_and_the_polynomial(fit):
    """And they stay right far outside of the calibrated interval, where polynomials explode."""
    approx = fit.approx
    program = built((401,), lambda b, x: function(b, x, approx).made(b))
    comparisons = [i for i in program.instrs if i.op is MpcOp.LTZ]
    assert len(comparisons) == 1
    degree = max(p.degree for p in approx.pieces if isinstance(p, Poly))
    assert product_rounds(program) <= 1 + len(approx.pieces) * ceil(log2(max(degree, 2)))
    lines = all(isinstance(p, Poly) and p.degree < 2 for p in (approx.pieces[-1], *approx.pieces[: 1 - approx.fold]))
    x = np.linspace(-200.0, 200.0, 401) if lines else np.linspace(-8.0, 8.0, 401)
    near = np.min([np.abs(np.abs(x) - abs(t)) for t in approx.breaks], axis=0) < 1e-3
    np.testing.assert_allclose(values(program, x)[~near], approx(x)[~near], atol=3e-3)


@SPEED
@given(st.lists(st.integers(-40, 40), min_size=1, max_size=3, unique_by=abs), st.integers(0, 2**16), st.booleans())
def test_any_pieces_are_selected_exactly(breaks, seed, fold):
    breaks = sorted((abs(t) + 0.5) / 8 for t in breaks) if fold else sorted(t / 8 for t in breaks)
    rng = np.random.default_rng(seed)
    pieces = tuple(
        Poly("power", tuple(rng.normal(size=rng.integers(1, 4))), (-6.0, 6.0)) for _ in range(len(breaks) + 1)
    )
    # Outer pieces without a bound are lines, so that they may go on for ever.
    pieces = tuple(Poly("power", p.coef[:2], p.domain) if n in (0, len(breaks)) else p for n, p in enumerate(pieces))
    approx = Piecewise(tuple(breaks), pieces, (-6.0, 6.0), fold, 0.5 if fold else 0.0)
    program = built((97,), lambda b, x: function(b, x, approx).made(b))
    x = np.linspace(-7.0, 7.0, 97)
    near = np.min([np.abs((np.abs(x) if fold else x) - t) for t in breaks], axis=0) < 1e-3
    np.testing.assert_allclose(values(program, x)[~near], approx(x)[~near], atol=5e-3)


def test_iterations_do_their_independent_products_in_one_round():
    """Goldschmidt squares one factor and multiplies the other at the same time."""
    fit = newton.reciprocal((1.0, 32.0), iterations=5)
    program = built((33,), lambda b, x: formula(b, x, fit.approx))
    products = sum(type(s).__name__ == "Times" for s in fit.approx.steps)
    assert product_rounds(program) == 5 < products
    x = np.linspace(1.0, 32.0, 33)
    np.testing.assert_allclose(values(program, x), fit.approx(x), atol=2e-3)


@SPEED
@given(st.integers(1, 13), st.integers(1, 5), st.integers(0, 2**16), st.sampled_from([1e-5, 1e-1]))
def test_a_maximum_is_exact_whatever_the_shape_of_its_tree(n, size, seed, rtt):
    """Few values, so that ties are frequent; the network decides between fewer rounds and fewer bytes."""
    deal = Deal(load_mpc_prices("crypten-ttp"), Network("n", rtt, 1e9))
    x = np.random.default_rng(seed).integers(-3, 4, (n, size)).astype(float)
    program = built((n, size), lambda b, v: maximum(b, v, deal))
    np.testing.assert_array_equal(values(program, x), x.max(axis=0))


def test_slow_networks_get_flat_trees():
    def rounds(rtt: float, bandwidth: float) -> int:
        deal = Deal(load_mpc_prices("crypten-ttp"), Network("n", rtt, bandwidth))
        program = built((32, 64), lambda b, v: maximum(b, v, deal))
        return sum(i.op in (MpcOp.LTZ, MpcOp.MUL) for i in program.instrs)

    assert rounds(0.1, 1e9) < rounds(1e-6, 1e6)
