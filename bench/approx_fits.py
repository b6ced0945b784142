"""How fast, how good and how deep the fits are: single functions, and the activations of a ResNet-20.

Seconds are the median of several runs after one that warms caches. Peers are numpy's Chebyshev
interpolation (error at equal degree), Orion's rule (degree 31 on twice the range for smooth
functions, the composite 15,15,27 on twice the range for ReLU; levels at equal error on the range),
and the times that were asked for. The ResNet-20's ranges are those recorded with the zoo's weights;
its densities are Gaussians with a deviation of a fifth of the range.

    OMP_NUM_THREADS=1 python bench/approx_fits.py
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numpy as np
import rows
from numpy.polynomial import Chebyshev

from pi_compiler.approx import chebyshev, composite, least_squares, minimax, plan
from pi_compiler.approx.choose import menu, most_accurate, pareto, price_of_depth
from pi_compiler.approx.density import Density
from pi_compiler.approx.gaussian import dapa
from pi_compiler.approx.sign import relu_degrees
from pi_compiler.approx.targets import target
from pi_compiler.models.zoo import ZOO

WANTED_FIT = 2.0
WANTED_NETWORK = 60.0
MARGIN = 1.1


def seconds(run: Callable[[], object], repeats: int = 5) -> float:
    run()
    found = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        found.append(time.perf_counter() - start)
    return statistics.median(found)


def single_fits() -> list[rows.Row]:
    found = []
    for name, bound, degree in (("gelu", 8.0, 31), ("relu", 8.0, 63), ("tanh", 8.0, 63), ("elu", 6.0, 63)):
        goal = target(name)
        domain = (-bound, bound)

        def fit(goal=goal, domain=domain, degree=degree):  # type: ignore[no-untyped-def]
            return minimax.remez(goal, domain, degree)

        label = f"minimax {name} degree {degree} on +-{bound:g}"
        found.append(rows.cost(f"{label}: time", seconds(fit), "s", "asked for", WANTED_FIT))
        x = np.linspace(*domain, 100_001)
        peer = Chebyshev.interpolate(goal, degree, domain)
        error = float(np.abs(peer(x) - goal(x)).max())
        proof = fit().certificate
        found.append(rows.cost(f"{label}: certified error", proof.max_error, "1", "numpy, measured", error))
    return found


def orion_levels() -> list[rows.Row]:
    """Levels for the error that Orion's rule leaves on the calibrated range."""
    found = []
    for name in ("gelu", "silu", "sigmoid", "tanh"):
        for bound in (4.0, 8.0):
            goal = target(name)
            theirs = Chebyshev.interpolate(goal, 31, (-2.0 * bound, 2.0 * bound))
            x = np.linspace(-bound, bound, 100_001)
            error = float(np.abs(theirs(x) - goal(x)).max())
            ours = chebyshev.smallest(goal, (-MARGIN * bound, MARGIN * bound), error, method="minimax")
            levels = float(ours.certificate.depth)
            found.append(rows.cost(f"{name} within +-{bound:g}: levels", levels, "levels", "Orion's rule", 5.0))
    relu = target("relu")
    for bound in (4.0, 20.0):
        theirs_relu = composite.gated(relu, (-2.0 * bound, 2.0 * bound), degrees=(15, 15, 27))
        error = theirs_relu.certificate.max_error
        fit = composite.gated(relu, (-MARGIN * bound, MARGIN * bound), tolerance=error)
        name = f"relu within +-{bound:g}: levels"
        peer = float(theirs_relu.certificate.depth)
        found.append(rows.cost(name, float(fit.certificate.depth), "levels", "Orion's rule", peer))
    return found


def resnet20() -> list[rows.Row]:
    record = ZOO["resnet20"].record()
    ranges = [max(v, 0.5) for v in record.largest_activation_inputs.values()]
    relu = target("relu")
    densities = [Density.normal(0.0, r / 5.0) for r in ranges]

    def quadratics() -> None:
        for r, density in zip(ranges, densities, strict=True):
            least_squares.weighted(relu, 2, density, domain=(-MARGIN * r, MARGIN * r))
            dapa(np.zeros(64), np.full(64, r / 5.0), 2)

    def composites() -> None:
        for r in ranges:
            composite.gated(relu, (-MARGIN * r, MARGIN * r), tolerance=0.01)

    def choice() -> float:
        layers = [
            menu(relu, d, (-MARGIN * r, MARGIN * r), price=price_of_depth())
            for r, d in zip(ranges, densities, strict=True)
        ]
        return most_accurate(pareto(layers), 5.0 * len(layers)).error

    count = len(ranges)
    return [
        rows.cost(f"{count} quadratics, per channel too", seconds(quadratics, 3), "s", "asked for", WANTED_NETWORK),
        rows.cost(f"{count} composites within 0.01", seconds(composites, 3), "s", "asked for", WANTED_NETWORK),
        rows.cost(f"{count} menus and the choice", seconds(choice, 1), "s", "asked for", WANTED_NETWORK),
    ]


def searches() -> list[rows.Row]:
    def planned(degree: int) -> float:
        plan._scheme.cache_clear()
        start = time.perf_counter()
        plan.plan_counts(degree)
        return time.perf_counter() - start

    start = time.perf_counter()
    relu_degrees(12.0)
    first = time.perf_counter() - start
    return [
        rows.Row("evaluation plan of degree 63, no cache", planned(63), "s"),
        rows.Row("evaluation plan of degree 127, no cache", planned(127), "s"),
        rows.Row("degrees of a composite, first call", first, "s"),
    ]


def main() -> None:
    print(rows.machine())
    rows.write("approx_fits", [*searches(), *single_fits(), *orion_levels(), *resnet20()])


if __name__ == "__main__":
    main()
