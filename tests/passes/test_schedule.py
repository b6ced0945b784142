"""Parameters that the planner derives: secure, precise enough, and with key switching that drowns in rounding."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pi_compiler.cost import CostTable, FusedPrices, Prices
from pi_compiler.ir import switching
from pi_compiler.ir.params import MAX_LOG_QP, Params, make_params
from pi_compiler.ir.program import CtType
from pi_compiler.kernels.algebra import Cost, Value
from pi_compiler.options import Options
from pi_compiler.passes.compilation import Limits
from pi_compiler.passes.schedule import (
    HEADROOM_BITS,
    SPECIAL_BITS,
    by_digit,
    candidates,
    needed_log_scale,
    switching_work,
)

NATIVE, SEAL = Limits(16, 50, 1, any_specials=True), Limits(15, 60, 1)


@settings(max_examples=20, deadline=None)
@given(log_n=st.integers(12, 16), depth=st.integers(1, 40), bits=st.integers(6, 16))
def test_every_digit_offered_is_secure_and_precise_and_its_special_primes_suffice(
    log_n: int, depth: int, bits: int
) -> None:
    for p in by_digit(log_n, depth, Options(precision_bits=bits), NATIVE):
        assert p.log_qp <= MAX_LOG_QP[log_n]
        assert p.max_level == depth
        assert p.log_scale >= needed_log_scale(log_n, depth, bits) - 0.5
        assert max((*p.primes, *p.special)).bit_length() <= 50
        assert len(set(p.primes) | set(p.special)) == len(p.primes) + len(p.special)
        special = math.prod(p.special)
        spare = SPECIAL_BITS - HEADROOM_BITS - 0.5  # primes are near 2^b only
        assert all(math.log2(special / math.prod(digit)) > spare for digit in p.digits(depth))


@cache
def deep() -> Params:
    (p,) = candidates(39, Options(log_n=16), NATIVE)
    return p


def test_a_backend_with_one_special_prime_gets_one_prime_a_digit() -> None:
    for p in candidates(5, Options(), SEAL):
        assert (len(p.special), p.digit) == (1, 1)


def test_wide_digits_are_taken_where_they_save_work() -> None:
    p = deep()
    one = by_digit(16, 39, Options(), NATIVE)[0]
    assert p.digit > 8
    assert switching_work(p) < switching_work(one) / 3
    assert p.key_bytes(39) < one.key_bytes(39) / 5


@pytest.mark.parametrize("level", [0, 3, 39])
def test_a_key_is_as_large_as_its_level_needs(level: int) -> None:
    p = deep()
    digits = math.ceil((level + 1) / p.digit)
    assert len(p.digits(level)) == digits
    assert p.key_bytes(level) == 2 * digits * (level + 1 + len(p.special)) * 8 * 2**16


UNIT_SECONDS = {name: [1e-6 * (k + 1)] for k, name in enumerate(switching.UNITS)}
TABLE = CostTable("native", "", {16: {**UNIT_SECONDS, "rescale": [1.0], "add": [1.0], "mul_plain": [1.0]}}, 0.0, True)


@pytest.mark.parametrize("late", [False, True])
def test_a_matrix_product_costs_its_steps_and_what_they_share_once(late: bool) -> None:
    p = deep()
    prices = TABLE.prices(p, late=late)
    cost = Cost(p.primes, p.scale, p.slots, prices)
    x, diagonal = Value(CtType(20, p.scale), object()), np.zeros(64)
    with cost.matrix_product():
        moved = [cost.rotated(x, by, 20) for by in (0, 1, 2, 1)]
        total = cost.sum([cost.mul_plain(v, diagonal, p.scale) for v in moved])
        total = cost.add(cost.rotate(total, 64), total)
    expected = prices.hoist(20) + 2 * prices.baby(20) + 4 * prices.product(20, 64)
    assert cost.seconds[""] == pytest.approx(expected + prices.giant(20) + prices.finish(20))
    assert cost.rotation_keys == {1: 20, 2: 20, 64: 20}
    cost.rotate(total, 1)
    rotation = prices.named("rotate", 20)
    assert cost.seconds[""] == pytest.approx(expected + prices.giant(20) + prices.finish(20) + rotation)


@settings(deadline=None)
@given(level=st.integers(0, 39), log_period=st.integers(1, 15))
def test_late_constants_take_memory_once_and_transforms_at_each_limb(level: int, log_period: int) -> None:
    p = deep()
    now, late = (switching.constant_bytes(p, level, 1 << log_period, late=x) for x in (False, True))
    assert now == late * (level + 1 + len(p.special))
    transforms = [switching.product(p, level, 1 << log_period, late=x)[0] for x in (False, True)]
    assert transforms == [0, (level + 1) * 2 ** (log_period - 15)]


def test_constants_of_a_batch_are_as_many_times_as_long_and_may_be_encoded_at_each_use() -> None:
    """A large batch's constants may fit no memory: then a run takes their encoding, and the planner has to know."""
    p = deep()
    table = CostTable("native", "", {16: {**TABLE.ops[16], "encode": [3.0] * 40}}, 0.0, True)
    late = table.prices(p, late=True)
    batch, unheld = table.prices(p, late=True, batch=8), table.prices(p, late=True, unheld=0.25)
    assert batch.product(20, 64) == late.product(20, 512) > late.product(20, 64)
    assert batch.product(20, 1) == late.product(20, 1)
    assert unheld.product(20, 64) == pytest.approx(late.product(20, 64) + 0.25 * 3.0)
    assert unheld.product(20, 1) == late.product(20, 1)


def test_a_sum_of_products_is_priced_with_one_relinearization_and_one_division() -> None:
    """What the evaluator saves by dividing once has to show in what a plan is predicted to take."""
    params = make_params(13, 3, 33, log_q0=37, log_special=38, specials=2)
    unit = tuple(1.0 for _ in switching.UNITS)
    table = {name: [1e3] * 4 for name in ("mul", "add", "mul_plain", "rescale", "drop_level", "sub", "add_plain")}
    prices = FusedPrices(13, table, params=params, unit=unit)
    spent = {}
    for products in (1, 2):
        cost = Cost(params.primes, params.scale, params.slots, prices)
        x = Value(CtType(3, params.scale), object())
        with cost.product_sum():
            cost.rescale(cost.relinearize(cost.sum([cost.mul(x, x) for _ in range(products)])))
        spent[products] = sum(cost.seconds.values())
    assert spent[1] == switching.relinearize_rescale(params, 3).sum() + switching.tensor(params, 3).sum()
    assert spent[2] - spent[1] == switching.tensor(params, 3).sum()
    # As many transforms as a relinearization alone: rescaling adds none.
    transforms = switching.UNITS.index("transform")
    assert switching.relinearize_rescale(params, 3)[transforms] == switching.rotate(params, 3)[transforms]


@pytest.mark.parametrize("late", [False, True])
def test_a_number_is_priced_as_one_and_by_an_older_table_as_a_vector(late: bool) -> None:
    """Dense layers between ciphertexts of a feature each are thousands of numbers: a plan has to know them cheap."""
    p = deep()
    prices = TABLE.prices(p, late=late)
    scalar = UNIT_SECONDS["scalar"][0]
    assert prices.product(20, 1) == pytest.approx(21 * scalar)
    assert switching.constant_bytes(p, 20, 1, late=late) == 8 * (21 + len(p.special))
    cost = Cost(p.primes, p.scale, p.slots, prices)
    with cost.matrix_product():
        cost.mul_plain(Value(CtType(20, p.scale), object()), 0.5, p.scale)
    assert cost.seconds[""] == pytest.approx(21 * scalar)
    older = {name: seconds for name, seconds in TABLE.ops[16].items() if name != "scalar"}
    found = replace(TABLE, ops={16: older}).prices(p, late=late)
    assert found.fused
    assert found.product(20, 1) == pytest.approx(21 * UNIT_SECONDS["product"][0])


def test_without_fused_products_a_number_has_a_price_of_its_own_if_it_was_measured() -> None:
    table = {"mul_plain": [3.0], "add": [1.0]}
    assert Prices(13, table).product(0, 1) == Prices(13, table).product(0, 8) == 4.0
    measured = Prices(13, {**table, "mul_scalar": [2.0]})
    assert (measured.product(0, 1), measured.product(0, 8)) == (3.0, 4.0)
