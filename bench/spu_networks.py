"""Networks between real processes on SPU: bytes predicted and measured, answers beside the simulator's.

SEMI2K's first party deals to itself (no privacy from it; the cost is the online phase alone), Cheetah has no dealer.
Seconds are of the loopback interface, set-up aside. The ResNets' images and networks are CIFAR-10's.

    PI_DATA_DIR=... python bench/spu_networks.py [IMAGES [NETWORK ...]]     # every network: some minutes an image
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import numpy as np
import rows

from pi_compiler import api
from pi_compiler.cost_mpc import load_mpc_prices, total_cost
from pi_compiler.models.data import load
from pi_compiler.models.zoo import ZOO, model_path
from pi_compiler.mpc import CompiledMpc
from pi_compiler.options import Options
from pi_compiler.runtime.mpc.launcher import Plan
from pi_compiler.runtime.mpc.spu.backend import SpuMpc

_NETWORKS = ("digits_cnn", "lenet", "resnet20", "resnet20_cifar10_jpeg_quadratic")
_PROTOCOLS = ("semi2k", "cheetah")
_IMAGES = 2


def measured(name: str, compiled: CompiledMpc, images: int, protocol: str) -> Iterator[rows.Row]:
    """One network under one protocol."""
    program = compiled.program
    given = compiled.stacked(load(ZOO[name].dataset, "test").take(images).x)
    backend = SpuMpc(Plan(spu=protocol, timeout=300.0))
    found, _ = backend.run(program, given)
    wanted = compiled.run(given, backend="mpc-sim").logits
    output = next(iter(program.outputs))
    prices = load_mpc_prices(protocol)
    total = backend.parties[0].online.sent + backend.parties[1].online.sent
    title = f"{name}_{protocol}"
    predicted = total_cost(program, prices)
    yield rows.cost(f"{title}_bytes", total / images, "bytes", "predicted", predicted.bytes)
    yield rows.Row(f"{title}_rounds", backend.parties[0].online.rounds / images, "messages")
    yield rows.Row(f"{title}_setup_bytes", float(sum(p.setup.sent for p in backend.parties)), "bytes")
    yield rows.Row(f"{title}_seconds", backend.parties[1].online.seconds / images, "s")
    equal = (found[output].argmax(-1) == wanted[output].argmax(-1)).mean()
    yield rows.quality(f"{title}_equal_answers", float(equal), "", "simulator", 1.0)
    yield rows.Row(f"{title}_images", float(images), "images")
    error = np.abs(found[output] - wanted[output]).max()
    yield rows.Row(f"{title}_distance", float(error), "of scores, from the simulator's")


def main(images: int, names: tuple[str, ...]) -> None:
    found: list[rows.Row] = []
    for name in names:
        calibration = load(ZOO[name].dataset, "calibration").x[:256]
        for protocol in _PROTOCOLS:
            options = Options(target="mpc", protocol=protocol)
            compiled = api.compile_secure(model_path(name), calibration=calibration, options=options)
            for row in measured(name, compiled, images, protocol):
                found.append(row)
                print(row, flush=True)
    rows.write("spu_networks", found)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else _IMAGES, tuple(sys.argv[2:]) or _NETWORKS)
