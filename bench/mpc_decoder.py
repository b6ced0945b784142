"""A decoder writes letters between two parties: which ones, beside the clear model's, and what a letter costs.

The network of ``models/zoo/letters_gpt.py`` (two blocks with causal masks) is asked for one letter after the other. A
letter is a run: its window is shared as one-hot rows, the most likely letter is chosen under MPC, and nobody learns
any score. All prompts take their steps together, as one batch of runs; the data's owner puts each answer behind its
text. Agreement is that of the fixed-point simulator with onnxruntime on all test windows, each with its true letters.

    python bench/mpc_decoder.py [LETTERS]         # a few minutes
"""

from __future__ import annotations

import statistics
import sys

import numpy as np
import onnxruntime
import rows

from pi_compiler.api import compile_secure
from pi_compiler.models.letters import MODEL, window, windows, written
from pi_compiler.mpc import CompiledMpc
from pi_compiler.options import Options
from pi_compiler.runtime.mpc.backend import run_batch
from pi_compiler.runtime.mpc.crypten import CryptenMpc
from pi_compiler.runtime.mpc.launcher import Plan

PROMPTS = ("the number of attributes", "each image has been ", "a linear model of the ", "the classification of ")
_LETTERS = 12
_CALIBRATION = 256


def compiled() -> CompiledMpc:
    """The plan; training windows calibrate."""
    x, _ = windows("train")
    chosen = x[:: len(x) // _CALIBRATION][:_CALIBRATION, None]
    options = Options(target="mpc", embedding="secret", activation_error=2.0**-11)
    return compile_secure(MODEL, calibration=chosen, options=options)


def clear(session: onnxruntime.InferenceSession, x: np.ndarray) -> np.ndarray:
    """Onnxruntime's letters after windows (n, 16)."""
    return np.array([int(session.run(None, {"x": w[None]})[0][0, 0]) for w in x], np.int64)


def main(count: int) -> None:
    """Write ``results/mpc_decoder.json``."""
    plan, session = compiled(), onnxruntime.InferenceSession(str(MODEL))
    backend = CryptenMpc(Plan(timeout=120.0))
    ours, theirs = list(PROMPTS), list(PROMPTS)
    seconds: list[float] = []
    sent: list[float] = []
    rounds: list[int] = []
    for _ in range(count):
        x = np.stack([window(text) for text in ours])
        found = run_batch(plan.program, backend, plan.stacked(x[:, None]))
        chosen = np.rint(next(iter(found.outputs.values()))).astype(np.int64).reshape(-1)
        ours = [text + written(letter[None]) for text, letter in zip(ours, chosen, strict=True)]
        follow = clear(session, np.stack([window(text) for text in theirs]))
        theirs = [text + written(letter[None]) for text, letter in zip(theirs, follow, strict=True)]
        seconds += backend.parties[1].each
        sent.append(found.trace.total.traffic.bytes_sent / len(PROMPTS))
        rounds.append(found.trace.total.traffic.rounds)
    for text, prompt, other in zip(ours, PROMPTS, theirs, strict=True):
        print(f"{prompt}|{text[len(prompt) :]}", "" if text == other else f"(in clear {other[len(prompt) :]})")
    equal = sum(a == b for x, y in zip(ours, theirs, strict=True) for a, b in zip(x, y, strict=True))
    equal -= sum(map(len, PROMPTS))
    letters = count * len(PROMPTS)
    report = plan.report
    found_rows = [
        rows.quality("letters equal to the clear model's", float(equal), "letters", "generated", float(letters)),
        rows.cost("bytes per letter", statistics.mean(sent), "bytes", "predicted", float(str(report["bytes_sent"]))),
        rows.cost("rounds per letter", statistics.mean(rounds), "rounds", "predicted", float(str(report["rounds"]))),
        rows.Row("offline bytes per letter", float(str(report["offline_bytes"])), "bytes"),
        rows.Row("loopback", statistics.median(seconds), "s per letter"),
        *agreement(plan, session),
    ]
    rows.write("mpc_decoder", found_rows)
    print(rows.machine())


def agreement(plan: CompiledMpc, session: onnxruntime.InferenceSession) -> list[rows.Row]:
    """The simulator on the test windows."""
    x, y = windows("test")
    floats = clear(session, x)
    fixed = np.rint(next(iter(plan.run(x[:, None], backend="mpc-sim").outputs.values()))).reshape(-1)
    return [
        rows.quality("test windows with the clear model's letter", float((fixed == floats).mean()), "", "all", 1.0),
        rows.quality(
            "test accuracy in fixed point", float((fixed == y).mean()), "", "floats", float((floats == y).mean())
        ),
        rows.Row("test windows", float(len(y)), "windows"),
    ]


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else _LETTERS)
