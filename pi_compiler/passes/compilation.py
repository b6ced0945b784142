"""The one record that passes read and extend, and the calibrated ranges in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from pi_compiler.approx.poly import Fit
from pi_compiler.cost import CostTable
from pi_compiler.cost_mpc import MpcPrices
from pi_compiler.errors import InternalError
from pi_compiler.ir.circuit import Circuit
from pi_compiler.ir.graph import FloatArray, Graph, Node
from pi_compiler.ir.mpc_program import MpcProgram
from pi_compiler.ir.params import Params
from pi_compiler.ir.program import Program, Signature
from pi_compiler.ir.stages import Stages
from pi_compiler.kernels.algebra import Cost
from pi_compiler.options import Options

T = TypeVar("T")

MAX_KEPT = 200_000
"""Values of an activation's input that are kept for fits by channel and for exceedances."""

_BINS = 512
_PROBABILITIES = (0.0001, 0.001, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 0.999, 0.9999)


@dataclass(frozen=True, slots=True, eq=False)
class Range:
    """What calibration saw of one value.

    Attributes:
        low: smallest value.
        high: largest value.
        channel_low: per channel (axis 1).
        channel_high: per channel.
        mean: over all elements.
        std: over all elements.
        quantiles: probability -> value, over all elements; activation inputs only.
        channel_mean: per channel.
        channel_std: per channel.
        edges: histogram bin edges; activation inputs only.
        mass: histogram mass per bin, sums to 1; activation inputs only.
        samples: number of scalar values seen.
        seen: (values, channels), a thinned sample of what the rest was made from; activation inputs only.
        held_out: (values, channels) that the rest has not seen; activation inputs only.
    """

    low: float
    high: float
    channel_low: FloatArray
    channel_high: FloatArray
    mean: float
    std: float
    quantiles: Mapping[float, float]
    channel_mean: FloatArray
    channel_std: FloatArray
    edges: FloatArray
    mass: FloatArray
    samples: int
    seen: FloatArray | None = None
    held_out: FloatArray | None = None

    @property
    def magnitude(self) -> float:
        """Largest absolute value."""
        return max(abs(self.low), abs(self.high))

    @property
    def channels(self) -> tuple[FloatArray, FloatArray]:
        """Lower and upper ends per channel."""
        return self.channel_low, self.channel_high

    def widened(self, margin: float) -> tuple[float, float]:
        """The interval with its half width multiplied by a margin."""
        center, half = (self.low + self.high) / 2, (self.high - self.low) / 2
        half = max(half, 1e-6 * max(1.0, abs(center))) * margin
        return center - half, center + half


@dataclass(frozen=True, slots=True, eq=False)
class Ranges:
    """Ranges by the identity of a graph's node."""

    by_node: Mapping[int, Range]

    def of(self, node: Node) -> Range:
        """The range of a node's value.

        Raises:
            InternalError: the node was not calibrated.
        """
        found = self.by_node.get(id(node))
        if found is None:
            raise InternalError(f"no calibrated range for {node!r}")
        return found


@dataclass(frozen=True, slots=True, eq=False)
class Chosen:
    """A fit that a budget decided on; ``per_channel``: it is made on [-1, 1] for every channel's own range."""

    fit: Fit
    per_channel: bool


@dataclass(frozen=True, slots=True)
class Limits:
    """What the backend that a plan is made for allows.

    Attributes:
        max_log_n: largest log2 of the ring degree.
        max_prime_bits: largest prime.
        specials: special primes of its key switching.
        any_specials: whether plans may use more of them, and digits of as many primes as they like.
        fused: see ``Capabilities``.
    """

    max_log_n: int
    max_prime_bits: int
    specials: int
    any_specials: bool = False
    fused: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Replacement:
    """What replaced one nonlinearity.

    Attributes:
        origin: the layer.
        op: the ONNX operator.
        elements: number of scalar evaluations.
        fit: the polynomial and its certificate.
    """

    origin: str
    op: str
    elements: int
    fit: Fit


@dataclass(frozen=True, slots=True)
class Kept:
    """A nonlinearity that stays exact under MPC: layer, operator, scalar evaluations, comparisons of each."""

    origin: str
    op: str
    elements: int
    comparisons: int


@dataclass(frozen=True, slots=True)
class Precision:
    """Fractional bits of values and of factors under MPC."""

    frac: int
    weight_frac: int


@dataclass(frozen=True, slots=True, eq=False)
class MpcRanges:
    """What an MPC program's values look like on calibration samples.

    Attributes:
        largest: per layer the largest absolute value.
        too_large: layers whose values leave the ring, given some room.
        wraps: per layer the expected truncations per inference that wrap around.
    """

    largest: Mapping[str, float]
    too_large: Mapping[str, float]
    wraps: Mapping[str, float]

    @property
    def expected_wraps(self) -> float:
        """Of the whole program."""
        return sum(self.wraps.values())


@dataclass(frozen=True, slots=True, eq=False)
class Compilation:
    """Everything known so far; passes return a copy with more fields set.

    Attributes:
        options: what the user asked for.
        graph: the imported network.
        costs: price of each instruction on this machine.
        limits: what the backend allows.
        calibration: per input name (B, *shape).
        front: what the client computes before encryption, set by front; ``graph`` and ``calibration`` begin behind it.
        chosen: fit by layer where a budget decided, set by choose.
        frontier: the Pareto list that it chose from, thinned: levels, error, price.
        ranges: set by calibrate; extended to the replaced graph by approximate.
        replaced: the graph with polynomial activations, set by approximate.
        fits: one per nonlinearity, set by approximate.
        stages: set by fold.
        circuit: layouts and matrix plans, set by schedule.
        params: set by schedule.
        levels: level of each stage's value, set by schedule.
        cost: predicted counts and seconds per layer, set by schedule.
        program: set by lower.
        signature: set by lower.
        spare_bits: bits that scheduling adds to the precision asked for, because a simulation missed them.
        simulated_bits: precision of the outputs that a simulation found, if one ran.
        notes: remarks for the user, by pass.
        mpc_prices: MPC: what instructions cost under the plan's protocol.
        kept: MPC: nonlinearities that stay exact, set by protect.
        mpc_program: MPC: set by encode.
        mpc_precision: MPC: fractional bits, set by encode.
        mpc_ranges: MPC: sizes of values and expected wrap-arounds, set by encode.
    """

    options: Options
    graph: Graph
    costs: CostTable
    limits: Limits
    calibration: Mapping[str, FloatArray]
    front: Graph | None = None
    chosen: Mapping[str, Chosen] | None = None
    frontier: tuple[tuple[int, float, float], ...] = ()
    ranges: Ranges | None = None
    replaced: Graph | None = None
    fits: tuple[Replacement, ...] | None = None
    stages: Stages | None = None
    circuit: Circuit | None = None
    params: Params | None = None
    levels: tuple[int, ...] | None = None
    cost: Cost | None = None
    program: Program | None = None
    signature: Signature | None = None
    spare_bits: float = 0.0
    simulated_bits: float | None = None
    notes: tuple[str, ...] = ()
    mpc_prices: MpcPrices | None = None
    kept: tuple[Kept, ...] = ()
    mpc_program: MpcProgram | None = None
    mpc_precision: Precision | None = None
    mpc_ranges: MpcRanges | None = None

    @staticmethod
    def require(value: T | None, needed_by: str, made_by: str) -> T:
        """A field that an earlier pass must have set.

        Raises:
            InternalError: it has not.
        """
        if value is None:
            raise InternalError(f"pass {needed_by!r} needs {made_by!r} to run before it")
        return value


def by_channel(samples: FloatArray, channel_axis: int | None) -> FloatArray:
    """Samples (B, *shape) as (values, channels); one channel if there is no such axis."""
    if channel_axis is None:
        return samples.reshape(-1, 1)
    return np.moveaxis(samples, channel_axis, -1).reshape(-1, samples.shape[channel_axis])


def thinned(values: FloatArray) -> FloatArray:
    """A copy of at most about ``MAX_KEPT`` values, evenly spread over the rows."""
    return values[:: -(-values.size // MAX_KEPT)].copy()


def summarize(
    samples: FloatArray, channel_axis: int | None, held_out: FloatArray | None = None, full: bool = True
) -> Range:
    """A ``Range`` of an array of samples (B, *shape); without ``full``, bounds and moments only."""
    others = tuple(i for i in range(samples.ndim) if i != channel_axis)
    shape = (-1,) if channel_axis is not None else (1,)
    low, high, mean = (np.asarray(f(samples, axis=others)).reshape(shape) for f in (np.min, np.max, np.mean))
    square = np.asarray(np.mean(np.square(samples), axis=others)).reshape(shape)
    std = np.sqrt(np.maximum(square - mean**2, 0.0))
    quantiles: dict[float, float] = {}
    edges, mass = np.zeros(0), np.zeros(0)
    seen = None
    if full:
        seen = thinned(by_channel(samples, channel_axis))
        flat = samples.ravel()
        span = float(high.max() - low.min()) or 1e-6 * max(1.0, abs(float(high.max())))
        counts, edges = np.histogram(flat, bins=_BINS, range=(float(low.min()), float(low.min()) + span))
        mass = counts / counts.sum()
        quantiles = dict(zip(_PROBABILITIES, np.quantile(flat, _PROBABILITIES).tolist(), strict=True))
    return Range(
        float(low.min()),
        float(high.max()),
        low,
        high,
        float(mean.mean()),
        float(np.sqrt(max(float(square.mean()) - float(mean.mean()) ** 2, 0.0))),
        quantiles,
        mean,
        std,
        edges,
        mass,
        samples.size,
        seen,
        held_out,
    )
