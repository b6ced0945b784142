"""Writes MPC instructions: keeps shapes, fractional bits and constants, truncates after products.

Every method takes value numbers and returns one. A *value* has ``frac`` fractional bits, a *bit* has
none; products of values are truncated back, products with a bit or with whole numbers need not be.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import prod

import numpy as np
from numpy.typing import NDArray

from pi_compiler.errors import BudgetError
from pi_compiler.ir.graph import FloatArray, IntArray, Shape
from pi_compiler.ir.mpc_program import Index, MpcConst, MpcInstr, MpcOp, MpcPort, MpcProgram, Owner, encode

_WHOLE = 2.0**20  # whole factors up to this size need no fractional bits


class Builder:
    """A program in the making.

    Args:
        frac: fractional bits of values.
        weight_frac: fractional bits of constants that multiply.
        private: whether constants of the model are its owner's secret.
        low: bits that comparisons may leave out, see LTZ.
    """

    def __init__(self, frac: int, weight_frac: int, *, private: bool = True, low: int = 0) -> None:
        self.frac, self.weight_frac, self.low = frac, weight_frac, low
        self.secret: Owner = "model" if private else "public"
        self.instrs: list[MpcInstr] = []
        self.consts: list[MpcConst] = []
        self.indices: list[Index] = []
        self.origins: dict[str, int] = {}
        self._const_numbers: dict[tuple[bytes, Shape, int, Owner], int] = {}
        self._origin = 0

    # --- pieces ---------------------------------------------------------------------------------------

    def at(self, origin: str) -> None:
        """Instructions that follow belong to this layer."""
        self._origin = self.origins.setdefault(origin, len(self.origins))

    def shape(self, value: int) -> Shape:
        """Shape of a value."""
        return self.instrs[value].shape

    def frac_of(self, value: int) -> int:
        """Fractional bits of a value."""
        return self.instrs[value].frac

    def const(self, numbers: FloatArray | float, frac: int, owner: Owner) -> int:
        """The number of a constant; equal ones share it.

        Raises:
            BudgetError: it does not fit into the ring.
        """
        largest = float(np.abs(numbers).max(initial=0.0))
        if not np.ldexp(largest, frac) < 2.0**62:
            layer = next((name for name, n in self.origins.items() if n == self._origin), "")
            raise BudgetError(
                f"layer {layer!r} has a constant of {largest:.3g}, too large for 64 bits with {frac} fractional ones",
                hint="training that keeps weights small, or fewer --frac-bits",
            )
        values = encode(numbers, frac)
        key = (values.tobytes(), values.shape, frac, owner)
        if key not in self._const_numbers:
            self._const_numbers[key] = len(self.consts)
            self.consts.append(MpcConst(values, frac, owner))
        return self._const_numbers[key]

    def emit(
        self,
        op: MpcOp,
        args: Sequence[int],
        shape: Shape,
        frac: int,
        *,
        weight: int = -1,
        bias: int = -1,
        index: int = -1,
        attrs: Mapping[str, tuple[int, ...]] | None = None,
    ) -> int:
        """An instruction of the current layer."""
        made = MpcInstr(op, tuple(args), shape, frac, self._origin, weight, bias, index, attrs or {})
        self.instrs.append(made)
        return len(self.instrs) - 1

    # --- inputs, linear opcodes -----------------------------------------------------------------------

    def input(self, shape: Shape, frac: int | None = None) -> int:
        """A shared input."""
        return self.emit(MpcOp.INPUT, (), shape, self.frac if frac is None else frac)

    def truncate(self, x: int, bits: int) -> int:
        """Fewer fractional bits; the value itself for none."""
        if bits == 0:
            return x
        return self.emit(MpcOp.TRUNCATE, (x,), self.shape(x), self.frac_of(x) - bits, attrs={"bits": (bits,)})

    def weighted(
        self,
        op: MpcOp,
        x: int,
        weight: FloatArray,
        bias: FloatArray | None,
        shape: Shape,
        attrs: Mapping[str, tuple[int, ...]] | None = None,
    ) -> int:
        """CONV or MATMUL with the model's weights, truncated."""
        bits = max(self.weight_frac, self.frac - self.frac_of(x))
        frac = self.frac_of(x) + bits
        w = self.const(weight, bits, self.secret)
        b = -1 if bias is None or not bias.any() else self.const(bias, frac, self.secret)
        made = self.emit(op, (x,), shape, frac, weight=w, bias=b, attrs=attrs)
        return self.truncate(made, frac - self.frac)

    def affine(self, x: int, scale: FloatArray | float, shift: FloatArray | float, *, secret: bool = False) -> int:
        """``scale * x + shift``, constants that broadcast to x; whole factors need no truncation.

        Args:
            x: value or bit.
            scale: factor.
            shift: summand.
            secret: the constants are the model owner's.
        """
        scale, shift = np.asarray(scale, np.float64), np.asarray(shift, np.float64)
        owner: Owner = self.secret if secret else "public"
        weight, frac = -1, self.frac_of(x)
        if (scale != 1.0).any():
            bits = 0 if whole(scale) else self.weight_frac
            weight, frac = self.const(scale, bits, owner), frac + bits
        bias = self.const(shift, frac, owner) if shift.any() else -1
        if weight < 0 and bias < 0:
            return x
        made = self.emit(MpcOp.SCALE, (x,), self.shape(x), frac, weight=weight, bias=bias)
        return self.truncate(made, max(0, frac - self.frac))

    def combine(self, terms: Sequence[tuple[int, FloatArray | float]], shift: FloatArray | float = 0.0) -> int:
        """The value ``sum(coef * x) + shift`` of values and bits, truncated once; not at all if factors are whole.

        Args:
            terms: at least one value or bit, all of one shape, and its public factor, which broadcasts to it.
            shift: broadcasts too.
        """
        shift = np.asarray(shift, np.float64)
        used = [(x, np.asarray(c, np.float64)) for x, c in terms if np.any(c)] or [(terms[0][0], np.zeros(()))]
        extra = 0 if all(whole(c) for x, c in used if self.frac_of(x)) else self.weight_frac
        frac = self.frac + extra
        if len(used) == 1 and extra == 0 and (used[0][1] == 1.0).all() and self.frac_of(used[0][0]) == frac:
            return self.affine(used[0][0], 1.0, shift)
        total = -1
        for place, (x, coef) in enumerate(used):
            if place and self.frac_of(x) == frac and (coef == -1.0).all():
                total = self.sub(total, x)
                continue
            bias = self.const(shift, frac, "public") if place == 0 and shift.any() else -1
            weight = -1
            if frac > self.frac_of(x) or (coef != 1.0).any():
                weight = self.const(coef, frac - self.frac_of(x), "public")
            made = x
            if weight >= 0 or bias >= 0:
                made = self.emit(MpcOp.SCALE, (x,), self.shape(x), frac, weight=weight, bias=bias)
            total = made if total < 0 else self.add(total, made)
        return self.truncate(total, extra)

    def combine_rows(self, rows: int, factors: FloatArray, shift: FloatArray) -> int:
        """``sum_k factors[k] * rows[k] + shift`` over the first axis, truncated once."""
        frac = self.frac + self.weight_frac
        weight = self.const(factors, self.weight_frac, "public")
        scaled = self.emit(MpcOp.SCALE, (rows,), self.shape(rows), frac, weight=weight)
        total = self.sum(scaled, (0,), self.shape(rows)[1:])
        if np.any(shift):
            bias = self.const(shift, frac, "public")
            total = self.emit(MpcOp.SCALE, (total,), self.shape(total), frac, bias=bias)
        return self.truncate(total, self.weight_frac)

    def whole_sum(self, terms: Sequence[tuple[int, int]], shift: int = 0) -> int:
        """The bit, or small whole number, ``sum(coef * bit) + shift``."""
        total = -1
        for place, (x, coef) in enumerate(terms):
            made = self.affine(x, float(coef), float(shift if place == 0 else 0))
            total = made if total < 0 else self.add(total, made)
        return total

    def add(self, x: int, y: int) -> int:
        """The sum."""
        return self.emit(MpcOp.ADD, (x, y), self.shape(x), self.frac_of(x))

    def sub(self, x: int, y: int) -> int:
        """The difference."""
        return self.emit(MpcOp.SUB, (x, y), self.shape(x), self.frac_of(x))

    def sum(self, x: int, axes: Sequence[int], shape: Shape) -> int:
        """Sum over axes."""
        return self.emit(MpcOp.SUM, (x,), shape, self.frac_of(x), attrs={"axes": tuple(axes)})

    # --- products, comparisons ------------------------------------------------------------------------

    def mul(self, x: int, y: int) -> int:
        """The product with broadcasting, truncated if both are values."""
        if x == y:
            return self.square(x)
        frac = self.frac_of(x) + self.frac_of(y)
        shape = np.broadcast_shapes(self.shape(x), self.shape(y))
        return self.truncate(self.emit(MpcOp.MUL, (x, y), shape, frac), max(0, frac - self.frac))

    def square(self, x: int) -> int:
        """The square."""
        frac = 2 * self.frac_of(x)
        return self.truncate(self.emit(MpcOp.SQUARE, (x,), self.shape(x), frac), max(0, frac - self.frac))

    def dot(self, x: int, y: int) -> int:
        """The matrix product of two values."""
        frac = self.frac_of(x) + self.frac_of(y)
        stack = np.broadcast_shapes(self.shape(x)[:-2], self.shape(y)[:-2])
        shape = (*stack, self.shape(x)[-2], self.shape(y)[-1])
        return self.truncate(self.emit(MpcOp.DOT, (x, y), shape, frac), frac - self.frac)

    def negative(self, x: int) -> int:
        """The bit x < 0."""
        attrs = {"low": (self.low,)} if self.low else None
        return self.emit(MpcOp.LTZ, (x,), self.shape(x), 0, attrs=attrs)

    def reveal(self, x: int, to: int) -> int:
        """A value for one party."""
        return self.emit(MpcOp.REVEAL, (x,), self.shape(x), self.frac_of(x), attrs={"to": (to,)})

    # --- data movement --------------------------------------------------------------------------------

    def reshape(self, x: int, shape: Shape) -> int:
        """The same elements in another shape."""
        return x if shape == self.shape(x) else self.emit(MpcOp.GATHER, (x,), shape, self.frac_of(x))

    def gather(self, values: Sequence[int], index: IntArray, shape: Shape) -> int:
        """Elements of the concatenation of all values; -1 is zero. A gather of a gather is one."""
        flat = np.ascontiguousarray(index.reshape(-1))
        args = tuple(values)
        if len(args) == 1 and self.instrs[args[0]].op is MpcOp.GATHER:
            inner = self.instrs[args[0]]
            if inner.index >= 0:
                known = self.indices[inner.index]
                flat = np.where(flat < 0, -1, known[np.maximum(flat, 0)])
            args = inner.args
        sizes = [prod(self.shape(a)) for a in args]
        if len(args) == 1 and flat.size == sizes[0] and (flat == np.arange(flat.size)).all():
            return self.reshape(args[0], shape)
        number = len(self.indices)
        self.indices.append(flat.astype(np.int32) if sum(sizes) < 2**31 else flat.astype(np.int64))
        return self.emit(MpcOp.GATHER, args, shape, self.frac_of(args[0]), index=number)

    def stack(self, values: Sequence[int]) -> int:
        """Values of one shape along a new first axis; of a single one a reshape."""
        shape = (len(values), *self.shape(values[0]))
        if len(values) == 1:
            return self.reshape(values[0], shape)
        return self.gather(values, np.arange(prod(shape)), shape)

    def row(self, stacked: int, number: int) -> int:
        """One entry along the first axis."""
        shape = self.shape(stacked)[1:]
        size = prod(shape)
        return self.gather((stacked,), np.arange(number * size, (number + 1) * size), shape)

    def rows(self, stacked: int, numbers: Sequence[int]) -> int:
        """Entries along the first axis, -1 for zeros."""
        shape = self.shape(stacked)[1:]
        each = np.arange(prod(shape))
        index = np.stack([each + n * each.size if n >= 0 else np.full(each.size, -1) for n in numbers])
        return self.gather((stacked,), index, (len(numbers), *shape))

    def broadcast(self, x: int, shape: Shape) -> int:
        """A value repeated to a shape by numpy's rules."""
        if self.shape(x) == shape:
            return x
        index = np.broadcast_to(np.arange(prod(self.shape(x))).reshape(self.shape(x)), shape)
        return self.gather((x,), index, shape)

    # --- the whole ------------------------------------------------------------------------------------

    def program(
        self,
        inputs: Mapping[str, MpcPort],
        outputs: Mapping[str, MpcPort],
        protocol: str,
        client_ops: Mapping[str, tuple[tuple[str, Mapping[str, object]], ...]],
    ) -> MpcProgram:
        """The finished program, without what no output needs."""
        needed = [False] * len(self.instrs)
        for port in (*inputs.values(), *outputs.values()):
            needed[port.value] = True
        for number in range(len(self.instrs) - 1, -1, -1):
            if needed[number]:
                for a in self.instrs[number].args:
                    needed[a] = True
        number_of = np.cumsum(needed) - 1
        kept = [i for i, wanted in zip(self.instrs, needed, strict=True) if wanted]
        consts = _compact([p for i in kept for p in (i.weight, i.bias)], len(self.consts))
        indices = _compact([i.index for i in kept], len(self.indices))
        instrs = tuple(
            replace(
                i,
                args=tuple(int(number_of[a]) for a in i.args),
                weight=int(consts[i.weight]),
                bias=int(consts[i.bias]),
                index=int(indices[i.index]),
            )
            for i in kept
        )
        return MpcProgram(
            instrs,
            tuple(c for n, c in enumerate(self.consts) if consts[n] >= 0),
            tuple(v for n, v in enumerate(self.indices) if indices[n] >= 0),
            {n: replace(p, value=int(number_of[p.value])) for n, p in inputs.items()},
            {n: replace(p, value=int(number_of[p.value])) for n, p in outputs.items()},
            tuple(self.origins),
            protocol,
            client_ops,
        )


def whole(numbers: FloatArray) -> bool:
    """Whether factors are whole and so small that they need no fractional bits."""
    return bool((numbers == np.rint(numbers)).all()) and float(np.abs(numbers).max(initial=0.0)) <= _WHOLE


def _compact(used: Sequence[int], count: int) -> NDArray[np.int64]:
    """New numbers of what is used, in order; -1 for the rest, and at the end for -1 itself."""
    found = np.full(count + 1, -1, np.int64)
    for number, old in enumerate(sorted({u for u in used if u >= 0})):
        found[old] = number
    return found
