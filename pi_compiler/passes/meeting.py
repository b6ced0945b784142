"""Which affine maps have to lay out their result for a product, and how.

A product's left operand chooses among the spaces of the product. The right one's map, where it has one of its own,
comes later in the program and takes what fits the left operand as it is placed.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import permutations

from pi_compiler.ir.graph import Shape
from pi_compiler.ir.layout import Layout
from pi_compiler.ir.stages import Affine, Contract, Iterated, Polynomial, Reduce, Refresh, Square, Stages
from pi_compiler.kernels.summing import contracted
from pi_compiler.passes.spaces import extended, meeting_layouts, ordered, projected, spaces

_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_MOST_AXES = 3


class Meetings:
    """The products of a network and what they ask of layouts; false if there are none."""

    def __init__(self, stages: Stages, slots: int) -> None:
        self.stages = stages.stages
        self.slots = slots
        self.readers = stages.consumers()
        self.any = any(isinstance(s, Contract | Reduce) for s in self.stages)
        self.follows: dict[int, int] = {}
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
        layouts = meeting_layouts(product, 1, self.stages[number].shape, choices, self.slots)
        found = {x.key: x for x in layouts if contracted(product, anchor, x) is not None}
        return list(found.values())

    def leading(self, number: int, reader: int, product: Contract) -> list[Layout]:
        """Layouts of a left operand in the spaces of its product."""
        first = self.summed_axes(reader, product.axes[2])
        own = self.summed_axes(number, product.axes[0])
        first = "".join(dict.fromkeys(own + first))
        choices = list(spaces(product, first, self.slots))
        return meeting_layouts(product, 0, self.stages[number].shape, choices, self.slots)

    def summed(self, number: int) -> list[Layout] | None:
        """Layouts of a value that is summed over axes: these outermost."""
        shape = self.stages[number].shape
        axes = _LETTERS[: sum(n > 1 for n in shape)]
        first = self.summed_axes(number, axes)
        if not first:
            return None
        return self.orders(shape, axes, first)

    def permuted(self, shape: Shape) -> list[Layout]:
        """A value's axes in every order, for networks in which products leave theirs in unusual ones."""
        axes = _LETTERS[: sum(n > 1 for n in shape)]
        return self.orders(shape, axes, "") if self.any and 1 < len(axes) <= _MOST_AXES else []

    def orders(self, shape: Shape, axes: str, first: str) -> list[Layout]:
        sizes = dict(zip(axes, (n for n in shape if n > 1), strict=True))
        rest = [a for a in axes if a not in first]
        found = (
            projected(ordered(first + "".join(order), sizes, self.slots), axes, sizes, shape, self.slots)
            for order in permutations(rest)
        )
        return [layout for layout in found if layout is not None]
