"""The layouts that the planner chooses from.

A tensor of C channels of H x W is placed by a ``Grid``: channels sit ``block`` slots apart, and with
gap g the pixels of g^2 channels interleave in one block (multiplexed packing: Lee et al., ICML
2022; as one matrix per convolution: Orion, ASPLOS 2025). A strided convolution's natural result is
its input's grid with the gap multiplied, so that strides cost no level and few diagonals. Flat
tensors are the case H = W = 1.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from pi_compiler.cost import Prices
from pi_compiler.ir.graph import Shape
from pi_compiler.ir.layout import Layout, next_power, place
from pi_compiler.ir.stages import Matrix
from pi_compiler.ir.taps import Taps, windows_of


@dataclass(frozen=True, slots=True)
class Grid:
    """Slot of channel c, row y, column x: see the module's text.

    Attributes:
        row: slots from one row of the base grid to the next.
        column: slots from one column to the next.
        block: slots from one block of channels to the next.
        gap: g; a block holds g^2 channels.
    """

    row: int
    column: int
    block: int
    gap: int

    def describe(self) -> str:
        """For reports."""
        kind = f"gap {self.gap}" if self.gap > 1 else "plain"
        return f"{kind}, block {self.block}"


@dataclass(frozen=True, slots=True)
class Placed:
    """A layout, the grid that it came from, and whether its junk, if any, stays within [-1, 1]."""

    layout: Layout
    grid: Grid
    tame: bool = True


def channels_first(shape: Shape) -> tuple[int, int, int]:
    """A tensor's shape as (C, H, W), its batch dimension of 1 left out."""
    dims = shape[1:] if len(shape) > 1 and shape[0] == 1 else shape
    if len(dims) == 0:
        return 1, 1, 1
    if len(dims) == 1:
        return dims[0], 1, 1
    if len(dims) == 2:
        return dims[0], 1, dims[1]
    return int(np.prod(dims[:-2])), dims[-2], dims[-1]


def fits(grid: Grid, shape: Shape) -> bool:
    """Whether the pixels of a block of channels do not run into the next block."""
    _, height, width = channels_first(shape)
    g = grid.gap
    rows, columns = height * g - 1, width * g - 1
    if rows and columns * grid.column >= grid.row:
        return False
    return rows * grid.row + columns * grid.column < grid.block


def on_grid(shape: Shape, grid: Grid, slots: int, period: int | None = None, zero: bool = True) -> Placed:
    """The layout of a tensor on a grid."""
    channels, height, width = channels_first(shape)
    g = grid.gap
    c, y, x = np.ogrid[:channels, :height, :width]
    sub = c % (g * g)
    slot = (c // (g * g)) * grid.block + (y * g + sub // g) * grid.row + (x * g + sub % g) * grid.column
    slot = np.broadcast_to(slot, (channels, height, width)).ravel()
    # Whole blocks count towards the period: a cyclic shift by blocks then stays inside it.
    if period is None:
        period = min(slots, next_power(-(-channels // (g * g)) * grid.block))
    return Placed(place(shape, slots, slot, period=period, zero=zero, name=grid.describe()), grid)


def plain_grids(shape: Shape) -> Iterator[Grid]:
    """Grids that depend on nothing but the tensor."""
    _, height, width = channels_first(shape)
    yield Grid(width, 1, next_power(height * width), 1)
    yield Grid(width, 1, height * width, 1)


def input_layouts(shape: Shape, slots: int) -> list[Placed]:
    """What the client may send without knowing the first layer."""
    _, height, width = channels_first(shape)
    grids = list(plain_grids(shape))
    if height > 1:
        pitch = next_power(width)
        grids.append(Grid(pitch, 1, next_power(height) * pitch, 1))
    return distinct(on_grid(shape, g, slots) for g in grids if fits(g, shape))


def result_layouts(shape: Shape, sources: Iterable[Placed], slots: int) -> list[Placed]:
    """Results worth pricing for an affine map that reads these sources."""
    _, height, width = channels_first(shape)
    flat = height == width == 1
    grids: list[Grid] = list(plain_grids(shape))
    spans: set[int] = set()
    for source in sources:
        g = source.grid
        spans.add(source.layout.period)
        _, h, _ = channels_first(source.layout.shape)
        steps = {1, 2, 4, 8} if flat else {1, max(1, round(h / max(1, height)))}
        steps |= {1 << (s - 1).bit_length() for s in steps}
        grids += [Grid(g.row, g.column, g.block, g.gap * s) for s in sorted(steps)]
        if flat:
            grids += [Grid(stride, stride, stride, 1) for stride in {g.block, g.column * g.gap, g.row * g.gap}]
        elif g.gap > 1:
            grids.append(Grid(g.row, g.column, g.block, g.gap // 2))
    found = []
    for grid in dict.fromkeys(grids):
        if not fits(grid, shape):
            continue
        base = on_grid(shape, grid, slots)
        found.append(base)
        found += [on_grid(shape, grid, slots, period=p) for p in sorted(spans) if base.layout.period < p <= slots]
    return distinct(found)


def distinct(placed: Iterable[Placed]) -> list[Placed]:
    """Without layouts that place every element alike."""
    return list({p.layout.key: p for p in placed}.values())


def tap_layouts(
    matrix: Matrix, source: Shape, result: Shape, slots: int, limit: int, prices: Prices, level: int, keep: int = 6
) -> list[tuple[Placed, Placed]]:
    """Input and result layouts where the client packs replicated, pre-rotated taps.

    Args:
        matrix: the first layer.
        source: shape of the input.
        result: shape of the first layer's value.
        slots: slots of a ciphertext.
        limit: most input ciphertexts.
        prices: to rank the candidates.
        level: level of the first layer's products.
        keep: how many to return, cheapest first by an estimate.
    """
    channels, height, width = channels_first(result)
    positions = height * width
    coo = matrix.tocoo()
    windows = windows_of(coo.row.astype(np.int64), coo.col.astype(np.int64), positions)
    taps, block, rows = len(windows), next_power(positions), next_power(channels)
    if block * rows > slots:
        return []
    ranked: list[tuple[float, Taps]] = []
    size = next_power(taps)
    while size >= 1 and -(-taps // size) <= limit:
        lanes = 1
        while lanes * size * block <= slots and rows * lanes * block <= slots:
            copies = 1
            while lanes * copies <= min(rows, size) and -(-taps // size) * copies <= limit:
                t = Taps(windows, rows, block, lanes, copies, size)
                ranked.append((_estimate(t, prices, level), t))
                copies *= 2
            lanes *= 2
        size //= 2
    ranked.sort(key=lambda r: r[0])
    found = []
    for _, t in ranked[:keep]:
        name = f"{taps} taps, {t.lanes} lanes, {t.groups * t.copies} ciphertexts"
        entering = Layout(source, slots, t.index(), False, name, t)
        leaving = place(
            result,
            slots,
            t.result_slots(channels),
            period=rows * t.stride,
            zero=t.lanes == 1,
            name=f"stride {t.stride}",
        )
        found.append(
            (Placed(entering, Grid(width, 1, t.stride, 1)), Placed(leaving, Grid(width, 1, t.stride, 1), t.lanes == 1))
        )
    return found


def _estimate(t: Taps, prices: Prices, level: int) -> float:
    """Seconds of encryption, rotations and products of a first layer."""
    ciphertexts = t.groups * t.copies
    best = min(ciphertexts * (n1 - 1) + -(-t.share // n1) - 1 for n1 in (1, 2, 4, 8, 16, 32) if n1 <= t.share)
    folds = len(t.lane_folds) + max(0, (t.width // t.rows).bit_length() - 1)
    rotations = (best + folds) * prices.named("rotate", level)
    products = ciphertexts * t.share * (prices.named("mul_plain", level) + prices.named("add", level))
    return rotations + products + ciphertexts * prices.named("encrypt", level)
