"""A decoder writes letter after letter on shares, and nobody learns more than the letters."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from parties import answers, in_threads

from pi_compiler.api import compile_secure
from pi_compiler.ir.mpc_program import MpcOp
from pi_compiler.models.letters import MODEL, window, windows, written
from pi_compiler.options import Options
from pi_compiler.runtime.mpc import library
from pi_compiler.runtime.mpc.backend import shared_inputs

PROMPT = "each image has been "


@pytest.fixture(scope="module")
def plan():
    x, _ = windows("train")
    options = Options(target="mpc", embedding="secret", activation_error=2.0**-11)
    return compile_secure(MODEL, calibration=x[::293, None], options=options)


def in_clear(prompt: str, count: int) -> str:
    """What onnxruntime writes behind a prompt."""
    session = onnxruntime.InferenceSession(str(MODEL))
    for _ in range(count):
        prompt += written(session.run(None, {"x": window(prompt)[None]})[0][0])
    return prompt


def test_the_simulator_writes_what_the_clear_model_writes(plan):
    found = PROMPT
    for _ in range(6):
        chosen = next(iter(plan.run(window(found)[None], backend="mpc-sim").outputs.values()))
        found += written(np.rint(chosen).astype(np.int64).reshape(-1))
    assert found == in_clear(PROMPT, 6)


def test_one_letter_is_all_that_is_revealed(plan):
    """A choice at the end of a network is made in clear, where its owner sees all scores; here it is inside."""
    revealed = [i.shape for i in plan.program.instrs if i.op is MpcOp.REVEAL]
    assert revealed == [(1, 1)]
    assert not any(plan.program.client_ops.values())


@pytest.mark.slow
@pytest.mark.skipif(library.missing() is not None, reason="crypten is not installed")
def test_two_parties_write_what_the_clear_model_writes(plan):
    found = PROMPT
    for _ in range(3):
        inputs = shared_inputs(plan.program, plan.stacked(window(found)[None, None]))
        chosen = next(iter(answers(in_threads(plan.program, inputs, timeout=120)).values()))
        found += written(np.rint(chosen).astype(np.int64).reshape(-1))
    assert found == in_clear(PROMPT, 3)
