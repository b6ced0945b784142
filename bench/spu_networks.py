"""Networks between real processes on SPU: bytes predicted and measured, answers beside the simulator's.

SEMI2K's first party deals to itself (no privacy from it; the cost is the online phase alone), Cheetah has no dealer.
Seconds are of the loopback interface, set-up aside. The ResNets' images and networks are CIFAR-10's. Rows are written
after every network, and one that has rows of as many images is not run again.

    PI_DATA_DIR=... python bench/spu_networks.py [IMAGES [NETWORK ...]]     # every network: some minutes an image
    PI_DATA_DIR=... python bench/spu_networks.py --afresh [IMAGES [NETWORK ...]]     # whatever has been measured
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
_NAME = "spu_networks"


def measured(title: str, compiled: CompiledMpc, x: np.ndarray, protocol: str) -> Iterator[rows.Row]:
    """One network under one protocol.

    Args:
        title: of its rows.
        compiled: the network, planned for the protocol.
        x: images (N, *shape).
        protocol: one of two parties.
    """
    program, images = compiled.program, len(x)
    given = compiled.stacked(x)
    backend = SpuMpc(Plan(spu=protocol, timeout=300.0))
    found, _ = backend.run(program, given)
    wanted = compiled.run(given, backend="mpc-sim").logits
    output = next(iter(program.outputs))
    prices = load_mpc_prices(protocol)
    total = backend.parties[0].online.sent + backend.parties[1].online.sent
    predicted = total_cost(program, prices)
    yield rows.cost(f"{title}_bytes", total / images, "bytes", "predicted", predicted.bytes)
    yield rows.Row(f"{title}_rounds", backend.parties[0].online.rounds / images, "messages")
    yield rows.Row(f"{title}_setup_bytes", float(sum(p.setup.sent for p in backend.parties)), "bytes")
    yield rows.Row(f"{title}_seconds", backend.parties[1].online.seconds / images, "s")
    equal = (found[output].argmax(-1) == wanted[output].argmax(-1)).mean()
    yield rows.quality(f"{title}_equal_answers", float(equal), "", "simulator", 1.0)
    error = np.abs(found[output] - wanted[output]).max()
    yield rows.Row(f"{title}_distance", float(error), "of scores, from the simulator's")
    yield rows.Row(f"{title}_images", float(images), "images")


def main(images: int, names: tuple[str, ...], *, afresh: bool = False) -> None:
    """Measure what is missing, and write after each network and protocol."""
    found = {row.name: row for row in rows.read(_NAME)}
    for name in names:
        for protocol in _PROTOCOLS:
            title = f"{name}_{protocol}"
            done = found.get(f"{title}_images")
            if done is not None and done.value >= images and not afresh:
                continue
            print(f"{title} ...", flush=True)
            calibration = load(ZOO[name].dataset, "calibration").x[:256]
            options = Options(target="mpc", protocol=protocol)
            compiled = api.compile_secure(model_path(name), calibration=calibration, options=options)
            x = load(ZOO[name].dataset, "test").take(images).x
            found |= {row.name: row for row in measured(title, compiled, x, protocol)}
            rows.write(_NAME, list(found.values()))


if __name__ == "__main__":
    given = [a for a in sys.argv[1:] if a != "--afresh"]
    count = int(given[0]) if given else _IMAGES
    main(count, tuple(given[1:]) or _NETWORKS, afresh="--afresh" in sys.argv)
