"""The order of passes, in reading order, and observers between them."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import TypeAlias

from pi_compiler.passes.approximate import approximate
from pi_compiler.passes.calibrate import calibrate
from pi_compiler.passes.choose import choose
from pi_compiler.passes.commute import commute
from pi_compiler.passes.compilation import Compilation
from pi_compiler.passes.fold import fold
from pi_compiler.passes.forms import forms
from pi_compiler.passes.front import front
from pi_compiler.passes.lower import lower
from pi_compiler.passes.mpc.encode import encode
from pi_compiler.passes.mpc.hide import hide
from pi_compiler.passes.mpc.protect import protect
from pi_compiler.passes.mpc.trade import trade
from pi_compiler.passes.recognize import recognize
from pi_compiler.passes.schedule import schedule

Pass: TypeAlias = Callable[[Compilation], Compilation]
Observer: TypeAlias = Callable[[str, Compilation, float], None]
"""Called after each pass with its name, the record, and the seconds that it took."""

_log = logging.getLogger(__name__)

CKKS: tuple[tuple[str, Pass], ...] = (
    ("front", front),
    ("recognize", recognize),
    ("forms", forms),
    ("commute", commute),
    ("calibrate", calibrate),
    ("choose", choose),
    ("approximate", approximate),
    ("fold", fold),
    ("schedule", schedule),
    ("lower", lower),
)
"""Graph to program. Packing is part of scheduling: which layouts are cheap depends on the ring degree."""

MPC: tuple[tuple[str, Pass], ...] = (
    ("front", front),
    ("recognize", recognize),
    ("hide", hide),
    ("calibrate", calibrate),
    ("trade", trade),
    ("protect", protect),
    ("encode", encode),
)
"""Graph to a program on shares."""


def run(
    c: Compilation,
    passes: Sequence[tuple[str, Pass]],
    observers: Sequence[Observer] = (),
    stop_after: str | None = None,
) -> Compilation:
    """Apply passes in order.

    Args:
        c: where to begin.
        passes: name and function.
        observers: see ``Observer``.
        stop_after: name of the last pass to run.
    """
    for name, function in passes:
        start = time.perf_counter()
        c = function(c)
        seconds = time.perf_counter() - start
        _log.info("pass %s took %.2f s", name, seconds)
        for observer in observers:
            observer(name, c, seconds)
        if name == stop_after:
            break
    return c
