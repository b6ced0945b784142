"""Pack: choose a layout for every value and a plan for every matrix.

The search walks the stages in order and keeps the cheapest assignments of layouts to the values
that are still needed (dynamic programming over the frontier, pruned to a beam). Prices come from
the measured cost table at the level at which each stage will run, which is known before packing
because a stage's depth does not depend on layouts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar
from weakref import WeakKeyDictionary

import numpy as np

from pi_compiler.cost import Prices
from pi_compiler.errors import BudgetError, InternalError
from pi_compiler.ir.circuit import Circuit, MatVecPlan, SumPlan
from pi_compiler.ir.layout import Layout
from pi_compiler.ir.stages import (
    Affine,
    Contract,
    InputStage,
    Iterated,
    Polynomial,
    Product,
    Reduce,
    Refresh,
    Square,
    Stage,
    Stages,
    sources_of,
)
from pi_compiler.kernels.matvec import Structure, best_split, make_plan, structure, uniform
from pi_compiler.kernels.summing import reduced, slots_of_terms
from pi_compiler.options import Options
from pi_compiler.passes.layouts import Grid, Placed, distinct, input_layouts, plain_grids, result_layouts, tap_layouts
from pi_compiler.passes.meeting import Meetings, exceeding
from pi_compiler.passes.spaces import filled

_BEAM = 10
_BEAM_OF_PRODUCTS = 24  # layouts that meet cost more at first: they must not be pruned before they pay
_BEAM_OF_COLUMNS = 64  # copies and turned diagonals pay two products later
_NEAR, _TIE = 1.6, 1.01
_MANY, _FEW = 4, 64  # results with more than _MANY times the fewest diagonals, plus _FEW, are dropped


class NoLayout(BudgetError):
    """No layout was found for a value; says for which."""


@dataclass(frozen=True, slots=True)
class _State:
    cost: float
    placed: dict[int, Placed]


class _Known:
    """What holds for stages in so many slots whatever things cost, and is kept while the stages are.

    One network is packed several times: at prices that its own constants change, and with more bits to spare.
    """

    _all: ClassVar[WeakKeyDictionary[Stages, dict[tuple[int, bool], _Known]]] = WeakKeyDictionary()

    def __init__(self, stages: Stages, slots: int, *, columns: bool) -> None:
        self.meetings = Meetings(stages, slots, columns=columns)
        self.structures: dict[tuple[int, ...], Structure] = {}
        self.patterns: dict[int, int] = {}
        self.reduced: dict[tuple[int, ...], list[tuple[Layout, SumPlan]]] = {}

    @classmethod
    def of(cls, stages: Stages, slots: int, *, columns: bool) -> _Known:
        found = cls._all.setdefault(stages, {})
        if (slots, columns) not in found:
            found[slots, columns] = cls(stages, slots, columns=columns)
        return found[slots, columns]


class _Packer:
    def __init__(
        self, stages: Stages, levels: Sequence[int], slots: int, prices: Prices, options: Options, *, columns: bool
    ) -> None:
        self.stages = stages
        self.levels = levels
        self.slots = slots
        self.prices = prices
        self.options = options
        self.readers = stages.consumers()
        self.outputs = {n for n, _ in stages.outputs.values()}
        self.prices_of: dict[tuple[int, ...], float] = {}
        self.tapped: dict[int, list[tuple[Placed, Placed]]] = {}
        known = _Known.of(stages, slots, columns=columns)
        self.structures, self.patterns = known.structures, known.patterns
        self.meetings, self.reduced = known.meetings, known.reduced

    def run(self) -> tuple[float, Circuit]:
        """The circuit of the cheapest assignment found, and its cost."""
        states = [_State(0.0, {})]
        order = self.meetings.order()
        for at, number in enumerate(order):
            grown = [new for state in states for new in self.extend(state, number)]
            if not grown:
                raise no_layout(self.stages.stages[self.meetings.product_of(number)], self.slots)
            states = self.prune(grown, order[: at + 1])
        best = min(states, key=lambda s: s.cost)
        return best.cost, self.finish([best.placed[n].layout for n in range(len(self.stages.stages))], best)

    def prune(self, states: list[_State], placed: Sequence[int]) -> list[_State]:
        live = [v for v in placed if not set(self.readers[v]) <= set(placed)]
        best: dict[tuple[int, ...], _State] = {}
        for state in sorted(states, key=lambda s: s.cost):
            best.setdefault(tuple(state.placed[v].layout.key for v in live), state)
        width = _BEAM_OF_COLUMNS if self.meetings.over_ciphertexts else _BEAM_OF_PRODUCTS if self.meetings else _BEAM
        return list(best.values())[:width]

    def extend(self, state: _State, number: int) -> list[_State]:
        stage = self.stages.stages[number]
        match stage:
            case InputStage():
                entering = distinct([*input_layouts(stage.shape, self.slots), *self.permuted(stage)])
                if self.meetings.over_ciphertexts:
                    needed = [Placed(x, next(plain_grids(stage.shape))) for x in self.meetings.needed(number)]
                    entering = distinct([*entering, *needed, *self.alike(number, stage, state)])
                options = [(p, self.encryption(p, number)) for p in entering]
                options += [(a, self.encryption(a, number)) for a, _ in self.taps(number)]
            case Affine():
                options = self.priced(number, stage, state)
            case Square():
                options = [(replace(state.placed[stage.source]), 0.0)]
            case Refresh():
                source = state.placed[stage.source]
                clear = replace(source, layout=replace(source.layout, zero=True), tame=True)
                options = [(clear, self.prices.bootstrap(stage.level) * source.layout.ciphertexts)]
            case Polynomial():
                source = state.placed[stage.source]
                # A polynomial of high degree may carry wild junk out of every bound; its own p(0) is tame.
                options = [(self.with_junk(source, stage), 0.0)] if source.tame else []
            case Contract() | Reduce():
                options = self.summed(number, stage, state)
            case Iterated():
                source = state.placed[stage.source]
                options = [(self.with_junk(source, stage), 0.0)] if source.tame else []
            case Product():
                left, right = state.placed[stage.left], state.placed[stage.right]
                same = left.layout.index is right.layout.index or np.array_equal(left.layout.index, right.layout.index)
                clean = left if left.layout.zero else right  # zero times junk is zero
                options = [(clean, 0.0)] if same else []
        return [
            _State(state.cost + cost, {**state.placed, number: placed})
            for placed, cost in options
            if not (number in self.outputs and isinstance(stage, Affine | Square) and not placed.layout.zero)
        ]

    @staticmethod
    def with_junk(placed: Placed, stage: Polynomial | Iterated) -> Placed:
        full = placed.layout.index.min() >= 0
        function = stage.poly if isinstance(stage, Polynomial) else stage.plan.inner
        if full or not placed.layout.zero or float(function(0.0)) == 0.0:
            return placed
        return replace(placed, layout=replace(placed.layout, zero=False))

    def summed(self, number: int, stage: Contract | Reduce, state: _State) -> list[tuple[Placed, float]]:
        """The ways in which a product with axes, or a sum over axes, comes out; none if it does not."""
        source = state.placed[stage.left if isinstance(stage, Contract) else stage.source]
        found = self.meeting(number, stage, [state.placed[n].layout for n in sources_of(stage)])
        level = self.levels[number] + isinstance(stage, Contract)
        priced = [(layout, self.summing(plan, level, isinstance(stage, Contract))) for layout, plan in found]
        return [(Placed(layout, source.grid, layout.zero), cost) for layout, cost in priced]

    def summing(self, plan: SumPlan, level: int, multiplied: bool) -> float:
        """Seconds of a product with axes or of a sum over axes."""
        p, pairs = self.prices, sum(map(len, plan.groups))
        steps = plan.parts * len(plan.steps)
        cost = (plan.turned + steps) * p.named("rotate", level) + steps * p.named("add", level)
        below = level - multiplied
        cost += plan.backs * (p.named("rotate", below) + p.named("add", below))
        if not multiplied:
            cost += (pairs - plan.parts) * p.named("add", level)
        elif plan.steps:
            cost += pairs * p.named("mul", level) + (pairs - plan.parts) * p.named("add", level)
            cost += plan.parts * (p.named("relinearize", level) + p.named("rescale", level))
        else:
            cost += pairs * p.tensor(level) + plan.parts * p.relinearize_rescale(level)
        return cost

    def meeting(self, number: int, stage: Contract | Reduce, own: Sequence[Layout]) -> list[tuple[Layout, SumPlan]]:
        if isinstance(stage, Contract):
            return self.meetings.meeting(number, stage, own[0], own[1])
        key = (number, own[0].key)
        if key not in self.reduced:
            self.reduced[key] = reduced(stage, own[0])
        return self.reduced[key]

    def taps(self, number: int) -> list[tuple[Placed, Placed]]:
        """Tap layouts of an input that only one affine map reads, and alone."""
        readers = self.readers[number]
        stage = self.stages.stages[readers[0]] if len(readers) == 1 else None
        if number in self.tapped or not isinstance(stage, Affine) or len(stage.sources) != 1:
            return self.tapped.get(number, [])
        level = self.levels[readers[0]] + 1
        self.tapped[number] = tap_layouts(
            stage.matrices[0],
            self.stages.stages[number].shape,
            stage.shape,
            self.slots,
            self.options.max_input_ciphertexts,
            self.prices,
            level,
        )
        return self.tapped[number]

    def encryption(self, placed: Placed, number: int) -> float:
        return placed.layout.ciphertexts * self.prices.named("encrypt", self.levels[number])

    def results(self, number: int, stage: Affine, state: _State) -> list[Placed]:
        sources = [state.placed[s] for s in stage.sources]
        if sources[0].layout.taps is not None:
            return [b for a, b in self.taps(stage.sources[0]) if a.layout.key == sources[0].layout.key]
        bound = self.meetings.bound(number, {n: p.layout for n, p in state.placed.items()})
        if bound is not None:
            # Diagonals of a product of matrices, for one, which stay where they are.
            free = self.meetings.over_ciphertexts and number not in self.meetings.follows
            placed = [Placed(layout, next(plain_grids(stage.shape))) for layout in bound]
            alike = self.alike(number, stage, state) if free else []
            copied = [replace(p, layout=x) for p in alike if (x := filled(p.layout)) is not None]
            return distinct([*placed, *alike, *copied])
        results = result_layouts(stage.shape, sources, self.slots)
        return distinct([*self.alike(number, stage, state), *results, *self.permuted(stage)])

    def alike(self, number: int, stage: Affine | InputStage, state: _State) -> list[Placed]:
        """The layouts of values of the same shape that are still read."""
        same = [p for v, p in state.placed.items() if p.layout.shape == stage.shape and self.near(v, number)]
        return [Placed(replace(p.layout, zero=True), p.grid) for p in same if p.layout.taps is None]

    def permuted(self, stage: Affine | InputStage) -> list[Placed]:
        return [Placed(layout, next(plain_grids(stage.shape))) for layout in self.meetings.permuted(stage.shape)]

    def near(self, value: int, number: int) -> bool:
        return any(r >= number for r in self.readers[value])

    def priced(self, number: int, stage: Affine, state: _State) -> list[tuple[Placed, float]]:
        """Results with prices; those with many times the fewest diagonals are not worth pricing."""
        sources = [state.placed[s].layout for s in stage.sources]
        found = [(p, self.structure(number, stage, sources, p.layout)) for p in self.results(number, stage, state)]
        fewest = min((len(s.keys) for _, s in found), default=0)
        return [(p, self.plan(number, stage, sources, p)[1]) for p, s in found if len(s.keys) <= _MANY * fewest + _FEW]

    def structure(self, number: int, stage: Affine, sources: Sequence[Layout], result: Layout) -> Structure:
        key = (self.pattern(number, stage), *(s.key for s in sources), result.key)
        if key not in self.structures:
            self.structures[key] = structure(stage.matrices, sources, result)
        return self.structures[key]

    def pattern(self, number: int, stage: Affine) -> int:
        """Equal for maps with nonzeros in the same places: a network repeats its layers."""
        if number not in self.patterns:
            parts = [(m.shape, m.indptr.tobytes(), m.indices.tobytes()) for m in stage.matrices]
            self.patterns[number] = hash((tuple(parts), stage.shape))
        return self.patterns[number]

    def plan(self, number: int, stage: Affine, sources: Sequence[Layout], result: Placed) -> tuple[Structure, float]:
        s = self.structure(number, stage, sources, result.layout)
        key = (number, *(x.key for x in sources), result.layout.key)
        if key not in self.prices_of:
            level = self.levels[number] + 1
            split = best_split(s, *self.step_prices(level), hints=self.hints(result.grid), thorough=False)
            numbers = int(uniform(s, stage.matrices, sources, result.layout).sum())
            self.prices_of[key] = split.cost + self.rest(s, numbers, level)
        return s, self.prices_of[key]

    def step_prices(self, level: int) -> tuple[float, float]:
        """Prices of a baby and a giant step; near ones are made equal, so that like layers share their keys."""
        baby, giant = self.prices.baby(level), self.prices.giant(level)
        if self.prices.fused and max(baby, giant) < _NEAR * min(baby, giant):
            baby = (baby + giant) / 2
            giant = _TIE * baby
        return baby, giant

    def rest(self, s: Structure, numbers: int, level: int) -> float:
        """What does not depend on the split, for so many diagonals that are numbers."""
        p = self.prices
        products = (len(s.keys) - numbers) * p.product(level, s.span) + numbers * p.product(level, 1)
        folds = len(s.folds) * (p.named("rotate", level) + p.named("add", level))
        return products + s.outputs * (folds + p.named("rescale", level)) + s.rotated * p.finish(level)

    @staticmethod
    def hints(grid: Grid) -> tuple[int, ...]:
        return (grid.row, grid.row * grid.gap, grid.block)

    def finish(self, layouts: list[Layout], best: _State) -> Circuit:
        """Choose the final splits, counting a baby step that exists already as free."""
        made: set[tuple[int, int, int]] = set()
        plans: dict[int, MatVecPlan] = {}
        sums: dict[int, SumPlan] = {}
        for number, stage in enumerate(self.stages.stages):
            if isinstance(stage, Contract | Reduce):
                found = self.meeting(number, stage, [layouts[n] for n in sources_of(stage)])
                level, multiplied = self.levels[number] + isinstance(stage, Contract), isinstance(stage, Contract)
                chosen = [plan for layout, plan in found if layout.key == layouts[number].key]
                if not chosen:
                    raise InternalError(f"operands of {stage.origin!r} do not meet in the layouts chosen")
                sums[number] = min(chosen, key=lambda plan: self.summing(plan, level, multiplied))
            if not isinstance(stage, Affine):
                continue
            sources = [layouts[s] for s in stage.sources]
            s = self.structure(number, stage, sources, layouts[number])
            level = self.levels[number] + 1

            def free(source: int, ciphertext: int, baby: int, stage: Affine = stage) -> bool:
                return (stage.sources[source], ciphertext, baby % self.slots) in made

            shared = any(any(m[0] == v for m in made) for v in stage.sources)
            split = best_split(
                s, *self.step_prices(level), free=free if shared else None, hints=self.hints(best.placed[number].grid)
            )
            layout = layouts[number]
            bias = layout.pack(stage.bias.reshape(stage.shape))
            numbers = uniform(s, stage.matrices, sources, layout)
            plans[number] = make_plan(s, split, stage.sources, bias, numbers)
            for _, source, ciphertext, baby, _, _ in plans[number].terms.tolist():
                made.add((stage.sources[source], ciphertext, baby % self.slots))
        return Circuit(self.stages, self.slots, tuple(layouts), plans, sums)


def no_layout(stage: Stage, slots: int) -> NoLayout:
    """What to say where the search has nothing left."""
    if not isinstance(stage, Contract | Reduce):
        return NoLayout(f"no layout for layer {stage.origin!r}", f"its shape is {list(stage.shape)}, slots: {slots}")
    lengths = ", ".join(str(n) for n in stage.sizes.values())
    return NoLayout(
        f"the product at layer {stage.origin!r} cannot be packed",
        f"its axes, of lengths {lengths}, padded to powers of two, take {slots_of_terms(stage)} slots; "
        f"a ciphertext has {slots}",
        hint="a larger --log-n, fewer tokens or heads, or smaller heads",
    )


def pack_stages(stages: Stages, levels: Sequence[int], slots: int, prices: Prices, options: Options) -> Circuit:
    """The cheapest circuit found for a number of slots.

    Args:
        stages: the folded network.
        levels: level of each stage's value.
        slots: slots of a ciphertext.
        prices: cost of instructions at this ring degree.
        options: see ``Options.max_input_ciphertexts``.

    Raises:
        NoLayout: some value has none.
    """
    # The search for columns is wider, and may still lose the assignments that go on; that without them is quick.
    found: list[tuple[float, Circuit]] = []
    missing: NoLayout | None = None
    for columns in (False, True) if exceeding(stages, slots) else (False,):
        try:
            found.append(_Packer(stages, levels, slots, prices, options, columns=columns).run())
        except NoLayout as error:
            missing = error
    if missing is not None and not found:
        raise missing
    return min(found, key=lambda pair: pair[0])[1]
