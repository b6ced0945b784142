"""ResNet-20 on CIFAR-10, encrypted, without bootstrapping, on the native backend: one image at a time.

The network is the zoo's all-quadratic one, trained on CIFAR-10 (JPEG); or any ONNX file with the same input, whose
ReLUs are then replaced by quadratics fitted to calibration data (``--model`` with ``--data cifar10-lossless``
for the published weights). Every image is compared with the polynomial network's own answer in clear.
Seconds are those of one image, encryption and decryption included; keys are made and constants prepared
before, and reported apart; processor seconds are those of all threads. The run has a process of its own, so
that its peak memory is its own.

    python bench/resnet20.py [--images 1] [--threads 2] [--model FILE.onnx] [--data NAME] [--compiled DIR]

writes ``results/resnet20.json``. ``--compiled`` keeps the compiled model and what each image gave there, and goes
on where an earlier run with the same folder stopped.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import rows

from pi_compiler import api
from pi_compiler.api import CompiledModel
from pi_compiler.models.data import load
from pi_compiler.models.zoo import model_path
from pi_compiler.options import Activation, Options
from pi_compiler.runtime.memory import peak_bytes, reset_peak

DATASET = "cifar10-jpeg"
NETWORK = "resnet20_cifar10_jpeg_quadratic"
CALIBRATION_IMAGES = 128
KINDS = {
    "matrix_products": ("add",),
    "baby_steps": ("rotate",),
    "squares": ("mul", "relinearize"),
    "rescalings": ("rescale",),
    "encoding": ("encode",),
}
"""What the trace books under each name; a fused matrix product is booked under its last addition."""
ANT_ACE = "ANT-ACE, published, one thread, 44 GB"


def compiled(model: Path, dataset: str, folder: Path) -> None:
    """Compile into a folder."""
    start = time.perf_counter()
    options = Options(activation=Activation("quadratic"), backend="native")
    data = load(dataset, "calibration")
    api.compile(str(model), calibration=data.x[:CALIBRATION_IMAGES], options=options).save(folder)
    print(f"compiled in {time.perf_counter() - start:.0f} s", file=sys.stderr)


def run(folder: Path, dataset: str, first: int, images: int) -> None:
    """Answer images and write down, one file each, what they gave."""
    model = CompiledModel.load(folder / "model")
    (output,) = model.signature.outputs
    x = load(dataset, "test").x
    exact = model.session("clear")
    reset_peak()
    session = model.session("native")
    for i in range(first, images):
        sample = model.sample(x[i : i + 1])
        busy = time.process_time()
        result = session.run(sample)
        busy = time.process_time() - busy
        peak = peak_bytes()
        found, expected = result.logits[output].ravel(), exact.run(sample).logits[output].ravel()
        kinds = result.trace.opcodes()
        done = {
            "seconds": result.seconds,
            "processor_seconds": busy,
            "encrypt_seconds": result.encrypt_seconds,
            "decrypt_seconds": result.decrypt_seconds,
            "peak_memory_bytes": peak,
            "key_bytes": session.key_bytes,
            "keygen_seconds": session.keygen_seconds,
            "prepare_seconds": session.prepare_seconds,
            "precision_bits": float(-np.log2(np.abs(found - expected).max() / np.abs(expected).max())),
            "agrees": bool(found.argmax() == expected.argmax()),
            "kinds": {name: sum(kinds[o].seconds for o in ops if o in kinds) for name, ops in KINDS.items()},
        }
        (folder / f"image_{i}.json").write_text(json.dumps(done))
        print(f"image {i}: {done['seconds']:.1f} s, {done['precision_bits']:.1f} bits", file=sys.stderr, flush=True)


def report(folder: Path, images: int) -> list[rows.Row]:
    """Rows of all images."""
    plan = CompiledModel.load(folder / "model").report
    done = [json.loads((folder / f"image_{i}.json").read_text()) for i in range(images)]

    def median(name: str) -> float:
        return statistics.median(d[name] for d in done)

    counts = ("levels", "rotations", "distinct_rotations", "plain_products", "log_n", "log_qp", "security_bits")
    units = {"log_n": "", "log_qp": "bits", "security_bits": "bits"}
    seconds = median("seconds")
    kinds = {name: statistics.median(d["kinds"][name] for d in done) for name in KINDS}
    kinds |= {"encryption": median("encrypt_seconds"), "decryption": median("decrypt_seconds")}
    return [
        rows.cost("seconds", seconds, "s", "asked", 60.0),
        rows.cost("seconds_published", seconds, "s", ANT_ACE, 1454.0),
        rows.cost("predicted_seconds", float(str(plan["predicted_seconds"])), "s", "measured", seconds),
        rows.cost("peak_memory_bytes", max(d["peak_memory_bytes"] for d in done), "bytes", "asked", 16e9),
        rows.Row("predicted_memory_bytes", float(str(plan["peak_memory_bytes"])), "bytes"),
        rows.Row("key_bytes", max(d["key_bytes"] for d in done), "bytes"),
        *(rows.Row(name, float(str(plan[name])), units.get(name, name)) for name in counts),
        rows.quality("precision_bits", min(d["precision_bits"] for d in done), "bits", "asked", 8.0),
        rows.quality("agreement", sum(d["agrees"] for d in done), "images", "encrypted", len(done)),
        rows.Row("processor_seconds", median("processor_seconds"), "s"),
        rows.Row("keygen_seconds", median("keygen_seconds"), "s"),
        rows.Row("prepare_seconds", median("prepare_seconds"), "s"),
        *(rows.Row(f"seconds_{name}", value, "s") for name, value in kinds.items()),
    ]


def main() -> None:
    """Compile unless that is done, run what has not run, write the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--data", default=DATASET, help="the known data set that calibrates and is classified")
    parser.add_argument("--compiled", type=Path)
    parser.add_argument("--run-from", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.run_from is not None:
        run(args.compiled, args.data, args.run_from, args.images)
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.compiled or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "model").exists():
            compiled(args.model or model_path(NETWORK), args.data, folder / "model")
        first = next((i for i in range(args.images) if not (folder / f"image_{i}.json").exists()), args.images)
        if first < args.images:
            again = [
                sys.executable,
                __file__,
                "--compiled",
                str(folder),
                "--images",
                str(args.images),
                "--data",
                args.data,
            ]
            environment = {**os.environ, "PI_THREADS": str(args.threads)}
            subprocess.run([*again, "--run-from", str(first)], check=True, env=environment)
        rows.write("resnet20", report(folder, args.images))
    print(rows.machine())


if __name__ == "__main__":
    main()
