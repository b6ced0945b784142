"""The same programs on the native backend and on SEAL: seconds per image, side by side.

Each network is compiled once, for the native backend. Both backends run that program over the same chain of
primes on the same images, in turn, each on one thread and with the key switching that suits it: SEAL with one
special prime. Agreement and precision are against the exact meaning. Encryption and decryption count.

    python bench/native_networks.py [--images 20] [--networks mlp,lola,digits_cnn,lenet]
"""

from __future__ import annotations

import argparse
import os
import statistics
from dataclasses import replace

import numpy as np
import rows

from pi_compiler import api
from pi_compiler.api import CompiledModel
from pi_compiler.ir.params import ntt_primes
from pi_compiler.models.data import load
from pi_compiler.models.zoo import ZOO, model_path
from pi_compiler.options import Activation, Options
from pi_compiler.passes.schedule import SPECIAL_BITS


def for_seal(model: CompiledModel) -> CompiledModel:
    """The same program with one special prime, far enough above the chain's."""
    p = model.params
    special = ntt_primes(p.log_n, p.log_scale + SPECIAL_BITS, 1, p.primes)
    return replace(model, params=replace(p, special=special, digit=1))


def network(name: str, images: int) -> list[rows.Row]:
    """Rows of one network."""
    dataset = ZOO[name].dataset
    model = api.compile(
        str(model_path(name)),
        calibration=load(dataset, "calibration").x,
        options=Options(activation=Activation("quadratic"), backend="native"),
    )
    test = load(dataset, "test").take(images)
    (output,) = model.signature.outputs
    exact = model.session("clear").run(model.sample(test.x)).logits[output].reshape(images, -1)
    sessions = {"native": model.session("native"), "tenseal": for_seal(model).session("tenseal")}
    seconds: dict[str, list[float]] = {backend: [] for backend in sessions}
    bits: list[float] = []
    same = 0
    for i in range(images):
        for backend, session in sessions.items():
            result = session.run(model.sample(test.x[i]))
            seconds[backend].append(result.seconds)
            if backend == "native":
                found = result.logits[output].ravel()
                same += int(found.argmax() == exact[i].argmax())
                bits.append(float(-np.log2(np.abs(found - exact[i]).max() / np.abs(exact[i]).max())))
    ours, seal = (statistics.median(seconds[b]) for b in ("native", "tenseal"))
    return [
        rows.cost(f"{name}_seconds", ours, "s", "SEAL (tenseal)", seal),
        rows.quality(f"{name}_agreement", same, "images", "encrypted", images),
        rows.Row(f"{name}_precision_min", min(bits), "bits"),
    ]


def main() -> None:
    """Run the networks and write ``results/native_networks.json``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=20)
    parser.add_argument("--networks", default="mlp,lola,digits_cnn,lenet")
    args = parser.parse_args()
    os.environ["PI_THREADS"] = "1"
    rows.write("native_networks", [r for n in args.networks.split(",") for r in network(n, args.images)])
    print(rows.machine())


if __name__ == "__main__":
    main()
