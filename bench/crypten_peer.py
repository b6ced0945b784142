"""ResNet-20 between two parties, against stock CrypTen on the same machine and network; and what was predicted.

Both run in two network namespaces (``namespaces.py``; needs root). Stock CrypTen runs the straightforward way, its
default provider being the first party: no dealer, no offline phase, and no privacy from that party; ours has a
third party that deals beforehand, whose bytes and seconds are rows of their own. What is compared is the online
phase of one image. Measurements are kept as they come in, so an interrupted run goes on where it stopped.

    python bench/crypten_peer.py            # about four minutes
    python bench/crypten_peer.py --afresh   # forgetting what was kept
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import namespaces
import numpy as np
import rows
from stock import both

from pi_compiler import api
from pi_compiler.cost_mpc import NETWORKS, layer_costs, load_mpc_prices, total_cost
from pi_compiler.ir.mpc_program import MpcProgram
from pi_compiler.models.data import load
from pi_compiler.models.zoo import model_path
from pi_compiler.mpc import CompiledMpc
from pi_compiler.options import Activation, Options
from pi_compiler.runtime.mpc.crypten import CryptenMpc
from pi_compiler.runtime.mpc.job import Address
from pi_compiler.runtime.mpc.launcher import Place, Plan
from pi_compiler.runtime.mpc.measure import measure

Figures = dict[str, Any]
IMAGES = 5
STOCK_REPEATS = 3
PLANS = {
    "exact": Options(target="mpc", network="wan"),
    # The published network was not trained for squares: answers are wrong, costs are those of one that was.
    "quadratic": Options(target="mpc", network="wan", activation=Activation("quadratic"), wrap_budget=0.01),
}
_PORT = 7741
_PLACE_OF = (0, 1, 0)
"""Namespace of model owner, data owner and dealer."""


@dataclass(slots=True)
class Kept:
    """Measurements on disk."""

    path: Path = rows.RESULTS / "crypten_peer.partial.json"
    found: Figures = field(default_factory=dict)

    def get(self, name: str, measured: Callable[[], Figures]) -> Figures:
        """A measurement, made only if it is missing."""
        if name not in self.found:
            print(f"measuring {name} ...", flush=True)
            self.found[name] = measured()
            self.path.parent.mkdir(exist_ok=True)
            self.path.write_text(json.dumps(self.found))
        return self.found[name]


def places() -> tuple[Place, ...]:
    """Where the three processes run."""
    return tuple(
        Place(tuple(namespaces.inside(side)), Address(namespaces.HOSTS[rank % 2], _PORT + rank))
        for rank, side in enumerate(_PLACE_OF)
    )


def ours(program: MpcProgram, images: np.ndarray) -> Figures:
    """Our runs: median seconds, counts per layer, and the answers."""
    backend = CryptenMpc(Plan(timeout=120.0, places=places()))
    name = next(iter(program.inputs))
    outputs, trace = backend.run(program, {name: images})
    model, data, dealer = backend.parties
    count = len(images)
    return {
        "seconds": statistics.median(data.each),
        "layers": {n: [c.traffic.rounds, c.traffic.bytes_sent / count] for n, c in trace.layers.items()},
        "offline_bytes": dealer.offline.sent / count,
        "offline_seconds": model.offline.seconds / count,
        "setup_bytes": model.setup.sent,
        "answers": next(iter(outputs.values())).reshape(count, -1).argmax(axis=1).tolist(),
        "busier_bytes": max(model.online.sent, data.online.sent) / count,
    }


def stock(image: np.ndarray) -> Figures:
    """Stock CrypTen's runs."""
    said = both("crypten_stock.py", Path(model_path("resnet20")), image, str(STOCK_REPEATS), apart=True)
    # Its first pass warms up.
    slower = [max(both) for both in zip(*(s["seconds"][1:] for s in said), strict=True)]
    answer = int(np.argmax(said[0]["logits"]))
    return {
        "seconds": statistics.median(slower),
        "rounds": said[0]["rounds"],
        "bytes": said[0]["bytes"],
        "answer": answer,
    }


def predicted(program: MpcProgram, table: Path) -> tuple[dict[str, list[float]], Callable[[str], float]]:
    """Rounds and bytes per layer; seconds on a network."""
    prices = load_mpc_prices("crypten-ttp", table)
    layers = {n: [c.rounds, c.bytes] for n, c in layer_costs(program, prices).items()}
    total = total_cost(program, prices)
    return layers, lambda network: NETWORKS[network].seconds(total)


def main() -> None:
    """Measure what is missing and write ``results/crypten_peer.json``."""
    if (why := namespaces.possible()) is not None:
        raise SystemExit(f"cannot measure: {why}")
    kept = Kept()
    if "--afresh" not in sys.argv[1:] and kept.path.exists():
        kept.found = json.loads(kept.path.read_text())
    calibration = load("cifar10-lossless", "calibration").x
    images = np.asarray(load("cifar10-lossless", "test").x[:IMAGES], np.float64).reshape(IMAGES, 1, 3, 32, 32)
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "costs.json"
        table.write_text(json.dumps(kept.get("costs", measure)))
        plans = {
            name: api.compile_secure(str(model_path("resnet20")), calibration=calibration[:64], options=options)
            for name, options in PLANS.items()
        }
        found = measured_rows(kept, plans, images, table)
    rows.write("crypten_peer", found)
    kept.path.unlink(missing_ok=True)
    print(rows.machine())


def measured_rows(kept: Kept, plans: dict[str, CompiledMpc], images: np.ndarray, table: Path) -> list[rows.Row]:
    """All rows."""
    figures: dict[tuple[str, str], Figures] = {}
    for network in ("man", "wan"):
        asked = NETWORKS[network]
        with namespaces.between(asked.rtt, asked.bandwidth):
            for name, plan in plans.items():
                program = plan.program
                figures[network, name] = kept.get(f"{network} {name}", lambda p=program: ours(p, images))
            if network == "wan":
                peer = kept.get("wan stock", lambda: stock(images[0]))
    found = [
        rows.cost(
            "resnet20_exact_wan", figures["wan", "exact"]["seconds"], "s", "stock CrypTen, ReLU", peer["seconds"]
        ),
        rows.cost(
            "resnet20_quadratic_wan",
            figures["wan", "quadratic"]["seconds"],
            "s",
            "stock CrypTen, ReLU",
            peer["seconds"],
        ),
    ]
    exact = figures["wan", "exact"]
    sent = sum(b for _, b in exact["layers"].values())
    rounds = sum(r for r, _ in exact["layers"].values())
    found += [
        rows.cost("resnet20_exact_bytes", sent, "bytes", "stock CrypTen, ReLU", peer["bytes"]),
        rows.cost("resnet20_exact_rounds", rounds, "rounds", "stock CrypTen, ReLU", peer["rounds"]),
        rows.Row("resnet20_exact_offline_bytes", exact["offline_bytes"], "bytes", "stock CrypTen, first party", 0.0),
        rows.Row("resnet20_exact_offline_wan", exact["offline_seconds"], "s"),
        rows.Row("resnet20_exact_setup_bytes", exact["setup_bytes"], "bytes"),
        rows.quality("first_answer_agrees", float(exact["answers"][0] == peer["answer"]), "of 1", "asked", 1.0),
    ]
    for name, plan in plans.items():
        layers, seconds = predicted(plan.program, table)
        seen = figures["wan", name]["layers"]
        wrong = sum(layers[n] != list(map(float, seen[n])) for n in layers)
        found.append(rows.Row(f"resnet20_{name}_layers_mispredicted", wrong, "layers", "asked", 0.0))
        for network in ("man", "wan"):
            value = figures[network, name]["seconds"]
            found.append(rows.cost(f"resnet20_{name}_{network}_predicted", seconds(network), "s", "measured", value))
    return found


if __name__ == "__main__":
    main()
