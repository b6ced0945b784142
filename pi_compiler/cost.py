"""What an instruction costs on this machine, by ring degree and level.

The table is measured by ``pi-compiler calibrate-cost`` and kept in the user's cache; a default,
measured on one machine, is shipped. Entries that were not measured are extrapolated: key
switching grows with the square of the level, everything else linearly, and everything with N log N.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from pi_compiler.errors import ParameterError
from pi_compiler.ir.program import CtType, Opcode

_NAMES = {
    Opcode.ADD: "add",
    Opcode.SUB: "sub",
    Opcode.NEG: "neg",
    Opcode.MUL: "mul",
    Opcode.ADD_PLAIN: "add_plain",
    Opcode.MUL_PLAIN: "mul_plain",
    Opcode.ROTATE: "rotate",
    Opcode.RELINEARIZE: "relinearize",
    Opcode.RESCALE: "rescale",
    Opcode.DROP_LEVEL: "drop_level",
    Opcode.CONJUGATE: "rotate",
}
_QUADRATIC = ("rotate", "relinearize")
_FIXED_DIMENSION = (Opcode.MUL, Opcode.RELINEARIZE)


@dataclass(frozen=True)
class Prices:
    """Seconds per operation at one ring degree.

    Attributes:
        log_n: log2 of the ring degree.
        table: operation -> seconds at level 0, 1, 2 ...
        overhead: seconds of dispatch per instruction.
    """

    log_n: int
    table: Mapping[str, Sequence[float]]
    overhead: float = 0.0

    @cached_property
    def _tails(self) -> dict[str, np.poly1d]:
        return {name: self._fit(name, seconds) for name, seconds in self.table.items()}

    @staticmethod
    def _fit(name: str, seconds: Sequence[float]) -> np.poly1d:
        degree = min(2 if name in _QUADRATIC else 1, len(seconds) - 1)
        return np.poly1d(np.polyfit(np.arange(len(seconds)), np.asarray(seconds), degree))

    def named(self, name: str, level: int) -> float:
        """Seconds of an operation of the cost table, e.g. ``"encode"``; 0 if it is not in the table."""
        seconds = self.table.get(name)
        if seconds is None:
            return 0.0
        return seconds[level] if level < len(seconds) else float(self._tails[name](level))

    def of(self, op: Opcode, operand: CtType) -> float:
        """Seconds of one instruction with an operand of this type; dimension 3 costs half as much again."""
        share = 1.0 if op in _FIXED_DIMENSION else operand.dimension / 2
        return self.named(_NAMES[op], operand.level) * share + self.overhead

    def square(self, level: int) -> float:
        """Seconds of a ciphertext times itself."""
        return self.named("square", level) + self.overhead


@dataclass(frozen=True, slots=True, eq=False)
class CostTable:
    """Measured costs of one backend.

    Attributes:
        backend: its name.
        machine: description of the machine that was measured.
        ops: log2 of ring degree -> operation -> seconds by level.
        overhead: seconds of dispatch per instruction.
        measured_here: false for the shipped default.
    """

    backend: str
    machine: str
    ops: Mapping[int, Mapping[str, Sequence[float]]]
    overhead: float
    measured_here: bool

    def prices(self, log_n: int) -> Prices:
        """Prices at a ring degree; scaled with N log N from the nearest measured one if it is missing."""
        if log_n in self.ops:
            return Prices(log_n, self.ops[log_n], self.overhead)
        nearest = min(self.ops, key=lambda n: abs(n - log_n))
        factor = 2.0 ** (log_n - nearest) * log_n / nearest
        scaled = {name: [s * factor for s in seconds] for name, seconds in self.ops[nearest].items()}
        return Prices(log_n, scaled, self.overhead)


def table_path(backend: str) -> Path:
    """Where ``calibrate-cost`` keeps this machine's table."""
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(cache) / "pi-compiler" / f"costs-{backend}.json"


def load_costs(backend: str, path: Path | None = None) -> CostTable:
    """This machine's table if there is one, else the shipped default.

    Args:
        backend: whose costs.
        path: read this file instead.

    Raises:
        ParameterError: the file is damaged or for another backend.
    """
    folder = Path(__file__).parent / "runtime"
    shipped = folder / f"costs_{backend}.json"
    if not shipped.exists():
        shipped = folder / "costs_tenseal.json"
    own = path if path is not None else table_path(backend)
    source = own if path is not None or own.exists() else shipped
    try:
        raw = json.loads(source.read_text())
        if raw["backend"] != backend and source is not shipped:
            raise ParameterError(f"{source} holds costs of backend {raw['backend']!r}, not {backend!r}")
        ops = {
            int(log_n): {name: [float(s) for s in seconds] for name, seconds in table.items()}
            for log_n, table in raw["ops"].items()
        }
        return CostTable(raw["backend"], raw["machine"], ops, float(raw.get("overhead", 0.0)), source is not shipped)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as e:
        raise ParameterError(
            f"cannot read the cost table {source}: {e}", hint="pi-compiler calibrate-cost, which writes a new one"
        ) from e
