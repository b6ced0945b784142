"""Networks that answer a batch in one run: every rung of the ladder, and the commands."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from commands import Cli

from pi_compiler.answers import answer, stacked
from pi_compiler.api import CompiledModel, compile
from pi_compiler.models.data import is_local, load
from pi_compiler.models.zoo import model_path
from pi_compiler.options import Activation, Options
from pi_compiler.report.ladder import ladder


def read(path: Path) -> dict[str, object]:
    found = json.loads(path.read_text())
    assert isinstance(found, dict)
    return found


def climbed(name: str, data: str, activation: str, batch: int, count: int, backends: tuple[str, ...]) -> None:
    """Batched answers in clear are those of single runs; each backend's rungs keep the bits asked for."""
    calibration, few = load(data, "calibration").x, load(data, "test").take(count)

    def made(batch: int, backend: str) -> CompiledModel:
        options = Options(activation=Activation(activation), backend=backend, batch=batch)
        return compile(model_path(name), calibration=calibration, options=options)

    alone = made(1, backends[0])
    exact = answer(alone.session("clear"), stacked(alone, few.x)).logits
    for backend in backends:
        model = made(batch, backend)
        inputs = stacked(model, few.x)
        found = {at: answer(model.session(at), inputs).logits for at in ("clear", "sim", backend)}
        for output, values in found["clear"].items():
            np.testing.assert_allclose(values, exact[output], rtol=1e-9, atol=1e-9 * np.abs(exact[output]).max())
        rungs = ladder(model.models, inputs, found["clear"], found["sim"], found[backend])
        bits = {r.name: r.bits for r in rungs}
        assert bits["compile"] > 18
        assert bits["simulate"] > 10
        assert bits["encrypt"] > 10
        for output, values in found[backend].items():
            wanted = exact[output].reshape(count, -1).argmax(axis=1)
            assert values.reshape(count, -1).argmax(axis=1).tolist() == wanted.tolist()


def test_the_digits_network_in_batches_of_eight() -> None:
    """The last batch holds three images; the first one is full."""
    pytest.importorskip("tenseal")
    pytest.importorskip("pi_compiler.runtime.native._core")
    climbed("digits_cnn", "digits", "quadratic", 8, 11, ("native", "tenseal"))


@pytest.mark.skipif(not is_local("mnist"), reason="MNIST is neither in PI_DATA_DIR nor in the cache")
def test_a_dense_network_in_batches_of_sixteen() -> None:
    pytest.importorskip("pi_compiler.runtime.native._core")
    climbed("mlp", "mnist", "quadratic", 16, 16, ("native",))


@pytest.mark.slow
def test_a_vision_transformer_in_batches_of_four() -> None:
    pytest.importorskip("pi_compiler.runtime.native._core")
    climbed("digits_vit_he", "digits", "auto", 4, 5, ("native",))


@pytest.fixture(scope="module")
def batched(digits_onnx: Path, tmp_path_factory: pytest.TempPathFactory, shipped_costs: None) -> Path:
    pytest.importorskip("pi_compiler.runtime.native._core")
    options = Options(activation=Activation("quadratic"), backend="native", batch=8)
    place = tmp_path_factory.mktemp("batched") / "digits"
    compile(digits_onnx, calibration=load("digits", "calibration").x, options=options).save(place)
    return place


def test_seconds_are_those_of_one_input_and_those_of_a_run_have_their_own_names(
    cli: Cli, batched: Path, tmp_path: Path
) -> None:
    """Predictions and measurements of one input stay comparable, whether the last batch was full or not."""
    explained = cli("explain", batched, "--json", tmp_path / "plan.json")
    assert "8 inputs in one run, 512 slots each" in explained.out
    assert "however many of its 8 inputs are there" in explained.out
    plan = read(tmp_path / "plan.json")
    assert plan["batch"] == 8
    assert plan["predicted_batch_seconds"] == pytest.approx(8 * float(str(plan["predicted_seconds"])))

    images = load("digits", "test").take(11)
    np.save(tmp_path / "x.npy", images.x)
    ran = cli(
        "run", batched, "--input", tmp_path / "x.npy", "--output", tmp_path / "y.npy", "--json", tmp_path / "r.json"
    )
    assert ran.code == 0, ran.err
    assert "per input of a full batch of 8" in ran.out
    report = read(tmp_path / "r.json")
    assert (report["samples"], report["batch"]) == (11, 8)
    assert report["batch_seconds"] == pytest.approx(8 * float(str(report["seconds"])))
    assert report["predicted_batch_seconds"] == pytest.approx(plan["predicted_batch_seconds"])
    layers = report["layers"]
    assert isinstance(layers, list)
    assert sum(e["seconds"] for e in layers) == pytest.approx(report["seconds"], rel=0.05)
    assert np.load(tmp_path / "y.npy").argmax(axis=1).tolist() == images.labels.tolist()


def test_one_sample_alone_fills_its_batch_with_itself(cli: Cli, batched: Path, tmp_path: Path) -> None:
    image = load("digits", "test").take(1)
    np.save(tmp_path / "x.npy", image.x[0])
    ran = cli("run", batched, "--input", tmp_path / "x.npy", "--output", tmp_path / "y.npy", "--backend", "sim")
    assert ran.code == 0, ran.err
    assert np.load(tmp_path / "y.npy").reshape(-1, 10).argmax(axis=1).tolist() == image.labels.tolist()


def test_accuracies_count_samples_and_no_copies(cli: Cli, batched: Path, tmp_path: Path) -> None:
    judged = cli(
        "evaluate", batched, "--data", "digits:validation", "--limit", 3, "--json", tmp_path / "e.json"
    )  # fmt: skip
    assert judged.code == 0, judged.err
    report = read(tmp_path / "e.json")
    assert report["encrypted_samples"] == 3
    assert report["samples"] == len(load("digits", "validation"))
    assert report["agreement"] == 1.0


@pytest.mark.parametrize(
    ("batch", "code", "says"),
    [
        ("3", 2, "batch=3 must be a power of two, or 'auto'"),
        ("many", 2, "'many' is no number of inputs"),
        ("65536", 1, "a batch of 65536 needs as many slots"),
    ],
)
def test_batches_that_cannot_be(
    cli: Cli, small_onnx: Path, samples: Path, tmp_path: Path, batch: str, code: int, says: str
) -> None:
    found = cli("compile", small_onnx, "--calibration", samples, "--output", tmp_path / "m", "--batch", batch)
    assert found.code == code, found.err
    assert says in found.err
    assert not (tmp_path / "m").exists()


def test_shares_are_not_batched(cli: Cli, small_onnx: Path, samples: Path, tmp_path: Path) -> None:
    args = ("--calibration", samples, "--output", tmp_path / "m", "--target", "mpc", "--batch", "auto")
    found = cli("compile", small_onnx, *args)
    assert found.code == 2
    assert "batch=auto is for target 'ckks'" in found.err


def test_an_open_batch_is_chosen_and_said(cli: Cli, small_onnx: Path, samples: Path, tmp_path: Path) -> None:
    args = ("--calibration", samples, "--plan-only", "--batch", "auto", "--json", tmp_path / "p.json")
    found = cli("compile", small_onnx, *args)
    assert found.code == 0, found.err
    batch = read(tmp_path / "p.json")["batch"]
    assert isinstance(batch, int)
    assert batch > 1
    assert f"{batch} inputs in one run" in found.out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "data", "batch"), [("digits_vit_he", "digits", 1024), ("text_classifier_he", "sentiment", 512)]
)
def test_a_transformer_with_one_slot_for_each_token(name: str, data: str, batch: int) -> None:
    """Values lie over dozens of ciphertexts, and all samples together take a few hundred rotations."""
    pytest.importorskip("pi_compiler.runtime.native._core")
    if not is_local(data):
        pytest.skip(f"{data} are neither in PI_DATA_DIR nor in the cache")
    calibration, few = load(data, "calibration").x, load(data, "validation").take(5)
    compiled = compile(model_path(name), calibration=calibration, options=Options(backend="native", batch=batch))
    inputs = stacked(compiled, few.x)
    found = {at: answer(compiled.session(at), inputs).logits for at in ("clear", "sim")}
    bits = {r.name: r.bits for r in ladder(compiled.models, inputs, found["clear"], found["sim"], found["sim"])}
    assert bits["compile"] > 18
    assert bits["simulate"] > 10
    assert int(str(compiled.report["rotations"])) < batch
