"""Rows and columns that nobody reads are not computed, and nothing else changes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from networks_mpc import Transformer

from pi_compiler.api import compile_secure
from pi_compiler.importer.reference import reference
from pi_compiler.ir.mpc_meaning import evaluate
from pi_compiler.ir.mpc_program import MpcOp, MpcPort, MpcProgram, check
from pi_compiler.options import Options
from pi_compiler.passes.mpc.build import Builder
from pi_compiler.passes.mpc.narrow import narrow

ROWS, COLUMNS = 4, 3
STEPS = ("affine", "square", "negative", "row", "column", "dot", "matmul", "sum", "turn", "twice", "left")


def grown(steps: list[str], seed: int) -> tuple[Builder, int, int]:
    """A value (rows, columns) and instructions on it; what keeps its shape comes back in it."""
    rng, b = np.random.default_rng(seed), Builder(16, 16)
    b.at("layer")
    x = start = b.input((ROWS, COLUMNS))
    for step in steps:
        match step:
            case "affine":
                x = b.affine(x, rng.normal(size=(ROWS, 1)), rng.normal(size=COLUMNS), secret=True)
            case "square":
                x = b.square(x)
            case "negative":
                x = b.mul(b.negative(x), x)
            case "row":
                x = b.mul(x, b.gather((x,), np.arange(COLUMNS), (COLUMNS,)))
            case "column":
                x = b.mul(x, b.gather((start,), np.arange(ROWS) * COLUMNS, (ROWS, 1)))
            case "dot":
                turned = b.gather((x,), np.arange(ROWS * COLUMNS).reshape(ROWS, COLUMNS).T, (COLUMNS, ROWS))
                x = b.dot(b.dot(x, turned), start)
            case "matmul":
                bias = rng.normal(size=(ROWS, COLUMNS))
                x = b.weighted(MpcOp.MATMUL, x, rng.normal(size=(COLUMNS, COLUMNS)), bias, (ROWS, COLUMNS))
            case "sum":
                x = b.sub(x, b.broadcast(b.sum(x, (1,), (ROWS, 1)), (ROWS, COLUMNS)))
            case "turn":
                x = b.gather((x, start), rng.permutation(2 * ROWS * COLUMNS)[: ROWS * COLUMNS], (ROWS, COLUMNS))
            case "twice":
                x = b.add(x, x)
            case "left":
                x = b.gather((x,), np.where(rng.random(ROWS * COLUMNS) < 0.3, -1, np.arange(12)), (ROWS, COLUMNS))
    return b, start, x


def program(b: Builder, start: int, made: int) -> MpcProgram:
    shape = b.shape(made)
    inputs, outputs = {"x": MpcPort(start, b.shape(start))}, {"y": MpcPort(b.reveal(made, 1), shape)}
    return b.program(inputs, outputs, "crypten-ttp", {})


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from(STEPS), min_size=1, max_size=6),
    st.lists(st.integers(-1, ROWS * COLUMNS - 1), min_size=1, max_size=4),
    st.integers(0, 99),
)
def test_what_is_left_has_the_same_meaning_and_no_more_elements(steps, chosen, seed):
    b, start, made = grown(steps, seed)
    whole = program(b, start, b.gather((made,), np.array(chosen), (len(chosen),)))
    part = narrow(whole)
    check(part)
    x = np.random.default_rng(seed).normal(size=(2, ROWS, COLUMNS)) / 2.0
    np.testing.assert_allclose(evaluate(part, {"x": x})["y"], evaluate(whole, {"x": x})["y"], rtol=1e-9, atol=1e-9)
    sends = (MpcOp.MUL, MpcOp.SQUARE, MpcOp.LTZ, MpcOp.DOT)
    elements = [sum(i.size for i in p.instrs if i.op in sends) for p in (part, whole)]
    assert elements[0] <= elements[1]


def test_a_program_that_reads_everything_stays_as_it_is():
    b, start, made = grown(["affine", "dot", "sum"], 0)
    whole = program(b, start, made)
    assert narrow(whole) is whole


def last_token(net: Transformer):
    """The network's last row, as a language model or a classifier reads it."""
    picked = net.op("Gather", net.output, net.constant(net.tokens - 1), axis=1)
    net.output = picked
    return net.model()


@pytest.mark.parametrize("kind", ["bert", "gpt"])
def test_the_last_block_costs_one_row_where_one_row_is_read(kind):
    net = Transformer(kind, tokens=8)
    model = last_token(net)
    compiled = compile_secure(model, calibration=net.samples(16), options=Options(target="mpc"))
    every = Transformer(kind, tokens=8)
    full = compile_secure(every.model(), calibration=every.samples(16), options=Options(target="mpc"))
    costs = [{e["name"]: e["comparisons"] for e in c.report["layers"]} for c in (compiled, full)]
    (gelu,) = (n for n in costs[1] if n.startswith("mul"))
    assert 8 * costs[0][gelu] == costs[1][gelu]
    x = net.samples(3)
    exact = next(iter(reference(model.SerializeToString(), {"x": x}).values()))
    found = next(iter(compiled.run(x, backend="mpc-sim").logits.values()))
    assert np.abs(found - exact).max() < 5e-2
