"""Transformer blocks as ONNX, for tests and measurements of MPC."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


class Transformer:
    """Blocks of attention and a two-layer network, as exporters write them.

    Args:
        kind: ``"bert"`` (normalization after, no mask) or ``"gpt"`` (before, causal mask).
        layers: blocks.
        tokens: length of the sequence.
        width: of the hidden states.
        heads: of attention.
        vocabulary: rows of an embedding in front; 0 takes hidden states as input.
    """

    def __init__(self, kind="bert", layers=1, tokens=8, width=16, heads=2, vocabulary=0, seed=0):
        self.rng = np.random.default_rng(seed)
        self.kind, self.tokens, self.width, self.heads, self.vocabulary = kind, tokens, width, heads, vocabulary
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        x = "x"
        if vocabulary:
            x = self.op("Gather", self.weight(vocabulary, width, scale=1.0), "x")
            x = self.op("Add", x, self.weight(1, tokens, width, scale=0.5))
        for _ in range(layers):
            x = self.block(x)
        self.output = x

    def constant(self, values):
        name = f"w{len(self.weights)}"
        values = np.asarray(values)
        self.weights.append(
            numpy_helper.from_array(values.astype(np.float32 if values.dtype.kind == "f" else np.int64), name)
        )
        return name

    def weight(self, *shape, scale=None):
        return self.constant(self.rng.normal(size=shape) * (scale or 1 / np.sqrt(shape[0])))

    def op(self, op, *inputs, **attrs):
        out = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [out], name=f"{op.lower()}{len(self.nodes)}", **attrs))
        return out

    def linear(self, x, rows, columns):
        return self.op("Add", self.op("MatMul", x, self.weight(rows, columns)), self.weight(columns, scale=0.02))

    def norm(self, x):
        scale, bias = 1 + 0.1 * self.rng.normal(size=self.width), 0.1 * self.rng.normal(size=self.width)
        return self.op("LayerNormalization", x, self.constant(scale), self.constant(bias), axis=-1)

    def attention(self, x):
        size = self.width // self.heads
        split = self.constant([1, self.tokens, self.heads, size])
        q, k, v = (
            self.op("Transpose", self.op("Reshape", self.linear(x, self.width, self.width), split), perm=[0, 2, 1, 3])
            for _ in range(3)
        )
        scores = self.op("MatMul", q, self.op("Transpose", k, perm=[0, 1, 3, 2]))
        scores = self.op("Div", scores, self.constant(float(np.sqrt(size))))
        if self.kind == "gpt":
            hidden = np.triu(np.full((1, 1, self.tokens, self.tokens), -1e9), 1)
            scores = self.op("Add", scores, self.constant(hidden))
        mixed = self.op("MatMul", self.op("Softmax", scores, axis=-1), v)
        joined = self.op(
            "Reshape", self.op("Transpose", mixed, perm=[0, 2, 1, 3]), self.constant([1, self.tokens, self.width])
        )
        return self.linear(joined, self.width, self.width)

    def network(self, x):
        h = self.linear(x, self.width, 4 * self.width)
        gate = self.op("Add", self.op("Erf", self.op("Div", h, self.constant(float(np.sqrt(2.0))))), self.constant(1.0))
        gelu = self.op("Mul", self.op("Mul", h, gate), self.constant(0.5))
        return self.linear(gelu, 4 * self.width, self.width)

    def block(self, x):
        if self.kind == "gpt":
            x = self.op("Add", x, self.attention(self.norm(x)))
            return self.op("Add", x, self.network(self.norm(x)))
        x = self.norm(self.op("Add", x, self.attention(x)))
        return self.norm(self.op("Add", x, self.network(x)))

    def model(self):
        shape = [1, self.tokens] if self.vocabulary else [1, self.tokens, self.width]
        kind = TensorProto.INT64 if self.vocabulary else TensorProto.FLOAT
        x = helper.make_tensor_value_info("x", kind, shape)
        y = helper.make_tensor_value_info(self.output, TensorProto.FLOAT, None)
        graph = helper.make_graph(self.nodes, self.kind, [x], [y], self.weights)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)

    def samples(self, count):
        if self.vocabulary:
            return self.rng.integers(0, self.vocabulary, (count, 1, self.tokens))
        return self.rng.normal(size=(count, 1, self.tokens, self.width))
