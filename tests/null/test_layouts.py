"""Layouts place every element, and say truthfully what the other slots hold."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pi_compiler.errors import InternalError
from pi_compiler.ir.layout import Layout, next_power, place
from pi_compiler.ir.taps import Taps, windows_of
from pi_compiler.passes.layouts import Grid, fits, input_layouts, on_grid, result_layouts

shapes = st.tuples(st.just(1), st.integers(1, 9), st.integers(1, 7), st.integers(1, 7))


@given(shapes, st.sampled_from([1, 2, 4]))
def test_a_tensor_comes_back_from_any_grid_that_fits(shape, gap):
    _, channels, height, width = shape
    side = next_power(max(height, width) * gap)
    grid = Grid(side, 1, side * side, gap)
    assert fits(grid, shape)
    layout = on_grid(shape, grid, 1024).layout
    x = np.arange(1.0, 1 + channels * height * width).reshape(shape)
    assert np.array_equal(layout.unpack(layout.pack(x)), x)


@given(shapes)
def test_unmapped_slots_are_packed_as_zero(shape):
    for placed in input_layouts(shape, 512):
        packed = placed.layout.pack(np.ones(shape))
        assert np.array_equal(packed != 0, placed.layout.index >= 0)


def test_a_grid_that_would_overlap_is_refused():
    assert not fits(Grid(4, 1, 16, 2), (1, 3, 4, 4))


def test_a_layout_without_a_slot_for_an_element_is_a_bug_and_says_so():
    layout = Layout((1, 3), 8, np.array([[0, 1, -1, -1]]))
    with pytest.raises(InternalError, match="no slot for 1 elements"):
        _ = layout.first


def test_large_tensors_take_several_ciphertexts():
    layout = place((1, 20), 8, np.arange(20))
    assert (layout.ciphertexts, layout.period) == (3, 8)
    assert np.array_equal(layout.unpack(layout.pack(np.arange(20.0).reshape(1, 20))), np.arange(20.0).reshape(1, 20))


def test_a_strided_convolution_may_keep_its_grid_with_a_larger_gap():
    source = on_grid((1, 4, 8, 8), Grid(8, 1, 64, 1), 1024)
    gaps = {p.grid.gap for p in result_layouts((1, 8, 4, 4), [source], 1024)}
    assert {1, 2} <= gaps


@given(st.integers(1, 40), st.integers(1, 6), st.sampled_from([1, 2, 4]), st.sampled_from([1, 2]))
def test_the_client_packs_every_tap_once_per_lane(taps, positions, lanes, copies):
    windows = np.arange(taps * positions).reshape(taps, positions)
    t = Taps(windows, 16, next_power(positions), lanes, copies, next_power(max(taps, lanes * copies)))
    index = t.index()
    assert len(index) == t.groups * t.copies
    for element in windows.ravel():
        assert (index == element).sum() == lanes * copies


def test_windows_list_what_each_position_reads():
    rows = np.array([0, 0, 1, 2, 2, 3])
    columns = np.array([5, 7, 6, 7, 5, 9])
    windows = windows_of(rows, columns, positions=2)
    assert [sorted(w[w >= 0].tolist()) for w in windows.T] == [[5, 7], [6, 9]]
