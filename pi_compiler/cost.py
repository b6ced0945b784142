"""What an instruction costs on this machine, by ring degree and level.

The table is measured by ``pi-compiler calibrate-cost`` and kept in the user's cache; a default,
measured on one machine, is shipped. Entries that were not measured are extrapolated: key
switching grows with the square of the level, everything else linearly, and everything with N log N.
A backend that does matrix products in one call is measured in units of work (``ir/switching.py``).
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from pi_compiler.errors import InternalError, ParameterError
from pi_compiler.ir import batching, switching
from pi_compiler.ir.graph import FloatArray
from pi_compiler.ir.params import Params
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
        late: whether constants of fused products are transformed as they are used, because they do not fit.
        unheld: fraction of them that do not fit like that either, and are encoded at each use.
    """

    log_n: int
    table: Mapping[str, Sequence[float]]
    overhead: float = 0.0
    late: bool = False
    unheld: float = 0.0

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
        if op is Opcode.BOOTSTRAP:
            raise InternalError("a bootstrap is priced by the level that it leaves")
        share = 1.0 if op in _FIXED_DIMENSION else operand.dimension / 2
        return self.named(_NAMES[op], operand.level) * share + self.overhead

    def bootstrap(self, level: int) -> float:
        """Seconds to get a ciphertext back to a level: an estimate, for no backend here bootstraps.

        Orion's fit to its own times on a CPU at N = 2^16 (Ebel et al., ASPLOS 2025), scaled with N log N.
        """
        return (3.41 * math.exp(0.18 * level) + 4.81) * 2.0 ** (self.log_n - 16) * self.log_n / 16

    def square(self, level: int) -> float:
        """Seconds of a ciphertext times itself."""
        return self.named("square", level) + self.overhead

    @property
    def fused(self) -> bool:
        """Whether matrix products and sums of products are done in one call each, and priced so."""
        return False

    def baby(self, level: int) -> float:
        """Seconds of a matrix product's baby step."""
        return self.named("rotate", level) + self.overhead

    def giant(self, level: int) -> float:
        """Seconds of a giant step and of adding it."""
        return self.named("rotate", level) + self.named("add", level) + 2 * self.overhead

    def product(self, level: int, period: int) -> float:
        """Seconds of adding a product with a diagonal of a period among a sample's slots; period 1 is a number."""
        name = "mul_scalar" if period == 1 and "mul_scalar" in self.table else "mul_plain"
        return self.named(name, level) + self.named("add", level) + 2 * self.overhead

    def tensor(self, level: int) -> float:
        """Seconds of a product of ciphertexts in a sum of products."""
        return self.named("mul", level) + self.named("add", level) + 2 * self.overhead

    def scaled(self, level: int) -> float:
        """Seconds of a product with a constant in a sum of products."""
        return self.named("mul_plain", level) + self.named("add", level) + 2 * self.overhead

    def relinearize_rescale(self, level: int) -> float:
        """Seconds to relinearize and rescale a sum of products at a level."""
        return self.named("relinearize", level) + self.named("rescale", level) + 2 * self.overhead

    def hoist(self, level: int) -> float:
        """Seconds for what the baby steps of one ciphertext share."""
        return 0.0

    def finish(self, level: int) -> float:
        """Seconds at the end of a matrix product."""
        return 0.0


@dataclass(frozen=True)
class FusedPrices(Prices):
    """Prices of an evaluator that does matrix products in one call, from the work that is in them.

    Attributes:
        params: key switching costs what the digits and special primes make of it.
        unit: seconds of each of ``switching.UNITS`` at this ring degree.
        batch: samples in one run; constants are as many times as long.
    """

    params: Params | None = None
    unit: tuple[float, ...] = ()
    batch: int = 1

    def _price(self, work: FloatArray) -> float:
        return float(work @ np.asarray(self.unit))

    @property
    def _params(self) -> Params:
        if self.params is None:
            raise InternalError("prices of fused products without parameters")
        return self.params

    @property
    def fused(self) -> bool:
        return True

    def named(self, name: str, level: int) -> float:
        if name in _QUADRATIC:
            return self._price(switching.rotate(self._params, level))
        return super().named(name, level)

    def baby(self, level: int) -> float:
        return self._price(switching.baby(self._params, level, late=self.late)) + self.overhead

    def giant(self, level: int) -> float:
        return self._price(switching.giant(self._params, level, late=self.late)) + self.overhead

    def product(self, level: int, period: int) -> float:
        period = batching.real_period(period, self.batch)
        encoded = self.unheld * self.named("encode", 0 if self.late else level) if period > 1 else 0.0
        return self._price(switching.product(self._params, level, period, late=self.late)) + self.overhead + encoded

    def tensor(self, level: int) -> float:
        return self._price(switching.tensor(self._params, level)) + self.overhead

    def scaled(self, level: int) -> float:
        return self._price(switching.scaled(self._params, level)) + self.overhead

    def relinearize_rescale(self, level: int) -> float:
        return self._price(switching.relinearize_rescale(self._params, level)) + self.overhead

    def hoist(self, level: int) -> float:
        return self._price(switching.decompose(self._params, level))

    def finish(self, level: int) -> float:
        return self._price(switching.finish(self._params, level))


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

    def prices(self, params: Params, *, late: bool = False, batch: int = 1, unheld: float = 0.0) -> Prices:
        """Prices at a ring degree; scaled with N log N from the nearest measured one if it is missing.

        Args:
            params: what the program will run with.
            late: see ``Prices``; this and the rest are without meaning for backends that fuse nothing.
            batch: samples in one run.
            unheld: see ``Prices``.
        """
        log_n = params.log_n
        nearest = min(self.ops, key=lambda n: abs(n - log_n))
        factor = 2.0 ** (log_n - nearest) * log_n / nearest
        scaled = {name: [s * factor for s in seconds] for name, seconds in self.ops[nearest].items()}
        scaled |= {name: scaled[x] for name, x in switching.STANDS_FOR.items() if x in scaled and name not in scaled}
        if not set(switching.UNITS) <= set(scaled):
            return Prices(log_n, scaled, self.overhead)
        unit = tuple(scaled[name][0] for name in switching.UNITS)
        return FusedPrices(log_n, scaled, self.overhead, late, unheld, params, unit, batch)


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
