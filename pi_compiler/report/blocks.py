"""The schedule of a transformer's blocks: which part of which block takes which levels, and what it costs."""

from __future__ import annotations

from collections.abc import Mapping

from pi_compiler.ir.circuit import Circuit
from pi_compiler.ir.program import Opcode
from pi_compiler.ir.stages import Affine, InputStage, Refresh, sources_of
from pi_compiler.kernels.algebra import Cost

Json = dict[str, object]


def part_of(layer: str, blocks: Mapping[str, tuple[str, str]]) -> tuple[str, str] | None:
    """Block and part of a layer, or of the layer that it was written out of."""
    name = layer
    while name not in blocks and "/" in name:
        name = name.rpartition("/")[0]
    return blocks.get(name)


def schedule_report(
    circuit: Circuit, levels: tuple[int, ...], cost: Cost, blocks: Mapping[str, tuple[str, str]], batch: int
) -> list[Json]:
    """One entry per part in program order; layers outside of blocks count as ``before``, ``between`` and ``after``.

    Seconds are those of one input of a batch.

    ``level_in`` is the highest level at which a part begins to work, ``level_out`` the lowest that it leaves: parts
    that run beside each other overlap.
    """
    if not blocks:
        return []
    places = _places([s.origin for s in circuit.stages.stages], blocks)
    entries: dict[tuple[str, str], Json] = {}
    for number, (stage, place) in enumerate(zip(circuit.stages.stages, places, strict=True)):
        if isinstance(stage, InputStage | Refresh):
            continue
        begins = levels[number] + (1 if isinstance(stage, Affine) else 0)
        begins = max([begins, *(levels[s] for s in sources_of(stage) if not isinstance(stage, Affine))])
        entry = entries.setdefault(place, {"block": place[0], "part": place[1], "level_in": begins, "layers": []})
        entry["level_in"] = max(int(str(entry["level_in"])), begins)
        entry["level_out"] = min(int(str(entry.get("level_out", levels[number]))), levels[number])
        layers = entry["layers"]
        if isinstance(layers, list) and stage.origin not in layers:
            layers.append(stage.origin)
    for entry in entries.values():
        names = entry["layers"] if isinstance(entry["layers"], list) else []
        for key, op in (
            ("rotations", Opcode.ROTATE),
            ("plain_products", Opcode.MUL_PLAIN),
            ("products", Opcode.MUL),
            ("bootstraps", Opcode.BOOTSTRAP),
        ):
            entry[key] = sum(cost.counts.get(n, {}).get(op, 0) for n in names)
        entry["predicted_seconds"] = sum(cost.seconds.get(n, 0.0) for n in names) / batch
        entry["estimated_bootstrap_seconds"] = sum(cost.estimated.get(n, 0.0) for n in names) / batch
    return list(entries.values())


def _places(layers: list[str], blocks: Mapping[str, tuple[str, str]]) -> list[tuple[str, str]]:
    """Block and part of each layer; what is in none is named by where it comes."""
    found = [part_of(layer, blocks) for layer in layers]
    first = next((i for i, p in enumerate(found) if p is not None), len(found))
    last = max((i for i, p in enumerate(found) if p is not None), default=-1)
    outside = [("before" if i < first else "after" if i > last else "between", "") for i in range(len(found))]
    return [p if p is not None else o for p, o in zip(found, outside, strict=True)]
