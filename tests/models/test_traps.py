"""Traps that published code of the field fell into, each as a claim about ours."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pi_compiler.exporter import export
from pi_compiler.importer import import_model
from pi_compiler.models.data import Dataset, load
from pi_compiler.models.training.defaults import recipe_for
from pi_compiler.models.training.graph_module import GraphModule
from pi_compiler.models.training.masked import Masked
from pi_compiler.models.training.methods.autorep import fit_polynomials, range_penalty
from pi_compiler.models.training.methods.method import Task, mask_relus
from pi_compiler.models.training.reduction import Job, Splits, reduce
from pi_compiler.models.training.score import score
from pi_compiler.models.zoo import model_path
from pi_compiler.ops.evaluate import evaluate

GRAPH = import_model(str(model_path("digits_cnn"))).graph
TRAIN, VALIDATION = load("digits", "train"), load("digits", "validation")


def masked_module(share: float) -> tuple[GraphModule, dict[str, Masked]]:
    """digits_cnn with fitted quadratics, of whose ReLUs about this share stays."""
    module = GraphModule(GRAPH)
    task = Task(module, 0, "quadratic", "pixel", TRAIN, VALIDATION, recipe_for(TRAIN, 1, 1), 0)
    masked = mask_relus(task)
    fit_polynomials(module, masked, task.batches(1, 200))
    generator = torch.Generator().manual_seed(5)
    for m in masked.values():
        m.mask.copy_((torch.rand(m.mask.shape, generator=generator) < share).float())
    return module.eval(), masked


def test_with_no_relu_left_the_polynomial_sees_what_arrives_and_not_what_was_rectified() -> None:
    """AutoReP's first figures came from an in-place ReLU that fed the polynomial."""
    module, masked = masked_module(0.0)
    layer = next(iter(masked.values()))
    x = torch.randn(3, *layer.node.shape)
    seen = x.clone()
    c0, c1, c2 = (layer.coef[k].detach().view(-1, 1, 1) for k in range(3))
    assert torch.equal(layer(x), (c2 * seen + c1) * seen + c0)
    assert torch.equal(x, seen)
    graph = module.to_graph()
    assert module.comparisons == 0
    assert not any(n.op == "Relu" for n in graph.nodes())


def test_the_file_compares_what_the_mask_keeps_and_computes_what_was_trained() -> None:
    module, _ = masked_module(0.1)
    written = import_model(export(module.to_graph(), None)).graph
    assert sum(n.size for n in written.nodes() if n.op == "Relu") == module.comparisons > 0
    x = VALIDATION.x[:20]
    with torch.no_grad():
        ours = module(torch.from_numpy(x)).numpy()
    theirs = evaluate(written, {written.inputs[0].origin: x})[written.output_names[0]].reshape(ours.shape)
    assert np.abs(ours - theirs).max() < 1e-4 * max(1.0, np.abs(ours).max())


def test_answers_do_not_depend_on_the_rest_of_the_batch() -> None:
    module, _ = masked_module(0.3)
    module.normalize([torch.from_numpy(TRAIN.x[:128])])
    module.train()
    for start in range(0, 512, 64):  # statistics move
        module(torch.from_numpy(TRAIN.x[start : start + 64]))
    module.eval()
    x = torch.from_numpy(VALIDATION.x[:8])
    with torch.no_grad():
        together, alone = module(x), torch.cat([module(row[None]) for row in x])
    assert torch.allclose(together, alone, atol=1e-5)
    ops = {n.op for n in module.to_graph().nodes()}
    assert ops <= {n.op for n in GRAPH.nodes()} | {"Poly", "Gather", "Concat", "Reshape"}


def test_evaluation_moves_nothing() -> None:
    module, _ = masked_module(0.3)
    module.normalize([torch.from_numpy(TRAIN.x[:128])])
    before = {k: v.clone() for k, v in module.state_dict().items()}
    score(module, VALIDATION)
    assert all(torch.equal(v, module.state_dict()[k]) for k, v in before.items())


def test_an_image_without_a_finite_answer_is_wrong_and_counted() -> None:
    module = GraphModule(GRAPH)
    x = VALIDATION.x[:50].copy()
    x[:10] = np.nan
    found = score(module, Dataset(x, VALIDATION.labels[:50], "digits", "validation"))
    whole = score(module, VALIDATION.take(50))
    lost = whole["accuracy"] * 50 - found["accuracy"] * 50  # type: ignore[operator]
    assert found["images"] == 50
    assert found["nan_images"] == 10
    assert lost == pytest.approx(10, abs=1.5)


def test_values_outside_the_interval_are_counted() -> None:
    module, masked = masked_module(0.0)
    for m in masked.values():
        m.low.fill_(-0.5)
        m.high.fill_(0.5)
    found = score(GraphModule(import_model(export(module.to_graph(), None)).graph), VALIDATION)
    assert found["out_of_range_images"] == len(VALIDATION)
    assert all(layer["out_of_range"] > 0.0 for layer in found["layers"])  # type: ignore[attr-defined]


def test_the_range_penalty_reaches_the_weights() -> None:
    module, masked = masked_module(0.0)
    task = Task(module, 0, "quadratic", "pixel", TRAIN, VALIDATION, recipe_for(TRAIN, 1, 1), 0)
    for m in masked.values():
        m.bound(0.1)
    module.train()
    module(torch.from_numpy(TRAIN.x[:16]))
    (gradient,) = torch.autograd.grad(range_penalty(masked, task), [module.layers[0].weight])
    assert float(gradient.abs().max()) > 0.0


def test_the_test_split_is_read_once_after_everything_is_decided(tmp_path: Path) -> None:
    calls: list[bool] = []

    def test_split() -> Dataset:
        calls.append((tmp_path / "job" / "model.onnx").is_file())
        return load("digits", "test")

    job = Job(77, "autorep", "quadratic", "pixel", 0, recipe_for(TRAIN, 1, 1))
    record = reduce(GRAPH, Splits(TRAIN, VALIDATION, test_split), job, tmp_path / "job", command="test")
    assert calls == [True]
    scored = score(GraphModule(import_model(str(tmp_path / "job" / "model.onnx")).graph), load("digits", "test"))
    assert json.loads(json.dumps(scored)) == record["test"]


def test_the_chosen_epoch_is_the_best_eligible_one_on_validation(tmp_path: Path) -> None:
    recipe = recipe_for(TRAIN, 1, 4)
    job = Job(20, "autorep", "quadratic", "pixel", 1, replace(recipe, finetune=replace(recipe.finetune, epochs=4)))
    splits = Splits(TRAIN, VALIDATION, lambda: load("digits", "test"))
    record = reduce(GRAPH, splits, job, tmp_path / "job", command="test")
    history = record["stages"][-1]["history"]  # type: ignore[index]
    best = max(e["validation_accuracy"] for e in history)
    assert record["validation"]["accuracy"] == pytest.approx(best, abs=1.5 / len(VALIDATION))  # type: ignore[index]
