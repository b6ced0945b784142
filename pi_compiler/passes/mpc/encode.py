"""Encode: the program on shares, with as many fractional bits as its ranges allow.

The program is run in floats on calibration samples. Every value has to stay inside the ring with room to
spare, and the expected number of local truncations that wrap around, the sum of ``|x| / 2^64`` over all
truncated ring elements x of one inference, inside the budget. A plan that misses it is tried again with
fewer fractional bits, which makes the products smaller; if that does not help either it is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from pi_compiler.cost_mpc import network_of
from pi_compiler.errors import BudgetError
from pi_compiler.ir.graph import FloatArray
from pi_compiler.ir.mpc_meaning import evaluate
from pi_compiler.ir.mpc_program import MpcOp, MpcProgram, check
from pi_compiler.ir.protocols import protocol_of
from pi_compiler.passes.calibrate import thin
from pi_compiler.passes.compilation import Compilation, MpcRanges, Precision
from pi_compiler.passes.mpc.absorb import absorb, join, pool_first
from pi_compiler.passes.mpc.joint import Deal
from pi_compiler.passes.mpc.narrow import narrow
from pi_compiler.passes.mpc.share import share
from pi_compiler.passes.mpc.stack import stack

_SAMPLES = 32
_ROOM = 4.0  # how much larger than on calibration data a value may become
_FEWER = ((0, 0), (0, 2), (0, 4), (2, 4), (2, 6), (4, 6))
"""Fractional bits less, of values and of factors."""


def encode(c: Compilation) -> Compilation:
    """Replaced graph -> program on shares.

    Raises:
        BudgetError: values do not fit, or too many truncations would wrap around.
        UnsupportedOperator: naming every node that cannot be lowered.
    """
    graph = join(pool_first(absorb(Compilation.require(c.replaced, "encode", "protect"))))
    protocol, options = protocol_of(c.options.protocol), c.options
    frac = options.frac_bits or protocol.frac
    samples = {name: thin(x)[:_SAMPLES] for name, x in c.calibration.items()}
    deal = Deal(Compilation.require(c.mpc_prices, "encode", "prepare"), network_of(options.network))
    tried: list[tuple[Precision, MpcRanges]] = []
    for less, less_weight in _FEWER if options.frac_bits is None else _FEWER[:3]:
        precision = Precision(frac - less, max(4, frac - less_weight))
        program = share(
            graph, precision, protocol.name, deal,
            private=not options.public_weights, low=options.stochastic_bits,
        )  # fmt: skip
        program = stack(narrow(program))
        check(program)
        found = ranges_of(program, samples, local=protocol.truncation == "local")
        tried.append((precision, found))
        if not found.too_large and found.expected_wraps <= options.wrap_budget:
            notes = c.notes
            if less or less_weight:
                notes = (*notes, _rescaled(tried[0], precision, found, options.wrap_budget))
            return replace(c, mpc_program=program, mpc_precision=precision, mpc_ranges=found, notes=notes)
    raise _refusal(tried, options.wrap_budget)


def _rescaled(first: tuple[Precision, MpcRanges], now: Precision, found: MpcRanges, budget: float) -> str:
    return (
        f"{now.frac} fractional bits of values and {now.weight_frac} of factors, because with {first[0].frac} and "
        f"{first[0].weight_frac} {first[1].expected_wraps:.2g} truncations per inference would wrap around "
        f"(budget {budget:g}); now {found.expected_wraps:.2g}"
    )


def _refusal(tried: list[tuple[Precision, MpcRanges]], budget: float) -> BudgetError:
    precision, last = tried[-1]
    if last.too_large:
        details = [f"layer {name!r} reaches {size:.3g}" for name, size in list(last.too_large.items())[:8]]
        return BudgetError(
            f"values leave the 64-bit ring, even with {precision.frac} fractional bits",
            *details,
            hint="training that keeps ranges small, or normalized inputs",
        )
    worst = sorted(last.wraps.items(), key=lambda item: -item[1])[:5]
    return BudgetError(
        f"{last.expected_wraps:.2g} truncations per inference would wrap around, the budget is {budget:g}",
        *(f"layer {name!r}: {count:.2g}, values up to {last.largest[name]:.3g}" for name, count in worst),
        f"tried down to {precision.frac} fractional bits of values and {precision.weight_frac} of factors",
        hint="a larger --wrap-budget, a protocol that truncates interactively, or training that keeps ranges small",
    )


def ranges_of(program: MpcProgram, samples: Mapping[str, FloatArray], *, local: bool) -> MpcRanges:
    """Ranges of a program's values.

    Args:
        program: what runs.
        samples: (B, *shape) by input name.
        local: whether truncations may wrap around.
    """
    largest: dict[str, float] = {}
    too_large: dict[str, float] = {}
    wraps: dict[str, float] = {}

    def look(number: int, values: FloatArray) -> None:
        instr = program.instrs[number]
        layer = program.origins[instr.origin]
        size = float(np.abs(values).max(initial=0.0))
        largest[layer] = max(largest.get(layer, 0.0), size)
        if not np.ldexp(size * _ROOM, instr.frac) < 2.0**63:
            too_large[layer] = max(too_large.get(layer, 0.0), size)
        if local and instr.op is MpcOp.TRUNCATE:
            before = program.instrs[instr.args[0]].frac
            expected = float(np.abs(values).mean()) * instr.size * 2.0 ** (before - 64)
            wraps[layer] = wraps.get(layer, 0.0) + expected

    with np.errstate(all="ignore"):
        evaluate(program, samples, keep=look)
    return MpcRanges(largest, too_large, wraps)
