"""How ONNX writes attention: products of encrypted matrices, softmax, normalization, Einsum, and Attention itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod, sqrt

import numpy as np

from pi_compiler.errors import ShapeMismatch, UnsupportedOperator
from pi_compiler.ir.graph import FloatArray, Node
from pi_compiler.ops import masks
from pi_compiler.ops.joint import FAR, dot, read_add, read_gather, read_layer_norm, read_matmul, read_softmax, softmax
from pi_compiler.ops.linear import affine
from pi_compiler.ops.op import Call, Constant, Reader
from pi_compiler.ops.shaping import gather, reshape, transpose

# Attention (operator set 23): queries, keys, values, mask; heads in a dimension of their own or side by side.


def _read_attention(call: Call) -> Node:
    _check_attention(call)
    queries, keys, values = (call.node(i) for i in range(3))
    flat = len(queries.shape) == 3
    heads = call.integer("q_num_heads", 0) if flat else queries.shape[1]
    shared = call.integer("kv_num_heads", 0) if flat else keys.shape[1]
    if heads < 1 or shared < 1 or heads % shared:
        raise ShapeMismatch(f"{heads} heads of queries on {shared} heads of keys and values")
    q, k, v = _heads(queries, heads, call), _heads(keys, shared, call), _heads(values, shared, call)
    if heads != shared:
        # Each head of keys serves as many heads of queries, one after the other.
        k, v = (gather(x, np.repeat(np.arange(shared), heads // shared), 1, call.name) for x in (k, v))
    scale = call.number("scale", 1.0 / sqrt(q.shape[-1]))
    scores = affine(dot(q, transpose(k, (0, 1, 3, 2), call.name), f"{call.name}/scores"), scale, 0.0, call.name)
    scores = affine(scores, 1.0, _hiding(call, q.shape[2], k.shape[2]), call.name)
    mixed = dot(softmax(scores, 3, f"{call.name}/softmax"), v, call.name)
    if not flat:
        return mixed
    mixed = transpose(mixed, (0, 2, 1, 3), call.name)
    return reshape(mixed, (*mixed.shape[:2], prod(mixed.shape[2:])), call.name)


def _check_attention(call: Call) -> None:
    faults = []
    if any(o is not None for o in call.operands[4:]):
        faults.append("keys and values of earlier calls")
    if call.number("softcap", 0.0) != 0.0:
        faults.append("softcap, a tanh over all scores")
    if len(call.shapes) > 1 and any(s is not None for s in call.shapes[1:]):
        faults.append("results besides the first")
    ranks = {len(call.node(i).shape) for i in range(3)}
    if ranks not in ({3}, {4}):
        raise ShapeMismatch(f"queries, keys and values of {sorted(ranks)} dimensions, needed are 3 or 4 for all")
    if faults:
        raise UnsupportedOperator(f"Attention with {' and '.join(faults)}", hint="attention of one whole sequence")


def _heads(x: Node, heads: int, call: Call) -> Node:
    """(batch, heads, tokens, size)."""
    if len(x.shape) == 4:
        return x
    batch, tokens, width = x.shape
    if width % heads:
        raise ShapeMismatch(f"{heads} heads in a width of {width}")
    return transpose(reshape(x, (batch, tokens, heads, width // heads), call.name), (0, 2, 1, 3), call.name)


def _hiding(call: Call, queries: int, keys: int) -> FloatArray:
    """What is added to scores: the mask, which is constant, and what lies ahead."""
    shift = np.zeros((queries, keys))
    mask = call.constant(3)
    if mask is not None and mask.dtype == np.bool_:
        shift = np.where(mask, 0.0, FAR)
    elif mask is not None:
        shift = np.clip(mask.astype(np.float64), FAR, None)
    if shift.shape[-1] < keys:
        # A shorter mask hides what it does not reach.
        shift = np.pad(shift, [(0, 0)] * (shift.ndim - 1) + [(0, keys - shift.shape[-1])], constant_values=FAR)
    if call.integer("is_causal", 0):
        shift = shift + np.triu(np.full((queries, keys), FAR), 1)
    return np.clip(shift, FAR, None)


# Einsum of one or two operands, as a product of matrices.


def _read_einsum(call: Call) -> Node:
    terms, result = _labels(call)
    if len(terms) == 1:
        return _arranged(call.node(0), terms[0], result, call)
    if len(terms) != 2:
        raise UnsupportedOperator(f"Einsum of {len(terms)} operands", hint="products of two at a time")
    a, b = (_shape(o) for o in call.operands[:2])
    sizes = dict(zip(terms[0], a, strict=True))
    for label, n in zip(terms[1], b, strict=True):
        if sizes.setdefault(label, n) != n:
            raise ShapeMismatch(f"label {label!r} is both {sizes[label]} and {n} long")
    first, second = terms
    stack = [x for x in first if x in second and x in result]
    inner = [x for x in first if x in second and x not in result]
    rows, columns = [x for x in first if x not in second], [x for x in second if x not in first]
    if set(rows + columns) - set(result):
        lonely = sorted(set(rows + columns) - set(result))
        raise UnsupportedOperator(f"Einsum that sums {lonely} of one operand", hint="ReduceSum before it")
    left = _matrix(call.operands[0], first, [stack, rows, inner], sizes, call)
    right = _matrix(call.operands[1], second, [stack, inner, columns], sizes, call)
    product = read_matmul(replace(call, op="MatMul", operands=(left, right)))
    wide = reshape(product, tuple(sizes[x] for x in stack + rows + columns), call.name)
    return _arranged(wide, stack + rows + columns, result, call)


def _shape(operand: Node | Constant | None) -> tuple[int, ...]:
    if operand is None:
        raise ShapeMismatch("an operand is missing")
    return operand.shape


def _labels(call: Call) -> tuple[list[list[str]], list[str]]:
    """The labels of each operand and of the result, an ellipsis spelled out."""
    left, arrow, right = call.text("equation", "").replace(" ", "").partition("->")
    written = left.split(",")
    if len(written) != len(call.operands):
        raise ShapeMismatch(f"the equation has {len(written)} terms for {len(call.operands)} operands")
    terms = []
    for text, operand in zip(written, call.operands, strict=True):
        rank = len(_shape(operand))
        spare = rank - len(text.replace("...", ""))
        if spare < 0 or (spare and "..." not in text):
            raise ShapeMismatch(f"the term {text!r} for an operand of {rank} dimensions")
        terms.append(_spelled(text, [f".{i}" for i in range(spare, 0, -1)]))
    longest = max((t for t in terms), key=lambda t: sum(x.startswith(".") for x in t))
    dots = [x for x in longest if x.startswith(".")]
    once = [x for t in terms for x in t]
    result = _spelled(right, dots) if arrow else [*dots, *sorted(x for x in set(once) if once.count(x) == 1)]
    if any(len(set(t)) != len(t) for t in (*terms, result)):
        raise UnsupportedOperator("Einsum with one label twice in a term", hint="Gather the diagonal before it")
    return terms, result


def _spelled(text: str, dots: list[str]) -> list[str]:
    before, ellipsis, after = text.partition("...")
    return [*before, *(dots if ellipsis else []), *after]


def _arranged(x: Node, labels: Sequence[str], result: Sequence[str], call: Call) -> Node:
    """The dimensions in another order."""
    if sorted(labels) != sorted(result):
        raise UnsupportedOperator("Einsum that sums over a single operand", hint="ReduceSum")
    perm = tuple(labels.index(x) for x in result)
    return x if perm == tuple(range(len(perm))) else transpose(x, perm, call.name)


def _matrix(
    operand: Node | Constant | None, labels: list[str], parts: list[list[str]], sizes: dict[str, int], call: Call
) -> Node | Constant:
    """The operand as a stack of matrices: (*stack, rows, columns)."""
    perm = tuple(labels.index(x) for part in parts for x in part)
    stack, rows, columns = ([sizes[x] for x in part] for part in parts)
    shape = (*stack, prod(rows), prod(columns))
    if isinstance(operand, Node):
        moved = operand if perm == tuple(range(len(perm))) else transpose(operand, perm, call.name)
        return reshape(moved, shape, call.name)
    return np.asarray(operand, np.float64).transpose(perm).reshape(shape)


READERS = {
    **masks.READERS,
    "Add": Reader(read_add, 14, infinite=True),
    "Softmax": Reader(read_softmax, 13),
    "LayerNormalization": Reader(read_layer_norm, 17),
    "RMSNormalization": Reader(read_layer_norm, 23),
    "MatMul": Reader(read_matmul, 13),
    "Einsum": Reader(_read_einsum, 12),
    "Attention": Reader(_read_attention, 24, infinite=True),
    "Gather": Reader(read_gather, 13),
}
