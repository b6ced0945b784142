"""Refresh: where a network too deep for leveled parameters would bootstrap, for plans that count and price it.

Each value is refreshed as late as possible: when a stage needs more levels than an operand has left. A refreshed value
serves all later readers.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from pi_compiler.errors import BudgetError
from pi_compiler.ir.stages import Affine, Contract, InputStage, Product, Refresh, Stage, Stages, sources_of
from pi_compiler.kernels.circuit import depth_of

BOOTSTRAP_LEVELS = 14
"""Levels that a bootstrap itself takes at N = 2^16 (Lee et al., ICML 2022)."""
USABLE = (8, 10, 12, 14, 16, 18)
"""Levels after a bootstrap that are worth trying."""


def refreshed(stages: Stages, usable: int) -> Stages:
    """The stages with bootstraps between them.

    Args:
        stages: the folded network.
        usable: levels that inputs and refreshed values have.

    Raises:
        BudgetError: one stage alone takes more.
    """
    found: list[Stage] = []
    left: list[int] = []
    now: dict[int, int] = {}
    readers = stages.consumers()

    def push(stage: Stage, level: int) -> int:
        found.append(stage)
        left.append(level)
        return len(found) - 1

    for number, stage in enumerate(stages.stages):
        depth = depth_of(stage)
        if depth > usable:
            raise BudgetError(f"layer {stage.origin!r} takes {depth} levels at once, a bootstrap leaves {usable}")
        # A map's operand is refreshed rather than its result: several maps often read one value.
        after = (
            max((depth_of(stages.stages[r]) for r in readers[number]), default=0) if isinstance(stage, Affine) else 0
        )
        needed = min(depth + after, usable)
        for source in sources_of(stage):
            if left[now[source]] < needed:
                before = found[now[source]]
                # One level more: the next refresh takes it.
                now[source] = push(Refresh(now[source], usable + 1, before.shape, before.origin), usable)
        sources = [now[s] for s in sources_of(stage)]
        level = min((left[s] for s in sources), default=usable) - depth
        now[number] = push(_reading(stage, sources), level)
    return Stages(tuple(found), {name: (now[n], gain) for name, (n, gain) in stages.outputs.items()})


def _reading(stage: Stage, sources: list[int]) -> Stage:
    match stage:
        case InputStage():
            return stage
        case Affine():
            return replace(stage, sources=tuple(sources))
        case Product() | Contract():
            return replace(stage, left=sources[0], right=sources[1])
        case _:
            return replace(stage, source=sources[0])


def bootstraps(stages: Iterable[Stage]) -> int:
    """How many values are refreshed."""
    return sum(isinstance(s, Refresh) for s in stages)
