"""Forms of attention, normalization and activation of the digits vision transformer: accuracy and cost of each.

    python bench/forms.py --folder DIR [--epochs 40] [--seeds 3]

DIR gets ``digits_vit-SEED-plain.onnx``, as ``bench/digits_vit.py`` trains it, if that is not there; records of finished
forms are kept there and not made again. One kind is varied at a time, the two others being those of the encrypted
network (Power-Softmax with p = 2, BatchNorm, x²); each network is trained after each exchange, taught by the plain one.
``untrained`` is what the compiler makes of the network before its last exchange, by options alone (``--softmax``,
``--activation``): accuracy of the polynomial network. Accuracies are of the test split, read once each; their means and
standard deviations over seeds, and the difference of each form from the first one of its kind, seed by seed. Costs are
those of the plans of seed 0, made anew each time: CKKS for the native backend, MPC for CrypTen with a dealer in a local
network. Writes ``results/forms.json``; twenty minutes a seed.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import digits_vit
import numpy as np
import rows
import torch
from steps import plain_network

from pi_compiler import api
from pi_compiler.errors import PiError
from pi_compiler.exporter import export
from pi_compiler.importer import import_model
from pi_compiler.models.data import load
from pi_compiler.models.training.graph_module import GraphModule
from pi_compiler.models.training.measure import accuracy
from pi_compiler.models.training.transformers import Kind, Plan, exchange
from pi_compiler.ops.evaluate import evaluate
from pi_compiler.options import Activation, Options
from pi_compiler.pipelines import CKKS, run

Figures = dict[str, float]

ATTENTION = {
    "softmax": "max-exp",
    "power2": "power:2",
    "power4": "power:4",
    "power6": "power:6",
    "2quad": "2quad",
    "relu": "relu",
    "sigmoid": "sigmoid",
    "square": "square",
    "linear": "linear",
    "quadratic": "",
    "cgf": "cgf",
}
"""Trained form -> the option that puts the same one in untrained; the last one has trained coefficients only."""
NORMS = ("layer", "batch", "none")
ACTIVATIONS = {"gelu": 0, "degree 2": 2, "degree 4": 4}
CALIBRATION = 128
OPTIONS = Options(activation_error=2.0**-6)


class Bench:
    """One seed.

    Args:
        folder: of networks and records.
        seed: which plain network.
        epochs: after each exchange.
    """

    def __init__(self, folder: Path, seed: int, epochs: int) -> None:
        self.folder, self.seed = folder, seed
        self.train, self.validation, self.test = (load("digits", s) for s in ("train", "validation", "test"))
        self.calibration = load("digits", "calibration").x[:CALIBRATION]
        graph = import_model(plain_network(digits_vit.CASE, seed, folder)).graph
        self.teacher, self.graph = GraphModule(graph), graph
        self.settings = replace(digits_vit.EXCHANGED.settings, epochs=epochs)

    def trained(self, module: GraphModule, plan: Plan, order: tuple[Kind, ...]) -> GraphModule:
        """A copy with more exchanged."""
        made = copy.deepcopy(module)
        plan = replace(plan, order=order, settings=self.settings)
        exchange(made, plan, self.train, self.validation, teacher=self.teacher, seed=self.seed)
        return made.eval()

    def base(self, kinds: tuple[Kind, ...]) -> GraphModule:
        """The plain network with two kinds exchanged; kept as ONNX besides."""
        return self.trained(GraphModule(self.graph), digits_vit.EXCHANGED, kinds)

    def costs(self, form: str) -> Figures:
        """Of the plans of a finished form."""
        found: Figures = {}
        path = self.path(form)
        try:
            plan = api.plan(path, calibration=self.calibration, options=replace(OPTIONS, backend="native"))
            found |= {k: float(str(plan[k])) for k in ("levels", "rotations", "plain_products", "predicted_seconds")}
        except PiError as error:
            sys.stdout.write(f"{path.name}: ckks: {error.what}\n")
        try:
            secure = replace(OPTIONS, target="mpc", activation_error=2.0**-10)
            report = api.compile_secure(path, calibration=self.calibration, options=secure).report
            found |= {
                "mpc rounds": float(str(report["rounds"])),
                "mpc bytes": float(str(report["bytes_sent"])),
                "mpc seconds": float(str(report["predicted_seconds"])),
            }
        except PiError as error:
            sys.stdout.write(f"{path.name}: mpc: {error.what}\n")
        return found

    def untrained(self, path: Path, options: Options) -> float:
        """Test accuracy of the polynomial network that the compiler makes by options alone; nan if it makes none."""
        try:
            c, _ = api.prepare(path, self.calibration, replace(options, backend="native"))
            c = run(c, CKKS, stop_after="approximate")
        except PiError as error:
            sys.stdout.write(f"{path.name}: untrained: {error.what}\n")
            return float("nan")
        if c.replaced is None:
            return float("nan")
        (name,) = c.replaced.output_names
        inputs = {c.replaced.inputs[0].origin: self.test.x[:, None].reshape(-1, *c.replaced.inputs[0].shape)}
        scores = evaluate(c.replaced, inputs)[name]
        return float((scores.reshape(len(scores), -1).argmax(axis=1) == self.test.y).mean())

    def path(self, form: str) -> Path:
        """Where the network of a form, ``KIND, NAME``, is."""
        return self.folder / f"forms-{self.seed}-{form.replace(', ', '-').replace(' ', '_')}.onnx"

    def form(self, form: str, module: GraphModule) -> Figures:
        """Accuracy of a finished network."""
        path = self.path(form)
        export(module.to_graph(), path)
        scored = GraphModule(import_model(path).graph)
        return {"validation": accuracy(scored, self.validation)[0], "trained": accuracy(scored, self.test)[0]}

    def all(self) -> Iterator[tuple[str, Figures]]:
        """Every form with its accuracies."""
        yield from self.kind("attention", ("norms", "activations"))
        yield from self.kind("norms", ("attention", "activations"))
        yield from self.kind("activations", ("attention", "norms"))

    def kind(self, kind: Kind, others: tuple[Kind, ...]) -> Iterator[tuple[str, Figures]]:
        """The forms of one kind."""
        names = {"attention": tuple(ATTENTION), "norms": NORMS, "activations": tuple(ACTIVATIONS)}[kind]
        record = self.folder / f"forms-{self.seed}-{kind}.json"
        done: dict[str, Figures] = json.loads(record.read_text()) if record.is_file() else {}
        if set(names) <= set(done):
            yield from ((f"{kind}, {n}", done[n]) for n in names)
            return
        base = self.base(others)
        path = self.folder / f"forms-{self.seed}-before-{kind}.onnx"
        export(base.to_graph(), path)
        for name in names:
            if name not in done:
                done[name] = self.one(kind, name, base, path)
                record.write_text(json.dumps(done, indent=1) + "\n")
                sys.stdout.write(f"{kind}, {name}: {done[name]}\n")
                sys.stdout.flush()
            yield f"{kind}, {name}", done[name]

    def one(self, kind: Kind, name: str, base: GraphModule, path: Path) -> Figures:
        """A form trained in, and put in by options where those have it."""
        plan, found, options = digits_vit.EXCHANGED, Figures(), OPTIONS
        if kind == "attention":
            plan = replace(plan, attention=name)
            if ATTENTION[name]:
                found["untrained"] = self.untrained(path, replace(options, softmax=ATTENTION[name]))
        elif kind == "norms":
            plan = replace(plan, norms=name)
            if name == "layer":
                found["untrained"] = self.untrained(path, options)
        else:
            plan = replace(plan, degree=ACTIVATIONS[name])
            method = Activation("chebyshev", 4) if name == "degree 4" else Activation("quadratic")
            found["untrained"] = self.untrained(
                path, options if name == "gelu" else replace(options, activation=method)
            )
        return found | self.form(f"{kind}, {name}", self.trained(base, plan, (kind,)))


ACCURACIES = {
    "untrained": "of the test images",
    "trained": "of the test images",
    "validation": "of the validation images",
}
UNITS = {"predicted_seconds": "s", "mpc bytes": "bytes", "mpc seconds": "s"}


def form_rows(form: str, seeds: Sequence[Figures], first: Sequence[Figures], costs: Figures) -> list[rows.Row]:
    """A form's accuracies over seeds, its difference from the first form of its kind, and its costs.

    Args:
        form: its kind and name.
        seeds: its accuracies, seed by seed.
        first: those of the first form of the kind.
        costs: its plans' figures.
    """
    found = []
    for what, unit in ACCURACIES.items():
        values = [f[what] for f in seeds if np.isfinite(f.get(what, np.nan))]
        if not values:
            continue
        found += spread(f"{form}: {what}", values, unit)
        if len(values) < len(seeds):
            found.append(rows.Row(f"{form}: {what}, of so many seeds", len(values), "networks"))
    differences = [100.0 * (f["trained"] - g["trained"]) for f, g in zip(seeds, first, strict=True)]
    found += spread(f"{form}: trained, paired difference from the first form", differences, "points")
    return found + [rows.Row(f"{form}: {what}", value, UNITS.get(what, "")) for what, value in costs.items()]


def spread(name: str, values: Sequence[float], unit: str) -> list[rows.Row]:
    """Mean, and standard deviation where there is one."""
    found = [rows.Row(name, statistics.mean(values), unit)]
    if len(values) > 1:
        found.append(rows.Row(f"{name}, standard deviation", statistics.stdev(values), unit))
    return found


def main() -> None:
    """Train, plan, and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("bench/results/digits_vit"))
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    benches = [Bench(given.folder, seed, given.epochs) for seed in range(given.seeds)]
    seeds = [dict(bench.all()) for bench in benches]
    found = [rows.Row("seeds", len(seeds), "networks"), rows.Row("epochs after each exchange", given.epochs, "epochs")]
    for form in seeds[0]:
        first = next(f for f in seeds[0] if f.split(",")[0] == form.split(",")[0])
        found += form_rows(form, [s[form] for s in seeds], [s[first] for s in seeds], benches[0].costs(form))
    rows.write("forms", found)


if __name__ == "__main__":
    main()
