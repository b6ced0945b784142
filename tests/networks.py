"""Small ONNX networks for tests of passes."""

import numpy as np
from onnx import TensorProto, helper, numpy_helper


class Builder:
    """Collects nodes of a model with one input ``x``."""

    def __init__(self, shape, seed=0):
        self.rng = np.random.default_rng(seed)
        self.shape = tuple(shape)
        self.nodes, self.weights = [], []
        self.shapes = {"x": self.shape}

    def weight(self, *shape, scale=None):
        name = f"w{len(self.weights)}"
        fan = max(1, int(np.prod(shape[1:])))
        values = self.rng.normal(size=shape) * (scale or 1 / np.sqrt(fan))
        self.weights.append(numpy_helper.from_array(values.astype(np.float32), name))
        return name

    def positive(self, size):
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(self.rng.uniform(0.5, 2.0, size).astype(np.float32), name))
        return name

    def values(self, values):
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(values, np.float32), name))
        return name

    def constant(self, values):
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(values, np.int64), name))
        return name

    def op(self, op, *inputs, shape, **attrs):
        out = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [out], name=f"{op.lower()}{len(self.nodes)}", **attrs))
        self.shapes[out] = tuple(shape)
        return out

    def conv(self, x, channels, kernel=3, stride=1, pad=1, groups=1):
        _, c, h, w = self.shapes[x]
        height, width = ((s + 2 * pad - kernel) // stride + 1 for s in (h, w))
        weights = self.weight(channels, c // groups, kernel, kernel), self.weight(channels, scale=0.1)
        return self.op(
            "Conv",
            x,
            *weights,
            shape=(1, channels, height, width),
            kernel_shape=[kernel] * 2,
            strides=[stride] * 2,
            pads=[pad] * 4,
            group=groups,
        )

    def linear(self, x, size):
        shape = self.shapes[x]
        flat = x if len(shape) == 2 else self.op("Flatten", x, shape=(1, int(np.prod(shape))))
        weights = self.weight(size, self.shapes[flat][1]), self.weight(size, scale=0.1)
        return self.op("Gemm", flat, *weights, shape=(1, size), transB=1)

    def same(self, op, *inputs, **attrs):
        return self.op(op, *inputs, shape=self.shapes[inputs[0]], **attrs)

    def model(self, *outputs):
        made = [helper.make_tensor_value_info(o, TensorProto.FLOAT, self.shapes[o]) for o in outputs]
        given = [helper.make_tensor_value_info("x", TensorProto.FLOAT, self.shape)]
        graph = helper.make_graph(self.nodes, "net", given, made, self.weights)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)

    def samples(self, count=40):
        return self.rng.normal(size=(count, *self.shape[1:]))


def mlp(sizes=(20, 12, 5), activation="Relu"):
    b = Builder((1, sizes[0]))
    x = "x"
    for i, size in enumerate(sizes[1:]):
        x = b.linear(x, size)
        if i < len(sizes) - 2:
            x = b.same(activation, x)
    return b, b.model(x)


def residual(activation="Relu"):
    """conv, act, conv + shortcut, act, pooling, linear."""
    b = Builder((1, 3, 8, 8))
    first = b.same(activation, b.conv("x", 4))
    second = b.same(activation, b.conv(first, 8, stride=2))
    joined = b.same("Add", b.conv(second, 8), b.conv(first, 8, kernel=1, stride=2, pad=0))
    pooled = b.op("GlobalAveragePool", b.same(activation, joined), shape=(1, 8, 1, 1))
    return b, b.model(b.linear(pooled, 5))
