"""Labeled sentences (Kotzias et al., KDD 2015) as numbers of words: 1,000 each of products, films and restaurants.

A sentence becomes at most ``LENGTH`` numbers: words in lower case, and exclamation and question marks. Number 0 is
padding, behind the words; 1 is any word that the vocabulary lacks. The vocabulary is that of the training
sentences: the most frequent first, words of one frequency in alphabetical order.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pi_compiler.errors import CalibrationError
from pi_compiler.models.dataset import Part, turns
from pi_compiler.models.sources import RemoteFile, locate

__all__ = ["LENGTH", "PADDING", "SENTENCES", "UNKNOWN", "WORDS", "numbered", "sentences", "vocabulary", "words"]

LENGTH: Final = 32
"""Words of a sentence that count."""
WORDS: Final = 1_500
"""Numbers that there are, padding and the unknown word among them."""
PADDING: Final = 0
UNKNOWN: Final = 1
SENTENCES: Final = tuple(
    RemoteFile(f"sentiment/{name}_labelled.txt", digest)
    for name, digest in {
        "amazon_cells": "47003fc0a0d4840b00e96e715b6189bad09e7443a3da41c4cbe12ffc79f86ae3",
        "imdb": "29cb10b2bfbc60ea33dcbd5abaa8bcf977b142cec7926c627dd76232aaafbfed",
        "yelp": "c76468b7b5c6e56a0804d728345c5f84aa2142ddb214420f61cc9cfd4c00d2ea",
    }.items()
)
"""They are served inside of an archive only, so none is downloaded."""
_WORD = re.compile(r"[a-z0-9']+|[!?]")


def words(sentence: str) -> list[str]:
    """The words of a sentence, in lower case and in order."""
    return _WORD.findall(sentence.lower())


def vocabulary(texts: Iterable[str], size: int = WORDS) -> dict[str, int]:
    """Numbers from 2 on for the most frequent words.

    Args:
        texts: training sentences.
        size: the least number that no word has.
    """
    counts = Counter(word for text in texts for word in words(text))
    order = sorted(counts, key=lambda word: (-counts[word], word))
    return {word: number for number, word in enumerate(order[: max(0, size - 2)], start=2)}


def numbered(texts: Sequence[str], known: dict[str, int]) -> NDArray[np.float32]:
    """Sentences as numbers (n, ``LENGTH``); what is longer is cut."""
    x = np.full((len(texts), LENGTH), PADDING, dtype=np.float32)
    for row, text in zip(x, texts, strict=True):
        found = [known.get(word, UNKNOWN) for word in words(text)[:LENGTH]]
        row[: len(found)] = found
    return x


def sentences(split: str) -> Part:
    """One split: of every five consecutive sentences of a file and class three train, one validates, one tests.

    Raises:
        CalibrationError: a file is missing or damaged, or has a line without a label.
    """
    texts, labels, members = _read()
    train = turns(members, "train")
    rows = turns(members, split)
    known = vocabulary(texts[i] for i in train)
    return Part(numbered([texts[i] for i in rows], known), labels[rows])


def _read() -> tuple[tuple[str, ...], NDArray[np.int64], NDArray[np.int64]]:
    """Sentences, classes, and file and class in one number."""
    texts: list[str] = []
    labels: list[int] = []
    members: list[int] = []
    for number, file in enumerate(SENTENCES):
        for text, label in _lines(locate(file)):
            texts.append(text)
            labels.append(label)
            members.append(2 * number + label)
    return tuple(texts), np.array(labels, np.int64), np.array(members, np.int64)


@cache
def _lines(path: Path) -> tuple[tuple[str, int], ...]:
    """Sentence and class of every line."""
    try:
        # Other characters that Python takes for ends of lines stand inside of sentences.
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise CalibrationError(f"sentences {path} cannot be read", str(error)) from error
    found = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        text, tab, label = line.rpartition("\t")
        if not tab or label.strip() not in ("0", "1"):
            raise CalibrationError(f"line {number} of {path} does not end in a tab and 0 or 1", f"it ends {label!r}")
        found.append((text.strip(), int(label)))
    return tuple(found)
