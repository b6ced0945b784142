"""BERT-tiny as public exporters write it; ``PI_BERT_DIR`` is a folder that ``bench/export_bert.py`` wrote."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from pi_compiler import api
from pi_compiler.importer import import_model
from pi_compiler.ops.evaluate import evaluate
from pi_compiler.options import Options

FOLDER = os.environ.get("PI_BERT_DIR")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(FOLDER is None, reason="PI_BERT_DIR names no folder of bench/export_bert.py"),
]
EXPORTERS = ("legacy", "dynamo", "optimum")


def given() -> tuple[dict[str, np.ndarray], np.ndarray, dict[str, tuple[int, ...]]]:
    """Samples, the torch model's scores, and the shapes that optimum leaves open."""
    folder = Path(str(FOLDER))
    with np.load(folder / "samples.npz") as npz:
        samples = {name: npz[name] for name in npz.files}
    return samples, np.load(folder / "scores.npy"), {k: (1, *v.shape[1:]) for k, v in samples.items()}


@pytest.mark.parametrize("name", EXPORTERS)
def test_a_file_that_nobody_here_wrote_means_what_torch_computes(name: str) -> None:
    """Lookups, segments, masks, normalizations, exact GELU and a tanh pooler."""
    samples, exact, shapes = given()
    graph = import_model(Path(str(FOLDER)) / f"{name}.onnx", input_shapes=shapes).graph
    (found,) = evaluate(graph, {k: v[:, None] for k, v in samples.items()}).values()
    assert np.abs(found[:, 0] - exact).max() < 1e-5


@pytest.mark.parametrize("name", EXPORTERS)
def test_two_parties_answer_within_a_hundredth(name: str) -> None:
    samples, exact, shapes = given()
    secure = api.compile_secure(
        Path(str(FOLDER)) / f"{name}.onnx",
        calibration={k: v[:32] for k, v in samples.items()},
        options=Options(target="mpc", activation_error=2.0**-10),
        input_shapes=shapes,
    )
    backend = "crypten" if name == "legacy" else "mpc-sim"
    found = secure.run({k: v[32:34] for k, v in samples.items()}, backend=backend).logits["logits"]
    assert np.abs(found[:, 0] - exact[32:34]).max() < 1e-2


def test_its_plan_counts_bootstraps_by_block() -> None:
    """Too deep for leveled parameters: refused to run, planned with an estimate apart from what is predicted."""
    samples, _, _ = given()
    options = Options(backend="native", activation_error=2.0**-6, bootstraps=True)
    plan = api.plan(
        Path(str(FOLDER)) / "legacy.onnx", calibration={k: v[:32] for k, v in samples.items()}, options=options
    )
    blocks = plan["blocks"]
    assert isinstance(blocks, list)
    assert {e["block"] for e in blocks} == {"block 1", "block 2", "after"}
    assert sum(e["bootstraps"] for e in blocks) == plan["bootstraps"] > 0
    assert plan["estimated_bootstrap_seconds"] > plan["predicted_seconds"] > 0
