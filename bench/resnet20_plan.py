"""Plan ResNet-20 for CIFAR-10 with degree-2 activations at N = 2^16; nothing is run.

Counts need no machine; seconds and memory of planning are measured in this process. The network is
the zoo's (published weights). Peers are counts recomputed for the same network: Orion's single-shot
packing takes 801 rotations for its convolutions, Lee et al.'s multiplexed packing 1689 at two levels each.

    python bench/resnet20_plan.py
"""

from __future__ import annotations

import time

import rows

from pi_compiler import api
from pi_compiler.cost import load_costs
from pi_compiler.models.data import load
from pi_compiler.models.zoo import model_path
from pi_compiler.options import Activation, Options
from pi_compiler.runtime.memory import peak_bytes


def main() -> None:
    """Plan and write ``results/resnet20_plan.json``."""
    data = load("cifar10-lossless", "calibration")
    options = Options(activation=Activation("quadratic"), backend="sim", log_n=16)
    start = time.perf_counter()
    report = api.plan(
        str(model_path("resnet20")), calibration=data.x[:128], options=options, costs=load_costs("tenseal")
    )
    seconds = time.perf_counter() - start
    layers = report["layers"]
    assert isinstance(layers, list)
    convolutions = [x for x in layers if "linear" in x["kinds"] and len(x["shape"]) == 4]
    squares = [x for x in layers if "square" in x["kinds"]]
    rotations = sum(x["rotations"] for x in convolutions)
    found = [
        rows.cost("convolution_rotations", rotations, "rotations", "Orion, recomputed", 801),
        rows.cost("convolution_rotations_lee", rotations, "rotations", "Lee et al., recomputed", 1689),
        rows.Row("rotations", float(str(report["rotations"])), "rotations"),
        rows.Row("plain_products", float(str(report["plain_products"])), "products"),
        rows.Row("levels", float(str(report["levels"])), "levels"),
        rows.Row("levels_per_convolution", max(x["depth"] for x in convolutions), "levels"),
        rows.Row("levels_per_activation", max(x["depth"] for x in squares), "levels"),
        rows.Row("distinct_rotations", float(str(report["distinct_rotations"])), "keys"),
        rows.Row("log_qp", float(str(report["log_qp"])), "bits"),
        rows.Row("security_bits", float(str(report["security_bits"])), "bits"),
        rows.cost("plan_seconds", seconds, "s", "asked", 60.0),
        rows.cost("plan_memory", peak_bytes(), "bytes", "asked", 4 * 2.0**30),
    ]
    rows.write("resnet20_plan", found)
    print(rows.machine())


if __name__ == "__main__":
    main()
