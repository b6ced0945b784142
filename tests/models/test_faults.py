"""Circa's faults: probabilities by formula and by drawing, and a network that feels them."""

from __future__ import annotations

import pytest
import torch

from pi_compiler.errors import ParameterError
from pi_compiler.importer import import_model
from pi_compiler.models.data import load
from pi_compiler.models.training.faults import Faults, faulty
from pi_compiler.models.training.graph_module import GraphModule
from pi_compiler.models.training.score import score
from pi_compiler.models.zoo import model_path


@pytest.mark.parametrize("mode", ["pos-zero", "neg-pass"])
def test_drawn_faults_are_as_frequent_as_the_formula_says(mode: str) -> None:
    faults = Faults(mode, dropped_bits=14, fraction_bits=15)  # type: ignore[arg-type]
    for value in (-0.4, -0.1, 0.1, 0.4, 3.0):
        x = torch.full((40_000,), value)
        y = faults.relu(x, torch.Generator().manual_seed(0))
        wrong = float((y != x.relu()).double().mean())
        p = float(faults.probability(x[:1]))
        assert abs(wrong - p) < 5 * (p * (1 - p) / len(x)) ** 0.5 + 1e-9
    spared = torch.tensor([-0.1 if mode == "pos-zero" else 0.1])
    assert float(faults.probability(spared)) < 1e-4


def test_no_dropped_bits_leave_only_the_rare_wrap() -> None:
    x = torch.tensor([-5.0, -0.01, 0.01, 5.0])
    assert float(Faults(dropped_bits=0, fraction_bits=15).probability(x).max()) == pytest.approx(
        5 * 2**15 / 2_138_816_513
    )


def test_a_network_loses_answers_only_to_large_faults_and_is_whole_again_afterwards() -> None:
    module = GraphModule(import_model(str(model_path("digits_cnn"))).graph)
    data = load("digits", "validation")
    exact = score(module, data)["accuracy"]
    with faulty(module, Faults(dropped_bits=10, fraction_bits=12), 0):
        mild = score(module, data)["accuracy"]
    with faulty(module, Faults(dropped_bits=17, fraction_bits=12), 0):
        wild = score(module, data)["accuracy"]
    assert exact - 0.02 <= mild
    assert wild < exact - 0.1
    assert score(module, data)["accuracy"] == exact


def test_gradients_follow_the_drawn_sign() -> None:
    x = torch.tensor([-1.0, 2.0], requires_grad=True)
    Faults(dropped_bits=0).relu(x, torch.Generator()).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0.0, 1.0]


def test_every_fault_of_the_fault_model_is_named() -> None:
    with pytest.raises(ParameterError, match="dropped_bits=-1") as raised:
        Faults("maybe", dropped_bits=-1, fraction_bits=99)  # type: ignore[arg-type]
    assert "maybe" in str(raised.value)
    assert "fraction_bits=99" in str(raised.value)
