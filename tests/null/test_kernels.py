"""Kernels read with ``Numbers`` compute what they should; read with ``Cost`` they count what runs."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from pi_compiler.approx.plan import make_plan as evaluation_plan
from pi_compiler.approx.poly import Poly
from pi_compiler.cost import Prices
from pi_compiler.errors import InternalError
from pi_compiler.ir.layout import Layout, place
from pi_compiler.ir.program import CtType, Opcode
from pi_compiler.ir.taps import Taps, windows_of
from pi_compiler.kernels.algebra import Numbers, Value
from pi_compiler.kernels.matvec import Split, best_split, diagonals, make_plan, matvec, structure, uniform
from pi_compiler.kernels.poly import polynomial

PRIMES = (1_099_511_590_913, *(268_369_921 + 65_536 * k for k in range(12)))
SCALE = 2.0**28


class Counting(Numbers):
    """Numbers that also count rotations."""

    rotations = 0

    def rotate(self, a, by):
        self.rotations += by % self.slots != 0
        return super().rotate(a, by)


def multiply(matrices, sources, result, inputs):
    """Evaluate a plan on slot vectors; returns values, junk-aware slots and the rotation count."""
    s = structure(matrices, sources, result)
    split = best_split(s, 1.0, 1.0)
    numbers = uniform(s, matrices, sources, result)
    bias = np.zeros((result.ciphertexts, result.period))
    plan = make_plan(s, split, tuple(range(len(sources))), bias, numbers)
    alg = Counting(PRIMES, SCALE, result.slots)
    xs = [[alg.input(v, 3) for v in layout.pack(x)] for layout, x in zip(sources, inputs, strict=True)]
    values = matvec(alg, xs, plan, diagonals(plan, matrices, sources, result), 3)
    assert all(v.level == 2 and v.scale == pytest.approx(SCALE, rel=1e-12) for v in values)
    assert alg.rotations == split.babies + split.giants + len(s.folds) * result.ciphertexts
    return np.stack([Numbers.of(v) for v in values]), alg.rotations


def check(matrices, sources, result, seed=0):
    rng = np.random.default_rng(seed)
    inputs = [rng.normal(size=s.shape) for s in sources]
    slots, rotations = multiply(matrices, sources, result, inputs)
    wanted = sum(m @ x.ravel() for m, x in zip(matrices, inputs, strict=True))
    index = np.tile(result.index, (1, result.slots // result.period))
    assert np.allclose(slots[index >= 0], wanted[index[index >= 0]], atol=1e-4)
    if result.zero:
        assert np.allclose(slots[index < 0], 0.0, atol=1e-6)
    return rotations


def dense(rows, columns, seed=0):
    return sparse.csr_array(np.random.default_rng(seed).normal(size=(rows, columns)))


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 70),
    columns=st.integers(1, 70),
    row_stride=st.sampled_from([1, 2, 4]),
    column_stride=st.sampled_from([1, 2, 4]),
    slots=st.sampled_from([16, 64, 256]),
    fill=st.floats(0.02, 1.0),
)
def test_any_matrix_between_any_strided_layouts(rows, columns, row_stride, column_stride, slots, fill):
    m = sparse.random_array((rows, columns), density=fill, rng=np.random.default_rng(rows * 97 + columns), format="csr")
    source = place((columns,), slots, np.arange(columns) * column_stride)
    result = place((rows,), slots, np.arange(rows) * row_stride)
    check([sparse.csr_array(m)], [source], result)


def columns(features, tokens, slots, zero=True):
    """A ciphertext per feature, its tokens in the first slots."""
    index = np.full((features, slots), -1)
    index[:, :tokens] = np.arange(tokens)[None] * features + np.arange(features)[:, None]
    return Layout((tokens, features), slots, index, zero, "columns")


def per_token(weights, tokens):
    return sparse.csr_array(sparse.kron(sparse.eye_array(tokens), weights))


def numbers(matrices, sources, result):
    return uniform(structure(matrices, sources, result), matrices, sources, result)


@settings(max_examples=40, deadline=None)
@given(tokens=st.integers(1, 16), features=st.integers(1, 6), results=st.integers(1, 6), zero=st.booleans())
def test_a_dense_layer_on_a_ciphertext_per_feature_multiplies_by_numbers(tokens, features, results, zero):
    """Whatever multiplies a slot that holds zero is free; padding stays zero, which ``check`` looks at."""
    m = per_token(np.random.default_rng(tokens).normal(size=(results, features)), tokens)
    source, result = columns(features, tokens, 16, zero), columns(results, tokens, 16)
    found = numbers([m], [source], result)
    assert len(found) == features * results
    assert found.all() == found.any() == (zero or tokens == 16)
    check([m], [source], result)
    plan = make_plan(structure([m], [source], result), Split(1, 0, 0, 0, 0.0), (0,), np.zeros((results, 16)), found)
    assert all(isinstance(c, float) for c in diagonals(plan, [m], [source], result)) == found.all()


def test_numbers_and_vectors_stand_in_one_product():
    """One weight that differs makes its diagonal a vector; the others stay numbers."""
    weights = np.random.default_rng(0).normal(size=(3, 4))
    m = per_token(weights, 8).tolil()
    m[5 * 3 + 1, 5 * 4 + 2] += 1.0
    source, result = columns(4, 8, 8), columns(3, 8, 8)
    assert numbers([sparse.csr_array(m)], [source], result).sum() == 11
    check([sparse.csr_array(m)], [source], result)


def test_a_missing_nonzero_is_a_zero_that_matters():
    """Equal values in some slots and none in another are no number, unless the source holds nothing there."""
    m = sparse.csr_array(np.diag([2.0, 2.0, 0.0, 2.0]))
    m.eliminate_zeros()
    layout = place((4,), 8, np.arange(4))
    assert not numbers([m], [layout], layout).any()
    short = sparse.csr_array(np.diag([2.0, 2.0, 2.0, 2.0]))
    assert numbers([short], [layout], layout).all()
    check([short], [layout], layout)


def test_a_rotated_number_and_a_fold():
    """Sums over all slots: every diagonal is a number behind its rotation, with folds to a short result too."""
    m = sparse.csr_array(np.ones((8, 8)))
    layout = place((8,), 8, np.arange(8))
    assert numbers([m], [layout], layout).all()
    check([m], [layout], layout)
    short = place((1,), 8, np.arange(1))
    assert numbers([m[:1]], [layout], short).all()
    check([m[:1]], [layout], short)


def test_a_result_without_any_nonzero_is_a_product_with_zero():
    m = sparse.csr_array((16, 8))
    source, result = columns(1, 8, 8), columns(2, 8, 8)
    assert numbers([m], [source], result).tolist() == [True, True]
    check([m], [source], result)


def test_two_matrices_share_giant_steps_and_one_rescaling():
    a, b = place((32,), 64, np.arange(32)), place((48,), 64, np.arange(48))
    check([dense(20, 32), dense(20, 48, 1)], [a, b], place((20,), 64, np.arange(20)))


def test_sources_of_different_periods_add_up():
    short, long = place((4,), 64, np.arange(4)), place((64,), 64, np.arange(64))
    check([dense(2, 4), dense(2, 64, 1)], [short, long], place((2,), 64, np.arange(2)))


def test_folds_replace_diagonals_where_the_result_is_short():
    source, result = place((1024,), 1024, np.arange(1024)), place((16,), 1024, np.arange(16))
    rotations = check([dense(16, 1024)], [source], result)
    assert rotations == 6 + 6  # 16 diagonals as 4 x 4, then folds of 16, 32 ... 512


def test_a_periodic_source_needs_no_fold():
    layout = place((128,), 4096, np.arange(128))
    assert check([dense(128, 128)], [layout], layout) <= 22


@pytest.mark.parametrize(("lanes", "copies"), [(1, 1), (4, 1), (4, 8), (2, 4), (1, 16), (32, 1)])
def test_lanes_trade_rotations_for_what_the_client_packs(lanes, copies):
    m = dense(128, 784)
    windows = windows_of(*(c.astype(np.int64) for c in m.tocoo().coords), positions=1)
    width = 1024 if lanes <= 4 else 128
    t = Taps(windows, 128, 1, lanes, copies, width)
    source = Layout((784,), 4096, t.index(), False, "taps", t)
    result = place((128,), 4096, t.result_slots(128), period=t.rows * t.stride, zero=lanes == 1)
    rotations = check([m], [source], result)
    assert rotations <= {(1, 1): 24, (4, 1): 15, (4, 8): 8, (2, 4): 16, (1, 16): 10, (32, 1): 16}[lanes, copies]


def test_a_convolution_reads_client_made_windows_without_rotating_taps():
    # 4 channels, 5x5 positions of a 3x3 window on 7x7: 9 taps, all rotations are lane and tap folds.
    kernel = np.random.default_rng(0).normal(size=(4, 3, 3))
    m = np.zeros((4, 5, 5, 7, 7))
    for y in range(5):
        for x in range(5):
            m[:, y, x, y : y + 3, x : x + 3] = kernel
    matrix = sparse.csr_array(m.reshape(100, 49))
    windows = windows_of(*(c.astype(np.int64) for c in matrix.tocoo().coords), positions=25)
    assert windows.shape == (9, 25)
    t = Taps(windows, 4, 32, 1, 4, 16)
    source = Layout((1, 1, 7, 7), 512, t.index(), False, "taps", t)
    result = place((1, 4, 5, 5), 512, t.result_slots(4), period=t.rows * t.stride)
    assert check([matrix], [source], result) == 2


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(-1, 1), min_size=2, max_size=40).filter(lambda c: any(abs(v) > 1e-3 for v in c[1:])))
def test_polynomials_of_any_degree_with_exact_scales(coef):
    poly = Poly("chebyshev", tuple(coef), (-1.0, 1.0))
    if poly.degree == 0:
        return
    plan = evaluation_plan(poly)
    alg = Numbers(PRIMES, SCALE, 32)
    x = np.linspace(-1, 1, 32)
    y = polynomial(alg, alg.input(x, 2 + plan.depth), plan, 2)
    assert y.level == 2
    assert np.allclose(Numbers.of(y), poly(x), atol=1e-9 * (1 + np.abs(coef).sum() * len(coef)))


def test_a_leading_coefficient_of_one_saves_the_level_of_its_product():
    poly = Poly("chebyshev", (0.25, -0.5, 0.0, 0.125, 1.0), (-1.0, 1.0))
    plan = evaluation_plan(poly)
    assert plan.depth == 2
    alg = Numbers(PRIMES, SCALE, 8)
    x = np.linspace(-1, 1, 8)
    assert np.allclose(Numbers.of(polynomial(alg, alg.input(x, 3), plan, 1)), poly(x))


def test_adding_values_of_different_scales_is_refused():
    alg = Numbers(PRIMES, SCALE, 4)
    a = alg.input(np.ones(4), 2)
    b = Value(CtType(2, SCALE * 1.001), a.data)
    with pytest.raises(InternalError, match="ADD of values with scales"):
        alg.add(a, b)
    with pytest.raises(InternalError, match="levels 2 and 1"):
        alg.mul(a, alg.drop_level(a, 1))


def test_a_rotation_made_at_a_higher_level_is_reused_below():
    alg = Counting(PRIMES, SCALE, 8)
    a = alg.input(np.arange(8.0), 5)
    alg.rotated(a, 3, 5)
    low = alg.rotated(a, 3, 2)
    assert alg.rotations == 1
    assert low.level == 2
    assert np.array_equal(Numbers.of(low), np.roll(np.arange(8.0), -3))


def test_prices_beyond_the_table_are_extrapolated():
    prices = Prices(13, {"add": [1.0, 2.0]})
    assert prices.of(Opcode.ADD, CtType(1, SCALE)) == 2.0
    assert prices.of(Opcode.ADD, CtType(3, SCALE)) == pytest.approx(4.0)  # extrapolated linearly
