"""Attention and normalization as exporters write them, read for CKKS and MPC alike."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from torch import nn
from torch.nn import functional

from pi_compiler.errors import PiError, UnsupportedOperator
from pi_compiler.exporter import export
from pi_compiler.importer import import_model
from pi_compiler.importer.reference import reference
from pi_compiler.ops.evaluate import evaluate

RNG = np.random.default_rng(5)


def floats(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def network(nodes, constants, shapes, opset=23):
    """From inputs ``x0``, ``x1`` ... of these shapes to ``y``."""
    inputs = [helper.make_tensor_value_info(f"x{i}", TensorProto.FLOAT, s) for i, s in enumerate(shapes)]
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    weights = [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()]
    graph = helper.make_graph(nodes, "attention", inputs, [y], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def check(model, shapes):
    """Import, both targets, equals ONNX's reference; so does what is exported again."""
    feeds = {f"x{i}": floats(*s) for i, s in enumerate(shapes)}
    (expected,) = ReferenceEvaluator(model).run(None, feeds)
    batch = {k: v[None] for k, v in feeds.items()}
    for target in ("ckks", "mpc"):
        graph = import_model(model, target=target).graph
        (found,) = evaluate(graph, batch).values()
        np.testing.assert_allclose(found[0], expected, rtol=1e-4, atol=1e-5)
        again = import_model(export(graph, None), target=target).graph
        np.testing.assert_allclose(next(iter(evaluate(again, batch).values())), found, rtol=1e-5, atol=1e-5)
    return graph


FOUR = ((1, 4, 5, 6), (1, 4, 7, 6), (1, 4, 7, 3))
ATTENTION = {
    "plain": ({}, {}, FOUR),
    "causal": ({"is_causal": 1}, {}, ((1, 2, 5, 6), (1, 2, 5, 6), (1, 2, 5, 6))),
    "scaled": ({"scale": 0.5}, {}, FOUR),
    "mask of bits": ({}, {"m": np.tril(np.ones((5, 7), bool), 2)}, FOUR),
    "mask of numbers": ({}, {"m": floats(5, 7)}, FOUR),
    "heads side by side": ({"q_num_heads": 3, "kv_num_heads": 3}, {}, ((1, 5, 12), (1, 7, 12), (1, 7, 6))),
    "shared keys": ({}, {}, ((1, 4, 5, 6), (1, 2, 7, 6), (1, 2, 7, 3))),
}


@pytest.mark.parametrize("case", ATTENTION)
def test_the_attention_operator_is_products_and_a_softmax(case):
    attrs, constants, shapes = ATTENTION[case]
    node = helper.make_node("Attention", ["x0", "x1", "x2", *constants], ["y"], "attention", **attrs)
    check(network([node], constants, shapes), shapes)


EINSUMS = {
    "bhid,bhjd->bhij": ((1, 2, 4, 3), (1, 2, 5, 3)),
    "bhij,bhjd->bihd": ((1, 2, 4, 5), (1, 2, 5, 3)),
    "...ij,...jk": ((1, 2, 4, 5), (1, 2, 5, 3)),
    "bij->bji": ((1, 4, 5),),
    "bid,bjd->bij": ((1, 4, 5), (1, 6, 5)),
    "bi,bj->bij": ((1, 4), (1, 6)),
}


@pytest.mark.parametrize("equation", EINSUMS)
def test_einsum_is_a_product_of_matrices(equation):
    shapes = EINSUMS[equation]
    node = helper.make_node("Einsum", [f"x{i}" for i in range(len(shapes))], ["y"], "product", equation=equation)
    check(network([node], {}, shapes), shapes)


@pytest.mark.parametrize("equation", ["bid,dhk->bhik", "bid,de->bie"])
def test_einsum_with_weights_needs_no_product_of_encrypted_matrices(equation):
    w = floats(5, 2, 3) if equation.count("h") else floats(5, 3)
    node = helper.make_node("Einsum", ["x0", "w"], ["y"], "product", equation=equation)
    graph = check(network([node], {"w": w}, ((1, 4, 5),)), ((1, 4, 5),))
    assert all(n.op != "Dot" for n in graph.nodes())


@pytest.mark.parametrize("equation", ["bii->bi", "bij->b"])
def test_sums_that_no_product_makes_are_refused_by_name(equation):
    node = helper.make_node("Einsum", ["x0"], ["y"], "trace", equation=equation)
    with pytest.raises(UnsupportedOperator, match=r"Einsum 'trace'.*try"):
        import_model(network([node], {}, ((1, 4, 4),)))


@pytest.mark.parametrize("attrs", [{"softcap": 2.0}, {}])
def test_attention_that_remembers_or_caps_is_refused_by_name(attrs):
    inputs = ["x0", "x1", "x2"] if attrs else ["x0", "x1", "x2", "", "k", "v"]
    outputs = ["y"] if attrs else ["y", "more", "values"]
    past = {} if attrs else {"k": floats(1, 4, 2, 6), "v": floats(1, 4, 2, 3)}
    node = helper.make_node("Attention", inputs, outputs, "attention", **attrs)
    with pytest.raises(UnsupportedOperator, match=r"Attention 'attention'.*try"):
        import_model(network([node], past, FOUR))


def test_rms_normalization_leaves_the_mean():
    node = helper.make_node("RMSNormalization", ["x0", "s"], ["y"], "norm", axis=-1, epsilon=1e-3)
    graph = check(network([node], {"s": floats(6)}, ((1, 4, 6),)), ((1, 4, 6),))
    assert [n.op for n in graph.nodes() if n.op == "LayerNorm"] == ["LayerNorm"]


class Decomposed(nn.Module):
    """Normalizations the way people write them."""

    def __init__(self, form):
        super().__init__()
        self.form, self.scale = form, nn.Parameter(torch.from_numpy(1.0 + 0.1 * floats(6)))

    def forward(self, x):
        if self.form == "rms":
            return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5) * self.scale
        rest = x - x.mean(-1, keepdim=True)
        if self.form == "product":
            return rest / torch.sqrt((rest * rest).mean(-1, keepdim=True) + 1e-5) * self.scale
        return rest / (rest.pow(2).mean(-1, keepdim=True) + 1e-5) ** 0.5 * self.scale


def exported(module, x, tmp_path):
    path = tmp_path / "model.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(module.eval(), (x,), str(path), opset_version=17, input_names=["x"], dynamo=False)
    return path


@pytest.mark.parametrize("form", ["layer", "product", "rms"])
def test_a_normalization_that_is_spelled_out_is_one_node(form, tmp_path):
    x = torch.from_numpy(floats(1, 4, 6))
    module = Decomposed(form)
    graph = import_model(exported(module, x, tmp_path)).graph
    (norm,) = (n for n in graph.nodes() if n.op == "LayerNorm")
    assert ("center" in norm.attrs) == (form == "rms")
    found = next(iter(evaluate(graph, {"x": x.numpy()[None]}).values()))[0]
    np.testing.assert_allclose(found, module(x).detach().numpy(), rtol=1e-4, atol=1e-5)


class Gated(nn.Module):
    """A causal block with SiLU gates and RMSNorm: what decoders are made of."""

    def __init__(self):
        super().__init__()
        self.qkv, self.out = nn.Linear(8, 24), nn.Linear(8, 8)
        self.gate, self.up, self.down = nn.Linear(8, 12), nn.Linear(8, 12), nn.Linear(12, 8)

    def norm(self, x):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5)

    def forward(self, x):
        q, k, v = (t.view(1, 5, 2, 4).transpose(1, 2) for t in self.qkv(self.norm(x)).chunk(3, -1))
        y = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).reshape(1, 5, 8))
        h = self.norm(x)
        return x + self.down(functional.silu(self.gate(h)) * self.up(h))


@pytest.mark.parametrize("kind", ["encoder", "decoder"])
def test_blocks_exported_by_torch_are_read(kind, tmp_path):
    """``nn.TransformerEncoder`` has BERT's shape; both keep their meaning and are named as blocks."""
    torch.manual_seed(0)
    x = torch.from_numpy(floats(1, 5, 8))
    layer = nn.TransformerEncoderLayer(8, 2, 16, 0.0, "gelu", batch_first=True)
    module = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False) if kind == "encoder" else Gated()
    path = exported(module, x, tmp_path)
    graph = import_model(path).graph
    kinds = [n.op for n in graph.nodes()]
    wanted = {"InnerSoftmax": 2, "LayerNorm": 4, "Dot": 4, "Gelu": 2}
    wanted = wanted if kind == "encoder" else {"InnerSoftmax": 1, "LayerNorm": 2, "Dot": 2, "SiLU": 1}
    assert {op: kinds.count(op) for op in wanted} == wanted
    found = next(iter(evaluate(graph, {"x": x.numpy()[None]}).values()))[0]
    expected = next(iter(reference(path.read_bytes(), {"x": x.numpy()[None]}).values()))[0]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_a_softmax_at_the_end_stays_with_the_client():
    nodes = [helper.make_node("Neg", ["x0"], ["n"], "neg"), helper.make_node("Softmax", ["n"], ["y"], "last", axis=-1)]
    graph = import_model(network(nodes, {}, ((1, 4),), 17)).graph
    assert [op for op, _ in graph.client_ops[0]] == ["Softmax"]


def test_a_row_without_open_place_is_refused_by_name():
    mask = np.zeros((4, 4), np.float32)
    mask[2] = -np.inf
    nodes = [
        helper.make_node("Add", ["x0", "m"], ["s"], "mask"),
        helper.make_node("Softmax", ["s"], ["w"], "weights", axis=-1),
        helper.make_node("Neg", ["w"], ["y"], "neg"),
    ]
    with pytest.raises(PiError, match=r"Softmax 'weights'.*row"):
        import_model(network(nodes, {"m": mask}, ((1, 4, 4),), 17))
