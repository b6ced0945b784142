"""What MPC plans cost and keep, without a network: accuracy in fixed point, rounds, bytes, errors.

Accuracies are those of the 64-bit fixed-point simulator on test samples beside the float network's; rounds and
bytes are counts of the two-party backend (``pi_compiler.ir.two_party``). The encoder has two BERT blocks of 128
hidden units and 32 tokens with random weights; its peer is CrypTen 0.4.1's own softmax, GELU and normalization,
whose rounds were measured once (105, 35, 19; matrix products 1 each). MPCFormer's replacements are to be trained
in: their distance from the original block is no error of theirs.

    PI_DATA_DIR=... python bench/mpc_plans.py [IMAGES]
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import rows

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from networks_mpc import Transformer

from pi_compiler.accuracy_mpc import evaluate_mpc
from pi_compiler.api import compile_secure
from pi_compiler.cost_mpc import load_mpc_prices, network_of, total_cost
from pi_compiler.importer import import_model
from pi_compiler.importer.reference import reference
from pi_compiler.ir.graph import Graph, Node
from pi_compiler.models.data import load
from pi_compiler.models.zoo import ZOO, model_path
from pi_compiler.options import Activation, Options, Softmax
from pi_compiler.passes.compilation import Precision
from pi_compiler.passes.mpc.joint import Deal
from pi_compiler.passes.mpc.share import share

_IMAGES = 1000
_KEPT = 0.1
_STOCK_ROUNDS = 2 * (105 + 35 + 2 * 19 + 8)
_BLOCKS: tuple[tuple[str, str, Softmax], ...] = (
    ("plan's choice", "auto", "max-exp"),
    ("puma", "puma", "max-exp"),
    ("mpcformer quad, 2quad", "mpcformer", "2quad"),
    ("mpcformer quad, 2relu", "mpcformer", "2relu"),
    ("chebyshev:9, power", "chebyshev:9", "power"),
)


def networks(images: int) -> Iterator[rows.Row]:
    """Accuracy in fixed point, and what an inference costs."""
    for name, method in (("digits_cnn", "auto"), ("lenet", "auto"), ("resnet20", "auto"), ("resnet20", "quadratic")):
        dataset = ZOO[name].dataset
        calibration = load(dataset, "calibration").x[:256]
        options = Options(target="mpc", activation=Activation(method))
        compiled = compile_secure(model_path(name), calibration=calibration, options=options)
        test = load(dataset, "test").take(images)
        found = evaluate_mpc(compiled, compiled.stacked(test.x), test.y)
        accuracy = found["accuracy"]
        assert isinstance(accuracy, dict)
        title = name if method == "auto" else f"{name}_{method}"
        yield rows.quality(f"{title}_accuracy", accuracy["simulated"], "", "floats", accuracy["polynomial"])
        yield rows.Row(f"{title}_images", float(len(test.y)), "images")
        for key, unit in (("rounds", "rounds"), ("bytes_sent", "bytes"), ("offline_bytes", "bytes")):
            yield rows.Row(f"{title}_{key}", float(str(compiled.report[key])), unit)


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


def relu_bytes(graph: Graph) -> float:
    """Online bytes of the layers that are ReLUs."""
    prices = load_mpc_prices("crypten-ttp")
    program = share(graph, Precision(16, 16), "crypten-ttp", Deal(prices, network_of("wan")), private=True)
    relus = {n.origin for n in graph.nodes() if n.op == "Relu"}
    costs = zip(program.instrs, prices.each(program), strict=True)
    return sum(c.bytes for i, c in costs if program.origins[i.origin] in relus)


def budget() -> Iterator[rows.Row]:
    """Ten percent of ResNet-20's ReLUs, scattered at random."""
    full = import_model(model_path("resnet20"), target="mpc").graph
    whole, part = relu_bytes(full), relu_bytes(masked(full, _KEPT))
    yield rows.cost("resnet20_ten_percent_share", part / whole, "", "asked", 0.15)


def blocks() -> Iterator[rows.Row]:
    """Two encoder blocks under several replacements."""
    net = Transformer("bert", layers=2, tokens=32, width=128, heads=2)
    model = net.model()
    calibration, x = net.samples(48), net.samples(8)
    exact = next(iter(reference(model.SerializeToString(), {"x": x}).values()))
    for title, gelu, softmax in _BLOCKS:
        names = [n.origin for n in import_model(model, target="mpc").graph.nodes() if n.op == "Gelu"]
        chosen = {name: Activation.parse(gelu, "mpc") for name in names}
        options = Options(target="mpc", network="wan", softmax=softmax, activations=chosen, activation_error=2.0**-9)
        compiled = compile_secure(model, calibration=calibration, options=options)
        found = next(iter(compiled.run(x, backend="mpc-sim").logits.values()))
        rounds = float(str(compiled.report["rounds"]))
        yield rows.cost(f"encoder {title} rounds", rounds, "rounds", "CrypTen", _STOCK_ROUNDS)
        yield rows.Row(f"encoder {title} bytes", float(str(compiled.report["bytes_sent"])), "bytes")
        yield rows.Row(f"encoder {title} distance", float(np.abs(found - exact).max()), "")
        yield rows.Row(f"encoder {title} seconds at 40 ms", network_of("wan").seconds(
            total_cost(compiled.program, load_mpc_prices("crypten-ttp"))), "s")  # fmt: skip


def main() -> None:
    """Write ``results/mpc_plans.json``."""
    images = int(sys.argv[1]) if len(sys.argv) > 1 else _IMAGES
    found = [*budget(), *blocks(), *networks(images)]
    rows.write("mpc_plans", found)
    print(rows.machine())


if __name__ == "__main__":
    main()
