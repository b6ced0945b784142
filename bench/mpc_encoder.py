"""Two encoder blocks between two parties, against stock CrypTen's own softmax, GELU and normalization; every form.

The size is BERT-tiny's: two blocks, 128 hidden units, 2 heads, 32 tokens; weights are random. Ours runs between two
parties and a dealer, stock CrypTen node by node with its default provider, the first party; rounds and bytes are
counted in both runs and are of the online phase, in both directions together. Errors are distances from ONNX's
reference on SAMPLES inputs: of the blocks' output, and of the replaced function on what reaches it. 2Quad, 2ReLU,
Power-Softmax and Quad are to be trained in: their distance is no error. Seconds are of the loopback interface; --wan
measures at 40 ms and 100 Mbit/s too, in two network namespaces, which needs root.

    python bench/mpc_encoder.py [--wan]        # about five minutes
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import namespaces
import numpy as np
import rows
from crypten_peer import places
from stock import both

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from networks_mpc import Transformer

from pi_compiler.api import compile_secure
from pi_compiler.cost_mpc import NETWORKS, MpcCost, load_mpc_prices, total_cost
from pi_compiler.importer import import_model
from pi_compiler.importer.reference import reference
from pi_compiler.ir.graph import FloatArray
from pi_compiler.ops import OPS
from pi_compiler.options import Activation, Options, Softmax
from pi_compiler.passes.compilation import Compilation
from pi_compiler.runtime.mpc.crypten import CryptenMpc
from pi_compiler.runtime.mpc.launcher import Plan
from pi_compiler.runtime.mpc.walk import Traffic

SAMPLES = 3
_CALIBRATION = 48
_REPEATS = 3
_TOLERANCE = 2.0**-10
_FORMS = {"softmax": "InnerSoftmax", "gelu": "Gelu", "layer norm": "LayerNorm"}
_STOCK = {"softmax": ("Softmax",), "gelu": ("Erf", "Mul"), "layer norm": ("LayerNormalization",)}
_SOFTMAX: tuple[Softmax, ...] = ("max-exp", "2quad", "2relu", "power")
_GELU = ("puma", "bumblebee", "piecewise:3", "mpcformer")


@dataclass(frozen=True, slots=True, eq=False)
class Blocks:
    """The network and its data."""

    file: bytes
    calibration: FloatArray
    x: FloatArray
    exact: FloatArray

    @staticmethod
    def made() -> Blocks:
        """BERT-tiny's size."""
        net = Transformer("bert", layers=2, tokens=32, width=128, heads=2)
        file = net.model().SerializeToString()
        calibration, x = net.samples(_CALIBRATION), net.samples(SAMPLES).astype(np.float32).astype(np.float64)
        return Blocks(file, calibration, x, next(iter(reference(file, {"x": x}).values())))


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """A run between processes.

    Attributes:
        traffic: rounds, and bytes of both parties, per form of ``_FORMS`` and in all (``""``).
        errors: per form on what reaches it; of the output (``""``).
        seconds: median.
        offline: bytes that the dealer sent.
        planned: what was predicted; nothing for a peer.
    """

    traffic: Mapping[str, Traffic]
    errors: Mapping[str, float]
    seconds: float
    offline: float = 0.0
    planned: MpcCost = field(default_factory=MpcCost)


def run(blocks: Blocks, softmax: Softmax, gelu: str, *, apart: bool = False) -> Measured:
    """Compiled with these forms, and run."""
    names = {n.origin: n.op for n in import_model(blocks.file, target="mpc").graph.nodes()}
    chosen = {n: Activation.parse(gelu, "mpc") for n, op in names.items() if op == "Gelu"}
    options = Options(
        target="mpc", network="wan", softmax=softmax, activations=chosen, activation_error=_TOLERANCE
    )  # fmt: skip
    seen: list[Compilation] = []
    compiled = compile_secure(
        blocks.file, calibration=blocks.calibration, options=options, observers=[lambda name, c, _: seen.append(c)]
    )
    backend = CryptenMpc(Plan(timeout=120.0, places=places() if apart else ()))
    outputs, trace = backend.run(compiled.program, compiled.stacked(blocks.x))
    traffic = {"": Traffic(trace.total.traffic.rounds, trace.total.traffic.bytes_sent // SAMPLES)}
    for form, op in _FORMS.items():
        layers = [cost.traffic for name, cost in trace.layers.items() if names.get(name) == op]
        traffic[form] = Traffic(sum(t.rounds for t in layers), sum(t.bytes_sent for t in layers) // SAMPLES)
    errors = function_errors(seen[-1], blocks.x)
    errors[""] = float(np.abs(next(iter(outputs.values())) - blocks.exact).max())
    _, data, dealer = backend.parties
    planned = total_cost(compiled.program, load_mpc_prices("crypten-ttp"))
    return Measured(traffic, errors, statistics.median(data.each), dealer.offline.sent / SAMPLES, planned)


def function_errors(c: Compilation, x: FloatArray) -> dict[str, float]:
    """Per form the largest distance of the replaced function from the exact one, on what reaches it, in floats."""
    exact = {n.origin: n for n in c.graph.nodes() if n.op in _FORMS.values()}
    graph = Compilation.require(c.replaced, "report", "protect")
    values: dict[int, FloatArray] = {}
    given: dict[str, FloatArray] = {}
    found: dict[str, FloatArray] = {}
    for node in graph.nodes():
        arrays = [values[id(i)] for i in node.inputs]
        values[id(node)] = OPS[node.op].apply(node, arrays) if arrays else x
        if node.origin in exact:
            given.setdefault(node.origin, arrays[0])
            found[node.origin] = values[id(node)]
    errors: dict[str, float] = {}
    for form, op in _FORMS.items():
        layers = [n for n in exact.values() if n.op == op]
        gaps = [np.abs(found[n.origin] - OPS[op].apply(n, [given[n.origin]])).max() for n in layers]
        errors[form] = float(max(gaps))
    return errors


def stock(blocks: Blocks, gelu: str, *, apart: bool = False) -> Measured:
    """Stock CrypTen's run of the first sample."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "blocks.onnx"
        path.write_bytes(blocks.file)
        said = both("crypten_stock_blocks.py", path, blocks.x[0], str(_REPEATS), gelu, apart=apart)
    first = said[0]
    traffic = {"": Traffic(int(first["rounds"]), int(first["bytes"]))}
    for form, ops in _STOCK.items():
        rounds, sent = (sum(first["costs"][op][i] for op in ops) for i in range(2))
        traffic[form] = Traffic(int(rounds), int(sent))
    # Its first pass warms up.
    slower = [max(pair) for pair in zip(*(s["seconds"][1:] for s in said), strict=True)]
    errors = {"": float(np.abs(np.array(first["output"]) - blocks.exact[0]).max())}
    return Measured(traffic, errors, statistics.median(slower))


def whole(ours: Measured, peers: Mapping[str, Measured]) -> Iterator[rows.Row]:
    """The plan's own choice against stock CrypTen, GELU by its erf and by its tanh."""
    for gelu, peer in peers.items():
        name = f"stock CrypTen, {gelu}"
        total, theirs = ours.traffic[""], peer.traffic[""]
        yield rows.cost(f"encoder rounds / {gelu}", float(total.rounds), "rounds", name, float(theirs.rounds))
        yield rows.cost(f"encoder bytes / {gelu}", float(total.bytes_sent), "bytes", name, float(theirs.bytes_sent))
        yield rows.cost(f"encoder error / {gelu}", ours.errors[""], "", name, peer.errors[""])
        yield rows.cost(f"encoder loopback / {gelu}", ours.seconds, "s", name, peer.seconds)
    yield rows.cost("encoder error", ours.errors[""], "", "allowed", 1e-2)
    yield rows.Row("encoder offline bytes", ours.offline, "bytes")
    planned, seen = ours.planned, ours.traffic[""]
    yield rows.cost("encoder rounds predicted", float(planned.rounds), "rounds", "measured", float(seen.rounds))
    yield rows.cost("encoder bytes predicted", planned.bytes, "bytes", "measured", float(seen.bytes_sent))


def table(form: str, name: str, found: Measured, peer: Measured) -> Iterator[rows.Row]:
    """One form: what its two layers (layer norm: four) cost, and how far its results are from the exact ones."""
    cost, theirs, title = found.traffic[form], peer.traffic[form], f"{form} {name}"
    yield rows.cost(f"{title}: rounds", float(cost.rounds), "rounds", "stock CrypTen", float(theirs.rounds))
    yield rows.cost(f"{title}: bytes", float(cost.bytes_sent), "bytes", "stock CrypTen", float(theirs.bytes_sent))
    yield rows.Row(f"{title}: distance", found.errors[form], "of the function")
    yield rows.Row(f"{title}: output's distance", found.errors[""], "of the blocks")


def wide(blocks: Blocks) -> Iterator[rows.Row]:
    """Seconds at 40 ms and 100 Mbit/s."""
    if (why := namespaces.possible()) is not None:
        raise SystemExit(f"cannot measure: {why}")
    asked = NETWORKS["wan"]
    with namespaces.between(asked.rtt, asked.bandwidth):
        ours, peer = run(blocks, "max-exp", "auto", apart=True), stock(blocks, "tanh", apart=True)
    yield rows.cost("encoder wan", ours.seconds, "s", "stock CrypTen, tanh", peer.seconds)
    yield rows.cost("encoder wan predicted", asked.seconds(ours.planned), "s", "measured", ours.seconds)


def main() -> None:
    """Write ``results/mpc_encoder.json``."""
    blocks = Blocks.made()
    ours, peers = run(blocks, "max-exp", "auto"), {gelu: stock(blocks, gelu) for gelu in ("erf", "tanh")}
    found = list(whole(ours, peers))
    for softmax in _SOFTMAX:
        measured = ours if softmax == "max-exp" else run(blocks, softmax, "auto")
        found += table("softmax", softmax, measured, peers["tanh"])
    found += table("gelu", "fitted to 2^-10 (the plan's choice)", ours, peers["tanh"])
    for gelu in _GELU:
        found += table("gelu", gelu, run(blocks, "max-exp", gelu), peers["tanh"])
    found += table("layer norm", "inverse root", ours, peers["tanh"])
    if "--wan" in sys.argv[1:]:
        found += wide(blocks)
    rows.write("mpc_encoder", found)
    print(rows.machine())


if __name__ == "__main__":
    main()
