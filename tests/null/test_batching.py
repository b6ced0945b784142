"""Interleaved samples never meet: rotations and constants of one sample's slots are those of all."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pi_compiler.errors import ShapeMismatch
from pi_compiler.ir import batching

BATCHES = st.sampled_from([1, 2, 8, 64])


@given(batch=BATCHES, period=st.sampled_from([1, 4, 16]), step=st.integers(-20, 20), seed=st.integers(0, 99))
def test_a_rotation_of_the_ciphertext_rotates_every_sample(batch, period, step, seed):
    x = np.random.default_rng(seed).normal(size=(batch, 3, period))
    turned = np.roll(batching.interleaved(x), -step * batch, axis=-1)
    np.testing.assert_array_equal(batching.separated(turned, batch), np.roll(x, -step, axis=-1))


@given(batch=BATCHES, period=st.sampled_from([1, 2, 16]), seed=st.integers(0, 99))
def test_a_constant_is_the_same_for_every_sample(batch, period, seed):
    """Of one value for all slots nothing is written twice: it is encoded without a transform."""
    rng = np.random.default_rng(seed)
    c, x = rng.normal(size=period), rng.normal(size=(batch, 1, 16))
    spread = batching.spread(c, batch)
    assert spread.size == batching.real_period(period, batch)
    full = np.tile(spread, 16 * batch // spread.size)
    np.testing.assert_array_equal(
        batching.separated(batching.interleaved(x) * full, batch), x * np.tile(c, 16 // period)
    )


@given(batch=BATCHES, lead=st.sampled_from([(), (1,), (3,), (8,), (5, 13), (2, 1, 4)]))
def test_samples_fill_batches_and_come_out_as_they_went_in(batch, lead):
    x = np.arange(np.prod(lead, dtype=int) * 6.0).reshape(*lead, 2, 3)
    full = batching.grouped(x, (2, 3), batch)
    assert full.reshape(-1, 2, 3).shape[0] % batch == 0
    assert set(full.ravel()) == set(x.ravel())  # what fills a batch up is a sample that there is
    np.testing.assert_array_equal(batching.ungrouped(full, (2, 3), lead), x)


def test_inputs_with_different_numbers_of_samples_are_refused():
    shapes = {"a": (2,), "b": (3,)}
    assert batching.leading({"a": np.ones((4, 2)), "b": np.ones((4, 3))}, shapes) == (4,)
    for other in (np.ones((5, 3)), np.ones(3)):
        with pytest.raises(ShapeMismatch, match=r"'a' \[4\], 'b' \["):
            batching.leading({"a": np.ones((4, 2)), "b": other}, shapes)
    with pytest.raises(ShapeMismatch, match="or none"):
        batching.leading({"a": np.ones((0, 2)), "b": np.ones((0, 3))}, shapes)
