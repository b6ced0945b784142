"""The MNIST networks and the digits network, encrypted: accuracy, agreement, precision, time, memory.

Each network runs in a process of its own, so that its peak memory is its own. Costs are measured
on this machine first (``--costs FILE`` reuses a table), so that prediction and measurement are of
one machine. The test set is read for the plaintext accuracy and for the images that are encrypted;
nothing is chosen by it.

    python bench/networks.py [--images 100] [--networks mlp,lola,lenet,digits_cnn]
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import rows

WANTED_ACCURACY = {"mlp": 0.975, "lola": 0.98, "lenet": 0.988, "digits_cnn": 0.97}
COUNTS = (
    "levels",
    "rotations",
    "plain_products",
    "keys",
    "key_bytes",
    "bytes_sent",
    "input_ciphertexts",
    "log_n",
    "log_qp",
    "security_bits",
)
ORION_SECONDS = {"mlp": 0.56, "lola": 0.38}
ORION_ROTATIONS = {"mlp": 79}


def compiled(name: str, images: int, costs: Path, folder: Path) -> dict[str, float]:
    """Compile, save, and write down what the plaintext networks answer."""
    from pi_compiler import api
    from pi_compiler.cost import load_costs
    from pi_compiler.importer import import_model
    from pi_compiler.models.data import load
    from pi_compiler.models.zoo import ZOO, model_path
    from pi_compiler.ops.evaluate import evaluate
    from pi_compiler.options import Activation, Options

    dataset = ZOO[name].dataset
    start = time.perf_counter()
    model = api.compile(
        str(model_path(name)),
        calibration=load(dataset, "calibration").x,
        options=Options(activation=Activation("quadratic"), backend="tenseal"),
        costs=load_costs("tenseal", costs),
    )
    compile_seconds = time.perf_counter() - start
    test = load(dataset, "test")
    (entry,) = model.signature.inputs
    (output,) = model.signature.outputs

    def classes(file: str, x: np.ndarray) -> np.ndarray:
        graph = import_model(model.models[file]).graph
        found = [evaluate(graph, {entry: x[i : i + 500]})[output] for i in range(0, len(x), 500)]
        return np.concatenate(found).reshape(len(x), -1).argmax(1)

    original, polynomial = classes("model.onnx", test.x), classes("polynomial.onnx", test.x)
    size = model.save(folder / "model")
    clear = model.session("clear").run(model.sample(test.x[:images])).logits[output].reshape(images, -1)
    np.savez(folder / "images.npz", x=test.x[:images], clear=clear, polynomial=polynomial[:images])
    return {
        "accuracy_original": float((original == test.y).mean()),
        "accuracy_polynomial": float((polynomial == test.y).mean()),
        "compile_seconds": compile_seconds,
        "artifact_bytes": size,
    }


def run(folder: Path) -> dict[str, float]:
    """Run a saved model on the saved images, in a process that does nothing else."""
    from pi_compiler.api import CompiledModel
    from pi_compiler.runtime.memory import peak_bytes

    model = CompiledModel.load(folder / "model")
    (output,) = model.signature.outputs
    with np.load(folder / "images.npz") as npz:
        x, clear, polynomial = npz["x"], npz["clear"], npz["polynomial"]
    session = model.session("tenseal")
    seconds, parts, bits, agree = [], [], [], 0
    for i in range(len(x)):
        result = session.run(model.sample(x[i]))
        found = result.logits[output].ravel()
        agree += int(found.argmax() == polynomial[i])
        bits.append(-np.log2(np.abs(found - clear[i]).max() / np.abs(clear[i]).max()))
        seconds.append(result.seconds)
        parts.append((result.encrypt_seconds, result.trace.seconds, result.decrypt_seconds))
    encrypt, evaluation, decrypt = np.median(np.array(parts), axis=0)
    report = model.report
    return {
        "images": len(x),
        "agreement": agree,
        "bits_min": float(min(bits)),
        "bits_median": float(statistics.median(bits)),
        "seconds": float(statistics.median(seconds)),
        "encrypt_seconds": float(encrypt),
        "evaluate_seconds": float(evaluation),
        "decrypt_seconds": float(decrypt),
        "predicted_seconds": float(str(report["predicted_seconds"])),
        "keygen_seconds": session.keygen_seconds,
        "prepare_seconds": session.prepare_seconds,
        "peak_memory_bytes": peak_bytes(),
        "predicted_memory_bytes": float(str(report["peak_memory_bytes"])),
        **{k: float(str(report[k])) for k in COUNTS},
    }


def table(name: str, r: dict[str, float]) -> list[rows.Row]:
    """Rows of one network."""
    found = [
        rows.quality(f"{name}_accuracy", r["accuracy_original"], "fraction", "asked", WANTED_ACCURACY[name]),
        rows.Row(f"{name}_accuracy_polynomial", r["accuracy_polynomial"], "fraction"),
        rows.quality(f"{name}_agreement", r["agreement"], "images", "encrypted", r["images"]),
        rows.quality(f"{name}_precision_min", r["bits_min"], "bits", "asked", 10.0),
        rows.Row(f"{name}_precision_median", r["bits_median"], "bits"),
        rows.cost(f"{name}_seconds", r["seconds"], "s", "predicted", r["predicted_seconds"]),
        rows.cost(f"{name}_peak_memory", r["peak_memory_bytes"], "bytes", "predicted", r["predicted_memory_bytes"]),
    ]
    if name in ORION_SECONDS:
        found.append(rows.cost(f"{name}_seconds_orion", r["seconds"], "s", "Orion (published)", ORION_SECONDS[name]))
    if name in ORION_ROTATIONS:
        found.append(rows.cost(f"{name}_rotations", r["rotations"], "rotations", "Orion", ORION_ROTATIONS[name]))
    plain = (
        *COUNTS,
        "encrypt_seconds",
        "evaluate_seconds",
        "decrypt_seconds",
        "keygen_seconds",
        "prepare_seconds",
        "compile_seconds",
        "artifact_bytes",
    )
    known = {f.name for f in found}
    return found + [rows.Row(f"{name}_{k}", r[k], k.rsplit("_", 1)[-1]) for k in plain if f"{name}_{k}" not in known]


def in_process(*arguments: str) -> dict[str, float]:
    """What a process of this script found."""
    out = subprocess.run([sys.executable, __file__, *arguments], capture_output=True, text=True, check=False)
    line = next((ln for ln in out.stdout.splitlines() if ln.startswith("RESULT ")), None)
    if line is None:
        raise SystemExit(f"{' '.join(arguments)} failed:\n{out.stderr}")
    found: dict[str, float] = json.loads(line.removeprefix("RESULT "))
    return found


def main() -> None:
    """Measure costs, then every network: one process compiles, another runs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--networks", default="mlp,lola,lenet,digits_cnn")
    parser.add_argument("--costs", type=Path)
    parser.add_argument("--compile")
    parser.add_argument("--run", type=Path)
    parser.add_argument("--folder", type=Path)
    args = parser.parse_args()
    if args.compile:
        print("RESULT " + json.dumps(compiled(args.compile, args.images, args.costs, args.folder)))
        return
    if args.run:
        print("RESULT " + json.dumps(run(args.run)))
        return
    found: list[rows.Row] = []
    with tempfile.TemporaryDirectory() as scratch:
        costs = args.costs or measured_costs(Path(scratch))
        for name in args.networks.split(","):
            folder = Path(scratch) / name
            folder.mkdir()
            common = ("--images", str(args.images), "--costs", str(costs), "--folder", str(folder))
            first = in_process("--compile", name, *common)
            found += table(name, {**first, **in_process("--run", str(folder))})
    rows.write("networks", found)
    print(rows.machine())


def measured_costs(folder: Path) -> Path:
    """A cost table of this machine, now."""
    from pi_compiler.runtime.measure import measure

    path = folder / "costs.json"
    path.write_text(json.dumps(measure("tenseal")))
    return path


if __name__ == "__main__":
    main()
