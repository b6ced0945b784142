"""Every ONNX operator that the importer reads, against ONNX's reference evaluator.

For each there is a generator of operands and attributes; a model of that one node is imported,
evaluated on a batch and compared. On the way the matrices of linear operators and the way back
through the exporter are checked too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from pi_compiler.errors import UnsupportedOperator
from pi_compiler.exporter import export
from pi_compiler.importer import import_model
from pi_compiler.ir.graph import Graph, Node
from pi_compiler.ops import OPS, READERS
from pi_compiler.ops.evaluate import evaluate, linear_matrix

BATCH = 2
REFERENCE_FAILS = {"ConvTranspose", "AveragePool", "Pad"}
"""Compared with onnxruntime: the reference raises on groups with a bias, strides above the kernel, negative pads."""
REFUSED = {"MaxPool", "GlobalMaxPool"}
SPEED = settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))


@dataclass
class Case:
    """One node: operands by position, ``None`` left out; ``x`` says which are encrypted."""

    operands: list[np.ndarray | None]
    attrs: dict[str, object] = field(default_factory=dict)
    x: tuple[int, ...] = (0,)
    results: int = 1
    opset: int = 20


def values(draw, shape, low=-2.0, high=2.0):
    seed = draw(st.integers(0, 2**16))
    return np.random.default_rng(seed).uniform(low, high, shape).astype(np.float32)


def shape(draw, low=1, high=4, largest=4):
    return tuple(draw(st.lists(st.integers(1, largest), min_size=low, max_size=high)))


def ints(draw, low, high, n):
    return draw(st.lists(st.integers(low, high), min_size=n, max_size=n))


def i64(v):
    return np.array(v, np.int64)


def conv(draw):
    d, group = draw(st.integers(1, 2)), draw(st.integers(1, 2))
    kernel, strides, dilations = ints(draw, 1, 3, d), ints(draw, 1, 3, d), ints(draw, 1, 2, d)
    x = values(draw, (1, group * draw(st.integers(1, 2)), *ints(draw, 5, 7, d)))
    w = values(draw, (group * draw(st.integers(1, 2)), x.shape[1] // group, *kernel))
    attrs = {"strides": strides, "dilations": dilations, "group": group}
    mode = draw(st.sampled_from(["NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"]))
    if mode == "NOTSET":
        attrs["pads"] = ints(draw, 0, 2, 2 * d)
    else:
        attrs["auto_pad"] = mode
        # The reference evaluator ignores dilations when it pads by itself.
        attrs["dilations"] = [1] * d if mode.startswith("SAME") else dilations
    bias = values(draw, (w.shape[0],)) if draw(st.booleans()) else None
    return Case([x, w, bias], attrs)


def conv_transpose(draw):
    d, group = draw(st.integers(1, 2)), draw(st.integers(1, 2))
    kernel, strides, dilations = ints(draw, 1, 3, d), ints(draw, 1, 3, d), ints(draw, 1, 2, d)
    x = values(draw, (1, group * draw(st.integers(1, 2)), *ints(draw, 3, 4, d)))
    w = values(draw, (x.shape[1], draw(st.integers(1, 2)), *kernel))
    attrs = {"strides": strides, "dilations": dilations, "group": group, "pads": ints(draw, 0, 1, 2 * d)}
    attrs["output_padding"] = [draw(st.integers(0, s - 1)) for s in strides]
    bias = values(draw, (w.shape[1] * group,)) if draw(st.booleans()) else None
    return Case([x, w, bias], attrs)


def gemm(draw):
    m, k, n = ints(draw, 1, 4, 3)
    ta, tb = draw(st.booleans()), draw(st.booleans())
    a, b = values(draw, (k, m) if ta else (m, k)), values(draw, (n, k) if tb else (k, n))
    c = values(draw, draw(st.sampled_from([(n,), (1, n), (m, 1), (m, n), (1,), ()]))) if draw(st.booleans()) else None
    attrs = {"transA": int(ta), "transB": int(tb), "alpha": 0.5, "beta": 2.0}
    encrypted = draw(st.sampled_from([(0,), (1,)] + ([(0, 2)] if c is not None else [])))
    return Case([a, b, c], attrs, encrypted)


def matmul(draw):
    m, k, n = ints(draw, 1, 4, 3)
    a = draw(st.sampled_from([(k,), (m, k), (2, m, k), (3, 1, m, k)]))
    b = draw(st.sampled_from([(k,), (k, n), (2, k, n), (1, 2, k, n)]))
    return Case([values(draw, a), values(draw, b)], {}, draw(st.sampled_from([(0,), (1,)])))


def batch_norm(draw):
    x = values(draw, shape(draw, 2, 4))
    c = (x.shape[1],)
    statistics = [values(draw, c), values(draw, c), values(draw, c), values(draw, c, 0.1, 2.0)]
    return Case([x, *statistics], {"epsilon": 1e-3})


def average_pool(draw):
    d = draw(st.integers(1, 2))
    kernel, strides = ints(draw, 1, 3, d), ints(draw, 1, 3, d)
    x = values(draw, (1, 2, *ints(draw, 5, 7, d)))
    attrs = {"kernel_shape": kernel, "strides": strides, "count_include_pad": draw(st.integers(0, 1))}
    mode = draw(st.sampled_from(["NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"]))
    if mode == "NOTSET":
        attrs["pads"] = [draw(st.integers(0, k - 1)) for k in kernel + kernel]
        attrs["ceil_mode"] = draw(st.integers(0, 1))
        attrs["dilations"] = [1] * d
    else:
        attrs["auto_pad"] = mode
        if mode != "VALID":
            # Where strides exceed the kernel, runtimes disagree on whether SAME may cut in front.
            attrs["strides"] = [min(s, k) for s, k in zip(strides, kernel, strict=True)]
    # Before opset 22 shape inference and runtimes disagree on windows that start behind the end.
    return Case([x], attrs, opset=22)


def global_average(draw):
    return Case([values(draw, shape(draw, 3, 4))])


def reduce_(draw):
    x = values(draw, shape(draw, 1, 4))
    axes = draw(st.lists(st.integers(0, x.ndim - 1), unique=True, max_size=x.ndim))
    signed = [a - x.ndim * draw(st.integers(0, 1)) for a in axes]
    attrs = {"keepdims": draw(st.integers(0, 1)), "noop_with_empty_axes": draw(st.integers(0, 1))}
    return Case([x, i64(signed)], attrs)


def binary(low=-2.0):
    def generate(draw):
        full = shape(draw, 1, 4)
        other = tuple(draw(st.sampled_from([1, n])) for n in full[draw(st.integers(0, len(full))) :])
        operands = [values(draw, full, low), values(draw, other, low)]
        if draw(st.booleans()):
            operands.reverse()
        return Case(operands, {}, draw(st.sampled_from([(0,), (1,), (0, 1)])))

    return generate


def n_ary(draw):
    full = shape(draw, 1, 3)
    count = draw(st.integers(1, 4))
    encrypted = draw(st.lists(st.integers(0, count - 1), min_size=1, max_size=count, unique=True))
    return Case([values(draw, full) for _ in range(count)], {}, tuple(sorted(encrypted)))


def concat(draw):
    full = shape(draw, 1, 4)
    axis = draw(st.integers(-len(full), len(full) - 1))
    parts = []
    for size in ints(draw, 1, 3, draw(st.integers(1, 4))):
        part = list(full)
        part[axis] = size
        parts.append(values(draw, tuple(part)))
    encrypted = draw(st.lists(st.integers(0, len(parts) - 1), min_size=1, unique=True))
    return Case(parts, {"axis": axis}, tuple(sorted(encrypted)))


def one(low=-2.0, high=2.0, **attrs):
    def generate(draw):
        drawn = {k: float(np.float32(draw(v))) if isinstance(v, st.SearchStrategy) else v for k, v in attrs.items()}
        return Case([values(draw, shape(draw), low, high)], drawn)

    return generate


def reshape(draw):
    x = values(draw, shape(draw))
    target = draw(st.permutations([*x.shape, 1]))
    if draw(st.booleans()):
        target[draw(st.integers(0, len(target) - 1))] = -1
    return Case([x, i64(target)])


def flatten(draw):
    x = values(draw, shape(draw))
    return Case([x], {"axis": draw(st.integers(-x.ndim, x.ndim))})


def squeeze(draw):
    x = values(draw, tuple(draw(st.lists(st.sampled_from([1, 2, 3]), min_size=1, max_size=4))))
    ones = [a for a, n in enumerate(x.shape) if n == 1]
    chosen = draw(st.sampled_from([None, ones, [a - x.ndim for a in ones]]))
    return Case([x, i64(chosen)] if chosen else [x])


def unsqueeze(draw):
    x = values(draw, shape(draw, 1, 3))
    count = draw(st.integers(1, 2))
    axes = draw(st.lists(st.integers(0, x.ndim + count - 1), unique=True, min_size=count, max_size=count))
    return Case([x, i64(axes)])


def transpose(draw):
    x = values(draw, shape(draw))
    return Case([x], {"perm": draw(st.permutations(range(x.ndim)))} if draw(st.booleans()) else {})


def slice_(draw):
    x = values(draw, shape(draw, largest=6))
    axes = draw(st.lists(st.integers(0, x.ndim - 1), unique=True, min_size=1, max_size=x.ndim))
    starts, ends = ints(draw, -8, 8, len(axes)), ints(draw, -8, 8, len(axes))
    steps = [draw(st.sampled_from([-2, -1, 1, 2])) for _ in axes]
    index = [slice(None)] * x.ndim
    for a, s, e, t in zip(axes, starts, ends, steps, strict=True):
        index[a] = slice(s, e, t)
    # ONNX clamps a negative end to -1 - n, numpy reads it the same; empty results are refused.
    assume(x[tuple(index)].size > 0)
    return Case([x, i64(starts), i64(ends), i64(axes), i64(steps)])


def split(draw):
    axis = draw(st.integers(0, 2))
    sizes = ints(draw, 1, 3, draw(st.integers(1, 3)))
    full = [2, 2, 2]
    full[axis] = sum(sizes)
    x = values(draw, tuple(full))
    if draw(st.booleans()):
        return Case([x, i64(sizes)], {"axis": axis}, results=len(sizes))
    even = np.concatenate([x] * 2, axis=axis)
    return Case([even], {"axis": axis - 3, "num_outputs": 2}, results=2)


def gather(draw):
    x = values(draw, shape(draw))
    axis = draw(st.integers(-x.ndim, x.ndim - 1))
    n = x.shape[axis]
    indices = np.array(ints(draw, -n, n - 1, 4), np.int64).reshape(draw(st.sampled_from([(4,), (2, 2), (4, 1)])))
    return Case([x, indices if draw(st.booleans()) else indices.reshape(-1)[0]], {"axis": axis})


def tile(draw):
    x = values(draw, shape(draw, largest=3))
    return Case([x, i64(ints(draw, 1, 3, x.ndim))])


def expand(draw):
    full = shape(draw, 1, 4)
    small = tuple(draw(st.sampled_from([1, n])) for n in full[draw(st.integers(0, len(full))) :])
    target = [
        draw(st.sampled_from([1, n])) if s == n else n for s, n in zip((0,) * len(full) + small, full, strict=False)
    ]
    return Case([values(draw, small), i64(target)])


def pad(draw):
    x = values(draw, shape(draw, 1, 3, largest=5))
    mode = draw(st.sampled_from(["constant", "constant", "edge", "reflect", "wrap"]))
    low = -1 if mode == "constant" else 0
    pads = [draw(st.integers(max(low, 1 - n) if n > 2 else 0, n - 1)) for n in x.shape * 2]
    fill = np.float32(draw(st.sampled_from([0.0, 1.5]))) if mode == "constant" else None
    return Case([x, i64(pads), np.array(fill, np.float32) if fill is not None else None], {"mode": mode})


def resize(draw):
    x = values(draw, (1, 2, *ints(draw, 2, 5, 2)))
    attrs = {
        "mode": "nearest",
        "nearest_mode": draw(st.sampled_from(["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"])),
        "coordinate_transformation_mode": draw(
            st.sampled_from(["half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric", "half_pixel_symmetric"])
        ),
    }
    if draw(st.booleans()):
        # In these two the reference takes the size before rounding down, onnxruntime the one after, as we do.
        rounded = attrs["coordinate_transformation_mode"] in ("align_corners", "pytorch_half_pixel")
        smaller = [] if rounded else [0.5]
        scales = [1.0, 1.0, *(draw(st.sampled_from([1.0, 2.0, 3.0, *smaller])) for _ in range(2))]
        return Case([x, None, np.array(scales, np.float32)], attrs)
    return Case([x, None, None, i64([1, 2, *ints(draw, 2, 8, 2)])], attrs)


def depth_to_space(draw):
    block = draw(st.integers(1, 3))
    x = values(draw, (1, block**2 * draw(st.integers(1, 2)), *ints(draw, 1, 3, 2)))
    return Case([x], {"blocksize": block, "mode": draw(st.sampled_from(["DCR", "CRD"]))})


def space_to_depth(draw):
    block = draw(st.integers(1, 3))
    return Case([values(draw, (1, 2, *(block * n for n in ints(draw, 1, 3, 2))))], {"blocksize": block})


def clip(draw):
    low = np.float32(draw(st.floats(-2, 0)))
    bounds = draw(st.sampled_from([[low], [None, low + 1], [low, low + 1], [np.float32(0.0)], [low, low], []]))
    return Case([values(draw, shape(draw)), *(None if b is None else np.array(b, np.float32) for b in bounds)])


def bound(draw):
    operands = [values(draw, shape(draw)), np.full(draw(st.sampled_from([(), (1,)])), 0.25, np.float32)]
    return Case(operands, {})


def prelu(draw):
    x = values(draw, shape(draw, 2, 4))
    slope = draw(st.sampled_from([(1,), (x.shape[1], *(1,) * (x.ndim - 2)), x.shape[1:]]))
    return Case([x, values(draw, slope)])


def pow_(draw):
    exponent = draw(st.sampled_from([-2.0, -1.0, 0.5, 1.0, 2.0, 3.0, 4.0]))
    return Case([values(draw, shape(draw), 0.2), np.array(exponent, np.float32)])


def cast(draw):
    return Case([values(draw, shape(draw))], {"to": draw(st.sampled_from([TensorProto.FLOAT, TensorProto.DOUBLE]))})


def cast_like(draw):
    return Case([values(draw, shape(draw)), np.zeros(1, np.float32)])


def gelu(draw):
    return Case([values(draw, shape(draw))], {"approximate": draw(st.sampled_from(["none", "tanh"]))})


alpha = st.floats(0.1, 2.0)
GENERATORS: dict[str, Callable[..., Case]] = {
    "Conv": conv, "ConvTranspose": conv_transpose, "Gemm": gemm, "MatMul": matmul, "BatchNormalization": batch_norm,
    "AveragePool": average_pool, "GlobalAveragePool": global_average, "ReduceSum": reduce_, "ReduceMean": reduce_,
    "Add": binary(), "Sub": binary(), "Mul": binary(), "Div": binary(0.2), "Sum": n_ary, "Neg": one(),
    "Reshape": reshape, "Flatten": flatten, "Squeeze": squeeze, "Unsqueeze": unsqueeze, "Transpose": transpose,
    "Slice": slice_, "Split": split, "Gather": gather, "Tile": tile, "Expand": expand, "Concat": concat, "Pad": pad,
    "Resize": resize, "DepthToSpace": depth_to_space, "SpaceToDepth": space_to_depth,
    "Identity": one(), "Dropout": one(), "Cast": cast, "CastLike": cast_like,
    "Relu": one(), "LeakyRelu": one(alpha=alpha), "PRelu": prelu, "Clip": clip, "Max": bound, "Min": bound,
    "Elu": one(alpha=alpha), "Selu": one(alpha=alpha, gamma=alpha), "Celu": one(alpha=alpha), "Gelu": gelu,
    "Sigmoid": one(), "HardSigmoid": one(alpha=alpha, beta=alpha), "HardSwish": one(-5, 5), "Mish": one(),
    "Swish": lambda draw: Case(one()(draw).operands, {"alpha": 1.5}, opset=24), "Tanh": one(), "Softplus": one(),
    "Softsign": one(), "Erf": one(), "Exp": one(), "Sqrt": one(0.0), "Reciprocal": one(0.2), "Abs": one(), "Pow": pow_,
}  # fmt: skip


def model_of(op: str, case: Case) -> onnx.ModelProto:
    names = ["" if v is None else f"in{i}" for i, v in enumerate(case.operands)]
    outputs = [f"out{i}" for i in range(case.results)]
    node = helper.make_node(op, names, outputs, "layer", **case.attrs)
    ports, constants = [], []
    for i, (name, v) in enumerate(zip(names, case.operands, strict=True)):
        if i in case.x:
            ports.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, v.shape))
        elif v is not None:
            constants.append(numpy_helper.from_array(np.asarray(v), name))
    kind = case.attrs.get("to", TensorProto.FLOAT)
    results = [helper.make_tensor_value_info(o, kind, None) for o in outputs]
    graph = helper.make_graph([node], "one", ports, results, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", case.opset)], ir_version=10)
    return onnx.shape_inference.infer_shapes(model, strict_mode=True)


def batch_of(case: Case) -> dict[str, np.ndarray]:
    """The generated operands and, as a second sample, others in the same range."""
    return {f"in{i}": np.stack([case.operands[i], np.flip(case.operands[i]) * np.float32(0.9)]) for i in case.x}


def reference(model: onnx.ModelProto, batch: dict[str, np.ndarray]) -> list[np.ndarray]:
    run = ReferenceEvaluator(model).run
    if model.graph.node[0].op_type in REFERENCE_FAILS:
        run = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run
    samples = [run(None, {k: v[i] for k, v in batch.items()}) for i in range(BATCH)]
    return [np.stack(column) for column in zip(*samples, strict=True)]


def check_matrices(graph: Graph) -> None:
    """Of each linear node: the matrix is its meaning."""
    rng = np.random.default_rng(0)
    for node in graph.nodes():
        if node.op == "Input" or OPS[node.op].kind != "linear":
            continue
        operands = [rng.normal(size=(BATCH, *i.shape)) for i in node.inputs]
        matrices, bias = linear_matrix(node)
        assert [m.shape for m in matrices] == [(node.size, i.size) for i in node.inputs]
        found = sum(x.reshape(BATCH, -1) @ m.T for m, x in zip(matrices, operands, strict=True)) + bias
        applied = OPS[node.op].apply(node, operands)
        assert applied.shape == (BATCH, *node.shape)
        np.testing.assert_allclose(found.reshape(applied.shape), applied, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("op", sorted(GENERATORS))
@SPEED
@given(data=st.data())
def test_operator_agrees_with_the_onnx_reference(op, data):
    case = GENERATORS[op](data.draw)
    model, batch = model_of(op, case), batch_of(case)
    expected = reference(model, batch)
    graph = import_model(model).graph
    found = evaluate(graph, batch)
    for name, wanted in zip(graph.output_names, expected, strict=True):
        np.testing.assert_allclose(found[name], wanted, rtol=2e-4, atol=2e-5)
    check_matrices(graph)
    again = import_model(export(graph, None)).graph
    for name, back in evaluate(again, batch).items():
        np.testing.assert_allclose(back, found[name], rtol=1e-6, atol=1e-6)


def test_every_operator_that_is_read_has_a_generator():
    assert set(GENERATORS) == set(READERS) - REFUSED - {"pi_compiler.Poly"}


@pytest.mark.parametrize("op", sorted(REFUSED))
def test_refused_operators_come_with_advice(op):
    attrs = {"kernel_shape": [2, 2]} if op == "MaxPool" else {}
    operands = [np.ones((1, 2, 4, 4), np.float32)]
    with pytest.raises(UnsupportedOperator, match=f"{op} 'layer'.*try"):
        import_model(model_of(op, Case(operands, attrs)))


@given(degree=st.integers(0, 6), channels=st.sampled_from([0, 3]), basis=st.sampled_from(["power", "chebyshev"]))
@SPEED
def test_polynomial_activations_keep_their_meaning_through_onnx(degree, channels, basis):
    rng = np.random.default_rng(degree)
    coef = rng.normal(size=(degree + 1, channels) if channels else degree + 1)
    low, high = -1.0 - rng.random(channels or None), 2.0 + rng.random(channels or None)
    x = Node("Input", (), (1, 3, 2, 2), {}, "x")
    attrs = {"basis": basis, "coef": coef, "domain": np.array([low, high])}
    graph = Graph((x,), (Node("Poly", (x,), x.shape, attrs, "act"),), ("y",))
    sample = rng.normal(size=(BATCH, *x.shape)).astype(np.float32)
    found = evaluate(graph, {"x": sample})["y"]
    fit = {"power": np.polynomial.polynomial.polyval, "chebyshev": np.polynomial.chebyshev.chebval}[basis]
    for c in range(3):
        k = c if channels else ...
        a, b = np.broadcast_to(low, 3)[c], np.broadcast_to(high, 3)[c]
        at = sample[:, :, c] if basis == "power" else (2.0 * sample[:, :, c] - a - b) / (b - a)
        np.testing.assert_allclose(found[:, :, c], fit(at, coef[:, k] if channels else coef), atol=1e-9)
    model = export(graph, None)
    onnx.checker.check_model(model, full_check=True)
    np.testing.assert_allclose(reference(model, {"x": sample})[0], found, atol=1e-4, rtol=1e-4)
    back = import_model(model).graph
    assert [n.op for n in back.nodes()] == ["Input", "Poly"]
    np.testing.assert_allclose(evaluate(back, {"x": sample})["y"], found, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("op", [o for o in OPS if OPS[o].kind == "nonlinear"])
def test_polynomials_that_are_declared_are_the_function(op):
    x = Node("Input", (), (1, 3), {}, "x")
    attrs = {"Pow": {"exponent": 3.0}, "Poly": {"basis": "power", "coef": np.array([1.0, 2.0]), "domain": np.ones(2)}}
    node = Node(op, (x,), x.shape, attrs.get(op, {}), "f")
    declared = OPS[op].polynomial(node)
    if declared is None:
        assert op not in ("Pow", "Square", "Poly")
        return
    at = np.linspace(-2, 2, 7)
    np.testing.assert_allclose(np.polynomial.polynomial.polyval(at, declared), OPS[op].function(node)(at))
