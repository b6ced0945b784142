"""DeepReShape (Jha and Reagen, 2023): other channel counts, so that ReLUs stand where they matter, within two budgets.

Stages (runs of ReLU layers of one image size) are ordered by criticality as in DeepReDuce. Among all
multipliers of the stages' channels from a grid, those whose ReLUs fit the ReLU budget and whose
multiplications fit the FLOP budget are candidates; the one whose ReLUs follow the order of criticality best,
and then has the most multiplications, is built, initialized from the trained network, and trained.
All its activations are ReLUs.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pi_compiler.errors import BudgetError
from pi_compiler.ir.graph import Graph, Node
from pi_compiler.models.training.fusion import multiplications
from pi_compiler.models.training.graph_module import GraphModule
from pi_compiler.models.training.methods.deepreduce import criticality, stages_of
from pi_compiler.models.training.methods.method import Task, mask_relus
from pi_compiler.models.training.operations import COMPARING
from pi_compiler.models.training.widths import Channels, with_widths
from pi_compiler.ops.op import integer

__all__ = ["Shape", "best_first", "deepreshape", "shapes"]

GRID = (0.0625, 0.125, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0)


@dataclass(frozen=True, slots=True)
class Shape:
    """One candidate.

    Attributes:
        multipliers: of the channels, one per stage.
        relus: per stage.
        flops: multiplications of weights with values.
        widths: channels by leader of a group, see ``widths.Channels``.
    """

    multipliers: tuple[float, ...]
    relus: tuple[int, ...]
    flops: int
    widths: Mapping[Node, int]


def shapes(graph: Graph, stages: Sequence[Sequence[str]], budget: int, flops: int) -> list[Shape]:
    """All candidates within both budgets.

    Args:
        graph: the network.
        stages: names of its ReLU layers by stage.
        budget: most ReLUs.
        flops: most multiplications.
    """
    channels = Channels(graph)
    stage_of = {name: k for k, stage in enumerate(stages) for name in stage}
    sizes = _sizes_by_group(graph, channels, stage_of)
    groups = {leader: _stage(leader, graph, channels, stage_of) for leader in channels.widths()}
    layers = [n for n in graph.nodes() if n.op in ("Conv", "Gemm")]
    found = []
    for multipliers in itertools.product(GRID, repeat=len(stages)):
        widths = {
            leader: max(1, round(leader.shape[1] * multipliers[k])) for leader, k in groups.items() if k is not None
        }
        relus = np.zeros(len(stages), dtype=np.int64)
        for leader, k, per_channel, old in sizes:
            relus[k] += per_channel * widths.get(leader, old)
        if relus.sum() > budget or not _shortcuts_fit(channels, widths):
            continue
        cost = sum(_cost(n, channels, widths) for n in layers)
        if cost <= flops:
            found.append(Shape(multipliers, tuple(int(n) for n in relus), cost, widths))
    return found


def best_first(found: Sequence[Shape], critical: Sequence[float]) -> list[Shape]:
    """Candidates, the best first: fewest stages out of the order of criticality, then most multiplications.

    Args:
        found: see ``shapes``.
        critical: per stage.
    """

    def disorder(s: Shape) -> int:
        pairs = itertools.combinations(range(len(critical)), 2)
        return sum((critical[a] - critical[b]) * (s.relus[a] - s.relus[b]) < 0 for a, b in pairs)

    return sorted(found, key=lambda s: (disorder(s), -s.flops, s.multipliers))


def deepreshape(task: Task) -> None:
    """See the module's docstring; ``task.module`` becomes another module.

    Recipe options: ``flops`` (budget relative to the network's multiplications, 1), ``exponent`` (see
    ``deepreduce``).

    Raises:
        BudgetError: no candidate fits both budgets.
    """
    graph = task.module.to_graph()
    masked = mask_relus(task)
    stages = stages_of({n: m.node.shape for n, m in masked.items()})
    total = sum(multiplications(n) for n in graph.nodes() if n.op in ("Conv", "Gemm"))
    most = int(task.recipe.options.get("flops", 1.0) * total)
    found = shapes(graph, stages, task.relu_budget, most)
    if not found:
        raise BudgetError(
            f"no channel counts give at most {task.relu_budget} ReLUs and {most} multiplications",
            f"the network has {sum(m.node.size for m in masked.values())} ReLUs and {total} multiplications",
            f"each stage's channels were multiplied by {', '.join(f'{g:g}' for g in GRID)}",
            hint="a larger budget, or a method that removes ReLUs",
        )
    best = best_first(found, criticality(task, masked, stages))[0]
    task.module = GraphModule(with_widths(graph, best.widths, task.seed))
    task.module.normalize(task.batches())
    task.run("finetune", task.recipe.finetune)


def _sizes_by_group(graph: Graph, channels: Channels, stage_of: Mapping[str, int]) -> list[tuple[Node, int, int, int]]:
    """Per ReLU layer: its group, its stage, its elements per channel, its channels now."""
    found = []
    for node in graph.nodes():
        if node.op in COMPARING and node.origin in stage_of:
            count = node.shape[1] // channels.each[node] if len(node.shape) > 1 else 1
            found.append((channels.find(node), stage_of[node.origin], node.size // count, count))
    return found


def _cost(node: Node, channels: Channels, widths: Mapping[Node, int]) -> int:
    """Multiplications of a layer with other channels before and behind it."""

    def scaled(number: int, at: Node) -> int:
        leader = channels.find(at)
        return number if leader in channels.fixed else number * widths.get(leader, leader.shape[1]) // leader.shape[1]

    behind = scaled(multiplications(node), node)
    grouped = node.op == "Conv" and integer(node, "group") != 1
    return behind if grouped else scaled(behind, node.inputs[0])


def _stage(leader: Node, graph: Graph, channels: Channels, stage_of: Mapping[str, int]) -> int | None:
    """The stage whose ReLUs work on a group's channels, None where there are none."""
    members = (n for n in graph.nodes() if channels.find(n) is leader and n.origin in stage_of and n.op in COMPARING)
    first = next(members, None)
    return None if first is None else stage_of[first.origin]


def _shortcuts_fit(channels: Channels, widths: Mapping[Node, int]) -> bool:
    """Whether no channel-padded shortcut would have to drop channels."""
    return all(
        widths.get(leader, leader.shape[1]) >= widths.get(x, x.shape[1])
        for leader, (x, _, _) in channels.padded.items()
    )
