"""Fold: graph to stages; what no output needs is left out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from pi_compiler.ir.stages import (
    Affine,
    Contract,
    InputStage,
    Iterated,
    Polynomial,
    Product,
    Reduce,
    Square,
    Stage,
    Stages,
    sources_of,
)
from pi_compiler.passes.compilation import Compilation
from pi_compiler.passes.folder import Folder
from pi_compiler.passes.joint import JointFolder, has_axes, streams_of


def fold(c: Compilation) -> Compilation:
    """Graph with polynomial activations -> Stages."""
    return replace(c, stages=folded(c))


def folded(c: Compilation, *, direct: bool = True, streams: bool = False) -> Stages:
    """The stages of a replaced graph.

    Args:
        c: what approximate left.
        direct: let products of two values meet where they are, and sum by rotations where that may do; if not,
            every second operand and every sum gets an affine map of its own, which always has a layout.
        streams: give residual sums that attention reads a stage of their own: one level, and maps behind it have one
            source of the stream's size instead of all that was added up to it.
    """
    graph, ranges = c.require(c.replaced, "fold", "approximate"), c.require(c.ranges, "fold", "calibrate")
    if has_axes(graph):
        folder: Folder = JointFolder(graph, ranges, direct=direct, streams=streams)
    else:
        folder = Folder(graph, ranges)
    return prune(Stages(tuple(folder.stages), folder.outputs))


def has_streams(c: Compilation) -> bool:
    """Whether there are residual sums for ``folded(streams=True)``."""
    return bool(streams_of(c.require(c.replaced, "fold", "approximate")))


def prune(stages: Stages) -> Stages:
    """Without stages that no output needs."""
    needed: set[int] = {n for n, _ in stages.outputs.values()}
    needed |= {n for n, s in enumerate(stages.stages) if isinstance(s, InputStage)}
    for number in reversed(range(len(stages.stages))):
        if number in needed:
            needed.update(sources_of(stages.stages[number]))
    order = sorted(needed)
    new: Mapping[int, int] = {old: i for i, old in enumerate(order)}
    kept: list[Stage] = []
    for old in order:
        stage = stages.stages[old]
        match stage:
            case Affine():
                stage = replace(stage, sources=tuple(new[s] for s in stage.sources))
            case Product() | Contract():
                stage = replace(stage, left=new[stage.left], right=new[stage.right])
            case Square() | Polynomial() | Reduce() | Iterated():
                stage = replace(stage, source=new[stage.source])
            case _:
                pass
        kept.append(stage)
    return Stages(tuple(kept), {name: (new[n], gain) for name, (n, gain) in stages.outputs.items()})
