"""Fairness: a penalty that moves weights and survives an interruption, intervals, distances, the record."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from pi_compiler.errors import ParameterError
from pi_compiler.importer import import_model
from pi_compiler.models.data import Dataset, load
from pi_compiler.models.training.augment import Augmentation
from pi_compiler.models.training.defaults import recipe_for
from pi_compiler.models.training.engine import Epoch, Hooks, Settings, distillation, fit
from pi_compiler.models.training.fairness import fairness, grouped, outcomes
from pi_compiler.models.training.geometry import boundary_distances, gradient_norm, top_curvature
from pi_compiler.models.training.graph_module import GraphModule
from pi_compiler.models.training.intervals import crossed_bootstrap, mcnemar, paired_drop
from pi_compiler.models.training.methods.autorep import autorep
from pi_compiler.models.training.methods.method import Task
from pi_compiler.models.training.mitigation import Form, GroupBalance, GroupPenalty, compare, mitigate
from pi_compiler.models.zoo import model_path

FORMS: list[Form] = ["absolute", "one-sided"]
PLAIN = Settings(epochs=3, batch_size=32, learning_rate=0.02, augmentation=Augmentation(), choose=False)


def clusters(count: int, seed: int, split: str) -> Dataset:
    """Two classes of which the second is rare and overlaps the first."""
    rng = np.random.default_rng(seed)
    y = (rng.random(count) < 0.15).astype(np.int64)
    x = rng.normal(size=(count, 6)) + y[:, None] * 0.8
    return Dataset(x.astype(np.float32), y, "clusters", split)


TRAIN, VALIDATION = clusters(256, 0, "train"), clusters(64, 1, "validation")


def network() -> nn.Sequential:
    """Prefers the common class, so that the rare one has the larger loss."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2))
    with torch.no_grad():
        model[2].bias.copy_(torch.tensor([1.0, -1.0]))
    return model


def gradient(hook: GroupPenalty | GroupBalance) -> torch.Tensor:
    """Of loss and penalty over a fixed batch, by all weights."""
    model, rows = network(), torch.arange(64)
    losses = functional.cross_entropy(
        model(torch.from_numpy(TRAIN.x[:64])), torch.from_numpy(TRAIN.labels[:64]), reduction="none"
    )
    loss = losses.mean() + hook.sample_penalty(rows, losses)
    return torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, list(model.parameters()))])


@pytest.mark.parametrize("form", FORMS)
def test_the_penalty_has_a_gradient_once_a_multiplier_is_positive(form: Form) -> None:
    """The published code detaches the penalty, so that mitigation there changes nothing."""
    hook = GroupPenalty(TRAIN.labels, 0.1, form)
    without = gradient(hook)
    hook.multipliers[1] = 0.5
    change = gradient(hook) - without
    model = network()
    losses = functional.cross_entropy(
        model(torch.from_numpy(TRAIN.x[:64])), torch.from_numpy(TRAIN.labels[:64]), reduction="none"
    )
    excess = losses[torch.from_numpy(TRAIN.labels[:64] == 1)].mean() - losses.mean()
    assert excess > 0  # both forms agree where the rare class is the worse one
    expected = torch.autograd.grad(0.5 * excess, list(model.parameters()))
    assert change.norm() > 1e-2
    assert torch.allclose(change, torch.cat([g.reshape(-1) for g in expected]), atol=1e-5)


def test_one_sided_penalties_ask_nothing_of_a_group_that_does_well() -> None:
    hook = GroupPenalty(TRAIN.labels, 0.1, "one-sided")
    without = gradient(hook)
    hook.multipliers[0] = 5.0  # the common class, whose loss is below the mean
    assert torch.equal(gradient(hook), without)
    both = GroupPenalty(TRAIN.labels, 0.1, "absolute")
    both.multipliers[0] = 5.0
    assert not torch.allclose(gradient(both), without)


def test_multipliers_rise_by_the_rate_times_the_sum_of_violations() -> None:
    hook = GroupPenalty(np.array([0, 0, 1, 1, 2]), 0.1)
    hook.before_epoch(nn.Identity(), 1, 2)
    hook.sample_penalty(torch.tensor([0, 1, 2]), torch.tensor([1.0, 2.0, 6.0]))  # mean 3: |1.5 - 3|, |6 - 3|
    hook.sample_penalty(torch.tensor([2, 3]), torch.tensor([1.0, 3.0]))  # one group only: no violation
    assert not hook.multipliers.any()
    hook.after_epoch(nn.Identity(), 1, 2)
    assert torch.allclose(hook.multipliers, torch.tensor([0.15, 0.3, 0.0]))


def test_a_loss_that_is_not_finite_leaves_the_multipliers_finite() -> None:
    hook = GroupPenalty(np.array([0, 1]), 0.1)
    hook.sample_penalty(torch.tensor([0, 1]), torch.tensor([math.nan, 1.0]))
    hook.after_epoch(nn.Identity(), 1, 1)
    assert torch.isfinite(hook.multipliers).all()


def test_balance_is_the_mean_over_groups() -> None:
    groups = np.array([0, 0, 0, 1, 2, 2])
    losses = torch.tensor([1.0, 2.0, 3.0, 10.0, 4.0, 6.0])
    rows = torch.arange(6)
    whole = losses.mean() + GroupBalance(groups).sample_penalty(rows, losses)
    assert torch.allclose(whole, torch.tensor((2.0 + 10.0 + 5.0) / 3))
    half = losses.mean() + GroupBalance(groups, 0.5).sample_penalty(rows, losses)
    assert torch.allclose(half, (whole + losses.mean()) / 2)


def test_penalized_losses_are_cross_entropy_and_distillation_of_each_sample() -> None:
    """Averaged over classes too, distillation would be weakened by their number."""
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    class See(Hooks):
        def sample_penalty(self, rows: torch.Tensor, losses: torch.Tensor) -> None:
            seen.append((rows, losses.detach()))

    model, teacher = network(), network()
    with torch.no_grad():
        teacher[0].weight.mul_(2.0)
    x, y = torch.from_numpy(TRAIN.x), torch.from_numpy(TRAIN.labels)
    with torch.no_grad():
        kl = distillation(model(x), teacher(x), 4.0)
        expected = functional.cross_entropy(model(x), y, reduction="none") + 0.7 * kl
    still = dataclasses.replace(PLAIN, epochs=1, batch_size=256, distill=0.7)
    history = fit(model, still, TRAIN, VALIDATION, seed=0, hooks=(See(),), teacher=teacher)
    ((rows, losses),) = seen
    assert torch.allclose(losses, expected[rows], atol=1e-6)
    assert history[0].train_loss == pytest.approx(float(expected.mean()), abs=1e-5)


def test_multipliers_survive_an_interruption(tmp_path: Path) -> None:
    class Stop(Exception):
        """Somebody pressed a key."""

    def interrupt(epoch: Epoch, _: int) -> None:
        if epoch.number == 2:
            raise Stop

    whole, hook = network(), GroupPenalty(TRAIN.labels, 0.05)
    fit(whole, PLAIN, TRAIN, VALIDATION, seed=3, hooks=(hook,))
    with pytest.raises(Stop):
        fit(
            network(),
            PLAIN,
            TRAIN,
            VALIDATION,
            seed=3,
            folder=tmp_path,
            hooks=(GroupPenalty(TRAIN.labels, 0.05),),
            progress=interrupt,
        )
    resumed, again = network(), GroupPenalty(TRAIN.labels, 0.05)
    fit(resumed, PLAIN, TRAIN, VALIDATION, seed=3, folder=tmp_path, hooks=(again,))
    assert (hook.multipliers > 0).all()
    assert torch.equal(again.multipliers, hook.multipliers)
    for ours, theirs in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_groups_that_cannot_be_are_refused() -> None:
    with pytest.raises(ParameterError) as raised:
        GroupPenalty(np.array([0, -1]), -0.5)
    assert "group numbers" in str(raised.value)
    assert "-0.5" in str(raised.value)


# --- intervals ---------------------------------------------------------------------------------

BOOLS = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60)


@given(BOOLS)
@settings(max_examples=50, deadline=None)
def test_a_paired_interval_has_a_width_and_turns_with_its_order(pairs: list[tuple[bool, bool]]) -> None:
    before, after = (np.array(column) for column in zip(*pairs, strict=True))
    there, back = paired_drop(before, after), paired_drop(after, before)
    assert -1.0 <= there.low < there.high <= 1.0
    assert there.value == pytest.approx(before.mean() - after.mean())
    np.testing.assert_allclose((back.value, back.low, back.high), (-there.value, -there.high, -there.low), atol=1e-12)


def test_paired_intervals_hold_the_true_drop_about_as_often_as_they_say() -> None:
    rng = np.random.default_rng(0)
    held = []
    for _ in range(2_000):
        u = rng.random(80)
        e = paired_drop(u < 0.95, (u < 0.88) | (u > 0.99))  # right before 0.95, right after 0.89
        held.append(e.low <= 0.06 <= e.high)
    assert 0.93 <= np.mean(held) <= 0.99


def test_mcnemar_counts_changed_answers_only() -> None:
    before, after = np.array([True] * 8 + [False] * 90), np.zeros(98, dtype=bool)
    assert mcnemar(before, after) == pytest.approx(2 * 0.5**8)
    assert mcnemar(before, before) == 1.0


def test_the_crossed_bootstrap_sees_seeds_and_samples() -> None:
    """All seeds answer the same samples: more seeds must not make the samples more."""
    rng = np.random.default_rng(1)
    one = rng.random(200) < 0.8
    same = np.tile(one, (20, 1))
    e = crossed_bootstrap(lambda r, _: float(r.mean()), [same], np.zeros(200, dtype=np.int64), draws=500)
    assert e.value == pytest.approx(one.mean())
    assert e.high - e.low == pytest.approx(2 * 1.96 * math.sqrt(0.8 * 0.2 / 200), rel=0.25)
    apart = np.tile(rng.random((20, 1)) < 0.8, (1, 200))  # a seed is right everywhere or nowhere
    e = crossed_bootstrap(lambda r, _: float(r.mean()), [apart], np.zeros(200, dtype=np.int64), draws=500)
    assert e.high - e.low > 0.2


# --- geometry ----------------------------------------------------------------------------------


def linear() -> nn.Sequential:
    model = nn.Sequential(nn.Linear(6, 3))
    torch.manual_seed(4)
    nn.init.normal_(model[0].weight)
    return model


def test_a_linear_networks_radius_is_the_distance_to_its_boundary() -> None:
    model, data = linear(), VALIDATION
    weight = model[0].weight.detach().double().numpy()
    logits = data.x.astype(np.float64) @ weight.T + model[0].bias.detach().double().numpy()
    order = np.argsort(-logits, axis=1)
    i = np.arange(len(data))
    difference = weight[order[:, 0]] - weight[order[:, 1]]
    expected = (logits[i, order[:, 0]] - logits[i, order[:, 1]]) / np.linalg.norm(difference, axis=1)
    found = boundary_distances(model, data)
    np.testing.assert_allclose(found.radius, expected, rtol=1e-3, atol=1e-5)
    p = np.exp(logits - logits.max(1, keepdims=True))
    p = np.sort(p / p.sum(1, keepdims=True), axis=1)
    np.testing.assert_allclose(found.margin, p[:, -1] - p[:, -2], atol=1e-5)


def test_gradient_norm_and_curvature_are_those_of_the_mean_loss() -> None:
    model, data = linear(), VALIDATION.take(40)
    x, y = torch.from_numpy(data.x), torch.from_numpy(data.labels)
    names = [n for n, _ in model.named_parameters()]
    shapes = [p.shape for p in model.parameters()]

    def loss(flat: torch.Tensor) -> torch.Tensor:
        parts = flat.split([s.numel() for s in shapes])
        weights = {n: part.view(s) for n, part, s in zip(names, parts, shapes, strict=True)}
        return functional.cross_entropy(torch.func.functional_call(model, weights, (x,)), y)

    flat = torch.cat([p.detach().reshape(-1) for p in model.parameters()])
    assert gradient_norm(model, data) == pytest.approx(float(torch.func.grad(loss)(flat).norm()), rel=1e-4)
    top = float(torch.linalg.eigvalsh(torch.func.hessian(loss)(flat))[-1])
    assert top_curvature(model, data, tolerance=1e-6) == pytest.approx(top, rel=1e-3)
    assert all(p.grad is None for p in model.parameters())


# --- the record --------------------------------------------------------------------------------


def test_samples_without_a_finite_answer_are_wrong_in_every_group() -> None:
    class Spoiled(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            logits = torch.zeros(len(x), 2)
            logits[:, 0] = 1.0
            return torch.where(x[:, :1] > 0, torch.full_like(logits, math.nan), logits)

    data = dataclasses.replace(VALIDATION, y=np.zeros(len(VALIDATION), dtype=np.int64))
    assert (outcomes(Spoiled(), data) == (data.x[:, 0] <= 0)).all()


def test_the_record_counts_every_sample_of_every_group_once() -> None:
    data = dataclasses.replace(VALIDATION, groups=np.arange(64) % 3, group_names=("a", "b", "nobody", "c"))
    data = dataclasses.replace(data, groups=np.where(data.groups == 2, 3, data.groups))
    model, baseline = network(), linear()
    record = json.loads(json.dumps(fairness(model, baseline, data, curvature=True), allow_nan=False))
    assert [(g["name"], g["images"]) for g in record["groups"]] == [("a", 22), ("b", 21), ("c", 21)]
    before, after = outcomes(baseline, data), outcomes(model, data)
    for number, g in zip((0, 1, 3), record["groups"], strict=True):
        members = data.groups == number
        assert g["drop"] == pytest.approx(before[members].mean() - after[members].mean())
        assert g["low"] <= g["accuracy"] <= g["high"]
        assert g["drop_low"] < g["drop_high"]
        assert g["gradient_norm"] > 0 < g["boundary_distance"]
    drops = [g["drop"] for g in record["groups"]]
    assert record["gap"]["drop"] == pytest.approx(max(drops) - min(drops))
    assert {record["gap"]["worst"], record["gap"]["least"]} <= {"a", "b", "c"}


def test_classes_are_the_groups_of_data_without_any() -> None:
    found = grouped(VALIDATION)
    assert found.group_names == ("0", "1")
    assert (found.groups == VALIDATION.labels).all()


def test_mitigation_fine_tunes_a_copy_and_keeps_the_masks(tmp_path: Path) -> None:
    graph = import_model(str(model_path("digits_cnn"))).graph
    data, validation = load("digits", "train").take(128), load("digits", "validation").take(100)
    module, settings = GraphModule(graph), dataclasses.replace(PLAIN, epochs=1, distill=1.0)
    recipe = recipe_for(data, 1, 1)
    task = Task(module, 60, "quadratic", "pixel", data, validation, recipe, 0, GraphModule(graph), tmp_path)
    autorep(task)
    before = {k: v.clone() for k, v in module.state_dict().items()}
    tuned = mitigate(task, GroupBalance(data.labels), settings)
    assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items())
    assert module.comparisons <= 60
    assert tuned.comparisons == module.comparisons
    assert any(not torch.equal(a, b) for a, b in zip(tuned.parameters(), module.parameters(), strict=True))


def test_the_share_closed_is_of_the_controls_gap_between_the_same_groups() -> None:
    """Another pair of groups would be another question: mitigation may well open a new gap elsewhere."""

    def answer(below: float) -> nn.Module:
        """Class 0 where the first number is below that."""
        model = nn.Linear(2, 2)
        with torch.no_grad():
            model.weight.copy_(torch.tensor([[0.0, 0.0], [1.0, 0.0]]))
            model.bias.copy_(torch.tensor([below, 0.0]))
        return model

    x = np.stack([np.r_[np.arange(10) / 10, np.full(10, 9.0)]] * 2, axis=1).astype(np.float32)
    data = Dataset(x, np.repeat([0, 1], 10), "steps", "test")
    baseline, control, mitigated = answer(1.0), answer(0.25), answer(0.65)
    record = json.loads(json.dumps(compare(control, mitigated, baseline, data)))
    assert [g["drop"] for g in record["control"]["groups"]] == pytest.approx([0.7, 0.0])
    assert [g["drop"] for g in record["mitigated"]["groups"]] == pytest.approx([0.3, 0.0])
    assert record["closed"] == pytest.approx(1 - 0.3 / 0.7)
    assert compare(baseline, mitigated, baseline, data)["closed"] is None
