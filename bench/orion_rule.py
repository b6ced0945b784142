"""Levels per activation at equal output error: ours against Orion's rule and against numpy's Chebyshev fit.

Orion's rule (Ebel, Garimella and Reagen, ASPLOS 2025) is made with our own code: a Chebyshev
interpolant of degree 31 for GELU and SiLU, a composite of degrees 15, 15, 27 for ReLU, on the calibrated
[min, max] with twice its half width, one interval per layer. Levels are those of our evaluation
plans for both. Ours is whatever takes the fewest levels and has at most the rule's error: one method
everywhere, or fits chosen per layer (from menus with composites of up to 14 bits, where the compiler's
own end at 12), with the default margin. The first four fifths of the
calibration samples make ranges, fits and menus; errors are root mean squares over all logits of the last
fifth, which also decides what is at most the rule's error. What was picked is confirmed on validation
images. They decide nothing here, but once took single least-squares polynomials off the list, which
had no uniform share then and failed on them. No test set is read.

    python bench/orion_rule.py [--networks digits_cnn,digits_gelu,digits_silu,resnet20] [--images 64]
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import rows
from numpy.typing import NDArray

from pi_compiler import api
from pi_compiler.approx import composite, registry
from pi_compiler.approx.certificate import certify
from pi_compiler.approx.choose import Assignment, menu, pareto, price_of_depth
from pi_compiler.approx.poly import Fit, Poly
from pi_compiler.approx.targets import Target
from pi_compiler.errors import CalibrationError
from pi_compiler.ir.graph import FloatArray, Graph
from pi_compiler.models.data import is_local, load
from pi_compiler.models.zoo import ZOO, model_path
from pi_compiler.ops.evaluate import evaluate
from pi_compiler.options import Activation, Options
from pi_compiler.passes.approximate import approximate, goal_of
from pi_compiler.passes.choose import as_chosen, open_layers, problem, sensitivities
from pi_compiler.passes.compilation import Chosen, Compilation, Range
from pi_compiler.pipelines import CKKS, run

ORION_MARGIN = 2.0
ORION_DEGREE = 31
ORION_RELU = (15, 15, 27)
WANTED_SAVING = {"relu": 3, "gelu": 1, "silu": 1}
DATA = {"resnet20": "cifar10-jpeg"}
POINTS = 4096
LISTED = 256
PRODUCT = 0.02  # levels, as in the compiler's own choice
DEGREES = (1, 2, 3, 4, 5, 6, 7, 9, 11, 13, 15, 23, 31, 47, 63)
BITS = tuple(0.5 * b for b in range(8, 29))
FEW_LAYERS = 3
# Not least squares by name: it weighs by the data alone, so nothing holds it between them and the interval's
# ends; of degree 15 it has an error of 78 logits on digits_silu's validation images. Menus add a uniform share.
SMOOTH = [(m, d) for d in (3, 4, 5, 6, 7, 9, 11, 13, 15, 31, 63) for m in ("minimax", "chebyshev")]
GATED = [("composite", b) for b in range(6, 15)] + [("minimax", d) for d in (7, 15, 31, 63)]


@dataclass(frozen=True, slots=True)
class Found:
    """A polynomial network: how it was made, levels of all its activations, output error."""

    name: str
    depth: int
    error: float
    graph: Graph | None = None


class Network:
    """A network of the zoo, calibrated on four fifths of its samples."""

    def __init__(self, name: str, images: int) -> None:
        x = load(DATA.get(name, ZOO[name].dataset), "calibration").x
        x = x[:images] if name in DATA else x
        kept = len(x) - len(x) // 5
        c, _ = api.prepare(str(model_path(name)), x[:kept], Options(backend="clear"))
        self.start = run(c, CKKS, stop_after="calibrate")
        (entry,) = self.start.graph.inputs
        unseen = load(DATA.get(name, ZOO[name].dataset), "validation").x
        self.rest = {entry.origin: x[kept:]}
        self.unseen = {entry.origin: unseen[:images] if name in DATA else unseen}
        self.exact = logits(self.start.graph, self.rest)
        self.nodes = open_layers(self.start)
        self.kind = ZOO[name].activation

    def measured(self, name: str, c: Compilation) -> Found:
        """Levels and error of the network that these options or fits make; infinite where it diverges."""
        try:
            c = approximate(c)
        except CalibrationError:
            return Found(name, 0, math.inf)
        with np.errstate(all="ignore"):
            graph = Compilation.require(c.replaced, "bench", "approximate")
            error = rms(logits(graph, self.rest) - self.exact)
        depth = sum(r.fit.certificate.depth for r in c.fits or ())
        return Found(name, depth, error if math.isfinite(error) else math.inf, graph)

    def ruled(self, name: str, rule: Callable[[Target, Range], Fit]) -> Found:
        """With a fit per layer from the layer's range in the original network."""
        ranges = Compilation.require(self.start.ranges, "bench", "calibrate")
        chosen = {n.origin: Chosen(rule(goal_of(n), ranges.of(n.inputs[0])), False) for n in self.nodes}
        return self.measured(name, replace(self.start, chosen=chosen))

    def everywhere(self, method: str, degree: int, margin: float = Options().margin) -> Found:
        """With one method."""
        options = replace(self.start.options, activation=Activation(method, degree), margin=margin)
        return self.measured(f"{method}:{degree}", replace(self.start, options=options))

    def menu_frontier(self) -> list[Assignment]:
        """Fits chosen per layer as by the compiler, from longer menus, thinned evenly, cheapest first."""
        ranges = Compilation.require(self.start.ranges, "bench", "calibrate")
        price, margin = price_of_depth(1.0, PRODUCT), self.start.options.margin
        menus = []
        for node, weight in zip(self.nodes, sensitivities(self.start, self.nodes), strict=True):
            goal, density, domain = problem(node, ranges.of(node.inputs[0]), margin)
            menus.append(menu(goal, density, domain, price=price, sensitivity=weight, degrees=DEGREES, bits=BITS))
        frontier = pareto(menus)
        listed = np.unique(np.linspace(0, len(frontier) - 1, LISTED).astype(int))
        return [frontier[int(i)] for i in listed]

    def assigned(self, a: Assignment) -> Found:
        """With fits chosen per layer."""
        return self.measured("per layer", replace(self.start, chosen=as_chosen(self.start, self.nodes, a)))

    def confirmed(self, found: Found) -> tuple[int, float]:
        """On images that had no part in any choice: how many come out useless, and the error of the others.

        Useless: not finite, or off by more than the logits' own size.
        """
        if found.graph is None:
            return len(next(iter(self.unseen.values()))), math.inf
        count = len(next(iter(self.unseen.values())))
        exact = logits(self.start.graph, self.unseen).reshape(count, -1)
        with np.errstate(all="ignore"):
            errors = np.sqrt(np.mean((logits(found.graph, self.unseen).reshape(count, -1) - exact) ** 2, axis=1))
        good = errors <= rms(exact)
        return int(count - good.sum()), rms(errors[good])


def logits(graph: Graph, inputs: Mapping[str, NDArray[np.float32]]) -> FloatArray:
    """All outputs of a network, flat."""
    return np.concatenate([v.ravel() for v in evaluate(graph, inputs).values()])


def rms(values: FloatArray) -> float:
    """Root mean square."""
    return float(np.sqrt(np.mean(values**2)))


def orion(goal: Target, seen: Range) -> Fit:
    """Orion's rule."""
    domain = seen.widened(ORION_MARGIN)
    if goal.name == "relu":
        return composite.gated(goal, domain, degrees=ORION_RELU)
    return registry.fit("chebyshev", goal, domain, ORION_DEGREE)


def numpy_fit(goal: Target, seen: Range) -> Fit:
    """The least-squares Chebyshev series that numpy fits, of the same degree, on evenly spaced points of [min, max]."""
    x = np.linspace(seen.low, seen.high, POINTS)
    series = np.polynomial.Chebyshev.fit(x, goal(x), ORION_DEGREE)
    poly = Poly("chebyshev", tuple(float(v) for v in series.coef), (seen.low, seen.high))
    return Fit(goal.name, poly, "numpy", certify(goal, poly, poly.domain))


def fewest_levels(found: Iterable[Found], error: float) -> Found | None:
    """Of those that are accurate enough, the one of fewest levels, then of least error."""
    return min((f for f in found if f.error <= error), key=lambda f: (f.depth, f.error), default=None)


def per_layer(network: Network, error: float) -> Iterator[Found]:
    """The whole frontier of a small network; of others, halving to where it becomes accurate enough."""
    frontier = network.menu_frontier()
    if len(network.nodes) <= FEW_LAYERS:
        yield from (network.assigned(a) for a in frontier)
        return
    low, high = 0, len(frontier)
    while low < high:
        middle = (low + high) // 2
        found = network.assigned(frontier[middle])
        yield found
        low, high = (low, middle) if found.error <= error else (middle + 1, high)


def table(name: str, images: int) -> list[rows.Row]:
    """Rows of one network."""
    network = Network(name, images)
    layers = len(network.nodes)
    theirs = network.ruled("orion", orion)
    peer = network.ruled("numpy", numpy_fit)
    methods = GATED if network.kind == "relu" else SMOOTH
    tried = [network.everywhere(m, d) for m, d in methods]
    bare = [network.everywhere(m, d, margin=1.0) for m, d in methods]
    tried += per_layer(network, theirs.error)
    for f in sorted((f for f in tried if f.error < math.inf), key=lambda f: f.depth):
        print(f"  {name} {f.name:18s} {f.depth / layers:6.2f} levels  error {f.error:.3g}", flush=True)
    asked, told = WANTED_SAVING[network.kind], theirs.depth / layers
    ours = fewest_levels(tried, theirs.error)
    alike = fewest_levels((f for f in tried if f.name != "per layer"), theirs.error)
    cheaper = [f.error for f in tried if f.depth <= theirs.depth - asked * layers]
    found = [
        rows.Row(f"{name}_rms_of_logits", rms(network.exact), "logit"),
        rows.cost(f"{name}_error_at_asked_levels", min(cheaper), "logit", "Orion's rule", theirs.error),
        *numpy_rows(name, peer, tried, bare, layers),
    ]
    if ours is None:
        return [*found, rows.cost(f"{name}_error_least", min(f.error for f in tried), "logit", "Orion", theirs.error)]
    (useless, error), (their_useless, their_error) = network.confirmed(ours), network.confirmed(theirs)
    print(f"  {name}: {ours.name}")
    found += [
        rows.cost(f"{name}_levels", ours.depth / layers, "levels", "Orion's rule", told),
        rows.cost(f"{name}_error", ours.error, "logit", "Orion's rule", theirs.error),
        rows.cost(f"{name}_validation_useless", useless, "images", "Orion's rule", their_useless),
        rows.cost(f"{name}_validation_error_of_others", error, "logit", "Orion's rule", their_error),
        rows.quality(f"{name}_levels_saved", told - ours.depth / layers, "levels", "asked", asked),
    ]
    if alike is not None:
        found.append(rows.cost(f"{name}_levels_same_everywhere", alike.depth / layers, "levels", "Orion's rule", told))
    return found


def numpy_rows(name: str, peer: Found, tried: list[Found], bare: list[Found], layers: int) -> list[rows.Row]:
    """Against numpy's fit, which has no margin: ours with the default margin, and on numpy's interval."""
    found = [rows.Row(f"{name}_numpy_diverges", float(peer.error == math.inf), "1 = yes")]
    if peer.error == math.inf:
        return found
    found.append(rows.Row(f"{name}_numpy_error", peer.error, "logit"))
    for way, group in (("", tried), ("_and_interval", bare)):
        ours = fewest_levels(group, peer.error)
        if ours is not None:
            figure = f"{name}_levels_at_numpy_error{way}"
            found.append(rows.cost(figure, ours.depth / layers, "levels", "numpy", peer.depth / layers))
    return found


def main() -> None:
    """Every network whose data are there; writes ``results/orion_rule.json``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", default="digits_cnn,digits_gelu,digits_silu,resnet20")
    parser.add_argument("--images", type=int, default=64)
    args = parser.parse_args()
    found: list[rows.Row] = []
    for name in args.networks.split(","):
        if is_local(DATA.get(name, ZOO[name].dataset)):
            found += table(name, args.images)
    rows.write("orion_rule", found)
    print(rows.machine())


if __name__ == "__main__":
    main()
