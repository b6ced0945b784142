"""AutoReP: the gate's gradient and hysteresis, the hinge, DaPa on real statistics, and an exact budget."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from pi_compiler.approx.gaussian import dapa
from pi_compiler.errors import BudgetError, ParameterError
from pi_compiler.importer import import_model
from pi_compiler.models.data import load
from pi_compiler.models.training.defaults import recipe_for
from pi_compiler.models.training.graph_module import GraphModule
from pi_compiler.models.training.methods.autorep import Indicator, fit_polynomials
from pi_compiler.models.training.methods.method import Task, keep_units, mask_relus
from pi_compiler.models.training.reduction import Job, Splits, check, reduce
from pi_compiler.models.zoo import model_path

GRAPH = import_model(str(model_path("digits_cnn"))).graph
SPLITS = Splits(load("digits", "train"), load("digits", "validation"), lambda: load("digits", "test"))
RECIPE = recipe_for(SPLITS.train, 3, 1)


def task(budget: int, **other: object) -> Task:
    module = GraphModule(GRAPH)
    made = Task(module, budget, "quadratic", "pixel", SPLITS.train, SPLITS.validation, RECIPE, 0)
    return replace(made, **other)  # type: ignore[arg-type]


def test_the_indicator_passes_softplus_times_the_gradient() -> None:
    gate = Indicator((2, 3), (2, 3), torch.Generator().manual_seed(0))
    weights = torch.randn(2, 3)
    with torch.no_grad():
        gate.weight.copy_(torch.randn(2, 3))
    (gate() * weights).sum().backward()
    assert torch.allclose(gate.weight.grad, functional.softplus(gate.weight.detach()) * weights)


@given(st.lists(st.floats(-0.01, 0.01), min_size=1, max_size=30))
@settings(max_examples=50, deadline=None)
def test_the_hysteresis_is_the_papers(walk: list[float]) -> None:
    gate, m = Indicator((1,), (1,), torch.Generator()), 1.0
    for w in walk:
        w = float(np.float32(w))
        with torch.no_grad():
            gate.weight.fill_(w)
        gate.update(0.003)
        threshold = float(np.float32(0.003))
        m = m * (w > -threshold) + (1 - m) * (w > threshold)
        assert float(gate.state) == m


def test_forward_passes_move_neither_masks_nor_coefficients() -> None:
    made = task(100)
    masked = mask_relus(made)
    fit_polynomials(made.module, masked, made.batches(1, 64))
    for m in masked.values():
        m.gate = Indicator(m.node.shape, m.node.shape, torch.Generator().manual_seed(1))
    before = copy.deepcopy(made.module.state_dict())
    for training in (True, False):
        made.module.train(training)
        made.module(torch.from_numpy(SPLITS.train.x[:32]))
    assert all(torch.equal(v, made.module.state_dict()[k]) for k, v in before.items())


def test_polynomials_are_those_of_the_deviation_not_of_the_variance() -> None:
    made = task(0)
    masked = mask_relus(made)
    seen: list[torch.Tensor] = []
    first = next(iter(masked.values()))
    handle = first.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    fit_polynomials(made.module, masked, [torch.from_numpy(SPLITS.train.x[:200])])
    handle.remove()
    x = seen[0].movedim(2, -1).reshape(-1, first.node.shape[1]).double()
    wanted = dapa(x.mean(0).numpy(), x.std(0, unbiased=False).numpy(), 2)
    assert np.allclose(first.coef.detach().numpy(), wanted, atol=1e-5)


@given(st.integers(0, 768), st.integers(0, 2**31 - 1))
@settings(max_examples=25, deadline=None)
def test_never_one_more_than_the_budget(budget: int, seed: int) -> None:
    made = task(budget)
    masked, generator = mask_relus(made), torch.Generator().manual_seed(seed)
    keep_units(masked, {n: torch.rand(m.node.shape, generator=generator) for n, m in masked.items()}, budget)
    assert made.module.comparisons == budget


@pytest.mark.parametrize("granularity", ["pixel", "channel"])
def test_a_reduced_model_compares_what_its_record_says(tmp_path: Path, granularity: str) -> None:
    job = Job(96, "autorep", "quadratic", granularity, 0, RECIPE)  # type: ignore[arg-type]
    record = reduce(GRAPH, SPLITS, job, tmp_path / job.name, command="test")
    written = GraphModule(import_model(str(tmp_path / job.name / "model.onnx")).graph)
    assert written.comparisons == record["relu_count"] <= 96
    assert sum(layer["kept"] for layer in record["layers"]) == record["relu_count"]  # type: ignore[attr-defined]
    assert record["validation"]["accuracy"] > 0.8  # type: ignore[index]
    assert reduce(GRAPH, SPLITS, job, tmp_path / job.name, command="again") == record


def test_all_that_does_not_fit_is_said_at_once() -> None:
    jobs = [Job(-1, "autorep", "quadratic", "pixel", 0, RECIPE), Job(9, "gradual", "identity", "pixel", 0, RECIPE)]
    with pytest.raises(ParameterError) as raised:
        check(GRAPH, SPLITS, [*jobs, Job(1, "magic", "quadratic", "pixel", 0, RECIPE)])
    for part in ("budget -1", "'gradual' leaves no ReLU", "kind 'identity'", "cannot keep by pixel", "'magic'"):
        assert part in str(raised.value)


def test_comparisons_that_are_no_relus_count_against_the_budget() -> None:
    made = task(10)
    some = next(iter(made.module.relus.values()))
    some.node = replace(some.node, op="Abs")
    with pytest.raises(BudgetError, match="not in ReLUs"):
        mask_relus(made)
