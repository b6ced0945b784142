"""BERT-tiny as public exporters write it; ``PI_BERT_DIR`` is a folder that ``bench/export_bert.py`` wrote."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pi_compiler import api
from pi_compiler.errors import CalibrationError
from pi_compiler.importer import import_model
from pi_compiler.ops.evaluate import evaluate
from pi_compiler.options import Options

FOLDER = os.environ.get("PI_BERT_DIR")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(FOLDER is None, reason="PI_BERT_DIR names no folder of bench/export_bert.py"),
]
WANTED = 1e-2
EXPORTERS = ("legacy", "dynamo", "optimum")


OPTIONS = Options(backend="native", activation_error=2.0**-6, bootstraps=True)


def split(name: str) -> dict[str, np.ndarray]:
    """Inputs of one split."""
    with np.load(Path(str(FOLDER)) / f"{name}.npz") as npz:
        return {key: npz[key] for key in npz.files if key != "y"}


def given() -> tuple[dict[str, np.ndarray], np.ndarray, dict[str, tuple[int, ...]]]:
    """Test sentences, the torch model's scores, and the shapes that optimum leaves open."""
    samples = split("test")
    return samples, np.load(Path(str(FOLDER)) / "scores.npy"), {k: (1, *v.shape[1:]) for k, v in samples.items()}


@pytest.mark.parametrize("name", EXPORTERS)
def test_a_file_that_nobody_here_wrote_means_what_torch_computes(name: str) -> None:
    """Lookups, segments, masks, normalizations, exact GELU and a tanh pooler."""
    samples, exact, shapes = given()
    graph = import_model(Path(str(FOLDER)) / f"{name}.onnx", input_shapes=shapes).graph
    (found,) = evaluate(graph, {k: v[:, None] for k, v in samples.items()}).values()
    assert np.abs(found[:, 0] - exact).max() < 1e-5


def test_a_mask_made_inside_is_the_same_network() -> None:
    """Numbers of words alone, compared with padding's: what ``reduce`` takes."""
    samples, exact, _ = given()
    graph = import_model(Path(str(FOLDER)) / "words.onnx").graph
    (found,) = evaluate(graph, {"x": samples["input_ids"][:, None]}).values()
    assert np.abs(found[:, 0] - exact).max() < 1e-5


@pytest.mark.parametrize("name", EXPORTERS)
def test_two_parties_answer_within_a_hundredth(name: str) -> None:
    samples, exact, shapes = given()
    secure = api.compile_secure(
        Path(str(FOLDER)) / f"{name}.onnx",
        calibration=split("calibration"),
        options=Options(target="mpc", activation_error=2.0**-10),
        input_shapes=shapes,
    )
    backend = "crypten" if name == "legacy" else "mpc-sim"
    found = secure.run({k: v[:2] for k, v in samples.items()}, backend=backend).logits["logits"]
    assert np.abs(found[:, 0] - exact[:2]).max() < WANTED
    assert (found[:, 0].argmax(-1) == exact[:2].argmax(-1)).all()


def test_trained_scores_differ_too_much_for_one_exponential() -> None:
    """The message names the form that takes them."""
    with pytest.raises(CalibrationError, match="--softmax normalize-square"):
        api.plan(Path(str(FOLDER)) / "legacy.onnx", calibration=split("calibration"), options=OPTIONS)


def test_its_plan_counts_bootstraps_by_block() -> None:
    """Too deep for leveled parameters: refused to run, planned with estimates apart from what is predicted."""
    options = replace(OPTIONS, softmax="normalize-square")
    plan = api.plan(Path(str(FOLDER)) / "legacy.onnx", calibration=split("calibration"), options=options)
    blocks = plan["blocks"]
    assert isinstance(blocks, list)
    assert {e["block"] for e in blocks} >= {"block 1", "block 2", "after"}
    assert sum(e["bootstraps"] for e in blocks) == plan["bootstraps"] > 0
    assert plan["estimated_bootstrap_seconds"] > plan["predicted_seconds"] > 0
    assert plan["peak_memory_bytes"] > plan["estimated_bootstrap_memory_bytes"] > 0
