"""Budget methods: what each claims about masks, coefficients, gradients and budgets; the traps of released codes."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import Builder

from pi_compiler.errors import BudgetError, ParameterError
from pi_compiler.exporter import export
from pi_compiler.importer import import_model
from pi_compiler.models.data import Dataset, load
from pi_compiler.models.training.defaults import recipe_for
from pi_compiler.models.training.engine import Settings, fit
from pi_compiler.models.training.faults import Faults, FaultyTraining
from pi_compiler.models.training.features import feature_distance
from pi_compiler.models.training.graph_module import GraphModule
from pi_compiler.models.training.masked import Masked
from pi_compiler.models.training.measure import accuracy
from pi_compiler.models.training.methods import METHODS
from pi_compiler.models.training.methods.deepreduce import stages_of, variants
from pi_compiler.models.training.methods.hermite import Hermite
from pi_compiler.models.training.methods.method import Task, mask_relus
from pi_compiler.models.training.methods.senet import Probe, allocate, sensitivities
from pi_compiler.models.training.methods.vanilla import Fading
from pi_compiler.models.training.ranges import Boundary, Clipping, Pillar
from pi_compiler.models.training.score import score
from pi_compiler.models.training.steps import Norm
from pi_compiler.models.zoo import model_path
from pi_compiler.ops.evaluate import evaluate

GRAPH = import_model(str(model_path("digits_cnn"))).graph
TRAIN, VALIDATION = load("digits", "train").take(256), load("digits", "validation").take(64)
X = torch.from_numpy(VALIDATION.x)


def task(budget: int, **other: object) -> Task:
    module = GraphModule(GRAPH)
    recipe = recipe_for(TRAIN, 1, 1)
    made = Task(module, budget, "quadratic", "pixel", TRAIN, VALIDATION, recipe, 0, teacher=copy.deepcopy(module))
    module.normalize(made.batches())
    return dataclasses.replace(made, **other)  # type: ignore[arg-type]


@pytest.mark.parametrize("method", sorted(name for name, known in METHODS.items() if not known.transformers))
def test_no_method_exceeds_its_budget_and_its_graph_has_no_batch_statistics(method: str, tmp_path: Path) -> None:
    known = METHODS[method]
    budget = 0 if known.only_zero else 301
    made = task(budget, kind=known.kinds[0], granularity=known.granularities[0])
    known.run(made)
    module = made.module.eval()
    assert module.comparisons <= budget
    read = import_model(export(module.to_graph(), tmp_path / "model.onnx")).graph
    assert GraphModule(read).comparisons == module.comparisons
    # One image alone gets what it gets among others: nothing in the file depends on the batch.
    x = VALIDATION.x.astype(np.float64)
    among = evaluate(read, {"x": x})["logits"]
    alone = np.concatenate([evaluate(read, {"x": x[i : i + 1]})["logits"] for i in range(4)])
    np.testing.assert_allclose(alone, among[:4], rtol=1e-9, atol=1e-9)
    # What is written is what was validated.
    with torch.no_grad():
        np.testing.assert_allclose(among[:, 0], module(X).numpy(), rtol=1e-3, atol=1e-3 * np.abs(among).max())
    before = copy.deepcopy(module.state_dict())
    accuracy(module, VALIDATION)
    assert all(torch.equal(v, module.state_dict()[k]) for k, v in before.items())


@pytest.mark.parametrize("method", ["magnitude", "senet", "deepreduce"])
def test_comparisons_that_are_no_relus_leave_fewer_for_relus(method: str) -> None:
    b = Builder((1, 1, 8, 8))
    x = b.same("Abs", b.conv("x", 2))
    graph = import_model(b.model(b.linear(b.same("Relu", b.conv(x, 4, stride=2)), 10))).graph
    made = task(140, module=GraphModule(graph), teacher=None, granularity=METHODS[method].granularities[0])
    METHODS[method].run(made)
    assert made.module.comparisons == (128 if method == "deepreduce" else 140)


def hermite_at(x: torch.Tensor, channels: int) -> Hermite:
    made = Hermite(dataclasses.replace(GRAPH.inputs[0], shape=(1, channels, *x.shape[3:])))
    flat = made.by_channel(x).movedim(1, -1).flatten(0, -2).double()
    r = flat.relu()
    made.fit(torch.stack([v.mean(0) for v in (flat, flat**2, flat**3, flat**4, r, r * flat, r * flat**2)]))
    return made


def test_the_written_expansion_is_the_trained_one() -> None:
    x = torch.randn(400, 1, 3, 2, 2, generator=torch.Generator().manual_seed(0)) * 2 + 0.5
    made = hermite_at(x, 3)
    made.train()
    made(x * 1.5)  # statistics move in training
    made.eval()
    c0, c1, c2 = (torch.from_numpy(c).float().view(1, 1, 3, 1, 1) for c in made.coefficients())
    assert torch.allclose(made(x), c0 + c1 * x + c2 * x * x, atol=1e-4)


def test_the_expansion_begins_at_relus_hermite_coefficients_for_normal_inputs() -> None:
    x = torch.randn(200_000, 1, 1, 1, 1, generator=torch.Generator().manual_seed(0))
    assert np.allclose(hermite_at(x, 1).coefficients()[:, 0], [0.19947, 0.5, 0.19947], atol=5e-3)


@given(st.lists(st.tuples(st.floats(0, 1), st.integers(1, 60)), min_size=1, max_size=8), st.integers(0, 300))
@settings(max_examples=60, deadline=None)
def test_a_budget_is_divided_exactly_and_no_layer_gets_more_than_it_has(
    layers: list[tuple[float, int]], budget: int
) -> None:
    weights = {str(i): w for i, (w, _) in enumerate(layers)}
    sizes = {str(i): n for i, (_, n) in enumerate(layers)}
    shares = allocate(weights, sizes, budget)
    assert sum(shares.values()) == min(budget, sum(sizes.values()))
    assert all(0 <= shares[n] <= sizes[n] for n in sizes)


def test_sensitivity_is_the_pruned_share_of_the_weights_before_an_activation() -> None:
    module = GraphModule(GRAPH)
    first, second = module.relus
    with torch.no_grad():
        module.layers[0].weight.fill_(1.0)
        module.layers[1].weight.fill_(1e-4)
    found = sensitivities(module, [first, second], density=0.1)
    assert found[first] < found[second] == 1.0


def test_a_probe_gathers_gradients_and_moves_nothing() -> None:
    made = task(0)
    m = next(iter(mask_relus(made).values()))
    m.gate = gate = Probe(m)
    weights = torch.randn(m.node.shape)
    (gate() * weights).sum().backward()
    gate.gather()
    assert torch.equal(gate.saliency, weights.abs())
    assert bool((m.mask == 1.0).all())
    # The training loop changes the memory format, which makes new tensors of the buffers.
    made.module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    m.mask.zero_()
    with torch.no_grad():
        assert float(gate().sum()) == 0.0


def test_senet_masks_follow_the_gradients_within_each_layers_share() -> None:
    made = task(200)
    METHODS["senet"].run(made)
    masked = {n: a.function for n, a in made.module.relus.items() if isinstance(a.function, Masked)}
    weights = sensitivities(GraphModule(GRAPH), list(masked))
    shares = allocate(weights, {n: m.node.size for n, m in masked.items()}, 200)
    kept = {n: int(m.mask.sum()) for n, m in masked.items()}
    assert sum(kept.values()) == 200
    assert all(abs(kept[n] - shares[n]) <= 20 for n in kept)


def test_stages_are_runs_of_one_image_size_and_variants_lose_the_least_critical_first() -> None:
    stages = stages_of({"a": (1, 8, 8, 8), "b": (1, 8, 8, 8), "c": (1, 16, 4, 4), "d": (1, 10)})
    assert stages == [["a", "b"], ["c"], ["d"]]
    found = variants(stages, [1, 2, 0])
    assert found[:4] == [["a", "b", "c", "d"], ["a", "c", "d"], ["a", "b", "d"], ["a", "d"]]
    assert found[-1] == []


def test_what_fades_is_gone_at_the_end_and_what_stays_never_fades() -> None:
    gate = Fading(torch.tensor([1.0, 0.0]))
    gate.share.fill_(0.25)
    assert torch.equal(gate(), torch.tensor([1.0, 0.25]))
    gate.share.zero_()
    assert torch.equal(gate(), torch.tensor([1.0, 0.0]))


@pytest.mark.parametrize("hook", [Pillar(0.5), Boundary(0.5)], ids=["pillar", "boundary"])
def test_range_penalties_reach_the_weights(hook: Pillar | Boundary) -> None:
    made = task(0)
    for m in mask_relus(made).values():
        m.mask.zero_()
    hook.before_epoch(made.module, 5, 6)
    made.module.train()
    logits = made.module(X)
    penalty = hook.penalty(made.module, X, torch.zeros(0), logits)
    assert penalty is not None
    assert float(penalty.detach()) > 0
    (gradient,) = torch.autograd.grad(penalty, made.module.layers[0].weight)
    assert float(gradient.abs().sum()) > 0
    hook.after_epoch(made.module, 5, 6)
    made.module.eval()(X)
    assert hook.inputs == []


def test_inputs_are_clipped_in_training_only() -> None:
    made = task(0)
    for m in mask_relus(made).values():
        m.mask.zero_()
    seen: list[float] = []
    clipping = Clipping(0.25)
    clipping.before_epoch(made.module, 1, 1)
    for m in mask_relus(made).values():
        m.register_forward_pre_hook(lambda _, inputs: seen.append(float(inputs[0].detach().abs().max())))
    made.module(X)
    assert max(seen) <= 0.25
    clipping.after_epoch(made.module, 1, 1)
    seen.clear()
    with torch.no_grad():
        made.module.eval()(X)
    assert max(seen) > 0.25


@pytest.mark.parametrize("bound", [0.0, -1.0, float("nan")])
def test_a_range_has_a_positive_bound(bound: float) -> None:
    with pytest.raises(ParameterError, match="positive"):
        Clipping(bound)


def test_features_of_one_direction_are_alike_and_the_distance_has_a_gradient() -> None:
    student = torch.randn(6, 1, 4, requires_grad=True)
    assert float(feature_distance({"a": student}, {"a": 3.0 * student}).detach()) < 1e-6
    teacher = torch.randn(6, 1, 4, requires_grad=True)
    distance = feature_distance({"a": student, "b": student}, {"a": teacher, "b": torch.zeros(6, 9)})
    s, t = torch.nn.functional.normalize(student[:, 0]), torch.nn.functional.normalize(teacher[:, 0])
    assert torch.allclose(distance, 0.5 * (s - t).square().sum(1).mean())
    distance.backward()
    assert student.grad is not None
    assert float(student.grad.abs().sum()) > 0
    assert teacher.grad is None


def test_the_weight_of_features_changes_the_training() -> None:
    weights = []
    for feature in (0.0, 5.0):
        made = task(0)
        for m in mask_relus(made).values():
            m.mask.zero_()
        run = Settings(epochs=1, batch_size=64, learning_rate=0.01, feature=feature)
        fit(made.module, run, TRAIN, VALIDATION, seed=0, teacher=made.teacher)
        weights.append(made.module.layers[0].weight.detach().clone())
    assert not torch.equal(*weights)


def test_images_with_answers_that_are_not_finite_stay_in_the_denominator() -> None:
    class Lost(torch.nn.Module):
        """Right on every image, but NaN in the right place for the first of every four."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            logits = torch.nn.functional.one_hot(torch.zeros(len(x), dtype=torch.int64), 3).float()
            logits[::4, 0] = torch.nan
            return logits

    data = Dataset(np.zeros((40, 2), np.float32), np.zeros(40, np.int64), "zeros", "all")
    assert accuracy(Lost(), data)[0] == 0.75


def test_faults_hit_training_and_not_validation() -> None:
    module = GraphModule(GRAPH).eval()
    hook = FaultyTraining(Faults(dropped_bits=16), 1)
    with torch.no_grad():
        exact = module(X)
        hook.before_epoch(module, 1, 1)
        assert not torch.equal(module(X), exact)
        hook.after_epoch(module, 1, 1)
        assert torch.equal(module(X), exact)


def test_a_network_without_relus_has_nothing_to_expand() -> None:
    module = GraphModule(import_model(str(model_path("digits_gelu"))).graph)
    with pytest.raises(BudgetError, match="no ReLU"):
        METHODS["hermite"].run(task(0, module=module))


def test_normalization_that_an_expansion_replaces_is_folded_exactly() -> None:
    made = task(0)
    layer = made.module.layers[0]
    assert isinstance(layer.norm, Norm)
    made.module.eval()
    with torch.no_grad():
        before = made.module(X)
        layer.fold()
        assert layer.norm is None
        assert torch.allclose(made.module(X), before, atol=1e-4)


def test_what_is_scored_is_what_was_validated() -> None:
    made = task(301)
    METHODS["magnitude"].run(made)
    assert score(made.module, VALIDATION)["accuracy"] == accuracy(made.module, VALIDATION)[0]
    assert all(isinstance(a.function, Masked) and a.function.gate is None for a in made.module.relus.values())
