"""Schedule: levels, modulus chain, ring degree.

Parameters are derived from the depth and the precision wanted, checked against the security
table, and, where more than one ring degree is possible, chosen by predicted seconds.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from pi_compiler.cost import CostTable, Prices
from pi_compiler.errors import BudgetError, ParameterError
from pi_compiler.ir import switching
from pi_compiler.ir.batching import real_period
from pi_compiler.ir.circuit import Circuit
from pi_compiler.ir.layout import next_power
from pi_compiler.ir.params import MAX_LOG_QP, Params, make_params
from pi_compiler.ir.program import DEFAULT_PLAINTEXT_MEMORY, CtType
from pi_compiler.ir.stages import Contract, InputStage, Reduce, Stages
from pi_compiler.kernels.algebra import Constant, Cost, Value
from pi_compiler.kernels.circuit import depth_of, evaluate, levels_of
from pi_compiler.options import Options
from pi_compiler.passes.compilation import Compilation, Limits
from pi_compiler.passes.fold import folded, has_streams
from pi_compiler.passes.pack import NoLayout, pack_stages
from pi_compiler.passes.refresh import BOOTSTRAP_LEVELS, USABLE, bootstraps, refreshed

HEADROOM_BITS = 4.0
"""q_0 exceeds the scale by so much: values of a normalized network may reach 2^3 before they wrap."""

SPECIAL_BITS = 10.0
"""The special primes' product exceeds that of a digit's scales by so much. Key switching adds noise
D / P times that of a fresh error for a digit below D; SEAL does not center its digits, which adds a bias
of up to sqrt(12 N) / pi times that in the first slots. Six bits above the digit of q_0 hide most of it; more
would cost the scale more than they bring (measured on the MNIST networks with 3, 6 and 9)."""

_LARGEST_SCALE = 50.0
_SCALE_STEP, _SCALE_TRIES = 0.05, 8
_WIDEST_DIGIT = 30
_DEEP = 16
_MOST_CIPHERTEXTS = 256
"""Batches that are tried leave no value more ciphertexts than about so many; planning takes their square."""
_WORTHWHILE = 0.9
"""Batches grow as long as one four times as large costs less per input than so much of what the best so far does."""
_KEY_PRODUCT = 0.7
"""A limb's product with both polynomials of a key, in transforms (native at N = 2^16)."""
_AS_GOOD = 1.05
"""Digits that cost so much more than the best are taken if they leave a larger scale."""
_PRIME_BITS_SPARE = 0.5
"""Primes nearest to 2^b may lie above it."""


def rescale_noise_bits(log_n: int) -> float:
    """log2 of the slot noise of one rescaling with a uniform ternary secret, at scale 1.

    Each coefficient is off by the rounding of both polynomials, variance (1 + 2N/3)/12; a slot's
    real part sums N coefficients with half the energy each.
    """
    n = 1 << log_n
    return 0.5 * math.log2(n / 2 * (1 + 2 * n / 3) / 12)


def needed_log_scale(log_n: int, depth: int, precision_bits: float) -> float:
    """Scale at which ``depth`` rescalings leave the wanted bits: noises add in quadrature, three bits spare."""
    return precision_bits + rescale_noise_bits(log_n) + 0.5 * math.log2(depth + 1) + 3.0


def log_scale_for(log_n: int, depth: int, limits: Limits, insecure: bool, digit: int = 1) -> float:
    """The largest scale that the security table allows with this many levels, and digits of so many primes."""
    budget = MAX_LOG_QP[log_n] if not insecure else 10**6
    by_security = (budget - 0.5 - HEADROOM_BITS - SPECIAL_BITS) / (depth + 1 + digit)
    return min(by_security, _LARGEST_SCALE, limits.max_prime_bits - SPECIAL_BITS - _PRIME_BITS_SPARE)


def switching_work(params: Params) -> float:
    """One key switch in transforms, the mean over all levels.

    Each digit is carried to all limbs and the special ones and multiplied by its part of the key, which
    comes from memory; the two results go back to the limbs.
    """
    levels, specials = range(params.max_level + 1), len(params.special)
    spread = [len(params.digits(level)) * (level + 1 + specials) for level in levels]
    return sum((1 + _KEY_PRODUCT) * s + 3 * (level + 1) + 2 * specials for level, s in enumerate(spread)) / len(levels)


def parameters(log_n: int, depth: int, log_scale: float, limits: Limits, insecure: bool, digit: int = 1) -> Params:
    """The parameters for a scale, with as few special primes as digits of so many primes need."""
    special_bits = digit * log_scale + SPECIAL_BITS
    specials = limits.specials
    if limits.any_specials:
        specials = max(specials, math.ceil(special_bits / (limits.max_prime_bits - _PRIME_BITS_SPARE)))
    return make_params(
        log_n,
        depth,
        log_scale,
        log_q0=log_scale + HEADROOM_BITS,
        log_special=special_bits / specials,
        specials=specials,
        digit=digit,
        insecure=insecure,
    )


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """A circuit with parameters, and what it is predicted to cost."""

    circuit: Circuit
    params: Params
    levels: tuple[int, ...]
    cost: Cost

    @property
    def seconds(self) -> float:
        """Predicted seconds of evaluation, encryption and decryption left out."""
        return sum(self.cost.seconds.values())

    @property
    def whole(self) -> float:
        """The same with the estimate for bootstraps, if there are any."""
        return self.seconds + sum(self.cost.estimated.values())

    @property
    def batch(self) -> int:
        """Samples that one run answers."""
        return self.circuit.batch(self.params)

    @property
    def share(self) -> float:
        """Seconds of one sample, bootstraps included."""
        return self.whole / self.batch


def price(circuit: Circuit, params: Params, levels: Sequence[int], prices: Prices) -> Cost:
    """The circuit's cost: its kernels read with ``Cost``."""
    cost = Cost(params.primes, params.scale, circuit.slots, prices)
    inputs = {
        n: [Value(CtType(levels[n], params.scale), object()) for _ in range(circuit.layouts[n].ciphertexts)]
        for n, stage in enumerate(circuit.stages.stages)
        if isinstance(stage, InputStage)
    }

    def constants(number: int) -> Sequence[Constant]:
        plan = circuit.plans[number]
        vector = np.broadcast_to(0.0, (plan.span,))
        return [0.0 if uniform else vector for uniform in plan.numbers]

    def enter(origin: str) -> None:
        cost.origin = origin

    evaluate(cost, circuit, levels, inputs, constants, enter)
    return cost


def candidates(depth: int, options: Options, limits: Limits) -> list[Params]:
    """Parameter sets that fit the depth and the precision, smallest ring first; at most two."""
    degrees = [options.log_n] if options.log_n is not None else list(range(11, limits.max_log_n + 1))
    found = []
    for log_n in degrees:
        choices = by_digit(log_n, depth, options, limits)
        if choices:
            least = min(map(switching_work, choices))
            found.append(next(p for p in choices if switching_work(p) <= _AS_GOOD * least))
        if len(found) == 2:
            break
    return found


def by_digit(log_n: int, depth: int, options: Options, limits: Limits) -> list[Params]:
    """Parameter sets for one ring degree: larger digits take larger special primes, and leave smaller scales."""
    needed = needed_log_scale(log_n, depth, options.precision_bits)
    found = []
    for digit in range(1, min(depth + 1, _WIDEST_DIGIT) + 1) if limits.any_specials else (1,):
        largest = log_scale_for(log_n, depth, limits, options.insecure, digit)
        wanted = options.log_scale if options.log_scale is not None else largest
        if wanted > largest or (options.log_scale is None and largest < needed) or wanted < log_n + 2:
            break
        # Primes are near 2^b only: many of them may lie above it by more than is spare.
        tries = [wanted - k * _SCALE_STEP for k in range(_SCALE_TRIES if options.log_scale is None else 1)]
        for log_scale in tries:
            p = parameters(log_n, depth, log_scale, limits, True, digit)
            if options.insecure or p.security:
                found.append(p)
                break
    return found


def schedule(c: Compilation) -> Compilation:
    """Stages -> circuit, levels and parameters."""
    stages = Compilation.require(c.stages, "schedule", "fold")
    options = replace(c.options, precision_bits=c.options.precision_bits + c.spare_bits)
    try:
        best = plan_stages(stages, options, c.limits, c.costs)
    except NoLayout:
        if not any(isinstance(s, Contract | Reduce) for s in stages.stages):
            raise
        best = plan_stages(folded(c, direct=False), options, c.limits, c.costs)
    if has_streams(c):
        with contextlib.suppress(BudgetError):
            other = plan_stages(folded(c, streams=True), replace(options, batch=best.batch), c.limits, c.costs)
            best = min(best, other, key=lambda p: p.share)
    circuit = best.circuit
    return replace(c, stages=circuit.stages, circuit=circuit, params=best.params, levels=best.levels, cost=best.cost)


def plan_stages(stages: Stages, options: Options, limits: Limits, costs: CostTable) -> Plan:
    """The cheapest plan over the ring degrees that fit.

    Raises:
        BudgetError: no allowed parameters have enough levels, or some value has no layout (``NoLayout``).
        ParameterError: the parameters asked for are insecure or too small.
    """
    levels = levels_of(stages)
    depth = max(levels)
    choices = candidates(depth, options, limits)
    if not choices and options.bootstraps:
        stages, choices = bootstrapped(stages, options, limits)
        levels, depth = levels_of(stages), BOOTSTRAP_LEVELS
    if not choices:
        raise _too_deep(stages, levels, depth, options, limits)
    planner = _Planner(stages, levels, options, costs, late=depth > _DEEP)
    plans: list[Plan] = []
    missing: NoLayout | None = None
    for params in choices:
        try:
            plans += planner.at(params, plans)
        except NoLayout as error:
            missing = error
    if missing is not None and not plans:
        raise missing
    if not plans:
        raise _batch_too_large(options, choices)
    return best_of(plans, options)


def best_of(plans: Sequence[Plan], options: Options) -> Plan:
    """The plan that costs least per sample; where the batch is open, of those that keep the latency asked for."""
    limit = options.max_latency
    if options.batch == "auto" and limit is not None:
        plans = [p for p in plans if p.seconds <= limit] or [min(plans, key=lambda p: p.seconds)]
    return min(plans, key=lambda p: p.seconds / p.batch)


@dataclass(frozen=True, slots=True)
class _Planner:
    """Plans stages under given parameters.

    Attributes:
        stages: the folded network.
        levels: level of each stage's value.
        options: what is asked for.
        costs: price table.
        late: whether the constants of matrix products are expected not to fit the memory; that shows when they are
            there. Of deep networks they do not.
    """

    stages: Stages
    levels: tuple[int, ...]
    options: Options
    costs: CostTable
    late: bool

    def at(self, params: Params, before: Sequence[Plan]) -> list[Plan]:
        """Plans of the batch asked for; none if a ciphertext has fewer slots.

        Where the batch is open, of several: four times as large as long as that saves a tenth per sample, then the
        one for columns where products of values want them, then the neighbours of the best. From some size on values
        take more ciphertexts instead of fewer slots. A ring larger than that of plans before begins with as many slots
        per sample as was best there, and has to be worth more.

        Raises:
            NoLayout: some value has no layout.
        """
        batch = self.options.batch
        if batch != "auto":
            return [self.asked_for(params, batch)] if batch <= params.slots else []
        best = best_of(before, self.options) if before else None
        batch = 1 if best is None else params.slots // best.circuit.slots
        found = [self.of(params, batch)]
        if best is not None and found[0].share >= best.share:
            return found
        largest = max(math.prod(s.shape) for s in self.stages.stages)
        most = min(params.slots, _MOST_CIPHERTEXTS * params.slots // largest)

        def pays(batch: int) -> bool:
            if not 1 < batch <= most or any(p.batch == batch for p in found):
                return False
            try:
                found.append(self.of(params, batch))
            except NoLayout:
                return False
            return found[-1].share < _WORTHWHILE * min(p.share for p in found[:-1])

        while pays(4 * batch):
            batch *= 4
        # Where a product's longest axis fills a sample's slots, operands are columns, which sizes in between lack.
        axes = [next_power(max(s.sizes.values())) for s in self.stages.stages if isinstance(s, Contract)]
        if axes:
            pays(params.slots // max(axes))
        near = best_of(found, self.options).batch
        pays(2 * near)
        pays(near // 2)
        return found

    def asked_for(self, params: Params, batch: int) -> Plan:
        """The plan of a batch; what has no layout for it may have one for a smaller batch, and the error says so."""
        try:
            return self.of(params, batch)
        except NoLayout as error:
            if batch == 1:
                raise
            told = f"a batch of {batch} leaves {params.slots // batch:,} of {params.slots:,} slots to each input"
            hint = ", ".join(h for h in ("a smaller --batch", error.hint) if h)
            raise NoLayout(error.what, *error.details, told, hint=hint) from error

    def of(self, params: Params, batch: int) -> Plan:
        """The plan of a batch.

        Raises:
            NoLayout: some value has no layout.
        """
        expected = self.costs.prices(params, late=self.late, batch=batch)
        circuit, prices = self.packed(expected, params, batch)
        if batch > 1 and prices != expected:  # constants are batch times as long, which no depth tells
            circuit, prices = self.packed(prices, params, batch)
        return Plan(circuit, params, self.levels, price(circuit, params, self.levels, prices))

    def packed(self, expected: Prices, params: Params, batch: int) -> tuple[Circuit, Prices]:
        """The circuit that is best at the prices expected, and those that its own constants make."""
        circuit = pack_stages(self.stages, self.levels, params.slots // batch, expected, self.options)
        return circuit, prices_of(circuit, self.levels, params, self.costs)


def _batch_too_large(options: Options, choices: Sequence[Params]) -> ParameterError:
    rings = ", ".join(f"2^{p.log_n} with {p.slots:,} slots" for p in choices)
    return ParameterError(
        f"a batch of {options.batch} needs as many slots, and no ciphertext has them",
        f"ring degrees that fit this network: {rings}",
        hint="a smaller --batch, or a larger --log-n",
    )


def bootstrapped(stages: Stages, options: Options, limits: Limits) -> tuple[Stages, list[Params]]:
    """The stages with bootstraps, and parameters at the largest ring degree; those estimated to be the fastest.

    Raises:
        BudgetError: some stage takes more levels than any bootstrap leaves.
    """
    options = replace(options, log_n=limits.max_log_n if options.log_n is None else options.log_n)
    least = max(depth_of(s) for s in stages.stages)
    best: tuple[float, Stages, list[Params]] | None = None
    for usable in USABLE:
        params = candidates(usable + 1 + BOOTSTRAP_LEVELS, options, limits)
        if usable < least or not params:
            continue
        made = refreshed(stages, usable)
        seconds = bootstraps(made.stages) * Prices(params[0].log_n, {}).bootstrap(usable + 1)
        if best is None or seconds < best[0]:
            best = seconds, made, params
    return (stages, []) if best is None else best[1:]


def prices_of(circuit: Circuit, levels: Sequence[int], params: Params, costs: CostTable) -> Prices:
    """Prices if the circuit's constants are made beforehand, late, or, as far as memory does not hold them, at use."""
    late = constants_are_late(circuit, levels, params)
    size = constant_bytes(circuit, levels, params, late=late)
    unheld = max(0.0, 1.0 - DEFAULT_PLAINTEXT_MEMORY / size) if size else 0.0
    return costs.prices(params, late=late, batch=circuit.batch(params), unheld=unheld)


def constants_are_late(circuit: Circuit, levels: Sequence[int], params: Params) -> bool:
    """Whether the constants of all matrix products are more than is held by default."""
    return constant_bytes(circuit, levels, params, late=False) > DEFAULT_PLAINTEXT_MEMORY


def constant_bytes(circuit: Circuit, levels: Sequence[int], params: Params, *, late: bool) -> int:
    """Memory of the constants of all matrix products, for an evaluator that fuses these."""
    batch, total = circuit.batch(params), 0
    for n, plan in circuit.plans.items():
        numbers = int(plan.numbers.sum())
        for count, period in ((len(plan.terms) - numbers, real_period(plan.span, batch)), (numbers, 1)):
            total += count * switching.constant_bytes(params, levels[n] + 1, period, late=late)
    return total


def _too_deep(
    stages: Stages, levels: Sequence[int], depth: int, options: Options, limits: Limits
) -> BudgetError | ParameterError:
    log_n = options.log_n if options.log_n is not None else limits.max_log_n
    largest = log_scale_for(log_n, depth, limits, options.insecure)
    if options.log_scale is not None and options.log_scale <= largest:
        return ParameterError(
            f"a scale of 2^{options.log_scale:g} is too small for ring degree 2^{log_n}", hint="a larger --log-scale"
        )
    reachable = depth
    while reachable and log_scale_for(log_n, reachable, limits, options.insecure) < needed_log_scale(
        log_n, reachable, options.precision_bits
    ):
        reachable -= 1
    spent: dict[str, int] = {}
    for stage in stages.stages:
        if depth_of(stage):
            spent[stage.origin] = spent.get(stage.origin, 0) + depth_of(stage)
    layers: list[tuple[str, int]] = sorted(spent.items(), key=lambda item: -item[1])
    listing = ", ".join(f"{name} {count}" for name, count in layers[:8])
    return BudgetError(
        f"no parameters for this network: it takes {depth} levels, ring degree 2^{log_n} has {reachable} "
        f"at {options.precision_bits:g} bits of precision and 128-bit security",
        f"levels by layer: {listing}" + (f" and {len(layers) - 8} more" if len(layers) > 8 else ""),
        f"backend {options.backend!r} allows ring degrees up to 2^{limits.max_log_n}",
        hint="--activation quadratic (one level each), a lower --precision-bits, a larger --activation-error, "
        "or fewer nonlinearities",
    )
