"""A text classifier: padding changes nothing, its exchanged form is the same in torch, as a graph, and compiled."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from pi_compiler import api
from pi_compiler.exporter import export
from pi_compiler.importer import import_model
from pi_compiler.models.data import Dataset
from pi_compiler.models.training.engine import Settings
from pi_compiler.models.training.entropy import Entropy, head_entropies
from pi_compiler.models.training.export import export_onnx
from pi_compiler.models.training.graph_module import GraphModule
from pi_compiler.models.training.imitation import Imitation
from pi_compiler.models.training.transformers import Plan, exchange
from pi_compiler.models.zoo.text_classifier import TextClassifier
from pi_compiler.ops.evaluate import evaluate
from pi_compiler.options import Options

WORDS, LENGTH = 20, 4
ONE = Settings(1, 16, "adamw", 1e-3, clip_norm=1.0, distill=1.0)


def sentences(count: int, seed: int = 0) -> Dataset:
    """Of one word to four; the class is whether the first number is even."""
    rng = np.random.default_rng(seed)
    x = rng.integers(1, WORDS, (count, LENGTH)).astype(np.float32)
    x[np.arange(LENGTH) >= rng.integers(1, LENGTH + 1, (count, 1))] = 0.0
    return Dataset(x, (x[:, 0] % 2).astype(np.int64), "sentences", "train")


@pytest.fixture(scope="module")
def graph(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("text") / "text.onnx"
    network = TextClassifier(words=WORDS, length=LENGTH, width=8, heads=2, size=4, hidden=8)
    export_onnx(network, (LENGTH,), path, whole=True)
    return import_model(path).graph


def logits(graph, x):
    return next(iter(evaluate(graph, {"x": x[:, None]}).values())).reshape(len(x), -1)


def exchanged(graph, plan: Plan) -> GraphModule:
    data, module = sentences(64), GraphModule(graph)
    exchange(module, plan, data, data, teacher=GraphModule(graph), seed=0)
    return module.eval()


@pytest.mark.parametrize("form", ["softmax", "power2", "quadratic", "cgf"])
def test_what_stands_for_padding_changes_nothing(graph, form):
    """Vectors of padding are random; neither attention nor the mean over words may see them."""
    module = GraphModule(graph)
    if form != "softmax":
        module = exchanged(graph, Plan(ONE, form, order=("attention",)))
    data = sentences(16)
    tables = [s for s in module.order if s.node.op == "Embedding" and s.table.shape[1] > 1]
    assert len(tables) == 1
    with torch.no_grad():
        before = module.eval()(torch.from_numpy(data.x))
        tables[0].table[0] += 3.0
        after = module(torch.from_numpy(data.x))
    # exp(-30) is what is left of padding in a softmax.
    np.testing.assert_allclose(after.numpy(), before.numpy(), atol=1e-5)


@pytest.mark.parametrize("attention", ["power2", "cgf"])
def test_the_exchanged_form_is_the_same_in_torch_as_a_graph_and_in_a_file(graph, attention, tmp_path):
    module, x = exchanged(graph, Plan(ONE, attention)), sentences(12, seed=1).x
    with torch.no_grad():
        wanted = module(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(logits(module.to_graph(), x), wanted, atol=1e-4)
    export(module.to_graph(), tmp_path / "he.onnx")
    np.testing.assert_allclose(logits(import_model(tmp_path / "he.onnx").graph, x), wanted, atol=1e-4)


def test_it_compiles_with_its_lookup_at_the_client(graph, tmp_path):
    """Numbers of words in, logits out: the program begins behind the table."""
    export(exchanged(graph, Plan(ONE)).to_graph(), tmp_path / "he.onnx")
    compiled = api.compile(tmp_path / "he.onnx", calibration=sentences(200).x, options=Options(backend="tenseal"))
    x = sentences(6, seed=2).x
    found = api.CompiledModel.run(compiled, {"x": x[:, None]}, backend="clear").outputs["logits"]
    wanted = logits(import_model(compiled.models["polynomial.onnx"]).graph, x)
    np.testing.assert_allclose(found.reshape(6, -1), wanted, atol=1e-4)
    # Squares and masks are never negative, so the divisor never falls below what is added to their mean.
    (inverse,) = (a for a in compiled.report["activations"] if a["name"].endswith("softmax/Softmax/inverse"))
    assert inverse["domain"][0] == pytest.approx(1e-2)
    assert any("looks" in note and "knows the tables" in note for note in compiled.report["notes"])


def test_imitation_is_zero_of_itself_and_grows_with_the_distance(graph):
    module, teacher = GraphModule(graph).train(), GraphModule(graph).eval()
    hook, data = Imitation(module, teacher, attention=1.0, hidden=1.0), sentences(8)
    x, y = torch.from_numpy(data.x), torch.from_numpy(data.labels)
    hook.before_epoch(module, 1, 1)
    same = hook.penalty(module, x, y, module(x))
    with torch.no_grad():
        for step in module.order:
            if step.node.op == "Embedding":
                step.table[1:] *= 1.5
    other = hook.penalty(module, x, y, module(x))
    hook.after_epoch(module, 1, 1)
    assert same.item() < 1e-9
    assert other.item() > 1e-3
    other.backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in module.parameters())


def test_the_entropy_of_a_head_that_looks_everywhere_is_the_logarithm_of_the_words(graph):
    """Queries of zero make all scores equal; padding neither looks nor is looked at."""
    module = GraphModule(graph)
    with torch.no_grad():
        for layer in module.layers:
            if "query" in layer.node.origin:
                layer.weight.zero_()
                if layer.bias is not None:
                    layer.bias.zero_()
    full = replace(sentences(8), x=np.full((8, LENGTH), 3.0, np.float32))
    half = replace(full, x=np.array([[3.0, 3.0, 0.0, 0.0]] * 8, np.float32))
    for data, count in ((full, LENGTH), (half, 2)):
        (heads,) = head_entropies(module, data).values()
        np.testing.assert_allclose(heads, np.log(count), atol=1e-4)


def test_heads_within_their_share_are_left_alone_and_others_are_moved(graph):
    data = sentences(8)
    x, y = torch.from_numpy(data.x), torch.from_numpy(data.labels)
    module = GraphModule(graph).train()
    for share, positive in ((1.0, False), (0.0, True)):
        hook = Entropy(module, 1.0, share=share)
        hook.before_epoch(module, 1, 1)
        loss = hook.penalty(module, x, y, module(x))
        hook.after_epoch(module, 1, 1)
        # An untrained network looks about everywhere, which is where the share 1 wants it.
        assert (loss.item() > 0.1) == positive


def test_thresholds_of_entropy_go_on_from_stage_to_stage(graph, tmp_path):
    """They are trained, as in AERO: an untrained network looks everywhere, so they rise, and go on rising."""
    plan = Plan(ONE, "softmax", "none", order=("norms", "activations"), activations="none", entropy=1e-2)
    exchange(GraphModule(graph), plan, sentences(256), sentences(64), teacher=None, seed=0, folder=tmp_path)
    reached = []
    for kind in plan.order:
        hooks = torch.load(next((tmp_path / kind).iterdir()), weights_only=True)["hooks"]
        (shares,) = (v for state in hooks for v in state.values())
        reached.append(float(shares.mean()))
    assert reached[0] > 0.5
    assert reached[1] - 0.5 > 1.5 * (reached[0] - 0.5)


@pytest.mark.parametrize(("activations", "op"), [("relu", "Relu"), ("none", None)])
def test_activations_are_exchanged_and_divisions_are_not(graph, activations, op):
    """The mean over words divides by their number, which is a function of one variable as GELU is."""
    module = exchanged(graph, Plan(ONE, "softmax", "none", order=("norms", "activations"), activations=activations))
    kinds = {n.op for n in module.to_graph().nodes()}
    assert "Gelu" not in kinds
    assert "Reciprocal" in kinds
    assert ("Relu" in kinds) == (op == "Relu")
    assert module.comparisons == (LENGTH * 8 if op else 0)
