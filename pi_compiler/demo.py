"""The whole line on embedded data: a small network reads handwritten digits that it cannot see."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.columns import Columns
from rich.console import RenderableType
from rich.panel import Panel
from rich.rule import Rule
from rich.text import Text

from pi_compiler import api
from pi_compiler.accuracy import classes, evaluate_model
from pi_compiler.answers import Answers, Json, Progress, answer, stacked, timed_run
from pi_compiler.models.data import Dataset, load
from pi_compiler.models.zoo import ZOO, model_path
from pi_compiler.observe import Ticker
from pi_compiler.options import Activation, Options
from pi_compiler.report.ladder import ladder
from pi_compiler.report.precision import Values
from pi_compiler.report.text import (
    duration,
    evaluation_view,
    explain_view,
    facts,
    figure,
    ladder_view,
    run_view,
    size,
    table,
)

MODEL = "digits_cnn"


@dataclass(frozen=True, slots=True, eq=False)
class Demo:
    """What happened, for people and for machines."""

    views: list[RenderableType]
    report: Json


def digits(images: int, backend: str, output: Path | None, progress: Progress) -> Demo:
    """Compile the digits network, save it, load it, run it on encrypted test images.

    Args:
        images: how many test images.
        backend: where to run.
        output: where to keep the compiled model; None keeps it nowhere.
        progress: observer.
    """
    began = time.perf_counter()
    options = Options(activation=Activation("quadratic"), backend=backend)
    compiled = api.compile(
        model_path(MODEL),
        calibration=load("digits", "calibration").x,
        options=options,
        observers=[Ticker(progress)],
    )
    compile_seconds = time.perf_counter() - began
    compiled, stored = _reloaded(compiled, output)
    test = load("digits", "test")
    few = test.take(images)
    inputs = stacked(compiled, few.x)
    measured, found, exact = timed_run(compiled, inputs, backend, progress=progress)
    simulated = answer(compiled.session("sim"), inputs, progress, "simulate")
    rungs = [r.to_json() for r in ladder(compiled.models, inputs, exact.logits, simulated.logits, found.logits)]
    accuracy = evaluate_model(compiled, stacked(compiled, test.x), test.labels, found.logits, progress)
    report: Json = {
        "plan": compiled.report,
        "compile_seconds": compile_seconds,
        "model_bytes": stored,
        "run": measured,
        "ladder": rungs,
        "evaluation": accuracy,
        "seconds": time.perf_counter() - began,
    }
    views = [
        *_title(few, compile_seconds, stored, output),
        explain_view(compiled.report),
        *_section(f"{images} images, encrypted, evaluated, decrypted"),
        _predictions(few, inputs, found, exact.logits),
        run_view(measured),
        *_section("What precision and accuracy it cost"),
        ladder_view(rungs),
        evaluation_view(accuracy),
        *_section("Sizes"),
        _sizes(compiled, measured),
        Text(f"Done in {duration(report['seconds'])}.", style="bold green"),
    ]
    return Demo(views, report)


def _reloaded(compiled: api.CompiledModel, output: Path | None) -> tuple[api.CompiledModel, int]:
    """The model as another process would load it, and its size on disk."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = output if output is not None else Path(scratch) / MODEL
        stored = compiled.save(folder)
        return api.CompiledModel.load(folder), stored


def _title(few: Dataset, seconds: float, stored: int, output: Path | None) -> list[RenderableType]:
    where = f"kept in {output}" if output is not None else "not kept"
    lines = (
        "The owner of these images encrypts them under CKKS; a server that has the network but no key\n"
        "evaluates it on the ciphertexts; only the owner can decrypt the answer.\n"
    )
    known = ZOO[MODEL]
    pictures = Columns([Panel(picture(image[0]), title="what the owner sees") for image in few.x[:1]])
    return [
        *_section("pi-compiler: private inference from an ONNX file"),
        Text(lines),
        pictures,
        facts(
            [
                ("network", f"{known.description}; {known.path.name}"),
                ("activation", "every ReLU replaced by a quadratic fitted to calibration data, no retraining"),
                ("compiled", f"in {duration(seconds)}, {size(stored)} on disk, {where}"),
            ]
        ),
    ]


def _section(title: str) -> list[RenderableType]:
    return [Rule(Text(title, style="bold"), align="left"), Text("")]


def picture(image: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> str:
    """Gray values in [0, 1] as two characters each."""
    shades = " ░▒▓█"
    rows = (image * (len(shades) - 1)).round().astype(int).clip(0, len(shades) - 1)
    return "\n".join("".join(2 * shades[v] for v in row) for row in rows.tolist())


def _predictions(few: Dataset, inputs: Values, found: Answers, exact: Values) -> RenderableType:
    name = next(iter(found.logits))
    secret, clear = classes(found.logits[name], few.labels), classes(exact[name], few.labels)
    gap = np.abs(found.logits[name] - exact[name]).reshape(len(few), -1).max(axis=1)
    rows = [
        (
            str(i),
            str(few.labels[i]),
            str(clear[i]),
            str(secret[i]),
            "yes" if clear[i] == secret[i] else "NO",
            figure(gap[i]),
        )
        for i in range(len(few))
    ]
    columns = ("image", "label", "in clear", "encrypted", "agree", "largest difference of scores")
    return table("Predictions", columns, rows)


def _sizes(compiled: api.CompiledModel, measured: Json) -> RenderableType:
    plan, params = compiled.report, compiled.params
    answers = sum(p.layout.ciphertexts * params.ciphertext_bytes(p.level) for p in compiled.signature.outputs.values())
    return facts(
        [
            ("evaluation keys", f"{size(measured['key_bytes'])}, sent once ({plan['keys']} keys)"),
            ("one input", f"{size(plan['bytes_sent'])} ({plan['input_ciphertexts']} ciphertexts)"),
            ("one answer", size(answers)),
            ("peak memory", f"{size(measured['peak_memory_bytes'])} of the process"),
        ]
    )
