"""Writes MPC programs as StableHLO text, the language that SPU compiles.

One module per stretch of instructions of a layer, so that what a layer sends can be told from what others do; values
that later ones read are results of one module and arguments of the next. Ring elements are ``i64``, comparisons ``i1``
as long as they are only moved and select. Weights are arguments too: the text holds nothing but public numbers.

Truncation: SPU keeps no integers apart from fixed-point numbers, so ring elements are read as ``f64``, multiplied by
the constant 2^-bits, and read as integers again: a product with a public number, then SPU's own truncation. The
constant has to stand in the text: one that is an argument would be rounded to ``ir.spu.FRACTION`` bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod

import numpy as np

from pi_compiler.errors import InternalError, UnsupportedInstruction
from pi_compiler.ir.graph import Shape
from pi_compiler.ir.mpc_program import Index, MpcInstr, MpcOp, MpcProgram
from pi_compiler.ir.spu import kept_bits, stacked, stretches, unsupported


@dataclass(frozen=True, slots=True)
class Module:
    """A stretch of one layer.

    Attributes:
        layer: its name.
        text: StableHLO.
        inputs: names of its arguments: ``v3`` value 3, ``c0`` the model owner's constant 0, ``p1`` public
            constant 1, ``i2_64`` index 2 into 64 elements.
        outputs: names of its results.
        spent: names of values that nothing reads afterwards.
    """

    layer: str
    text: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    spent: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Written:
    """A program as modules, in order.

    Attributes:
        modules: what to run.
        indices: public index vectors by argument name, with the place of a zero instead of -1.
    """

    modules: tuple[Module, ...]
    indices: dict[str, Index]


def write_modules(program: MpcProgram) -> Written:
    """The text of a program.

    Raises:
        UnsupportedInstruction: naming every layer that SPU cannot run.
    """
    if faults := unsupported(program):
        raise UnsupportedInstruction("SPU cannot run the model", *dict.fromkeys(faults), hint="--backend crypten")
    last = program.last_uses()
    for port in program.outputs.values():
        last[program.instrs[port.value].args[0]] = len(program)
    shared = _Shared(program, kept_bits(program), last)
    return Written(tuple(_write(shared, numbers) for numbers in stretches(program)), shared.indices)


@dataclass(slots=True)
class _Shared:
    """What all modules of a program need."""

    program: MpcProgram
    bits: frozenset[int]
    last: list[int]
    indices: dict[str, Index] = field(default_factory=dict)


def _write(shared: _Shared, numbers: Sequence[int]) -> Module:
    writer = _Writer(shared)
    for number in numbers:
        writer.instruction(number)
    end = numbers[-1]
    outputs = [n for n in numbers if shared.last[n] > end] or [end]
    results = [(writer.names[n], writer.types[writer.names[n]]) for n in outputs]
    read = [n for n in writer.arguments if n.startswith("v") and shared.last[int(n[1:])] <= end]
    signature = ", ".join(f"%{name}: {kind}" for name, kind in writer.arguments.items())
    kinds = ", ".join(kind for _, kind in results)
    lines = [
        f"module @m {{ func.func @main({signature}) -> ({kinds}) {{",
        *(f"  {line}" for line in writer.lines),
        f"  return {', '.join('%' + name for name, _ in results)} : {kinds}",
        "} }",
    ]
    origin = shared.program.instrs[numbers[0]].origin
    return Module(
        shared.program.origins[origin],
        "\n".join(lines),
        tuple(writer.arguments),
        tuple(f"v{n}" for n in outputs),
        tuple(read),
    )


def _tensor(shape: Shape, element: str = "i64") -> str:
    return f"tensor<{''.join(f'{n}x' for n in shape)}{element}>"


class _Writer:
    """The lines of one module; methods take and give names of values in it."""

    def __init__(self, shared: _Shared) -> None:
        self.shared, self.program = shared, shared.program
        self.lines: list[str] = []
        self.arguments: dict[str, str] = {}
        self.names: dict[int, str] = {}
        self.types: dict[str, str] = {}
        self.shapes: dict[str, Shape] = {}
        self.elements: dict[str, str] = {}
        self._made = 0

    # --- names ----------------------------------------------------------------------------------------

    def emit(self, text: str, shape: Shape, element: str = "i64") -> str:
        """A line that defines a value."""
        name = f"t{self._made}"
        self._made += 1
        self.lines.append(f"%{name} = {text}")
        return self._typed(name, shape, element)

    def _typed(self, name: str, shape: Shape, element: str) -> str:
        self.types[name], self.shapes[name], self.elements[name] = _tensor(shape, element), shape, element
        return name

    def argument(self, name: str, shape: Shape, element: str = "i64") -> str:
        """A value from outside of the module."""
        if name not in self.arguments:
            self.arguments[name] = _tensor(shape, element)
            self._typed(name, shape, element)
        return name

    def value(self, number: int) -> str:
        """An operand as it is held."""
        if number not in self.names:
            element = "i1" if number in self.shared.bits else "i64"
            self.names[number] = self.argument(f"v{number}", self.program.instrs[number].shape, element)
        return self.names[number]

    def ring(self, number: int) -> str:
        """An operand as ring elements."""
        name = self.value(number)
        if number not in self.shared.bits:
            return name
        shape = self.shapes[name]
        return self.emit(f"stablehlo.convert %{name} : ({self.types[name]}) -> {_tensor(shape)}", shape)

    def const(self, place: int, shape: Shape | None = None) -> str:
        """A constant, broadcast to a shape."""
        const = self.program.consts[place]
        letter = "c" if const.owner == "model" else "p"
        name = self.argument(f"{letter}{place}", const.values.shape)
        return name if shape is None else self.broadcast(name, shape)

    # --- pieces ---------------------------------------------------------------------------------------

    def binary(self, op: str, x: str, y: str) -> str:
        """Two operands of one type."""
        return self.emit(f"stablehlo.{op} %{x}, %{y} : {self.types[x]}", self.shapes[x], self.elements[x])

    def zeros(self, shape: Shape) -> str:
        return self.emit(f"stablehlo.constant dense<0> : {_tensor(shape)}", shape)

    def reshape(self, x: str, shape: Shape) -> str:
        if self.shapes[x] == shape:
            return x
        element = self.elements[x]
        return self.emit(f"stablehlo.reshape %{x} : ({self.types[x]}) -> {_tensor(shape, element)}", shape, element)

    def broadcast(self, x: str, shape: Shape) -> str:
        """The value broadcast by numpy's rules."""
        if self.shapes[x] == shape:
            return x
        dims = list(range(len(shape) - len(self.shapes[x]), len(shape)))
        element = self.elements[x]
        kind = _tensor(shape, element)
        text = f"stablehlo.broadcast_in_dim %{x}, dims = {dims} : ({self.types[x]}) -> {kind}"
        return self.emit(text, shape, element)

    def slice(self, x: str, ranges: Sequence[tuple[int, int]]) -> str:
        element = self.elements[x]
        shape = tuple(b - a for a, b in ranges)
        if shape == self.shapes[x]:
            return x
        where = ", ".join(f"{a}:{b}" for a, b in ranges)
        text = f"stablehlo.slice %{x} [{where}] : ({self.types[x]}) -> {_tensor(shape, element)}"
        return self.emit(text, shape, element)

    def concatenate(self, parts: Sequence[str], axis: int) -> str:
        if len(parts) == 1:
            return parts[0]
        element = self.elements[parts[0]]
        shape = list(self.shapes[parts[0]])
        shape[axis] = sum(self.shapes[p][axis] for p in parts)
        kinds = ", ".join(self.types[p] for p in parts)
        kind = _tensor(tuple(shape), element)
        names = ", ".join(f"%{p}" for p in parts)
        return self.emit(f"stablehlo.concatenate {names}, dim = {axis} : ({kinds}) -> {kind}", tuple(shape), element)

    def read_as(self, x: str, element: str) -> str:
        """The same ring elements as another type."""
        shape = self.shapes[x]
        text = f"stablehlo.bitcast_convert %{x} : ({self.types[x]}) -> {_tensor(shape, element)}"
        return self.emit(text, shape, element)

    def select(self, bit: str, x: str) -> str:
        """What stays where the bit is set, zeros elsewhere."""
        zero = self.zeros(self.shapes[x])
        return self.emit(f"stablehlo.select %{bit}, %{x}, %{zero} : {self.types[bit]}, {self.types[x]}", self.shapes[x])

    # --- instructions ---------------------------------------------------------------------------------

    def instruction(self, number: int) -> None:
        """One instruction."""
        instr = self.program.instrs[number]
        made = self._made_by(number, instr)
        self.names[number] = self.reshape(made, instr.shape)

    def _made_by(self, number: int, instr: MpcInstr) -> str:
        match instr.op:
            case MpcOp.CONV:
                return self._biased(instr, self._conv(instr))
            case MpcOp.MATMUL:
                return self._biased(instr, self._product(self.ring(instr.args[0]), self.const(instr.weight)))
            case MpcOp.SCALE:
                x = self.ring(instr.args[0])
                if instr.weight >= 0:
                    x = self.binary("multiply", x, self.const(instr.weight, instr.shape))
                return self._biased(instr, x)
            case MpcOp.DOT:
                return self._product(*(self.ring(a) for a in instr.args))
            case MpcOp.ADD:
                return self.binary("add", *(self.ring(a) for a in instr.args))
            case MpcOp.SUB:
                return self.binary("subtract", *(self.ring(a) for a in instr.args))
            case MpcOp.MUL:
                return self._mul(instr)
            case MpcOp.SQUARE:
                x = self.ring(instr.args[0])
                return self.binary("multiply", x, x)
            case MpcOp.TRUNCATE:
                return self._truncate(instr)
            case MpcOp.LTZ:
                x = self.ring(instr.args[0])
                zero, kind = self.zeros(instr.shape), _tensor(instr.shape, "i1")
                text = f"stablehlo.compare LT, %{x}, %{zero} : ({self.types[x]}, {self.types[x]}) -> {kind}"
                return self.emit(text, instr.shape, "i1")
            case MpcOp.GATHER:
                return self._gather(number, instr)
            case MpcOp.SUM:
                return self._sum(instr)
            case _:
                raise InternalError(f"no text for {instr.op}")

    def _biased(self, instr: MpcInstr, x: str) -> str:
        x = self.reshape(x, instr.shape)
        return x if instr.bias < 0 else self.binary("add", x, self.const(instr.bias, instr.shape))

    def _mul(self, instr: MpcInstr) -> str:
        bits = [a for a in instr.args if a in self.shared.bits]
        if not bits:
            x, y = (self.broadcast(self.ring(a), instr.shape) for a in instr.args)
            return self.binary("multiply", x, y)
        bit = self.broadcast(self.value(bits[0]), instr.shape)
        other = instr.args[1] if instr.args[0] == bits[0] else instr.args[0]
        return self.select(bit, self.broadcast(self.ring(other), instr.shape))

    def _truncate(self, instr: MpcInstr) -> str:
        x, kind = self.read_as(self.ring(instr.args[0]), "f64"), _tensor(instr.shape, "f64")
        text = f"stablehlo.constant dense<{2.0 ** -instr.attrs['bits'][0]!r}> : {kind}"
        return self.read_as(self.binary("multiply", x, self.emit(text, instr.shape, "f64")), "i64")

    def _gather(self, number: int, instr: MpcInstr) -> str:
        bits = number in self.shared.bits
        element = "i1" if bits else "i64"
        parts = [self.value(a) if bits else self.ring(a) for a in instr.args]
        flat = [self.reshape(p, (prod(self.shapes[p]),)) for p in parts]
        if instr.index < 0:
            return self.concatenate(flat, 0)
        index, total = self.program.indices[instr.index].reshape(-1), sum(prod(self.shapes[p]) for p in flat)
        if bool((index < 0).any()):
            return self._taken([*flat, self._one_zero(element)], np.where(index < 0, total, index), instr, element)
        first = int(index[0]) if index.size else 0
        if np.array_equal(index, np.arange(first, first + index.size)):
            return self.slice(self.concatenate(flat, 0), [(first, first + index.size)])
        return self._taken(flat, index, instr, element)

    def _one_zero(self, element: str) -> str:
        text = "dense<false>" if element == "i1" else "dense<0>"
        return self.emit(f"stablehlo.constant {text} : {_tensor((1,), element)}", (1,), element)

    def _taken(self, flat: Sequence[str], index: Index, instr: MpcInstr, element: str) -> str:
        whole = self.concatenate(flat, 0)
        name = f"i{instr.index}_{self.shapes[whole][0]}"
        self.shared.indices[name] = index
        places = self.argument(name, (index.size, 1))
        kind = _tensor((index.size,), element)
        how = (
            "dimension_numbers = #stablehlo.gather<collapsed_slice_dims = [0], start_index_map = [0], "
            "index_vector_dim = 1>, slice_sizes = array<i64: 1>"
        )
        operands = f"({self.types[whole]}, {self.types[places]})"
        text = f'"stablehlo.gather"(%{whole}, %{places}) {{{how}}} : {operands} -> {kind}'
        return self.emit(text, (index.size,), element)

    def _sum(self, instr: MpcInstr) -> str:
        x, axes = self.ring(instr.args[0]), instr.attrs["axes"]
        shape = tuple(n for axis, n in enumerate(self.shapes[x]) if axis not in axes)
        zero, kind = self.zeros(()), _tensor(shape)
        how = f"applies stablehlo.add across dimensions = {list(axes)}"
        return self.emit(
            f"stablehlo.reduce(%{x} init: %{zero}) {how} : ({self.types[x]}, {self.types[zero]}) -> {kind}", shape
        )

    # --- products -------------------------------------------------------------------------------------

    def _product(self, x: str, y: str) -> str:
        """The matrix product by numpy's rules, without the result's shape where operands are stacked."""
        a, b = self.shapes[x], self.shapes[y]
        a = a if len(a) > 1 else (1, *a)
        size = stacked(a, b)
        if size.batch == 1:
            flat = self.reshape(x, (size.rows, size.inner)), self.reshape(y, (size.inner, size.columns))
            return self._dot(*flat, (size.rows, size.columns))
        stack = np.broadcast_shapes(a[:-2], b[:-2])
        x = self.broadcast(self.reshape(x, a), (*stack, *a[-2:]))
        y = self.broadcast(y, (*stack, *b[-2:]))
        x = self.reshape(x, (size.batch, size.rows, size.inner))
        y = self.reshape(y, (size.batch, size.inner, size.columns))
        return self._dot(x, y, (size.batch, size.rows, size.columns))

    def _dot(self, x: str, y: str, shape: Shape) -> str:
        stacks = "batching_dims = [0] x [0], contracting_dims = [2] x [1]"
        dims = stacks if len(shape) == 3 else "contracting_dims = [1] x [0]"
        types = f"({self.types[x]}, {self.types[y]}) -> {_tensor(shape)}"
        return self.emit(f"stablehlo.dot_general %{x}, %{y}, {dims} : {types}", shape)

    def _conv(self, instr: MpcInstr) -> str:
        """Group by group: SPU convolves one."""
        x, weight = self.ring(instr.args[0]), self.const(instr.weight)
        groups, inputs, filters = instr.attrs["group"][0], self.shapes[x], self.shapes[weight]
        if groups == 1:
            return self._one_conv(x, weight, instr)
        wide, high = inputs[1] // groups, filters[0] // groups
        parts = []
        for g in range(groups):
            part = self.slice(x, [(0, inputs[0]), (g * wide, (g + 1) * wide), *((0, n) for n in inputs[2:])])
            rows = self.slice(weight, [(g * high, (g + 1) * high), *((0, n) for n in filters[1:])])
            parts.append(self._one_conv(part, rows, instr))
        return self.concatenate(parts, 1)

    def _one_conv(self, x: str, weight: str, instr: MpcInstr) -> str:
        rank = len(instr.attrs["strides"])
        pads = [[a, b] for a, b in zip(instr.attrs["pads"][:rank], instr.attrs["pads"][rank:], strict=True)]
        window = f"stride = {list(instr.attrs['strides'])}, pad = {pads}, rhs_dilate = {list(instr.attrs['dilations'])}"
        axes = ", ".join(map(str, range(rank)))
        numbers = f"[b, f, {axes}]x[o, i, {axes}]->[b, f, {axes}]"
        shape = (instr.shape[0], self.shapes[weight][0], *instr.shape[2:])
        counts = "{batch_group_count = 1 : i64, feature_group_count = 1 : i64}"
        types = f"({self.types[x]}, {self.types[weight]}) -> {_tensor(shape)}"
        how = f"dim_numbers = {numbers}, window = {{{window}}} {counts}"
        return self.emit(f"stablehlo.convolution(%{x}, %{weight}) {how} : {types}", shape)
