"""Accuracy, agreement and intervals left, on data where the right figures are known."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper
from small_onnx import make_onnx

from pi_compiler.accuracy import evaluate_model
from pi_compiler.answers import answer, layer_times, stacked, timed_run
from pi_compiler.api import CompiledModel, compile
from pi_compiler.errors import ShapeMismatch
from pi_compiler.options import Activation, Options


@pytest.fixture(scope="module")
def gate() -> CompiledModel:
    """A tanh of each of four values, calibrated on [-1, 1]."""
    x = np.random.default_rng(0).uniform(-1, 1, (400, 4))
    x[0], x[1] = -1.0, 1.0
    options = Options(activation=Activation("chebyshev", 5), margin=1.0, backend="tenseal")
    return compile(make_onnx([helper.make_node("Tanh", ["x"], ["y"], "act")]), calibration=x, options=options)


def test_values_outside_the_interval_are_counted_by_value_and_by_sample(gate: CompiledModel) -> None:
    x = np.zeros((10, 4))
    x[:3, 0] = 1.5
    x[0, 1] = -1.5
    inputs = stacked(gate, x)
    labels = np.zeros(10, np.int64)
    found = evaluate_model(gate, inputs, labels, answer(gate.session("clear"), inputs).logits)
    (outside,) = found["out_of_range"]  # type: ignore[misc]
    assert outside["name"] == "act"
    assert outside["domain"] == pytest.approx([-1.0, 1.0], abs=1e-6)
    assert outside["values"] == pytest.approx(4 / 40)
    assert outside["samples"] == pytest.approx(3 / 10)


def test_agreement_compares_with_the_polynomial_network_and_accuracy_with_labels(gate: CompiledModel) -> None:
    x = 0.9 * np.eye(4)
    inputs = stacked(gate, x)
    right = np.arange(4)
    exact = answer(gate.session("clear"), inputs).logits
    found = evaluate_model(gate, inputs, np.array([0, 1, 0, 0]), exact)
    assert found["accuracy"] == dict.fromkeys(["original", "polynomial", "simulated", "encrypted"], 0.5)
    assert found["agreement"] == 1.0
    swapped = {"y": exact["y"][::-1].copy()}
    found = evaluate_model(gate, inputs, right, swapped)
    assert found["agreement"] == 0.0
    assert found["accuracy"]["encrypted"] == 0.0  # type: ignore[index]
    assert found["accuracy"]["original"] == 1.0  # type: ignore[index]


def test_encrypted_accuracy_counts_only_what_ran_encrypted(gate: CompiledModel) -> None:
    inputs = stacked(gate, 0.9 * np.eye(4))
    few = answer(gate.session("clear"), {"x": inputs["x"][:2]}).logits
    found = evaluate_model(gate, inputs, np.array([0, 1, 0, 0]), few)
    assert found["encrypted_samples"] == 2
    assert found["accuracy"] == {"original": 0.5, "polynomial": 0.5, "simulated": 0.5, "encrypted": 1.0}
    assert set(found["accuracy_encrypted_samples"].values()) == {1.0}  # type: ignore[attr-defined]


def test_one_sample_alone_is_a_batch_of_one(gate: CompiledModel) -> None:
    for shape in ((4,), (1, 4)):
        assert stacked(gate, np.zeros(shape))["x"].shape == (1, 1, 4)
    assert stacked(gate, np.zeros((7, 4)))["x"].shape == (7, 1, 4)
    with pytest.raises(ShapeMismatch, match="does not fit"):
        stacked(gate, np.zeros((7, 5)))
    with pytest.raises(ShapeMismatch, match="missing"):
        stacked(gate, {})


def test_batches_answer_like_single_samples(gate: CompiledModel) -> None:
    """Backends that compute in clear take hundreds of samples at a time; nothing may leak between them."""
    x = np.random.default_rng(1).uniform(-1, 1, (300, 4))
    session = gate.session("clear")
    together = answer(session, stacked(gate, x)).logits["y"]
    alone = [answer(session, stacked(gate, x[i : i + 1])).logits["y"][0] for i in (0, 100, 299)]
    np.testing.assert_allclose(together[[0, 100, 299]], alone, atol=1e-12)


def test_a_run_reports_what_it_needed(gate: CompiledModel) -> None:
    report, found, exact = timed_run(gate, stacked(gate, np.full((2, 4), 0.5)), "tenseal")
    assert float(str(report["precision_bits"])) > 9
    assert float(str(report["seconds"])) * 2 == pytest.approx(found.seconds)
    assert int(str(report["peak_memory_bytes"])) >= int(str(report["memory_before_bytes"])) > 0
    assert exact.logits["y"] == pytest.approx(np.tanh(0.5), abs=0.01)
    report, _, _ = timed_run(gate, stacked(gate, np.zeros((1, 4))), "clear")
    assert report["precision_bits"] is None
    assert report["predicted_seconds"] is None


def test_seconds_of_layers_add_up_to_the_run(gate: CompiledModel) -> None:
    found = answer(gate.session("tenseal"), stacked(gate, np.zeros((2, 4))))
    rows = layer_times(gate.report, found, 2, priced=True)
    assert [r["name"] for r in rows][0 :: len(rows) - 1] == ["encrypt", "decrypt"]
    total = sum(float(str(r["seconds"])) for r in rows)
    assert total == pytest.approx(found.seconds / 2, rel=0.05)
