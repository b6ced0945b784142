"""Budgets decide what replaces each layer."""

import numpy as np
import pytest
from networks import Builder, mlp, residual

from pi_compiler import api
from pi_compiler.errors import BudgetError
from pi_compiler.options import Activation, Options
from pi_compiler.passes.choose import answers, lost_answers, sensitivities
from pi_compiler.passes.compilation import Compilation
from pi_compiler.pipelines import CKKS, run


def planned(net, costs, stop_after="schedule", **options):
    b, model = net
    c, _ = api.prepare(model, b.samples(60), Options(backend="clear", **options), costs=costs)
    return run(c, CKKS, stop_after=stop_after)


def levels(c: Compilation) -> int:
    return sum(r.fit.certificate.depth for r in c.fits)


def seconds(c: Compilation) -> float:
    return sum(c.cost.seconds.values())


def test_a_latency_budget_is_kept_and_spent_on_accuracy(costs):
    fast, slow = (planned(residual(), costs, max_latency=s) for s in (0.5, 3.0))
    assert seconds(fast) <= 0.5 < seconds(slow) <= 3.0
    assert levels(fast) < levels(slow)


def test_an_accuracy_budget_takes_the_fewest_levels_that_keep_the_answers(costs):
    strict, loose = (planned(residual(), costs, max_accuracy_drop=d) for d in (0.0, 0.2))
    for c, allowed in ((strict, 0.0), (loose, 0.2)):
        assert lost_answers(c, answers(c)) <= allowed
    assert levels(loose) < levels(strict)


def test_an_impossible_budget_says_what_the_cheapest_takes(costs):
    with pytest.raises(BudgetError, match=r"no assignment of fits runs in 1e-09 s") as e:
        planned(mlp(), costs, max_latency=1e-9)
    assert "is predicted to need" in str(e.value)


def test_layers_that_the_user_named_are_left_to_the_user(costs):
    c = planned(residual(), costs, max_latency=1.0, activations={"relu1": Activation("quadratic")})
    fits = {r.origin: r.fit for r in c.fits}
    assert fits["relu1"].method == "least_squares"
    assert fits["relu1"].approx.degree == 2
    assert "relu1" not in c.chosen


def test_a_layer_that_the_output_hardly_sees_has_low_sensitivity(costs):
    b = Builder((1, 8))
    loud, quiet = b.same("Relu", b.linear("x", 6)), b.same("Relu", b.linear("x", 6))
    tiny = b.op("Gemm", quiet, b.weight(3, 6, scale=1e-3), b.weight(3), shape=(1, 3), transB=1)
    out = b.same("Add", b.linear(loud, 3), tiny)
    c = planned((b, b.model(out)), costs, stop_after="calibrate")
    nodes = [n for n in c.graph.nodes() if n.op == "Relu"]
    weights = dict(zip((n.origin for n in nodes), sensitivities(c, nodes), strict=True))
    assert weights["relu1"] > 1e3 * weights["relu3"]


def test_the_pareto_list_trades_error_for_levels(costs):
    c = planned(residual(), costs, max_latency=1.0)
    errors = [e for _, e, _ in c.frontier]
    prices = [p for _, _, p in c.frontier]
    assert np.all(np.diff(errors) < 0)
    assert np.all(np.diff(prices) > 0)
