"""What the client looks up before it encrypts: rows of a table by number."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pi_compiler.errors import ShapeMismatch

__all__ = ["Lookup", "looked_up"]


@dataclass(frozen=True, slots=True, eq=False)
class Lookup:
    """A table that stands before an input.

    Attributes:
        table: (rows, width).
        shape: of the numbers that the model takes; the input is (*shape, width).
    """

    table: NDArray[np.float64]
    shape: tuple[int, ...]

    def of(self, numbers: ArrayLike, name: str) -> NDArray[np.float64]:
        """Rows (..., *shape, width) for numbers (..., *shape); see ``looked_up``."""
        return looked_up(self.table, numbers, name)


def looked_up(table: NDArray[np.float64], numbers: ArrayLike, name: str) -> NDArray[np.float64]:
    """Rows (*shape, width) of a table for numbers (*shape).

    Args:
        table: (rows, width).
        numbers: whole ones, from 0.
        name: of the input, for messages.

    Raises:
        ShapeMismatch: a number is not that of a row.
    """
    given = np.asarray(numbers)
    wrong = ~((given == np.rint(given)) & (given >= 0) & (given < len(table)))
    if wrong.any():
        worst = given[wrong]
        raise ShapeMismatch(
            f"input {name!r} is looked up in a table of {len(table)} rows, and {wrong.sum()} of its values name no row",
            f"found {worst.min():g} to {worst.max():g}, needed are whole numbers from 0 to {len(table) - 1}",
        )
    return np.asarray(table[given.astype(np.int64)])
