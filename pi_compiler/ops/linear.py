"""Arithmetic with constants, sums of encrypted values, and matrix products with a constant."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np
from scipy import sparse

from pi_compiler.errors import ModelError, ShapeMismatch, UnsupportedOperator
from pi_compiler.ir.graph import FloatArray, Node, Shape
from pi_compiler.ops.op import Arrays, Call, Matrix, Op, Reader, Writer, array, integer, optional_array
from pi_compiler.ops.shaping import EXPAND, expand, reshape, transpose

# Affine: scale * x + shift, both broadcast to x. Constant Add, Sub, Mul, Div, Neg and BatchNormalization.


def _affine(node: Node, arrays: Arrays) -> FloatArray:
    return arrays[0] * array(node, "scale") + array(node, "shift")


def _affine_matrix(node: Node) -> tuple[tuple[Matrix, ...], FloatArray]:
    scale = np.broadcast_to(array(node, "scale"), node.shape).reshape(-1)
    shift = np.broadcast_to(array(node, "shift"), node.shape).reshape(-1)
    return (sparse.csr_array(sparse.diags_array(scale, format="csr")),), np.array(shift)


def affine(x: Node, scale: FloatArray | float, shift: FloatArray | float, origin: str) -> Node:
    """The node scale * x + shift, with broadcasting either way; x itself if that changes nothing.

    Raises:
        ModelError: a factor or summand is not finite.
    """
    scale, shift = np.asarray(scale, dtype=np.float64), np.asarray(shift, dtype=np.float64)
    if not (np.isfinite(scale).all() and np.isfinite(shift).all()):
        raise ModelError("its constants give factors that are not finite")
    x = expand(expand(x, scale.shape, origin), shift.shape, origin)
    if (scale == 1.0).all() and (shift == 0.0).all():
        return x
    return Node("Affine", (x,), x.shape, {"scale": scale, "shift": shift}, origin)


def _read_batch_norm(call: Call) -> Node:
    x = call.node(0)
    if call.integer("training_mode", 0):
        raise UnsupportedOperator("training_mode is on", hint="export the model in evaluation mode")
    gamma, beta, mean, variance = (call.weights(i) for i in range(1, 5))
    if len(x.shape) < 2 or any(v.shape != (x.shape[1],) for v in (gamma, beta, mean, variance)):
        raise ShapeMismatch(f"statistics of shape {gamma.shape} on a tensor of shape {list(x.shape)}")
    variance = variance + call.number("epsilon", 1e-5)
    if not (variance > 0.0).all():
        raise ModelError(f"the variance is not positive in {int((variance <= 0.0).sum())} channels")
    scale = gamma / np.sqrt(variance)
    per_channel = (-1, *(1,) * (len(x.shape) - 2))
    return affine(x, scale.reshape(per_channel), (beta - mean * scale).reshape(per_channel), call.name)


def _emit_affine(node: Node, inputs: Sequence[str], out: Writer) -> str:
    name, scale, shift = inputs[0], array(node, "scale"), array(node, "shift")
    if not (scale == 1.0).all():
        name = out.call("Mul", [name, out.constant(scale)], node.origin)
    if (shift == 0.0).all():
        return name
    return out.call("Add", [name, out.constant(shift)], node.origin)


# Add (two or more operands) and Sub, all of one shape.


def _add(node: Node, arrays: Arrays) -> FloatArray:
    total = arrays[0] + arrays[1]
    for x in arrays[2:]:
        total += x
    return total


def _add_matrix(node: Node) -> tuple[tuple[Matrix, ...], FloatArray]:
    one = sparse.csr_array(sparse.eye_array(node.size, format="csr"))
    return (one,) * len(node.inputs), np.zeros(node.size)


def _sub(node: Node, arrays: Arrays) -> FloatArray:
    return arrays[0] - arrays[1]


def _sub_matrix(node: Node) -> tuple[tuple[Matrix, ...], FloatArray]:
    one = sparse.csr_array(sparse.eye_array(node.size, format="csr"))
    return (one, -one), np.zeros(node.size)


def alike(nodes: Sequence[Node], origin: str) -> tuple[Node, ...]:
    """The nodes, broadcast to one shape."""
    shape: Shape = ()
    for node in nodes:
        shape = expand(node, shape, origin).shape
    return tuple(expand(node, shape, origin) for node in nodes)


def _read_sum(call: Call) -> Node:
    encrypted = [o for o in call.operands if isinstance(o, Node)]
    constants = [np.asarray(o, np.float64) for o in call.operands if o is not None and not isinstance(o, Node)]
    total = encrypted[0]
    if len(encrypted) > 1:
        operands = alike(encrypted, call.name)
        total = Node("Add", operands, operands[0].shape, {}, call.name)
    return affine(total, 1.0, sum(constants, np.zeros(())), call.name)


def _read_sub(call: Call) -> Node:
    a, b = call.operands[:2]
    if isinstance(a, Node) and isinstance(b, Node):
        operands = alike((a, b), call.name)
        return Node("Sub", operands, operands[0].shape, {}, call.name)
    if isinstance(a, Node):
        return affine(a, 1.0, -call.weights(1), call.name)
    return affine(call.node(1), -1.0, call.weights(0), call.name)


def _read_neg(call: Call) -> Node:
    return affine(call.node(0), -1.0, 0.0, call.name)


def _emit_add(node: Node, inputs: Sequence[str], out: Writer) -> str:
    return out.call("Add" if len(inputs) == 2 else "Sum", inputs, node.origin)


def _emit_sub(node: Node, inputs: Sequence[str], out: Writer) -> str:
    return out.call("Sub", inputs, node.origin)


# Gemm: x @ weight + bias on the last dimension, weight (in, out), bias (out,) or none.


def _gemm(node: Node, arrays: Arrays) -> FloatArray:
    weight = array(node, "weight")
    y = (arrays[0].reshape(-1, weight.shape[0]) @ weight).reshape(len(arrays[0]), *node.shape)
    if (bias := optional_array(node, "bias")) is not None:
        y += bias
    return y


def _gemm_matrix(node: Node) -> tuple[tuple[Matrix, ...], FloatArray]:
    rows = prod(node.shape[:-1])
    one = sparse.csr_array(array(node, "weight").T)
    matrix = one if rows == 1 else sparse.csr_array(sparse.kron(sparse.eye_array(rows), one, format="csr"))
    bias = optional_array(node, "bias")
    return (matrix,), np.zeros(node.size) if bias is None else np.tile(bias, rows)


def _gemm_node(x: Node, weight: FloatArray, bias: FloatArray | None, origin: str) -> Node:
    if not x.shape or x.shape[-1] != weight.shape[0]:
        raise ShapeMismatch(f"a matrix of shape {weight.shape} on a tensor of shape {list(x.shape)}")
    attrs = {"weight": weight} if bias is None else {"weight": weight, "bias": bias}
    return Node("Gemm", (x,), (*x.shape[:-1], weight.shape[1]), attrs, origin)


def _read_gemm(call: Call) -> Node:
    a, b = call.operands[:2]
    alpha, beta = call.number("alpha", 1.0), call.number("beta", 1.0)
    trans_a, trans_b = call.integer("transA", 0), call.integer("transB", 0)
    if any(o is None or len(o.shape) != 2 for o in (a, b)):
        raise ShapeMismatch("Gemm needs two matrices")
    if isinstance(a, Node):
        # Reading the second operand as weights refuses the product of two encrypted matrices.
        a = transpose(a, (1, 0), call.name) if trans_a else a
        weight = _constant_factor(call, 1)
        product = _gemm_node(a, alpha * (weight.T if trans_b else weight), None, call.name)
    else:
        b = transpose(call.node(1), (1, 0), call.name) if trans_b else call.node(1)
        weight = call.weights(0)
        product = _matmul_node(b, alpha * (weight.T if trans_a else weight), True, call.name)
    c = call.operands[2] if len(call.operands) > 2 else None
    if c is None or beta == 0.0:
        return product
    if len(c.shape) > 2 or np.broadcast_shapes(c.shape, product.shape) != product.shape:
        raise ShapeMismatch(f"a summand of shape {list(c.shape)} for a product of shape {list(product.shape)}")
    if isinstance(c, Node):
        operands = alike((product, affine(c, beta, 0.0, call.name)), call.name)
        return Node("Add", operands, product.shape, {}, call.name)
    bias = beta * call.weights(2)
    if product.op == "Gemm" and bias.ndim <= 2 and prod(bias.shape[:-1]) == 1:
        row = np.array(np.broadcast_to(bias.reshape(-1), product.shape[-1:]))
        return _gemm_node(product.inputs[0], array(product, "weight"), row, call.name)
    return affine(product, 1.0, bias, call.name)


def _constant_factor(call: Call, index: int) -> FloatArray:
    if isinstance(call.operands[index], Node):
        raise UnsupportedOperator(
            "the product of two encrypted matrices comes later", hint="a matrix product with a constant matrix"
        )
    return call.weights(index)


def _emit_gemm(node: Node, inputs: Sequence[str], out: Writer) -> str:
    weight, bias = out.constant(array(node, "weight")), optional_array(node, "bias")
    if len(node.shape) == 2:
        operands = [inputs[0], weight] if bias is None else [inputs[0], weight, out.constant(bias)]
        return out.call("Gemm", operands, node.origin)
    y = out.call("MatMul", [inputs[0], weight], node.origin)
    return y if bias is None else out.call("Add", [y, out.constant(bias)], node.origin)


# MatMul: weight @ x if left, else x @ weight with a stack of matrices; numpy's matmul rules, ranks at least 2.


def _matmul(node: Node, arrays: Arrays) -> FloatArray:
    x, weight = arrays[0], array(node, "weight")
    ones = (1,) * (len(node.shape) + 1 - x.ndim)
    x = x.reshape(len(x), *ones, *x.shape[1:])
    return np.asarray(weight @ x if integer(node, "left") else x @ weight)


def _matmul_matrix(node: Node) -> tuple[tuple[Matrix, ...], FloatArray]:
    x, weight = node.inputs[0], array(node, "weight")
    stack, (rows, columns) = node.shape[:-2], node.shape[-2:]
    inner = weight.shape[-1] if integer(node, "left") else weight.shape[-2]
    stacked = np.broadcast_to(weight, (*stack, *weight.shape[-2:])).reshape(-1, *weight.shape[-2:])
    blocks = [
        sparse.kron(w, sparse.eye_array(columns)) if integer(node, "left") else sparse.kron(sparse.eye_array(rows), w.T)
        for w in stacked
    ]
    matrix = sparse.csr_array(sparse.block_diag(blocks, format="csr"))
    wide = (*stack, inner, columns) if integer(node, "left") else (*stack, rows, inner)
    if wide != x.shape:
        (spread,), _ = EXPAND.matrix(expand(x, wide, node.origin))
        matrix = sparse.csr_array(matrix @ spread)
    return (matrix,), np.zeros(node.size)


def _matmul_node(x: Node, weight: FloatArray, left: bool, origin: str) -> Node:
    a, b = (weight.shape, x.shape) if left else (x.shape, weight.shape)
    if a[-1] != b[-2]:
        raise ShapeMismatch(f"matrices of shapes {list(a)} and {list(b)} do not multiply")
    try:
        stack = np.broadcast_shapes(a[:-2], b[:-2])
    except ValueError as error:
        raise ShapeMismatch(f"matrices of shapes {list(a)} and {list(b)} do not multiply") from error
    return Node("MatMul", (x,), (*stack, a[-2], b[-1]), {"weight": weight, "left": int(left)}, origin)


def _read_matmul(call: Call) -> Node:
    a, b = call.operands[:2]
    if a is None or b is None or not a.shape or not b.shape:
        raise ShapeMismatch("MatMul needs two operands with at least one dimension")
    if isinstance(a, Node):
        weight = _constant_factor(call, 1)
        if weight.ndim == 1:
            y = _gemm_node(a, weight[:, None], None, call.name)
            return reshape(y, y.shape[:-1], call.name)
        if weight.ndim == 2:
            return _gemm_node(a, weight, None, call.name)
        if len(a.shape) > 1:
            return _matmul_node(a, weight, False, call.name)
        y = _matmul_node(reshape(a, (1, *a.shape), call.name), weight, False, call.name)
        return reshape(y, (*y.shape[:-2], y.shape[-1]), call.name)
    x, weight = call.node(1), call.weights(0)
    if len(x.shape) == 1 and weight.ndim <= 2:
        y = _gemm_node(x, np.atleast_2d(weight).T, None, call.name)
        return reshape(y, (y.shape[-1],) if weight.ndim == 2 else (), call.name)
    column = len(x.shape) == 1
    x = reshape(x, (*x.shape, 1), call.name) if column else x
    y = _matmul_node(x, np.atleast_2d(weight), True, call.name)
    shape = y.shape[:-1] if column else y.shape
    return reshape(y, (*shape[:-2], shape[-1]) if weight.ndim == 1 else shape, call.name)


def _emit_matmul(node: Node, inputs: Sequence[str], out: Writer) -> str:
    weight = out.constant(array(node, "weight"))
    operands = [weight, inputs[0]] if integer(node, "left") else [inputs[0], weight]
    return out.call("MatMul", operands, node.origin)


OPS = (
    Op("Affine", "linear", _affine, _affine_matrix, emit=_emit_affine),
    Op("Add", "linear", _add, _add_matrix, emit=_emit_add),
    Op("Sub", "linear", _sub, _sub_matrix, emit=_emit_sub),
    Op("Gemm", "linear", _gemm, _gemm_matrix, emit=_emit_gemm),
    Op("MatMul", "linear", _matmul, _matmul_matrix, emit=_emit_matmul),
)
READERS = {
    "BatchNormalization": Reader(_read_batch_norm, 15),
    "Add": Reader(_read_sum, 14),
    "Sum": Reader(_read_sum, 13),
    "Sub": Reader(_read_sub, 14),
    "Neg": Reader(_read_neg, 13),
    "Gemm": Reader(_read_gemm, 13),
    "MatMul": Reader(_read_matmul, 13),
}
