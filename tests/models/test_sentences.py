"""Sentences as numbers of words: the same on every machine, and nothing learned from sentences that do not train."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pi_compiler.errors import CalibrationError
from pi_compiler.models import sentences
from pi_compiler.models.data import is_local, load
from pi_compiler.models.sentences import LENGTH, PADDING, SENTENCES, UNKNOWN, WORDS, numbered, vocabulary, words

needs_data = pytest.mark.skipif(not is_local("sentiment"), reason="the sentences are not on this machine")


def test_words_are_lower_case_without_punctuation_but_marks_that_tell_a_mood():
    assert words("So-so. Didn't WORK, at all!?") == ["so", "so", "didn't", "work", "at", "all", "!", "?"]


def test_the_vocabulary_is_ordered_by_frequency_and_then_alphabet():
    """Ties broken by the order of a set or a dictionary would differ between machines."""
    assert vocabulary(["b a", "c a b", "d"]) == {"a": 2, "b": 3, "c": 4, "d": 5}
    assert vocabulary(["b a", "c a b", "d"], size=4) == {"a": 2, "b": 3}


@given(st.lists(st.text(max_size=200), max_size=4))
def test_any_text_becomes_numbers_that_the_table_has(texts: list[str]):
    x = numbered(texts, {"good": 2, "bad": 3})
    assert x.shape == (len(texts), LENGTH)
    assert set(np.unique(x)) <= {PADDING, UNKNOWN, 2.0, 3.0}
    for row, text in zip(x, texts, strict=True):
        count = min(len(words(text)), LENGTH)
        assert (row[:count] != PADDING).all()
        assert (row[count:] == PADDING).all()


@needs_data
def test_splits_are_fixed_balanced_and_do_not_overlap():
    """Each sentence is in one of three parts; of each file and class as many."""
    parts = {split: load("sentiment", split) for split in ("train", "validation", "test")}
    assert {split: len(part) for split, part in parts.items()} == {"train": 1800, "validation": 600, "test": 600}
    assert all(float(part.labels.mean()) == 0.5 for part in parts.values())
    assert all(part.x.min() >= 0 and part.x.max() < WORDS for part in parts.values())


@needs_data
def test_a_word_of_test_sentences_alone_is_unknown(monkeypatch: pytest.MonkeyPatch):
    """A vocabulary that saw test sentences would tell which words are in them."""
    read = sentences._read

    def with_a_new_word():
        texts, labels, members = read()
        # The fifth sentence of the first class of the first file tests.
        fifth = int(np.flatnonzero(members == members[0])[4])
        return (*texts[:fifth], "zyzzyva " * 40, *texts[fifth + 1 :]), labels, members

    before = load("sentiment", "train").x
    monkeypatch.setattr(sentences, "_read", with_a_new_word)
    np.testing.assert_array_equal(load("sentiment", "train").x, before)
    assert any((row == UNKNOWN).all() for row in load("sentiment", "test").x)


def test_sentences_that_are_not_there_are_asked_for_with_their_checksum(tmp_path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PI_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(CalibrationError, match=rf"(?s)amazon_cells.*{SENTENCES[0].sha256}.*PI_DATA_DIR"):
        load("sentiment", "train")


def test_a_line_without_a_label_is_named(tmp_path):
    path = tmp_path / "lines.txt"
    path.write_text("good\t1\n\nno label here\n")
    with pytest.raises(CalibrationError, match=r"line 3 of .*lines\.txt"):
        sentences._lines(path)
