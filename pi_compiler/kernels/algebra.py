"""The abstract value that kernels compute with, and its three readings.

A kernel is written once, over ``Algebra``. Read with ``Numbers`` it tests itself, with ``Cost`` it
gives the planner its price, with ``Emit`` it writes the program: so the cost that the planner
saw is the cost of what runs. The base class tracks level, scale and dimension of every value and
refuses what the scheme forbids; a reading only says what an instruction yields.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from pi_compiler.cost import Prices
from pi_compiler.errors import InternalError
from pi_compiler.ir.graph import FloatArray
from pi_compiler.ir.program import CtType, Opcode

Constant: TypeAlias = Callable[[], FloatArray] | FloatArray | float
"""A slot vector (one period), a number for all slots, or a function that makes the vector when it is needed."""

_RELATIVE = 1e-9  # scales that agree to this are equal; float rounding of products of primes is 1e-15


@dataclass(frozen=True, slots=True)
class Value:
    """A ciphertext value: its type and whatever the reading keeps for it."""

    type: CtType
    data: object

    @property
    def level(self) -> int:
        """Rescalings left."""
        return self.type.level

    @property
    def scale(self) -> float:
        """Exact scale."""
        return self.type.scale


class Algebra(ABC):
    """Level, scale and dimension rules of CKKS; subclasses implement ``apply``.

    Args:
        primes: q_0 ... q_L.
        scale: nominal scale.
        slots: slots of a ciphertext.
    """

    def __init__(self, primes: tuple[int, ...], scale: float, slots: int) -> None:
        self.primes = primes
        self.nominal = scale
        self.slots = slots
        self._rotations: dict[tuple[int, int], tuple[object, list[Value]]] = {}

    @abstractmethod
    def apply(
        self, op: Opcode, a: Value, b: Value | None, imm: int, const: Constant | None, plain_scale: float, out: CtType
    ) -> object:
        """What an instruction yields, as ``Value.data``."""

    def _do(
        self,
        op: Opcode,
        a: Value,
        out: CtType,
        *,
        b: Value | None = None,
        imm: int = 0,
        const: Constant | None = None,
        plain_scale: float = 0.0,
    ) -> Value:
        return Value(out, self.apply(op, a, b, imm, const, plain_scale, out))

    def _same(self, op: Opcode, a: Value, b: Value) -> None:
        if a.level != b.level:
            raise InternalError(f"{op.name} of values at levels {a.level} and {b.level}")
        if op is not Opcode.MUL and abs(a.scale / b.scale - 1.0) > _RELATIVE:
            raise InternalError(f"{op.name} of values with scales {a.scale:.6e} and {b.scale:.6e}")

    def add(self, a: Value, b: Value) -> Value:
        """A + b, equal level and scale."""
        self._same(Opcode.ADD, a, b)
        out = CtType(a.level, a.scale, max(a.type.dimension, b.type.dimension))
        return self._do(Opcode.ADD, a, out, b=b)

    def sub(self, a: Value, b: Value) -> Value:
        """A - b, equal level and scale."""
        self._same(Opcode.SUB, a, b)
        out = CtType(a.level, a.scale, max(a.type.dimension, b.type.dimension))
        return self._do(Opcode.SUB, a, out, b=b)

    def neg(self, a: Value) -> Value:
        """-a."""
        return self._do(Opcode.NEG, a, a.type)

    def mul(self, a: Value, b: Value) -> Value:
        """A * b at equal level, neither rescaled nor relinearized."""
        self._same(Opcode.MUL, a, b)
        if a.type.dimension != 2 or b.type.dimension != 2:
            raise InternalError("product of values that are not relinearized")
        return self._do(Opcode.MUL, a, CtType(a.level, a.scale * b.scale, 3), b=b)

    def mul_plain(self, a: Value, const: Constant, plain_scale: float) -> Value:
        """A * const, the constant encoded at ``plain_scale``; not rescaled."""
        out = CtType(a.level, a.scale * plain_scale, a.type.dimension)
        return self._do(Opcode.MUL_PLAIN, a, out, const=const, plain_scale=plain_scale)

    def add_plain(self, a: Value, const: Constant) -> Value:
        """A + const, the constant encoded at a's scale."""
        return self._do(Opcode.ADD_PLAIN, a, a.type, const=const)

    def rotate(self, a: Value, by: int) -> Value:
        """Slot i receives slot i + by."""
        if a.type.dimension != 2:
            raise InternalError("rotation of a value that is not relinearized")
        return a if by % self.slots == 0 else self._do(Opcode.ROTATE, a, a.type, imm=by)

    def relinearize(self, a: Value) -> Value:
        """Dimension 3 to 2."""
        if a.type.dimension == 2:
            return a
        return self._do(Opcode.RELINEARIZE, a, CtType(a.level, a.scale, 2))

    def rescale(self, a: Value) -> Value:
        """Divide by the last prime."""
        if a.level < 1:
            raise InternalError("rescale at level 0")
        return self._do(Opcode.RESCALE, a, CtType(a.level - 1, a.scale / self.primes[a.level], a.type.dimension))

    def bootstrap(self, a: Value, level: int) -> Value:
        """The same value at a high level."""
        return self._do(Opcode.BOOTSTRAP, a, CtType(level, a.scale, 2), imm=level)

    def drop_level(self, a: Value, level: int) -> Value:
        """The same value at a lower level."""
        if level > a.level:
            raise InternalError(f"drop_level from {a.level} to {level}")
        return (
            a
            if level == a.level
            else self._do(Opcode.DROP_LEVEL, a, CtType(level, a.scale, a.type.dimension), imm=level)
        )

    def rotated(self, a: Value, by: int, level: int) -> Value:
        """``a`` rotated, at a level; a rotation made before at that level or above is reused.

        Baby steps go through here, so block rows and parallel branches share them.
        """
        if by % self.slots == 0:
            return self.drop_level(a, level)
        # The entry keeps the source alive: an id is only unique while its object lives.
        _, made = self._rotations.setdefault((id(a.data), by % self.slots), (a.data, []))
        for other in made:
            if other.level >= level:
                return self.drop_level(other, level)
        made.append(self.rotate(self.drop_level(a, level), by))
        return made[-1]

    @contextmanager
    def matrix_product(self) -> Iterator[None]:
        """What is done inside belongs to one matrix product."""
        yield

    @contextmanager
    def product_sum(self) -> Iterator[None]:
        """What is done inside is summed, relinearized and rescaled together; sums may lie inside of others."""
        yield

    def sum(self, values: list[Value]) -> Value:
        """Their sum, left to right."""
        total = values[0]
        for value in values[1:]:
            total = self.add(total, value)
        return total


def resolve(const: Constant) -> FloatArray:
    """The slot vector (one period) that a constant stands for."""
    value = const() if callable(const) else const
    return np.atleast_1d(np.asarray(value, dtype=np.float64))


class Numbers(Algebra):
    """Values are exact slot vectors (..., slots)."""

    def input(self, slots: NDArray[np.float64], level: int) -> Value:
        """A value from slots, or one period of them."""
        full = np.tile(slots, (*[1] * (slots.ndim - 1), self.slots // slots.shape[-1]))
        return Value(CtType(level, self.nominal), full)

    @staticmethod
    def of(value: Value) -> FloatArray:
        """The slot vector of a value."""
        return np.asarray(value.data, dtype=np.float64)

    def apply(
        self, op: Opcode, a: Value, b: Value | None, imm: int, const: Constant | None, plain_scale: float, out: CtType
    ) -> object:
        x = self.of(a)
        y = self.of(b) if b is not None else x
        if const is not None:
            c = resolve(const)
            y = np.tile(c, self.slots // c.size)
        match op:
            case Opcode.ADD | Opcode.ADD_PLAIN:
                return x + y
            case Opcode.SUB:
                return x - y
            case Opcode.MUL | Opcode.MUL_PLAIN:
                return x * y
            case Opcode.NEG:
                return -x
            case Opcode.ROTATE:
                return np.roll(x, -imm, axis=-1)
            case _:
                return x


_RELINEARIZED = object()
"""Stands for a value that a sum of products relinearized; rescaling it is priced with that."""


class Cost(Algebra):
    """Values are nothing; instructions are counted and priced per origin.

    ``rotation_keys`` has per rotation amount the highest level at which it is used, ``estimated`` the seconds of
    bootstraps, which are not among ``seconds``: nobody measured them here.
    """

    def __init__(self, primes: tuple[int, ...], scale: float, slots: int, prices: Prices) -> None:
        super().__init__(primes, scale, slots)
        self.prices = prices
        self.origin = ""
        self.seconds: dict[str, float] = {}
        self.estimated: dict[str, float] = {}
        self.counts: dict[str, dict[Opcode, int]] = {}
        self.rotation_keys: dict[int, int] = {}
        self._inside = False
        self._summing = 0
        self._baby: tuple[int, int] | None = None
        self._hoisted: set[tuple[int, int]] = set()

    @contextmanager
    def matrix_product(self) -> Iterator[None]:
        self._inside, before = self.prices.fused, self.counts.get(self.origin, {}).get(Opcode.ROTATE, 0)
        self._level = 0
        yield
        self._inside = False
        if self.prices.fused and self.counts[self.origin].get(Opcode.ROTATE, 0) > before:
            self._spend(self.prices.finish(self._level))

    @contextmanager
    def product_sum(self) -> Iterator[None]:
        self._summing += self.prices.fused
        yield
        self._summing -= self.prices.fused

    def _in_sum(self, op: Opcode, a: Value) -> float:
        """Seconds of an instruction that a sum of products does on its way."""
        match op:
            case Opcode.MUL:
                return self.prices.tensor(a.level)
            case Opcode.MUL_PLAIN:
                return self.prices.scaled(a.level)
            case Opcode.RELINEARIZE:
                return self.prices.relinearize_rescale(a.level)
            case Opcode.RESCALE if a.data is not _RELINEARIZED:
                return self.prices.of(op, a.type)
            case Opcode.DROP_LEVEL:
                return self.prices.of(op, a.type)
            case _:
                return 0.0

    def rotated(self, a: Value, by: int, level: int) -> Value:
        self._baby = (id(a.data), level)
        value = super().rotated(a, by, level)
        self._baby = None
        return value

    def _spend(self, seconds: float) -> None:
        self.seconds[self.origin] = self.seconds.get(self.origin, 0.0) + seconds

    def _period(self, const: Constant | None) -> int:
        if isinstance(const, float | int):
            return 1
        return const.size if isinstance(const, np.ndarray) else self.slots

    def _in_product(self, op: Opcode, level: int, const: Constant | None) -> float:
        """Seconds of an instruction that a matrix product does on its way."""
        self._level = level
        if op is Opcode.MUL_PLAIN:
            return self.prices.product(level, self._period(const))
        if op is not Opcode.ROTATE:
            return 0.0
        if self._baby is None:
            return self.prices.giant(level)
        shared = 0.0 if self._baby in self._hoisted else self.prices.hoist(level)
        self._hoisted.add(self._baby)
        return shared + self.prices.baby(level)

    def apply(
        self, op: Opcode, a: Value, b: Value | None, imm: int, const: Constant | None, plain_scale: float, out: CtType
    ) -> object:
        if op is Opcode.BOOTSTRAP:
            self.estimated[self.origin] = self.estimated.get(self.origin, 0.0) + self.prices.bootstrap(imm)
        elif self._inside:
            self._spend(self._in_product(op, a.level, const))
        elif self._summing:
            self._spend(self._in_sum(op, a))
        else:
            self._spend(self.prices.square(a.level) if op is Opcode.MUL and a is b else self.prices.of(op, a.type))
        counts = self.counts.setdefault(self.origin, {})
        counts[op] = counts.get(op, 0) + 1
        if op is Opcode.ROTATE:
            key = imm % self.slots
            self.rotation_keys[key] = max(a.level, self.rotation_keys.get(key, 0))
        return _RELINEARIZED if op is Opcode.RELINEARIZE and self._summing else object()
