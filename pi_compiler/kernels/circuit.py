"""The whole circuit over an algebra, and the level at which each value lives."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from pi_compiler.approx.plan import make_plan
from pi_compiler.ir.circuit import Circuit
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
from pi_compiler.kernels.algebra import Algebra, Constant, Value
from pi_compiler.kernels.contract import contract, reduce
from pi_compiler.kernels.formula import formula
from pi_compiler.kernels.matvec import matvec
from pi_compiler.kernels.poly import polynomial


def depth_of(stage: Stage) -> int:
    """Levels that a stage consumes."""
    match stage:
        case InputStage():
            return 0
        case Polynomial():
            return make_plan(stage.poly).depth
        case Iterated():
            return stage.plan.depth
        case Reduce() | Refresh():
            return 0
        case _:
            return 1


def levels_of(stages: Stages) -> tuple[int, ...]:
    """Level of each stage's value: as low as its readers allow, 0 for outputs.

    Key switching costs the square of the level, so everything runs as late as it can.
    """
    levels = [0] * len(stages.stages)
    for number in reversed(range(len(stages.stages))):
        stage = stages.stages[number]
        for source in sources_of(stage):
            # A bootstrap takes the last level, for the product that leaves nothing in slots without an element.
            needed = 1 if isinstance(stage, Refresh) else levels[number] + depth_of(stage)
            levels[source] = max(levels[source], needed)
    return tuple(levels)


def evaluate(
    alg: Algebra,
    circuit: Circuit,
    levels: Sequence[int],
    inputs: Mapping[int, Sequence[Value]],
    constants: Callable[[int], Sequence[Constant]],
    enter: Callable[[str], None],
) -> list[list[Value]]:
    """Every stage's value, one list of ciphertexts each.

    Args:
        alg: a reading.
        circuit: what to compute.
        levels: from ``levels_of``.
        inputs: per input stage its ciphertexts.
        constants: diagonals of an affine stage, by stage number.
        enter: called with the layer's name before each stage.
    """
    values: list[list[Value]] = []
    for number, stage in enumerate(circuit.stages.stages):
        enter(stage.origin)
        level = levels[number]
        match stage:
            case InputStage():
                values.append(list(inputs[number]))
            case Affine():
                operands = [values[s] for s in stage.sources]
                values.append(matvec(alg, operands, circuit.plans[number], constants(number), level + 1))
            case Square():
                values.append([_product(alg, v, v, level) for v in values[stage.source]])
            case Product():
                pairs = zip(values[stage.left], values[stage.right], strict=True)
                values.append([_product(alg, a, b, level) for a, b in pairs])
            case Contract():
                pair = values[stage.left], values[stage.right]
                values.append(contract(alg, *pair, circuit.sums[number], level))
            case Reduce():
                values.append(reduce(alg, values[stage.source], circuit.sums[number], level))
            case Refresh():
                values.append([alg.drop_level(_refreshed(alg, v, stage.level), level) for v in values[stage.source]])
            case Iterated():
                values.append([formula(alg, v, stage.plan, level) for v in values[stage.source]])
            case Polynomial():
                plan = make_plan(stage.poly)
                values.append([polynomial(alg, v, plan, level) for v in values[stage.source]])
    return values


def _refreshed(alg: Algebra, value: Value, level: int) -> Value:
    """Cleared and bootstrapped, as Orion does it (Ebel et al., ASPLOS 2025)."""
    low = alg.drop_level(value, 1)
    return alg.bootstrap(alg.rescale(alg.mul_plain(low, 1.0, float(alg.primes[1]))), level)


def _product(alg: Algebra, a: Value, b: Value, level: int) -> Value:
    """A * b at a level.

    Relinearized before it is rescaled: rescaling rounds the third polynomial too, and there the
    rounding meets s^2, whose coefficients are sqrt(N) times those of s (6 bits at N = 2^13).
    """
    left = alg.drop_level(a, level + 1)
    right = left if a is b else alg.drop_level(b, level + 1)
    with alg.product_sum():
        return alg.rescale(alg.relinearize(alg.mul(left, right)))
