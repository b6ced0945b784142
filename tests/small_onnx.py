"""ONNX models of a few nodes, for tests of what people may hand in."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def make_onnx(
    nodes: list[onnx.NodeProto],
    weights: dict[str, np.ndarray] | None = None,
    shape: tuple[int | str, ...] = (1, 4),
    opset: int = 17,
) -> onnx.ModelProto:
    """A model from ``x`` to ``y``."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    constants = [numpy_helper.from_array(w, n) for n, w in (weights or {}).items()]
    graph = helper.make_graph(nodes, "small", [x], [y], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


def dense(activation: str = "Sigmoid", scale: float = 1.0) -> onnx.ModelProto:
    """Gemm 4-3, an activation, Gemm 3-2."""
    rng = np.random.default_rng(7)
    weights = {
        "a": (scale * rng.normal(size=(4, 3))).astype(np.float32),
        "b": rng.normal(size=(3, 2)).astype(np.float32),
    }
    nodes = [
        helper.make_node("Gemm", ["x", "a"], ["h"], "first"),
        helper.make_node(activation, ["h"], ["r"], "act"),
        helper.make_node("Gemm", ["r", "b"], ["y"], "last"),
    ]
    return make_onnx(nodes, weights)
