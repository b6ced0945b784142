"""Training-free degrees for the ReLUs of ResNet-20: chosen per layer against the same everywhere.

Per layer: the Pareto list of ``passes.choose``; everywhere: one composite of 4 to 14 bits, or one
least-squares polynomial. Calibration images make the fits and the list, labeled validation images
pick from each family the network of fewest activation levels that loses at most half a point, and
the test set is read once for the three that remain. Data are CIFAR-10 (JPEG), on which the published
weights lose about ten points: compare with the baseline here, not with published figures.

    python bench/degree_choice.py [--calibration 128] [--validation 1000] [--test 10000]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnxruntime
import rows

from pi_compiler import api
from pi_compiler.approx.choose import pareto
from pi_compiler.errors import CalibrationError
from pi_compiler.exporter import export
from pi_compiler.models.data import Dataset, load
from pi_compiler.models.zoo import model_path
from pi_compiler.options import Activation, Options
from pi_compiler.passes.approximate import approximate
from pi_compiler.passes.choose import as_chosen, menus, open_layers
from pi_compiler.passes.compilation import Compilation
from pi_compiler.pipelines import CKKS, run

ALLOWED_DROP = 0.005
MARGIN = 1.8  # composites explode outside their interval, and the test set reaches farther than the calibration images


@dataclass(frozen=True, slots=True)
class Candidate:
    """A polynomial ResNet-20."""

    name: str
    depth: int
    model: bytes


def calibrated(x: np.ndarray, options: Options) -> Compilation:
    """ResNet-20 with its ranges."""
    c, _ = api.prepare(str(model_path("resnet20")), x, options)
    return run(c, CKKS, stop_after="calibrate")


def candidate(name: str, c: Compilation) -> Candidate | None:
    """ResNet-20 with polynomial activations, or None where it diverges."""
    try:
        c = approximate(c)
    except CalibrationError:
        return None
    graph = Compilation.require(c.replaced, "bench", "approximate")
    depth = sum(r.fit.certificate.depth for r in c.fits or ())
    return Candidate(name, depth, export(graph, None).SerializeToString())


def accuracy(model: bytes, data: Dataset) -> float:
    """Of an ONNX model with batch 1, by onnxruntime; an image without a finite answer counts as wrong."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    right = 0
    for image, label in zip(data.x, data.labels, strict=True):
        scores = session.run(None, {name: image[None]})[0]
        right += int(np.isfinite(scores).all() and scores.argmax() == label)
    return right / len(data.labels)


def good(c: Candidate | None, validation: Dataset, floor: float) -> bool:
    """Whether a candidate keeps the accuracy on validation data."""
    if c is None:
        return False
    reached = accuracy(c.model, validation)
    print(f"  {c.name:24s} {c.depth:4d} levels  validation {reached:.4f}", flush=True)
    return reached >= floor


def first_good(makers: Sequence[Callable[[], Candidate | None]], validation: Dataset, floor: float) -> Candidate | None:
    """The first of a list, cheapest first, that keeps the accuracy, if one does."""
    for make in makers:
        c = make()
        if c is not None and good(c, validation, floor):
            return c
    return None


def main() -> None:
    """Choose, evaluate, write ``results/degree_choice.json``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calibration", type=int, default=128)
    parser.add_argument("--validation", type=int, default=1000)
    parser.add_argument("--test", type=int, default=10_000)
    args = parser.parse_args()
    x = load("cifar10-jpeg", "calibration").x[: args.calibration]
    validation = load("cifar10-jpeg", "validation").take(args.validation)
    original = model_path("resnet20").read_bytes()
    floor = accuracy(original, validation) - ALLOWED_DROP
    plain = calibrated(x, Options(backend="clear", margin=MARGIN))

    def everywhere(method: str, degree: int) -> Callable[[], Candidate | None]:
        options = replace(plain.options, activation=Activation(method, degree))
        return lambda: candidate(f"{method} {degree}", replace(plain, options=options))

    start = time.perf_counter()
    command = calibrated(x, Options(backend="clear", margin=MARGIN, max_accuracy_drop=0.02))
    run(command, [p for p in CKKS if p[0] == "choose"])
    seconds = time.perf_counter() - start
    nodes = open_layers(plain)
    frontier = pareto(menus(plain, nodes))
    low, high = 0, len(frontier) - 1
    while low < high:
        middle = (low + high) // 2
        tried = candidate(f"per layer {middle}", replace(plain, chosen=as_chosen(plain, nodes, frontier[middle])))
        low, high = (low, middle) if good(tried, validation, floor) else (middle + 1, high)
    chosen = candidate("per layer", replace(plain, chosen=as_chosen(plain, nodes, frontier[low])))
    composite = first_good([everywhere("composite", b) for b in range(5, 14)], validation, floor)
    single = first_good([everywhere("least_squares", d) for d in (15, 31, 63, 127)], validation, floor)
    if chosen is None or composite is None:
        raise SystemExit("no network keeps the accuracy")
    test = load("cifar10-jpeg", "test").take(args.test)
    base = accuracy(original, test)
    found = {c.name: accuracy(c.model, test) for c in (chosen, composite, single) if c is not None}
    written = [
        rows.cost("activation_depth", chosen.depth, "levels", f"uniform {composite.name}", composite.depth),
        rows.cost("activation_depth_orion", chosen.depth, "levels", "uniform 15, 15, 27 (Orion)", 19 * 14),
        rows.Row("accuracy_original", base, "fraction"),
        rows.Row("accuracy_chosen", found[chosen.name], "fraction"),
        rows.Row("accuracy_composite", found[composite.name], "fraction"),
        rows.Row("accuracy_drop_chosen", base - found[chosen.name], "fraction"),
        rows.Row("test_images", len(test.labels), "images"),
        rows.cost("choose_seconds", seconds, "s", "asked", 120.0),
    ]
    if single is None:
        print("no uniform least-squares polynomial up to degree 127 keeps the accuracy")
    else:
        uniform = f"uniform {single.name}"
        written.append(rows.cost("activation_depth_single", chosen.depth, "levels", uniform, single.depth))
        written.append(rows.Row("accuracy_single", found[single.name], "fraction"))
    rows.write("degree_choice", written)
    print(rows.machine())


if __name__ == "__main__":
    main()
