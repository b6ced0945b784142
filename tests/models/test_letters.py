"""Letters as numbers, windows of a text, and the committed decoder."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pi_compiler.errors import ParameterError
from pi_compiler.models.letters import ALPHABET, MODEL, WINDOW, checksum, numbers, text, window, windows, written


@given(st.text(ALPHABET, max_size=40))
def test_letters_come_back_from_their_numbers(letters):
    assert written(numbers(letters)) == letters


def test_characters_that_are_no_letters_are_named():
    with pytest.raises(ParameterError, match="'!', 'A', 'é'"):
        numbers("A bé!")


@given(st.text(ALPHABET, max_size=40))
def test_a_window_holds_the_last_letters_behind_spaces(letters):
    found = written(window(letters))
    assert len(found) == WINDOW
    assert found.lstrip() == letters[-WINDOW:].lstrip()


def test_no_window_is_in_two_splits_and_each_is_followed_by_its_letter():
    """Windows do not cross blocks, so letters that test are never seen in training as a part of the same window."""
    whole, counts = text(), 0
    for split in ("train", "validation", "test"):
        x, y = windows(split)
        counts += len(x)
        for i in range(0, len(x), 997):
            assert written(np.append(x[i], y[i])) in whole
    blocks = [len(whole[i : i + 500]) for i in range(0, len(whole), 500)]
    assert counts == sum(max(0, n - WINDOW) for n in blocks)


def test_the_decoder_is_the_recorded_one_and_as_good_as_recorded():
    record = json.loads(MODEL.with_suffix(".json").read_text())
    assert hashlib.sha256(MODEL.read_bytes()).hexdigest() == record["sha256"]
    if checksum() != record["text_sha256"]:
        pytest.skip("another scikit-learn, another text")
    session = onnxruntime.InferenceSession(str(MODEL))
    x, y = windows("validation")
    found = [int(session.run(None, {"x": w[None]})[0][0, 0]) for w in x]
    assert (np.array(found) == y).mean() == pytest.approx(record["validation_accuracy"], abs=2.1 / len(y))
    assert record["test_accuracy"] > 0.5
