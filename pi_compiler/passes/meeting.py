"""Which affine maps have to lay out their result for a product, and how.

A product's left operand chooses among the spaces of the product. The right one's map, where it has one of its own,
comes later in the program and takes what fits the left operand as it is placed.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import permutations

from pi_compiler.ir.circuit import SumPlan
from pi_compiler.ir.graph import Shape
from pi_compiler.ir.layout import Layout
from pi_compiler.ir.stages import Affine, Contract, InputStage, Iterated, Polynomial, Reduce, Refresh, Square, Stages
from pi_compiler.kernels.summing import contracted, slots_of_terms
from pi_compiler.passes.spaces import columns, extended, meeting_layouts, ordered, projected, pulled, spaces

_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_MOST_AXES = 3


def exceeding(stages: Stages, slots: int) -> bool:
    """Whether the terms of some product take more slots than there are."""
    return any(isinstance(s, Contract) and slots_of_terms(s) > slots for s in stages.stages)


class Meetings:
    """The products of a network and what they ask of layouts; false if there are none.

    Args:
        stages: the folded network.
        slots: of one sample.
        columns: let products whose terms exceed a ciphertext have their operands in columns.
    """

    def __init__(self, stages: Stages, slots: int, *, columns: bool) -> None:
        self.stages = stages.stages
        self.slots = slots
        self.readers = stages.consumers()
        self.any = any(isinstance(s, Contract | Reduce) for s in self.stages)
        self.over_ciphertexts = columns and exceeding(stages, slots)
        self.follows: dict[int, int] = {}
        self.met: dict[tuple[int, int, int], list[tuple[Layout, SumPlan]]] = {}
        self.wanted: dict[int, list[Layout]] = {}
        for number, stage in enumerate(self.stages):
            if isinstance(stage, Contract):
                root = self.root(stage.right)
                if root > self.root(stage.left) and isinstance(self.stages[root], Affine):
                    self.follows.setdefault(root, number)

    def __bool__(self) -> bool:
        return self.any

    def root(self, number: int) -> int:
        """The stage whose layout a stage's value has."""
        stage = self.stages[number]
        while isinstance(stage, Square | Polynomial | Iterated | Refresh):
            number = stage.source
            stage = self.stages[number]
        return number

    def product_of(self, number: int) -> int:
        """The product for which an affine map lays out its result; the stage itself if there is none."""
        if number in self.follows:
            return self.follows[number]
        led = [r for n in self.alike(number) for r in self.readers[n] if isinstance(self.stages[r], Contract)]
        return led[0] if led else number

    def alike(self, number: int) -> list[int]:
        """The stages whose values have the layout of this one's."""
        found = [number]
        for n in found:
            found += [
                r for r in self.readers[n] if isinstance(self.stages[r], Square | Polynomial | Iterated | Refresh)
            ]
        return found

    def summed_axes(self, number: int, axes: str) -> str:
        """The letters of a value's axes that something sums it over by rotations."""
        for n in self.alike(number):
            for reader in self.readers[n]:
                stage = self.stages[reader]
                if isinstance(stage, Reduce):
                    return "".join(a for a, b in zip(axes, stage.axes[0], strict=True) if b not in stage.axes[1])
        return ""

    def bound(self, number: int, placed: Mapping[int, Layout]) -> list[Layout] | None:
        """The layouts among which an affine map has to choose; None if it is free."""
        if not self.any:
            return None
        if number in self.follows:
            return self.following(number, placed)
        for n in self.alike(number):
            for reader in self.readers[n]:
                stage = self.stages[reader]
                if isinstance(stage, Contract) and stage.left == n:
                    return self.leading(number, reader, stage)
        return self.summed(number)

    def following(self, number: int, placed: Mapping[int, Layout]) -> list[Layout]:
        """Layouts in which an operand meets the one that is placed."""
        product = self.stages[self.follows[number]]
        if not isinstance(product, Contract):
            return []
        anchor = placed.get(product.left) or placed[self.root(product.left)]
        around = extended(product, anchor, self.slots)
        choices = [*([around] if around is not None else []), *spaces(product, "", self.slots)]
        shape = self.stages[number].shape
        layouts = [*meeting_layouts(product, 1, shape, choices, self.slots), *self.columns(shape)]
        found = {x.key: x for x in layouts if self.meeting(self.follows[number], product, anchor, x)}
        return list(found.values())

    def meeting(self, number: int, product: Contract, left: Layout, right: Layout) -> list[tuple[Layout, SumPlan]]:
        """``contracted``, looked up where the same was asked before."""
        key = (number, left.key, right.key)
        if key not in self.met:
            self.met[key] = contracted(product, left, right, anyhow=self.over_ciphertexts)
        return self.met[key]

    def leading(self, number: int, reader: int, product: Contract) -> list[Layout]:
        """Layouts of a left operand in the spaces of its product."""
        first = self.summed_axes(reader, product.axes[2])
        own = self.summed_axes(number, product.axes[0])
        first = "".join(dict.fromkeys(own + first))
        choices = list(spaces(product, first, self.slots))
        shape = self.stages[number].shape
        return [*meeting_layouts(product, 0, shape, choices, self.slots), *self.columns(shape)]

    def summed(self, number: int) -> list[Layout] | None:
        """Layouts of a value that is summed over axes: these outermost."""
        shape = self.stages[number].shape
        axes = _LETTERS[: sum(n > 1 for n in shape)]
        first = self.summed_axes(number, axes)
        if not first:
            return None
        return [*self.orders(shape, axes, first), *self.columns(shape)]

    def permuted(self, shape: Shape) -> list[Layout]:
        """A value's axes in every order, for networks in which products leave theirs in unusual ones."""
        axes = _LETTERS[: sum(n > 1 for n in shape)]
        orders = self.orders(shape, axes, "") if self.any and 1 < len(axes) <= _MOST_AXES else []
        return [*orders, *self.columns(shape)]

    def columns(self, shape: Shape) -> list[Layout]:
        """A value's axes divided between slots and ciphertexts, where some product's do not fit into one ciphertext."""
        axes = _LETTERS[: sum(n > 1 for n in shape)]
        if not self.over_ciphertexts or len(axes) > _MOST_AXES:
            return []
        sizes = dict(zip(axes, (n for n in shape if n > 1), strict=True))
        found = (projected(s, axes, sizes, shape, self.slots) for s in columns(axes, sizes, self.slots))
        return list({x.key: x for x in found if x is not None}.values())

    def needed(self, number: int) -> list[Layout]:
        """Layouts of an input from which a map that reads it need not rotate, and those of columns of a product."""
        if number in self.wanted:
            return self.wanted[number]
        found: list[Layout | None] = []
        shape = self.stages[number].shape
        for reader in self.readers[number]:
            stage = self.stages[reader]
            if isinstance(stage, Affine):
                matrix = stage.matrices[stage.sources.index(number)]
                found += [pulled(matrix, shape, x) for x in self.columns(stage.shape)]
            elif isinstance(stage, Contract) and len(stage.sizes) <= _MOST_AXES:
                every = columns("".join(stage.sizes), stage.sizes, self.slots)
                found += meeting_layouts(stage, int(stage.left != number), shape, list(every), self.slots)
        self.wanted[number] = list({x.key: x for x in found if x is not None}.values())
        return self.wanted[number]

    def order(self) -> list[int]:
        """The stages as they are placed: inputs right before what needs them, so that they may follow other values."""
        numbers = range(len(self.stages))
        if not self.over_ciphertexts:
            return list(numbers)
        first = {n: min(self.readers[n], default=n) for n in numbers if isinstance(self.stages[n], InputStage)}
        for follower, number in self.follows.items():
            product = self.stages[number]
            if isinstance(product, Contract) and product.left in first:
                first[product.left] = min(first[product.left], follower)
        return sorted(numbers, key=lambda n: (first.get(n, n), n not in first, n))

    def orders(self, shape: Shape, axes: str, first: str) -> list[Layout]:
        sizes = dict(zip(axes, (n for n in shape if n > 1), strict=True))
        rest = [a for a in axes if a not in first]
        found = (
            projected(ordered(first + "".join(order), sizes, self.slots), axes, sizes, shape, self.slots)
            for order in permutations(rest)
        )
        return [layout for layout in found if layout is not None]
