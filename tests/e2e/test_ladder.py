"""The ladder from an ONNX file to a decrypted answer: every step has its own tolerance and its own name."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from small_onnx import dense

from pi_compiler.answers import answer, stacked
from pi_compiler.api import CompiledModel, compile
from pi_compiler.exporter import export
from pi_compiler.importer import import_model
from pi_compiler.models.data import load
from pi_compiler.models.training.engine import Settings
from pi_compiler.models.training.graph_module import GraphModule
from pi_compiler.models.training.transformers import Plan, exchange
from pi_compiler.models.zoo import model_path
from pi_compiler.options import Options
from pi_compiler.report.ladder import STEPS, Rung, ladder, rung
from pi_compiler.report.precision import bits_kept


@pytest.fixture(scope="module")
def rungs(compiled: CompiledModel) -> dict[str, Rung]:
    """The steps of the digits network on three test images."""
    inputs = stacked(compiled, load("digits", "test").take(3).x)
    found = {name: answer(compiled.session(name), inputs).logits for name in ("clear", "sim", "tenseal")}
    steps = ladder(compiled.models, inputs, found["clear"], found["sim"], found["tenseal"])
    return {r.name: r for r in steps}


def test_every_step_has_a_name(rungs: dict[str, Rung]) -> None:
    assert list(rungs) == list(STEPS)


def test_import_keeps_what_the_file_means(rungs: dict[str, Rung]) -> None:
    """float32 outside against float64 inside."""
    assert rungs["import"].error < 1e-4


def test_polynomials_cost_what_the_certificates_say(rungs: dict[str, Rung], compiled: CompiledModel) -> None:
    """A degree-2 ReLU without retraining is the coarsest step by far; it must stay below the scores' size."""
    assert rungs["approximate"].bits > 1
    others = [r for name, r in rungs.items() if name not in ("approximate", "in all")]
    assert max(r.error for r in others) < rungs["approximate"].error / 100


def test_packing_and_leveling_are_exact(rungs: dict[str, Rung]) -> None:
    """What remains are float32 weights of the exported polynomial network."""
    assert rungs["compile"].bits > 18


def test_simulated_noise_leaves_the_bits_that_were_asked_for(rungs: dict[str, Rung]) -> None:
    assert rungs["simulate"].bits > 10


def test_encryption_leaves_the_bits_that_were_asked_for(rungs: dict[str, Rung]) -> None:
    assert rungs["encrypt"].bits > 10


def test_the_simulator_foretells_the_noise_of_encryption(rungs: dict[str, Rung]) -> None:
    assert abs(rungs["simulate"].bits - rungs["encrypt"].bits) < 2.5


def test_the_whole_is_no_worse_than_its_steps(rungs: dict[str, Rung]) -> None:
    steps = [r.error for name, r in rungs.items() if name not in ("simulate", "in all")]
    assert rungs["in all"].error <= sum(steps) * (1 + 1e-6)


def test_a_network_without_approximation_loses_nothing_to_it() -> None:
    """An activation that is a polynomial already is kept, and its step says so."""
    model = dense("Identity")
    rng = np.random.default_rng(1)
    compiled = compile(model, calibration=rng.normal(size=(40, 4)))
    inputs = stacked(compiled, rng.normal(size=(5, 4)))
    found = {name: answer(compiled.session(name), inputs).logits for name in ("clear", "sim")}
    steps = {r.name: r for r in ladder(compiled.models, inputs, found["clear"], found["sim"], found["sim"])}
    assert steps["approximate"].bits > 18
    assert steps["compile"].bits > 18


@pytest.mark.slow
def test_attention_by_cumulants_climbs_the_ladder(tmp_path: Path) -> None:
    """A vision transformer, its normalization and activations exchanged: only its softmax is coarse."""
    graph, data = import_model(model_path("digits_vit")).graph, load("digits", "train").take(256)
    module = GraphModule(graph)
    plan = Plan(Settings(1, 64, "adamw", 1e-3, clip_norm=1.0, distill=1.0), order=("norms", "activations"))
    exchange(module, plan, data, data, teacher=GraphModule(graph), seed=0)
    export(module.eval().to_graph(), tmp_path / "vit.onnx")
    options = Options(softmax="cgf", backend="native", activation_error=2.0**-6)
    compiled = compile(tmp_path / "vit.onnx", calibration=load("digits", "calibration").take(128).x, options=options)
    inputs = stacked(compiled, load("digits", "validation").take(3).x)
    found = {name: answer(compiled.session(name), inputs).logits for name in ("clear", "sim", "native")}
    steps = ladder(compiled.models, inputs, found["clear"], found["sim"], found["native"])
    bits = {r.name: r.bits for r in steps}
    assert bits["import"] > 18
    assert bits["compile"] > 15
    assert min(bits["simulate"], bits["encrypt"]) > 10
    assert bits["approximate"] < min(bits["compile"], bits["encrypt"])


def test_bits_are_relative_to_the_largest_value() -> None:
    exact = {"y": np.array([[4.0, -8.0]])}
    assert bits_kept(exact, {"y": np.array([[4.0, -8.0]])}) == math.inf
    assert bits_kept(exact, {"y": np.array([[4.5, -8.0]])}) == 4.0
    assert rung("compile", exact, {"y": np.array([[4.5, -8.0]])}).error == 0.5
    assert rung("compile", exact, exact).to_json()["bits"] is None
