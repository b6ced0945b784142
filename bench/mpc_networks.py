"""Networks under MPC: whole test sets in fixed point, first images between real processes, and a tenth of the ReLUs.

Accuracies are those of the 64-bit fixed-point simulator on all test samples (or the first IMAGES), beside the float
network's in onnxruntime. Two parties and a dealer (``crypten-ttp``) then answer the first REAL of them on the loopback
interface: answers beside the simulator's, bytes and rounds beside the plan's. ResNet-20 with 12,900 of its 188,416
ReLUs is AutoReP's of ``relu_budget.py``, whose folder is given with --budgeted. A tenth of the ReLUs is drawn at
random; the trained weights stay, because costs are counted and not answers.

    PI_DATA_DIR=... python bench/mpc_networks.py [--images N] [--real N] [--budgeted FOLDER] [--only TEXT]
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnxruntime
import rows

from pi_compiler.api import compile_secure
from pi_compiler.cost_mpc import load_mpc_prices, network_of
from pi_compiler.importer import import_model
from pi_compiler.ir.graph import FloatArray, Graph, Node
from pi_compiler.models.data import load
from pi_compiler.models.dataset import Dataset
from pi_compiler.models.zoo import ZOO, model_path
from pi_compiler.mpc import CompiledMpc
from pi_compiler.options import Options
from pi_compiler.passes.compilation import Precision
from pi_compiler.passes.mpc.absorb import absorb, join, pool_first
from pi_compiler.passes.mpc.joint import Deal
from pi_compiler.passes.mpc.share import share
from pi_compiler.passes.mpc.stack import stack
from pi_compiler.runtime.mpc.crypten import CryptenMpc
from pi_compiler.runtime.mpc.launcher import Plan

_NAMES = (
    "digits_cnn",
    "digits_gelu",
    "digits_silu",
    "lenet",
    "resnet20_cifar10_jpeg",
    "resnet20_cifar10_jpeg_quadratic",
)
_BUDGETED = ("12900-autorep-quadratic-pixel-seed0", "12900-autorep-identity-pixel-seed0")
_KEPT = 0.1
_POINTS = 0.2  # that fixed point may cost


@dataclass(frozen=True, slots=True)
class Case:
    """A network, and the data that it answers."""

    title: str
    path: Path
    dataset: str


def cases(budgeted: Path | None) -> Iterator[Case]:
    """Everything that is measured."""
    for name in _NAMES:
        yield Case(name, Path(model_path(name)), ZOO[name].dataset)
    for name in _BUDGETED if budgeted is not None else ():
        method, kind = name.split("-")[1:3]
        yield Case(f"resnet20_12900_{method}_{kind}", budgeted / name / "model.onnx", "cifar10-jpeg")


def accuracies(case: Case, compiled: CompiledMpc, test: Dataset) -> Iterator[rows.Row]:
    """The simulator beside floats."""
    single = onnxruntime.SessionOptions()
    single.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(case.path), single)
    scores = np.concatenate([session.run(None, {"x": image[None]})[0] for image in test.x])
    simulated = next(iter(compiled.run(test.x, backend="mpc-sim").logits.values()))
    same = simulated.argmax(-1).reshape(-1) == scores.argmax(-1)
    floats, fixed = (float((s.reshape(len(test.y), -1).argmax(-1) == test.y).mean()) for s in (scores, simulated))
    yield rows.quality(f"{case.title}_accuracy", fixed, "", "floats", floats)
    yield rows.Row(f"{case.title}_points_lost", 100.0 * (floats - fixed), "points", "allowed", _POINTS)
    yield rows.quality(f"{case.title}_same_answers", float(same.sum()), "images", "all", float(len(test.y)))


def between(case: Case, compiled: CompiledMpc, test: Dataset, images: int) -> Iterator[rows.Row]:
    """Real processes."""
    program = compiled.program
    given = compiled.stacked(test.take(images).x)
    backend = CryptenMpc(Plan(timeout=300.0))
    outputs, trace = backend.run(program, given)
    name = next(iter(outputs))
    wanted = compiled.run(given, backend="mpc-sim").logits[name]
    equal = (outputs[name].argmax(-1) == wanted.argmax(-1)).sum()
    model, data, dealer = backend.parties
    sent = trace.total.traffic.bytes_sent / images
    report = compiled.report
    yield rows.quality(f"{case.title}_equal_answers", float(equal), "images", "tried", float(images))
    yield rows.cost(f"{case.title}_bytes", sent, "bytes", "predicted", float(str(report["bytes_sent"])))
    rounds = float(trace.total.traffic.rounds)
    yield rows.cost(f"{case.title}_rounds", rounds, "rounds", "predicted", float(str(report["rounds"])))
    dealt = dealer.offline.sent / images
    yield rows.cost(f"{case.title}_offline_bytes", dealt, "bytes", "predicted", float(str(report["offline_bytes"])))
    yield rows.Row(f"{case.title}_setup_bytes", float(model.setup.sent), "bytes")
    yield rows.Row(f"{case.title}_loopback", float(np.median(data.each)), "s")


def masked(graph: Graph, keep: float) -> Graph:
    """The network with so many of its ReLUs left, the others the identity."""
    rng, zero = np.random.default_rng(0), np.zeros(())
    new: dict[int, Node] = {}
    for node in graph.nodes():
        made = replace(node, inputs=tuple(new[id(i)] for i in node.inputs))
        if node.op == "Relu":
            mask = (rng.random(node.shape) < keep).astype(np.float64)
            kept = Node("Affine", (made,), node.shape, {"scale": mask, "shift": zero}, node.origin)
            rest = Node("Affine", made.inputs, node.shape, {"scale": 1.0 - mask, "shift": zero}, node.origin)
            made = Node("Add", (kept, rest), node.shape, {}, node.origin)
        new[id(node)] = made
    return replace(
        graph, inputs=tuple(new[id(n)] for n in graph.inputs), outputs=tuple(new[id(n)] for n in graph.outputs)
    )


def relu_bytes(graph: Graph, image: FloatArray) -> float:
    """Online bytes that the layers that are ReLUs sent in a real run."""
    deal = Deal(load_mpc_prices("crypten-ttp"), network_of("wan"))
    shared = share(join(pool_first(absorb(graph))), Precision(16, 16), "crypten-ttp", deal, private=True)
    program = stack(shared)
    relus = {n.origin for n in graph.nodes() if n.op == "Relu"}
    _, trace = CryptenMpc(Plan(timeout=300.0)).run(program, {next(iter(program.inputs)): image})
    return float(sum(cost.traffic.bytes_sent for name, cost in trace.layers.items() if name in relus))


def tenth() -> Iterator[rows.Row]:
    """Ten percent of ResNet-20's ReLUs, scattered at random, between real processes."""
    full = import_model(model_path("resnet20_cifar10_jpeg"), target="mpc").graph
    image = np.asarray(load("cifar10-jpeg", "test").x[:1], np.float64).reshape(1, *full.inputs[0].shape)
    whole, part = relu_bytes(full, image), relu_bytes(masked(full, _KEPT), image)
    yield rows.Row("resnet20_all_relus_bytes", whole, "bytes")
    yield rows.Row("resnet20_tenth_of_relus_bytes", part, "bytes")
    yield rows.cost("resnet20_tenth_of_relus_share", part / whole, "", "allowed", 0.15)


def main() -> None:
    """Write ``results/mpc_networks.json``, row by row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=10_000, help="of the test set, at most")
    parser.add_argument("--real", type=int, default=10, help="images between processes")
    parser.add_argument("--budgeted", type=Path, help="folder of relu_budget.py's runs on cifar10-jpeg")
    parser.add_argument("--only", default="", help="networks whose names contain this; the others' rows stay")
    asked = parser.parse_args()
    found: dict[str, rows.Row] = {}
    path = rows.RESULTS / "mpc_networks.json"
    if asked.only and path.exists():
        found = {row["name"]: rows.Row(**row) for row in json.loads(path.read_text())}
    found |= {row.name: row for row in (() if asked.only else tenth())}
    for case in cases(asked.budgeted):
        if asked.only not in case.title:
            continue
        calibration = load(case.dataset, "calibration").x[:256]
        compiled = compile_secure(case.path, calibration=calibration, options=Options(target="mpc"))
        test = load(case.dataset, "test").take(asked.images)
        found |= {row.name: row for row in accuracies(case, compiled, test)}
        found |= {row.name: row for row in between(case, compiled, test, asked.real)}
        rows.write("mpc_networks", list(found.values()))
    print(rows.machine())


if __name__ == "__main__":
    main()
