"""What a reduction may have besides its method reaches training, the record and the command line."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from pi_compiler.errors import ParameterError
from pi_compiler.importer import import_model
from pi_compiler.models.data import load
from pi_compiler.models.training.defaults import recipe_for
from pi_compiler.models.training.engine import Epoch
from pi_compiler.models.training.extras import Extras
from pi_compiler.models.training.graph_module import GraphModule
from pi_compiler.models.training.methods import METHODS
from pi_compiler.models.training.methods.method import Recipe, Task
from pi_compiler.models.zoo import model_path

TRAIN, VALIDATION = load("digits", "train").take(128), load("digits", "validation").take(64)
GRAPH = import_model(str(model_path("digits_cnn"))).graph


def recipe() -> Recipe:
    found = recipe_for(TRAIN, 1, 1, batch_size=32)
    return dataclasses.replace(found, finetune=dataclasses.replace(found.finetune, choose=False))


def trained(extras: Extras) -> Task:
    torch.manual_seed(0)
    task = Task(
        GraphModule(GRAPH), 0, "quadratic", "layer", TRAIN, VALIDATION, extras.recipe(recipe()), 0,
        hooks=extras.hooks(0),
    )  # fmt: skip
    METHODS["autorep"].run(task)
    extras.finish(task)
    return task


def losses(task: Task) -> list[tuple[str, float]]:
    epochs: list[tuple[str, Epoch]] = [(s.name, e) for s in task.stages for e in s.history]
    return [(name, e.train_loss) for name, e in epochs]


@pytest.mark.parametrize(
    "given", [{"range_penalty": "pillar", "bound": 0.5}, {"range_penalty": "boundary", "bound": 1.0}]
)
def test_a_range_penalty_adds_to_the_loss(given: dict[str, Any]) -> None:
    plain, watched = losses(trained(Extras())), losses(trained(Extras(**given)))
    assert [n for n, _ in plain] == [n for n, _ in watched]
    assert watched[0][1] > plain[0][1] + 1e-4


def test_clipping_and_faulty_relus_change_what_training_sees_but_not_evaluation() -> None:
    """Both leave with the last epoch: the network that is scored has neither hook nor random sign."""
    x = torch.from_numpy(VALIDATION.x)
    for extras in (Extras(clip=True, bound=0.5), Extras(faults="pos-zero")):
        task = trained(extras)
        if extras.clip:
            assert losses(task) != losses(trained(Extras()))
        for m in task.module.modules():
            assert not m._forward_pre_hooks
        assert torch.equal(task.module(x), task.module(x))


def test_balancing_groups_is_a_stage_of_its_own() -> None:
    task = trained(Extras(balance=0.05))
    assert [s.name for s in task.stages] == ["finetune", "mitigation"]
    assert task.module.comparisons == 0


def test_kernels_are_not_compiled_where_activations_are_watched() -> None:
    compiled = dataclasses.replace(recipe(), finetune=dataclasses.replace(recipe().finetune, compiled=True))
    assert Extras().recipe(compiled).finetune.compiled
    assert not Extras(clip=True).recipe(compiled).finetune.compiled


def test_all_that_is_out_of_range_is_said_at_once() -> None:
    with pytest.raises(ParameterError) as raised:
        Extras(bound=0.0, balance=-1.0).check()
    assert "bound 0" in str(raised.value)
    assert "-1" in str(raised.value)
