"""The choice of fits: dynamic programming against brute force, menus, budgets that cannot be met."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pi_compiler.approx.choose import Option, menu, most_accurate, pareto, price_of_depth, within_error
from pi_compiler.approx.density import Density
from pi_compiler.approx.errors import ApproximationError
from pi_compiler.approx.targets import target

OPTION = st.builds(Option, st.just("o"), st.integers(0, 50).map(float), st.integers(0, 50).map(float))
LAYERS = st.lists(st.lists(OPTION, min_size=1, max_size=4), min_size=1, max_size=4)


@settings(deadline=None)
@given(LAYERS)
def test_the_frontier_is_that_of_brute_force(layers):
    totals = {(sum(o.price for o in chosen), sum(o.error for o in chosen)) for chosen in itertools.product(*layers)}
    best = sorted(t for t in totals if not any(o != t and o[0] <= t[0] and o[1] <= t[1] for o in totals))
    found = pareto(layers)
    assert [(a.price, a.error) for a in found] == best
    for a in found:
        assert a.price == sum(o.price for o in a.options)
        assert a.error == sum(o.error for o in a.options)
        assert all(o in layer for o, layer in zip(a.options, layers, strict=True))


@settings(deadline=None)
@given(LAYERS, st.integers(0, 120))
def test_budgets_are_kept_and_used(layers, budget):
    frontier = pareto(layers)
    if frontier[0].price <= budget:
        chosen = most_accurate(frontier, budget)
        assert chosen.price <= budget
        assert all(a.error >= chosen.error for a in frontier if a.price <= budget)
    if frontier[-1].error <= budget:
        chosen = within_error(frontier, budget)
        assert chosen.error <= budget
        assert all(a.price >= chosen.price for a in frontier if a.error <= budget)


def test_a_short_list_is_nearly_as_good_as_the_exact_one():
    rng = np.random.default_rng(0)
    layers = [
        [Option(f"{d}", float(rng.uniform(0.5, 2.0) * 4.0**-d), d + float(rng.uniform(0, 0.1))) for d in range(8)]
        for _ in range(12)
    ]
    exact, short = pareto(layers, resolution=100_000), pareto(layers, resolution=60)
    assert len(short) <= 61 < len(exact)
    for price in (20.0, 40.0, 60.0):
        assert most_accurate(short, price).error <= 1.3 * most_accurate(exact, price).error


def test_a_menu_trades_levels_for_error():
    rng = np.random.default_rng(1)
    density = Density.of_samples(rng.normal(0.0, 1.0, 3000))
    options = menu(target("relu"), density, (-5.0, 5.0), price=price_of_depth(), held_out=rng.normal(size=300))
    prices, errors = [o.price for o in options], [o.error for o in options]
    assert prices == sorted(prices)
    assert errors == sorted(errors, reverse=True)
    assert prices[0] == 0
    assert any(o.fit.method == "composite" for o in options)
    assert all(o.price == o.fit.certificate.depth for o in options)


def test_a_fit_that_explodes_outside_its_interval_is_not_worth_its_inside():
    samples = np.concatenate([np.random.default_rng(2).normal(0.0, 1.0, 3000), [12.0]])
    density = Density.of_samples(samples)
    options = menu(target("gelu"), density, (-4.0, 4.0), price=price_of_depth(), degrees=(2, 31))
    assert options[-1].fit.approx.degree == 2


def test_sensitive_layers_get_the_levels():
    density = Density.normal(0.0, 1.0)
    layers = [
        menu(target("gelu"), density, (-6.0, 6.0), price=price_of_depth(), sensitivity=s) for s in (100.0, 1.0, 0.01)
    ]
    chosen = most_accurate(pareto(layers), 9.0)
    depths = [o.fit.certificate.depth for o in chosen.options]
    assert depths == sorted(depths, reverse=True)
    assert depths[0] > depths[-1]
    assert chosen.depth == sum(depths) <= 9
    uniform = [min((o for o in layer if o.price <= 3), key=lambda o: o.error) for layer in layers]
    assert chosen.error < sum(o.error for o in uniform)


def test_budgets_that_cannot_be_met_say_how_near_they_come():
    frontier = pareto([[Option("a", 1.0, 5.0)], [Option("b", 2.0, 7.0)]])
    with pytest.raises(ApproximationError, match="cheapest costs 12"):
        most_accurate(frontier, 11.0)
    with pytest.raises(ApproximationError, match="best reaches 3"):
        within_error(frontier, 2.5)


def test_bad_options_are_refused():
    with pytest.raises(ApproximationError, match="layer 1 has no option"):
        pareto([[Option("a", 1.0, 1.0)], []])
    with pytest.raises(ApproximationError, match="bad"):
        pareto([[Option("bad", float("nan"), 1.0)]])
    with pytest.raises(ApproximationError, match="sensitivity"):
        menu(target("relu"), Density.normal(0.0, 1.0), (-1.0, 1.0), price=price_of_depth(), sensitivity=-1.0)
