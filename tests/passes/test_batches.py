"""A program for a batch answers every sample as the program for one does, at the price of one."""

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from networks import Builder, mlp, residual

from pi_compiler import api
from pi_compiler.answers import answer
from pi_compiler.artifact import seal_folder
from pi_compiler.errors import BudgetError, ExecutionError, ParameterError, ShapeMismatch
from pi_compiler.ir.program import Opcode
from pi_compiler.options import Activation, Options
from pi_compiler.passes import schedule
from pi_compiler.passes.pack import NoLayout
from pi_compiler.runtime.flooding import Flood
from pi_compiler.runtime.session import Session

SMALL = Options(activation=Activation("quadratic"), backend="clear", log_n=11, insecure=True)


def made(network, costs, batch, **more):
    b, model = network
    samples = np.random.default_rng(0).normal(size=(40, *b.shape[1:]))
    options = dataclasses.replace(SMALL, batch=batch, **more)
    return api.compile(model, calibration=samples, options=options, costs=costs)


def scores(model, x, backend="clear", **more):
    session = Session(model.program, model.params, model.signature, backend, insecure=True, **more)
    (found,) = session.run({"x": x}).logits.values()
    return found.reshape(len(x), -1)


def attention():
    """Scores of tokens against each other, squared, and what they weigh."""
    b = Builder((1, 4, 6))
    q, k = (b.op("MatMul", "x", b.weight(6, 4), shape=(1, 4, 4)) for _ in range(2))
    keys = b.op("Transpose", k, shape=(1, 4, 4), perm=[0, 2, 1])
    products = b.op("MatMul", q, keys, shape=(1, 4, 4))
    weights = b.same("Mul", products, products)
    return b, b.model(b.linear(b.op("MatMul", weights, "x", shape=(1, 4, 6)), 3))


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    sizes=st.lists(st.integers(1, 40), min_size=2, max_size=4),
    batch=st.sampled_from([2, 8, 64, 1024]),
    count=st.integers(1, 9),
    activation=st.sampled_from(["Relu", "Tanh"]),
)
def test_any_batch_answers_as_one_by_one(costs, sizes, batch, count, activation):
    """Up to one slot for each of 1024 samples, where nothing is rotated and constants are numbers."""
    network = mlp(sizes, activation)
    x = network[0].samples(count).reshape(count, 1, -1)
    many, alone = made(network, costs, batch), made(network, costs, 1)
    np.testing.assert_allclose(scores(many, x), scores(alone, x), rtol=1e-6, atol=1e-6)
    assert not (many.program.imm[many.program.op == Opcode.ROTATE] % batch).any()
    if batch == 1024:
        assert not many.program.count(Opcode.ROTATE)


@pytest.mark.parametrize("network", [residual, attention])
@pytest.mark.parametrize("backend", ["sim", "native"])
def test_images_and_products_of_matrices_in_batches(costs, network, backend):
    """Fewer samples than a batch has room for; each as in clear and alone, within what noise leaves."""
    if backend == "native":
        pytest.importorskip("pi_compiler.runtime.native._core")
    b, model = network()
    x = b.samples(3).reshape(3, *b.shape)
    many, alone = (made((b, model), costs, batch, log_n=12) for batch in (8, 1))
    exact = scores(alone, x)
    np.testing.assert_allclose(scores(many, x), exact, rtol=1e-6, atol=1e-6 * np.abs(exact).max())
    np.testing.assert_allclose(scores(many, x, backend), exact, atol=2.0**-6 * np.abs(exact).max())


def test_constants_made_as_they_are_used_are_those_made_beforehand(costs):
    pytest.importorskip("pi_compiler.runtime.native._core")
    network = mlp((20, 12, 5))
    many, x = made(network, costs, 16), network[0].samples(16).reshape(16, 1, -1)
    late, exact = scores(many, x, "native", plaintext_memory=0), scores(many, x)
    np.testing.assert_allclose(late, exact, atol=2.0**-8 * np.abs(exact).max())


def test_a_wild_sample_changes_no_other_answer(costs):
    """Not by a bit: slots of different samples never enter one sum."""
    b, model = residual()
    many, x = made((b, model), costs, 4), b.samples(4).reshape(4, *b.shape)
    wild = x.copy()
    wild[1] *= 1e6
    np.testing.assert_array_equal(np.delete(scores(many, wild), 1, 0), np.delete(scores(many, x), 1, 0))
    assert np.abs(scores(many, wild)[1]).max() > 1e6


def test_a_batch_costs_nothing_more_while_there_are_slots(costs):
    """Instructions, constants on disk and seconds of a run are those of one sample; seconds of an input a fourth."""
    network = mlp((20, 12, 5))
    four, one = (made(network, costs, batch, log_n=13) for batch in (4, 1))
    assert len(four.program) == len(one.program)
    assert [c.size for c in four.program.consts] == [c.size for c in one.program.consts]
    assert four.report["predicted_batch_seconds"] == one.report["predicted_seconds"]
    assert four.report["predicted_seconds"] == one.report["predicted_seconds"] / 4  # type: ignore[operator]
    assert (four.report["batch"], one.report["batch"]) == (4, 1)
    layers = [sum(e["predicted_seconds"] for e in m.report["layers"]) for m in (four, one)]
    assert layers[0] == pytest.approx(layers[1] / 4)


def test_an_open_batch_costs_least_per_input_and_keeps_the_latency(costs):
    network = mlp((20, 12, 5))
    best, one = made(network, costs, "auto"), made(network, costs, 1)
    tried = [made(network, costs, b).report["predicted_seconds"] for b in (4, 16, 64, 256)]
    assert best.report["batch"] > 1
    assert best.report["predicted_seconds"] <= min(tried)
    limit = one.report["predicted_evaluate_seconds"] * 1.2
    given = {"relu1": Activation("quadratic")}  # so that the limit decides the batch alone
    quick = made(network, costs, "auto", max_latency=limit, activations=given).report
    assert 1 < quick["batch"] < best.report["batch"]
    assert quick["predicted_evaluate_seconds"] * quick["batch"] <= limit


def test_an_open_batch_of_attention_finds_columns_behind_a_size_without_layout(costs, monkeypatch):
    """Sixteen sentences of the text classifier have none: five hundred take a hundredth of the time each."""
    packed = schedule.pack_stages

    def without(stages, levels, slots, *more):
        if slots == 1024 // 16:
            raise NoLayout("no layout")
        return packed(stages, levels, slots, *more)

    monkeypatch.setattr(schedule, "pack_stages", without)
    network = attention()
    best = made(network, costs, "auto").report
    tried = [made(network, costs, batch).report["predicted_seconds"] for batch in (4, 64, 256)]
    assert best["batch"] > 16
    assert best["predicted_seconds"] <= min(tried)


@pytest.mark.parametrize("backend", ["clear", "sim", "native"])
def test_samples_of_several_batches_are_answered_in_order(costs, backend):
    if backend == "native":
        pytest.importorskip("pi_compiler.runtime.native._core")
    network = mlp((20, 12, 5))
    many, x = made(network, costs, 4), network[0].samples(10).reshape(10, 1, -1)
    session = many.session(backend, insecure=True)
    (found,) = answer(session, {"x": x}).logits.values()
    exact = scores(made(network, costs, 1), x)
    np.testing.assert_allclose(found.reshape(10, -1), exact, atol=2.0**-6 * np.abs(exact).max())
    one = session.run({"x": x[0]}).logits
    assert {v.shape for v in one.values()} == {(1, 5)}
    if backend == "native":
        with pytest.raises(ShapeMismatch, match="10 samples in one run of a program that answers 4"):
            session.run({"x": x})


def test_noise_over_released_answers_counts_samples_and_not_batches(costs):
    """Two of four places are filled: the others hold copies that nobody gets."""
    network = mlp((20, 12, 5))
    many, x = made(network, costs, 4), network[0].samples(2).reshape(2, 1, -1)
    session = many.session("sim", insecure=True, flood=Flood(bits=1, releases=5, error=2.0**-10))
    session.run({"x": x})
    session.run({"x": x})
    with pytest.raises(ExecutionError, match="5 outputs may leave under this key, this would be number 6"):
        session.run({"x": x})


def test_a_model_on_disk_keeps_its_batch_and_older_ones_have_none(costs, tmp_path):
    network = mlp((20, 12, 5))
    x = network[0].samples(4).reshape(4, 1, -1)
    for batch, form in ((4, 2), (1, 1)):
        model = made(network, costs, batch)
        model.save(tmp_path / "m")
        again = api.CompiledModel.load(tmp_path / "m")
        assert again.program.batch == again.signature.batch == batch
        np.testing.assert_array_equal(scores(again, x), scores(model, x))
        manifest = json.loads((tmp_path / "m" / "manifest.json").read_text())["manifest"]
        assert manifest["format"] == form  # an earlier version must not run it as if it answered one
    old = {k: v for k, v in manifest.items() if k not in ("batch", "files")}
    (tmp_path / "m" / "manifest.json").unlink()
    seal_folder(tmp_path / "m", old)
    assert api.CompiledModel.load(tmp_path / "m").program.batch == 1


def test_what_no_ciphertext_holds_is_refused_with_what_it_would_take(costs):
    with pytest.raises(ParameterError, match="a batch of 2048 needs as many slots") as e:
        made(mlp(), costs, 2048)
    assert "2^11 with 1,024 slots" in str(e.value)
    with pytest.raises(BudgetError, match="cannot be packed") as e:
        made(attention(), costs, 512)
    assert "a batch of 512 leaves 2 of 1,024 slots to each input" in str(e.value)
    assert "try: a smaller --batch, a larger --log-n" in str(e.value)


@pytest.mark.parametrize("batch", [0, 3, -4, 96])
def test_batches_are_powers_of_two(batch):
    with pytest.raises(ParameterError, match=f"batch={batch} must be a power of two, or 'auto'"):
        Options(batch=batch)


@pytest.mark.parametrize("batch", [2, "auto"])
def test_shares_have_no_slots_to_fill(batch):
    with pytest.raises(ParameterError, match=f"batch={batch} is for target 'ckks'"):
        Options(batch=batch, target="mpc")
