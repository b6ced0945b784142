"""English letter by letter: scikit-learn's descriptions of its data sets, in windows with the letter that follows.

Of every ten consecutive blocks of 500 characters the first eight train, the ninth validates, the last tests. A letter
is a number: 0 is the space, which also fills a window to the left of a short text, 1 to 26 are a to z.
"""

from __future__ import annotations

import hashlib
import re
from importlib import resources
from pathlib import Path
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from pi_compiler.errors import CalibrationError, ParameterError

__all__ = ["ALPHABET", "MODEL", "WINDOW", "checksum", "numbers", "text", "window", "windows", "written"]

ALPHABET: Final = " abcdefghijklmnopqrstuvwxyz"
WINDOW: Final = 16
"""Letters in a window."""
MODEL: Final = Path(__file__).parent / "zoo" / "weights" / "letters_gpt.onnx"
"""The trained decoder: window ``x`` (1, 16) -> number ``next`` (1, 1) of the letter after it."""

_BLOCK, _PERIOD = 500, 10
_PARTS: Final = {"train": range(8), "validation": range(8, 9), "test": range(9, 10)}
Split = Literal["train", "validation", "test"]


def text() -> str:
    """All descriptions in lower case, one space for everything that is no letter.

    Raises:
        CalibrationError: scikit-learn has none.
    """
    try:
        folder = resources.files("sklearn.datasets.descr")
        files = sorted((f for f in folder.iterdir() if f.name.endswith(".rst")), key=lambda f: f.name)
        found = " ".join(f.read_text(encoding="utf-8") for f in files)
    except (OSError, ModuleNotFoundError) as error:
        raise CalibrationError(f"scikit-learn's descriptions cannot be read: {error}") from error
    letters = re.sub("[^a-z]+", " ", found.lower()).strip()
    if not letters:
        raise CalibrationError("scikit-learn's descriptions are missing", hint="pip install scikit-learn")
    return letters


def checksum() -> str:
    """SHA-256 of the text, which another scikit-learn changes."""
    return hashlib.sha256(text().encode()).hexdigest()


def numbers(letters: str) -> NDArray[np.int64]:
    """Letters as numbers, as they are.

    Raises:
        ParameterError: naming the characters that are neither a to z nor space.
    """
    foreign = sorted(set(letters) - set(ALPHABET))
    if foreign:
        raise ParameterError(f"no letters: {', '.join(map(repr, foreign))}", hint="a to z and space, lower case")
    return np.array([ALPHABET.index(c) for c in letters], np.int64)


def written(values: NDArray[np.int64]) -> str:
    """The inverse of ``numbers``."""
    return "".join(ALPHABET[int(v)] for v in values)


def window(letters: str) -> NDArray[np.int64]:
    """The last letters of a text, as many as a window holds, spaces in front of a short one.

    Raises:
        ParameterError: naming the characters that are no letters.
    """
    return numbers(letters[-WINDOW:].rjust(WINDOW))


def windows(split: Split) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Windows (n, WINDOW) and the letters that follow them (n,); none crosses the border of a block.

    Raises:
        CalibrationError: scikit-learn has no descriptions.
    """
    all_letters = numbers(text())
    x, y = [], []
    for start in range(0, len(all_letters), _BLOCK):
        block = all_letters[start : start + _BLOCK]
        if start // _BLOCK % _PERIOD in _PARTS[split] and len(block) > WINDOW:
            seen = np.lib.stride_tricks.sliding_window_view(block, WINDOW + 1)
            x.append(seen[:, :WINDOW])
            y.append(seen[:, WINDOW])
    return np.concatenate(x), np.concatenate(y)
