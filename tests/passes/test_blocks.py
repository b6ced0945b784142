"""Blocks of transformers are found and named, whatever order their normalizations come in."""

from __future__ import annotations

import numpy as np
import pytest
from networks_mpc import Transformer
from scipy import sparse
from small_onnx import dense

from pi_compiler import api
from pi_compiler.errors import BudgetError
from pi_compiler.importer import import_model
from pi_compiler.ir.stages import Affine, InputStage, Polynomial, Refresh, Square, Stages
from pi_compiler.kernels.circuit import depth_of, levels_of
from pi_compiler.options import Options
from pi_compiler.passes.blocks import PARTS, parts_of
from pi_compiler.passes.refresh import refreshed
from pi_compiler.report.text import explain_view, plain


@pytest.mark.parametrize("kind", ["bert", "gpt"])
@pytest.mark.parametrize("layers", [1, 3])
def test_every_block_has_all_its_parts(kind, layers):
    """Normalized before or after, masked or not; every block alike."""
    graph = import_model(Transformer(kind, layers=layers).model()).graph
    found = parts_of(graph)
    names = {f"block {i + 1}" for i in range(layers)}
    assert {block for block, _ in found.values()} == names
    for name in names:
        assert {part for block, part in found.values() if block == name} == set(PARTS)
    ops = {n.origin: n.op for n in graph.nodes()}
    gelus = [origin for origin, op in ops.items() if op == "Gelu"]
    assert len(gelus) == layers
    assert all(found[g][1] == "network" for g in gelus)
    assert all(found[o][1] == "norm" for o, op in ops.items() if op == "LayerNorm" and o in found)


def test_networks_without_attention_have_no_blocks():
    assert parts_of(import_model(dense()).graph) == {}


def chain(depth):
    """Squares, one after the other."""
    stages = [InputStage("x", (1, 4), 1.0, "x")]
    stages += [Square(i, (1, 4), f"square {i}") for i in range(depth)]
    return Stages(tuple(stages), {"y": (depth, 1.0)})


@pytest.mark.parametrize(("depth", "usable", "count"), [(8, 8, 0), (9, 8, 1), (16, 8, 1), (17, 8, 2), (30, 10, 2)])
def test_a_chain_is_refreshed_as_late_as_possible(depth, usable, count):
    """ceil(depth / usable) - 1 bootstraps are the fewest, and no value needs more levels than there are."""
    made = refreshed(chain(depth), usable)
    assert sum(isinstance(s, Refresh) for s in made.stages) == count
    # One more, which the next bootstrap takes.
    assert max(levels_of(made)) <= usable + 1
    x = {"x": np.linspace(-1, 1, 4)[None]}
    np.testing.assert_array_equal(made.evaluate(x)["y"], chain(depth).evaluate(x)["y"])


def test_a_refreshed_value_serves_all_its_readers():
    """A residual sum reads a value that was refreshed for the branch beside it."""
    one = sparse.csr_array(sparse.eye_array(4))
    squares = [InputStage("x", (1, 4), 1.0, "x"), *(Square(i, (1, 4), "s") for i in range(3))]
    stages = [*squares, Square(3, (1, 4), "branch"), Affine((3, 4), (one, one), np.zeros(4), (1, 4), "sum")]
    made = refreshed(Stages(tuple(stages), {"y": (5, 1.0)}), 3)
    assert sum(isinstance(s, Refresh) for s in made.stages) == 1
    assert max(levels_of(made)) <= 4


def test_a_stage_deeper_than_any_bootstrap_leaves_is_named():
    from pi_compiler.approx.poly import Poly

    poly = Poly("chebyshev", tuple(np.ones(64)), (-1.0, 1.0))
    stages = (InputStage("x", (1, 4), 1.0, "x"), Polynomial(0, poly, (1, 4), "wide"))
    assert depth_of(stages[1]) > 5
    with pytest.raises(BudgetError, match="'wide' takes"):
        refreshed(Stages(stages, {"y": (1, 1.0)}), 5)


@pytest.fixture(scope="module")
def deep():
    net = Transformer("bert", layers=1, tokens=4, width=4, heads=2)
    # Eight levels less than it takes: as if no ring had more.
    return net.model(), net.samples(40)


def test_a_plan_counts_bootstraps_where_no_parameters_fit(deep, monkeypatch, costs):
    """Refused without, priced apart with; the blocks' table holds them all."""
    from pi_compiler.passes import schedule

    model, samples = deep
    fits = schedule.candidates
    monkeypatch.setattr(schedule, "candidates", lambda depth, *rest: fits(depth, *rest) if depth < 28 else [])
    monkeypatch.setattr(schedule, "BOOTSTRAP_LEVELS", 4)
    options = Options(backend="native", activation_error=2.0**-5, precision_bits=6)
    with pytest.raises(BudgetError, match="levels"):
        api.plan(model, calibration=samples, options=options)
    found = api.plan(model, calibration=samples, options=Options(**{**_given(options), "bootstraps": True}))
    assert found["bootstraps"] > 0
    assert found["depth"] > found["levels"]
    assert found["estimated_bootstrap_seconds"] > found["bootstraps"]
    assert sum(e["bootstraps"] for e in found["blocks"]) == found["bootstraps"]
    own = found["key_bytes"] - found["estimated_bootstrap_key_bytes"]
    assert found["estimated_bootstrap_memory_bytes"] > found["estimated_bootstrap_key_bytes"] > own > 0
    assert found["peak_memory_bytes"] > found["estimated_bootstrap_memory_bytes"] + own
    text = plain(explain_view(found))
    assert "estimated" in text
    assert f"of keys ({found['estimated_bootstrap_keys']} more, others larger)" in text
    assert "Blocks: what takes which levels" in text


def _given(options):
    return {name: getattr(options, name) for name in ("backend", "activation_error", "precision_bits")}
