"""Parameters that the planner derives: secure, precise enough, and with key switching that drowns in rounding."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pi_compiler.ir.params import MAX_LOG_QP
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


def test_a_backend_with_one_special_prime_gets_one_prime_a_digit() -> None:
    for p in candidates(5, Options(), SEAL):
        assert (len(p.special), p.digit) == (1, 1)


def test_wide_digits_are_taken_where_they_save_work() -> None:
    (p,) = candidates(39, Options(log_n=16), NATIVE)
    one = by_digit(16, 39, Options(), NATIVE)[0]
    assert p.digit > 8
    assert switching_work(p) < switching_work(one) / 3
    assert p.key_bytes(39) < one.key_bytes(39) / 5


@pytest.mark.parametrize("level", [0, 3, 39])
def test_a_key_is_as_large_as_its_level_needs(level: int) -> None:
    (p,) = candidates(39, Options(log_n=16), NATIVE)
    digits = math.ceil((level + 1) / p.digit)
    assert len(p.digits(level)) == digits
    assert p.key_bytes(level) == 2 * digits * (level + 1 + len(p.special)) * 8 * 2**16
