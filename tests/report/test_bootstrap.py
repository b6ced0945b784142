"""What bootstraps would need, counted apart from the code that estimates it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from networks import residual
from scipy import sparse

from pi_compiler import api
from pi_compiler.ir.params import make_params
from pi_compiler.options import Activation, Options
from pi_compiler.report.bootstrap import Bootstraps, bootstraps, fourier
from pi_compiler.report.memory import FOOTPRINTS


def butterflies(slots, distance, rng):
    """One step of a fast transform: pairs of slots at a distance, with factors that cancel nowhere."""
    i = np.arange(slots)
    partner = i ^ distance
    rows, columns = np.concatenate([i, i]), np.concatenate([i, partner])
    return sparse.csr_array((rng.uniform(1, 2, 2 * slots), (rows, columns)), shape=(slots, slots))


@given(st.integers(3, 9))
def test_three_matrices_are_the_whole_transform(log):
    """Merged butterflies have just the counted diagonals, and the counted rotations reach each of them."""
    slots, rng = 1 << log, np.random.default_rng(log)
    left = list(range(log))
    for matrix in fourier(slots):
        product = sparse.eye_array(slots, format="csr")
        # As many butterflies as the diagonals tell.
        while left and len(_offsets(butterflies(slots, 1 << left[0], rng) @ product)) <= matrix.diagonals:
            product = butterflies(slots, 1 << left.pop(0), rng) @ product
        offsets = _offsets(product)
        assert len(offsets) == matrix.diagonals
        steps = {0, *matrix.rotations}
        assert offsets <= {(a + b) % slots for a in steps for b in steps}
    assert not left


def _offsets(matrix):
    rows, columns = matrix.nonzero()
    return set(((columns - rows) % matrix.shape[0]).tolist())


def test_keys_at_the_largest_ring_are_as_many_as_baby_and_giant_steps():
    """2 x 14 rotations for 63 diagonals (7 and 7), 10 for the 32 of the widest; sizes by the formula of a key."""
    p = make_params(16, 23, 40.0, log_q0=44, log_special=50, specials=3, digit=3)
    assert [len(m.rotations) for m in fourier(p.slots)] == [14, 14, 10]
    assert [m.diagonals for m in fourier(p.slots)] == [63, 63, 32]

    def key(level):
        return -(-(level + 1) // 3) * 2 * 2**16 * (level + 1 + 3) * 8

    found = bootstraps(p, FOOTPRINTS[True], {}, relinearize=True)
    assert found.keys == 38 + 3
    # The first matrix at the top, the others below; conjugation below them; to a sparse secret and back.
    assert found.key_bytes == 14 * key(23) + 14 * key(22) + 10 * key(21) + key(20) + key(0) + key(23)
    # A hundred or two hundred MiB a key, as libraries report for this ring.
    assert 0.1 < found.key_bytes / found.keys / 2**30 < 0.25


def test_keys_that_serve_both_are_counted_once():
    """A program's own rotation by 1 needs a larger key only, one by 5000 a key of its own."""
    p = make_params(16, 23, 40.0, log_q0=44, log_special=50, specials=3, digit=3)
    alone = bootstraps(p, FOOTPRINTS[True], {}, relinearize=True)
    shared = bootstraps(p, FOOTPRINTS[True], {1: 9, 5000: 9}, relinearize=True)
    assert shared.keys == alone.keys - 1
    assert shared.key_bytes == alone.key_bytes - p.key_bytes(9)
    missing = bootstraps(p, FOOTPRINTS[True], {}, relinearize=False)
    assert missing.key_bytes == alone.key_bytes + p.key_bytes(23)


@pytest.mark.parametrize("backend", ["native", "tenseal"])
def test_a_plan_knows_the_memory_that_a_compiled_model_takes(backend):
    """Nothing is lowered for a plan, yet who lives how long is known; without bootstraps nothing is added."""
    b, model = residual()
    options = Options(activation=Activation("quadratic"), backend=backend)
    plan = api.plan(model, calibration=b.samples(30), options=options)
    compiled = api.compile(model, calibration=b.samples(30), options=options)
    assert plan["peak_memory_bytes"] == compiled.report["peak_memory_bytes"] > plan["key_bytes"]
    assert plan["estimated_bootstrap_memory_bytes"] == Bootstraps().memory_bytes == 0
