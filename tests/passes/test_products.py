"""Products of two encrypted matrices, denominators and inverse square roots: packed, leveled, evaluated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto, TensorProto, helper, numpy_helper

from pi_compiler.answers import answer, stacked
from pi_compiler.api import CompiledModel, compile, plan, prepare
from pi_compiler.errors import BudgetError, CalibrationError
from pi_compiler.ir.circuit import Circuit
from pi_compiler.ir.graph import Graph
from pi_compiler.ir.stages import Affine, Contract, sources_of
from pi_compiler.kernels.algebra import Numbers
from pi_compiler.kernels.contract import contract
from pi_compiler.kernels.summing import contracted
from pi_compiler.ops.evaluate import evaluate
from pi_compiler.options import Options
from pi_compiler.passes.approximate import approximate
from pi_compiler.passes.calibrate import calibrate
from pi_compiler.passes.compilation import Compilation
from pi_compiler.passes.fold import folded, has_streams
from pi_compiler.passes.pack import NoLayout, _Packer
from pi_compiler.passes.spaces import meeting_layouts, spaces
from pi_compiler.pipelines import CKKS, run
from pi_compiler.report.ladder import Rung, ladder

TOKENS, DIM, HEADS = 4, 8, 2


def model(nodes: list, weights: dict[str, np.ndarray], shape: tuple[int, ...]) -> ModelProto:
    constants = [numpy_helper.from_array(np.asarray(w), n) for n, w in weights.items()]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "attention", [x], [y], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def attention(power: float = 2.0, epsilon: float = 1.0, tokens: int = TOKENS) -> ModelProto:
    """One block of attention with powers instead of exponentials, a residual sum, pooling and a head."""
    rng = np.random.default_rng(3)
    size = DIM // HEADS
    weights = {n: (rng.normal(size=(DIM, DIM)) / np.sqrt(DIM)).astype(np.float32) for n in ("wq", "wk", "wv", "wo")}
    weights["wh"] = rng.normal(size=(DIM, 3)).astype(np.float32)
    weights["heads"] = np.array([1, tokens, HEADS, size])
    weights["flat"] = np.array([1, tokens, DIM])
    weights["power"] = np.float32(power)
    weights["epsilon"] = np.float32(epsilon)
    weights["last"], weights["tokens"] = np.array([-1]), np.array([1])
    nodes = []

    def op(kind: str, *inputs: str, name: str, **attrs: object) -> str:
        nodes.append(helper.make_node(kind, list(inputs), [name], name, **attrs))
        return name

    def heads(w: str, perm: list[int]) -> str:
        split = op("Reshape", op("MatMul", "x", w, name=f"{w}_x"), "heads", name=f"{w}_split")
        return op("Transpose", split, name=f"{w}_heads", perm=perm)

    scores = op("MatMul", heads("wq", [0, 2, 1, 3]), heads("wk", [0, 2, 3, 1]), name="scores")
    powers = op("Pow", scores, "power", name="powers")
    total = op("Add", op("ReduceSum", powers, "last", name="total", keepdims=1), "epsilon", name="total_epsilon")
    mixed = op("MatMul", op("Div", powers, total, name="divide"), heads("wv", [0, 2, 1, 3]), name="mix")
    joined = op("Reshape", op("Transpose", mixed, name="back", perm=[0, 2, 1, 3]), "flat", name="joined")
    sum_ = op("Add", "x", op("MatMul", joined, "wo", name="wo_x"), name="residual")
    pooled = op("ReduceMean", sum_, "tokens", name="pool", keepdims=0)
    nodes.append(helper.make_node("MatMul", [pooled, "wh"], ["y"], "head"))
    return model(nodes, weights, (1, tokens, DIM))


def normalization() -> ModelProto:
    """Layer normalization written out, and a head."""
    rng = np.random.default_rng(4)
    weights = {
        "last": np.array([-1]),
        "epsilon": np.float32(0.1),
        "gamma": rng.uniform(0.5, 1.5, DIM).astype(np.float32),
        "wh": rng.normal(size=(DIM, 3)).astype(np.float32),
    }
    nodes = [
        helper.make_node("ReduceMean", ["x", "last"], ["mean"], "mean"),
        helper.make_node("Sub", ["x", "mean"], ["c"], "center"),
        helper.make_node("Mul", ["c", "c"], ["cc"], "square"),
        helper.make_node("ReduceMean", ["cc", "last"], ["variance"], "variance"),
        helper.make_node("Add", ["variance", "epsilon"], ["v"], "epsilon"),
        helper.make_node("Sqrt", ["v"], ["root"], "root"),
        helper.make_node("Div", ["c", "root"], ["n"], "normal"),
        helper.make_node("Mul", ["n", "gamma"], ["g"], "gain"),
        helper.make_node("MatMul", ["g", "wh"], ["y"], "head"),
    ]
    return model(nodes, weights, (1, TOKENS, DIM))


def samples(count: int = 60, tokens: int = TOKENS) -> np.ndarray:
    return np.random.default_rng(5).normal(size=(count, tokens, DIM))


def rungs(
    compiled: CompiledModel, backend: str = "sim", scale: float = 1.0, tokens: int = TOKENS
) -> Mapping[str, Rung]:
    inputs = stacked(compiled, scale * samples(62, tokens)[60:])
    found = {n: answer(compiled.session(n, insecure=True), inputs).logits for n in {"clear", "sim", backend}}
    return {r.name: r for r in ladder(compiled.models, inputs, found["clear"], found["sim"], found[backend])}


@pytest.fixture(scope="module")
def attended() -> CompiledModel:
    """Small and insecure, so that keys are made quickly."""
    options = Options(backend="tenseal", log_n=12, log_scale=40.0, insecure=True)
    return compile(attention(), calibration=samples(), options=options)


def test_attention_holds_the_whole_ladder(attended: CompiledModel) -> None:
    """Every step from the ONNX file to ciphertexts, on samples that calibration has not seen."""
    steps = rungs(attended, "tenseal")
    assert steps["import"].bits > 18
    assert steps["compile"].bits > 16
    assert steps["simulate"].bits > 8
    assert steps["encrypt"].bits > 8
    assert steps["in all"].bits > 6


@pytest.mark.parametrize("batch", [64, 128, 256, 512])
def test_attention_in_few_slots_holds_the_whole_ladder(batch: int) -> None:
    """A sample has 32, 16, 8 or 4 slots: values lie over many ciphertexts, and products turn them."""
    options = Options(backend="tenseal", log_n=12, log_scale=40.0, insecure=True, batch=batch)
    steps = rungs(compile(attention(), calibration=samples(), options=options), "tenseal")
    assert steps["compile"].bits > 16
    assert steps["simulate"].bits > 8
    assert steps["encrypt"].bits > 8


def test_a_slot_for_each_token_leaves_rotations_to_products_of_values_alone() -> None:
    """Weights multiply columns; scores are diagonals, which is what their products with values want."""
    options = Options(backend="tenseal", log_n=12, log_scale=40.0, insecure=True, batch=512)
    report = compile(attention(), calibration=samples(), options=options).report
    layers = {str(e["name"]): e["rotations"] for e in report["layers"]}  # type: ignore[union-attr]
    rotated = {name for name, rotations in layers.items() if rotations}
    assert rotated == {"scores", "mix", "total", "head"}
    # Four columns in each of two heads, turned by one of two baby steps and one of two giant steps.
    assert layers["scores"] == 2 * 4 * (1 + 1)


def test_what_the_search_for_columns_loses_is_planned_without_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its beam may lose the assignments that go on, as in a retrained BERT-tiny; else columns are cheaper here."""
    options = Options(backend="tenseal", log_n=12, log_scale=40.0, insecure=True, batch=64)
    best = plan(attention(), calibration=samples(), options=options)
    packed = _Packer.run

    def lost(packer: _Packer) -> tuple[float, Circuit]:
        if packer.meetings.over_ciphertexts:
            raise NoLayout("lost")
        return packed(packer)

    monkeypatch.setattr(_Packer, "run", lost)
    other = plan(attention(), calibration=samples(), options=options)
    assert float(str(best["predicted_seconds"])) < float(str(other["predicted_seconds"]))


def test_five_tokens_in_eight_slots_attend_to_each_other() -> None:
    """Turns that wrap around and those that do not share a ciphertext."""
    options = Options(backend="tenseal", log_n=12, log_scale=40.0, insecure=True, batch=256)
    compiled = compile(attention(tokens=5), calibration=samples(tokens=5), options=options)
    steps = rungs(compiled, tokens=5)
    assert steps["compile"].bits > 16
    assert steps["simulate"].bits > 8


def test_a_division_runs_beside_the_product_that_it_scales(attended: CompiledModel) -> None:
    """Queries and keys, scores, powers, the longer of division and mixing, their product, the head."""
    layers = attended.report["layers"]
    assert isinstance(layers, list)
    iteration = next(e["depth"] for e in attended.report["activations"] if e["op"] == "Reciprocal")  # type: ignore[union-attr]
    assert attended.report["levels"] == 1 + 1 + 1 + max(1, int(iteration)) + 1 + 1


def test_higher_powers_are_squares_and_products() -> None:
    for power in (4.0, 6.0):
        options = Options(backend="native", margin=1.05)
        steps = rungs(compile(attention(power, 0.5), calibration=0.4 * samples(), options=options), scale=0.4)
        assert steps["compile"].bits > 14
        assert steps["in all"].bits > 5


def test_layer_normalization_needs_no_level_for_its_variance() -> None:
    """Centering, square, root, product, head: the mean of the squares is made by rotations."""
    compiled = compile(normalization(), calibration=samples(), options=Options(backend="native"))
    depth = next(e["depth"] for e in compiled.report["activations"] if e["op"] == "InverseSqrt")  # type: ignore[union-attr]
    assert compiled.report["levels"] == 1 + 1 + int(depth) + 1 + 1
    steps = rungs(compiled)
    assert steps["compile"].bits > 16
    assert steps["in all"].bits > 6


def test_a_denominator_that_reaches_zero_is_named() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], "mix"),
        helper.make_node("Reciprocal", ["h"], ["r"], "divide"),
        helper.make_node("MatMul", ["r", "w"], ["y"], "head"),
    ]
    weights = {"w": np.eye(DIM, dtype=np.float32)}
    with pytest.raises(CalibrationError, match=r"divide.*reaches 0: found \[.*needed"):
        compile(model(nodes, weights, (1, TOKENS, DIM)), calibration=samples())


def test_an_interval_too_wide_for_its_error_is_named() -> None:
    with pytest.raises(CalibrationError, match="differ by a factor"):
        compile(attention(6.0, 0.5), calibration=samples())


def test_a_product_that_does_not_fit_says_how_many_slots_it_takes() -> None:
    x = np.random.default_rng(0).normal(size=(4, 40, 72))
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"], "turn", perm=[0, 2, 1]),
        helper.make_node("MatMul", ["x", "a"], ["u"], "left"),
        helper.make_node("MatMul", ["u", "t"], ["s"], "gram"),
        helper.make_node("MatMul", ["s", "u"], ["p"], "mixed"),
        helper.make_node("MatMul", ["p", "t"], ["y"], "again"),
    ]
    weights = {"a": np.eye(72, dtype=np.float32)}
    options = Options(backend="tenseal", log_n=11, insecure=True, log_scale=30.0)
    with pytest.raises(BudgetError, match=r"'(gram|mixed|again)' cannot be packed") as caught:
        compile(model(nodes, weights, (1, 40, 72)), calibration=x, options=options)
    assert "slots" in str(caught.value)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 3), st.integers(1, 5), st.integers(1, 5), st.integers(1, 5), st.sampled_from([64, 256, 1024]))
def test_products_in_every_space_are_numpys(heads: int, rows: int, terms: int, columns: int, slots: int) -> None:
    """Lengths that are no powers of two, lengths of one, and more than a ciphertext holds."""
    lengths = {"h": heads, "i": rows, "k": terms, "j": columns}
    sizes = {a: n for a, n in lengths.items() if n > 1}
    axes = tuple("".join(a for a in letters if a in sizes) for letters in ("hik", "hkj", "hij"))
    stage = Contract(0, 1, (axes[0], axes[1], axes[2]), sizes, (heads, rows, columns), "product")
    if not axes[0] or not axes[1]:
        return
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(heads, rows, terms)), rng.normal(size=(heads, terms, columns))
    alg = Numbers((1, 1, 1), 1.0, slots)
    for space in spaces(stage, "", slots):
        left = meeting_layouts(stage, 0, a.shape, [space], slots)
        right = meeting_layouts(stage, 1, b.shape, [space], slots)
        if not left or not right:
            continue
        found = contracted(stage, left[0], right[0])
        assert found
        layout, plan = found[0]
        x = [alg.input(v, 1) for v in left[0].pack(a)]
        y = [alg.input(v, 1) for v in right[0].pack(b)]
        got = np.stack([alg.of(v) for v in contract(alg, x, y, plan, 0)])
        np.testing.assert_allclose(layout.unpack(got), a @ b, atol=1e-9)


@pytest.mark.parametrize(("form", "most"), [("max-exp", 12), ("normalize-square:1", 16), ("power", 10)])
def test_a_softmax_alone_rotates_for_its_sums_only(form: str, most: int) -> None:
    """The client packs rows where sums over them repeat; nothing moves, and no exponential is taken twice."""
    nodes = [helper.make_node("Softmax", ["x"], ["w"], "softmax"), helper.make_node("Mul", ["w", "one"], ["y"], "out")]
    source = model(nodes, {"one": np.float32(1.0)}, (1, 16, 16))
    x = np.random.default_rng(0).normal(size=(24, 1, 16, 16))
    compiled = compile(source, calibration=x, options=Options(softmax=form, backend="sim", insecure=True, log_n=12))
    report = compiled.report
    sums = 2 if form.startswith("normalize") else 1
    assert report["rotations"] == 4 * sums
    assert report["products"] <= most + 4
    exact = np.exp(x[:4]) / np.exp(x[:4]).sum(axis=-1, keepdims=True)
    if form != "power":
        found = compiled.run({"x": x[:4]}, backend="clear").outputs["y"]
        assert np.abs(found - exact).max() < 0.03


def test_cumulants_rotate_for_their_sums_and_spread_once() -> None:
    """A map that spread them over their rows would have as many diagonals as a row is long, in each of three places."""
    nodes = [helper.make_node("Softmax", ["x"], ["w"], "softmax"), helper.make_node("Mul", ["w", "one"], ["y"], "out")]
    source = model(nodes, {"one": np.float32(1.0)}, (1, 64, 64))
    x = np.random.default_rng(0).normal(size=(24, 1, 64, 64))
    compiled = compile(source, calibration=x, options=Options(softmax="cgf", backend="sim", insecure=True, log_n=13))
    assert compiled.report["rotations"] <= 3 * 6
    assert compiled.report["levels"] <= 8
    exact = np.exp(x - x.mean(axis=-1, keepdims=True) - x.var(axis=-1, keepdims=True) / 2) / 64
    for backend in ("clear", "sim"):
        found = compiled.run({"x": x[:2]}, backend=backend).outputs["y"]
        assert np.abs(found - exact[:2]).max() < 0.03 * exact.max()


def test_a_residual_sum_between_products_may_have_a_stage_of_its_own() -> None:
    """Maps behind it have one source of its size; the planner takes it where that costs less than its level."""
    rng = np.random.default_rng(5)
    weights = {f"{k}{i}": (rng.normal(size=(DIM, DIM)) / DIM).astype(np.float32) for i in (0, 1) for k in "qkv"}
    nodes, x = [], "x"
    for i in (0, 1):
        for k in "qkv":
            nodes.append(helper.make_node("MatMul", [x, f"{k}{i}"], [f"{k}{i}_x"], f"{k}{i}_map"))
        nodes.append(helper.make_node("Transpose", [f"k{i}_x"], [f"kt{i}"], f"turn{i}", perm=[0, 2, 1]))
        nodes.append(helper.make_node("MatMul", [f"q{i}_x", f"kt{i}"], [f"s{i}"], f"scores{i}"))
        nodes.append(helper.make_node("MatMul", [f"s{i}", f"v{i}_x"], [f"m{i}"], f"mix{i}"))
        nodes.append(helper.make_node("Add", [x, f"m{i}"], [f"r{i}" if i == 0 else "y"], f"residual{i}"))
        x = "r0"
    inputs = samples()[..., :DIM].reshape(-1, 1, TOKENS, DIM)
    c, _ = prepare(model(nodes, weights, (1, TOKENS, DIM)), inputs, Options(backend="clear"))
    c = run(c, CKKS, stop_after="fold")
    assert has_streams(c)
    plain, streamed = folded(c), folded(c, streams=True)
    behind = {s.origin: len(sources_of(s)) for s in streamed.stages if isinstance(s, Affine)}
    before = {s.origin: len(sources_of(s)) for s in plain.stages if isinstance(s, Affine)}
    assert before["q1_map"] == 2
    assert behind["q1_map"] == 1
    assert "residual0" in behind
    found, exact = (x.evaluate({"x": inputs[:3]})["y"] for x in (streamed, plain))
    np.testing.assert_allclose(found, exact, atol=1e-9)


def test_a_variance_outside_its_certified_band_is_named() -> None:
    """What replaced layers before it yield may leave the band that calibration of the original gave."""
    c, _ = prepare(normalization(), samples(), Options(backend="clear"))
    c = run(c, CKKS, stop_after="calibrate")
    (inverse,) = (n for n in c.graph.nodes() if n.op == "InverseSqrt")
    low, high = np.asarray(inverse.attrs["interval"])
    narrow = replace(inverse, attrs={**inverse.attrs, "interval": (low + 0.9 * (high - low), high)})
    c = replace(c, graph=c.graph.rewrite({inverse: narrow}))
    c = calibrate(replace(c, ranges=None))
    with pytest.raises(
        CalibrationError, match=r"InverseSqrt(.|\n)*drive its operand to(.|\n)*outside of the certified"
    ):
        approximate(c)


def test_scores_that_differ_widely_are_told_of_the_form_that_takes_them() -> None:
    """Where a row has no high score, its sum of exponentials is smaller than the error of one; the advice must work."""
    rng = np.random.default_rng(1)
    nodes = [helper.make_node("Softmax", ["x"], ["w"], "softmax"), helper.make_node("Mul", ["w", "one"], ["y"], "out")]
    source = model(nodes, {"one": np.float32(1.0)}, (1, 8, 8))
    x = rng.normal(size=(24, 1, 8, 8)) + rng.uniform(-9, 0, (24, 1, 8, 1))

    def replaced(form: str) -> Graph:
        c, _ = prepare(source, x, Options(softmax=form, backend="clear", activation_error=2.0**-6))
        return Compilation.require(run(c, CKKS, stop_after="approximate").replaced, "test", "approximate")

    with pytest.raises(CalibrationError, match=r"'softmax/inverse' .*; try .* --softmax normalize-square") as error:
        replaced("max-exp")
    assert "larger --activation-error" not in str(error.value)
    exact = np.exp(x) / np.exp(x).sum(axis=-1, keepdims=True)
    assert np.abs(evaluate(replaced("normalize-square"), {"x": x})["y"] - exact).max() < 0.05
