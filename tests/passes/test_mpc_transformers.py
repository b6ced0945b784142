"""Transformer blocks on shares: near their ONNX meaning, in few rounds, with every published replacement."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from networks_mpc import Transformer

from pi_compiler.api import compile_secure
from pi_compiler.errors import ShapeMismatch
from pi_compiler.importer import import_model
from pi_compiler.importer.reference import reference
from pi_compiler.models.data import load
from pi_compiler.models.zoo import model_path
from pi_compiler.ops.evaluate import evaluate
from pi_compiler.options import Activation, Options

FINE = Options(target="mpc", activation_error=2.0**-10)


def errors(net: Transformer, options: Options) -> tuple[float, float, dict[str, object]]:
    """Largest error of the simulated outputs against ONNX, and against the program in floats; the report."""
    model = net.model()
    compiled = compile_secure(model, calibration=net.samples(32), options=options)
    x = net.samples(4)
    exact = next(iter(reference(model.SerializeToString(), {"x": x}).values()))
    sim, clear = (next(iter(compiled.run(x, backend=b).logits.values())) for b in ("mpc-sim", "mpc-clear"))
    return np.abs(sim - exact).max(), np.abs(sim - clear).max(), compiled.report


@pytest.mark.parametrize(
    "net",
    [
        Transformer("bert", layers=2),
        Transformer("gpt"),
        Transformer("bert", vocabulary=11),
        Transformer("gpt", vocabulary=7),
    ],
    ids=["bert2", "gpt", "bert-tokens", "gpt-tokens"],
)
@pytest.mark.parametrize("embedding", ["client", "secret"])
def test_blocks_keep_their_meaning(net, embedding):
    """Two normalizations, a softmax, GELU per block; tokens are looked up by their owner or shared as one-hot rows."""
    if embedding == "secret" and not net.vocabulary:
        pytest.skip("it looks nothing up")
    error, rounding, report = errors(net, replace(FINE, embedding=embedding))
    assert error < 2e-2
    assert rounding < 1e-2
    assert not report["notes"] or "wrap" not in str(report["notes"])


def test_a_block_takes_a_third_of_the_rounds_of_stock_primitives():
    """CrypTen's own softmax over 32 scores takes 105 rounds, its GELU 35, a normalization 19 (measured)."""
    net = Transformer("bert", tokens=32)
    _, _, report = errors(net, Options(target="mpc", network="wan"))
    assert 3 * report["rounds"] < 105 + 35 + 2 * 19 + 8


def test_queries_keys_and_values_are_one_layer():
    net = Transformer("bert")
    compiled = compile_secure(net.model(), calibration=net.samples(16), options=FINE)
    joined = [n for n in compiled.program.origins if n.count("+") == 2]
    assert len(joined) == 1


@pytest.mark.parametrize("softmax", ["2quad", "2relu", "power"])
def test_replacements_of_softmax_run_in_fixed_point(softmax):
    """They are no approximations of softmax but replacements to be trained in; only one of them compares."""
    net = Transformer("bert", layers=1)
    model = net.model()
    options = Options(target="mpc", softmax=softmax, activation_error=2.0**-10)
    compiled = compile_secure(model, calibration=net.samples(32), options=options)
    x = net.samples(3)
    sim, clear = (next(iter(compiled.run(x, backend=b).logits.values())) for b in ("mpc-sim", "mpc-clear"))
    assert np.abs(sim - clear).max() < 1e-2
    softened = [e for e in compiled.report["layers"] if str(e["name"]).startswith("softmax")]
    assert sum(e["comparisons"] for e in softened) == (128 if softmax == "2relu" else 0)


@pytest.mark.parametrize(("method", "error"), [("puma", 0.03), ("bumblebee", 0.02), ("piecewise:3", 0.05)])
def test_published_pieces_of_gelu_run(method, error):
    net = Transformer("bert")
    graph = import_model(net.model(), target="mpc").graph
    (gelu,) = (n.origin for n in graph.nodes() if n.op == "Gelu")
    chosen = {gelu: Activation.parse(method, "mpc")}
    found, _, report = errors(net, Options(target="mpc", activations=chosen, activation_error=2.0**-10))
    assert found < error
    assert any(e["comparisons"] for e in report["layers"] if e["name"] == gelu)


def test_a_number_that_no_row_has_is_refused():
    net = Transformer("bert", vocabulary=5)
    compiled = compile_secure(net.model(), calibration=net.samples(16), options=FINE)
    with pytest.raises(ShapeMismatch, match="from 0 to 4"):
        compiled.run(np.full((1, 1, 8), 5.0))


def test_ckks_reads_the_same_network():
    """What differs between the targets is how a softmax is computed, not what the network is."""
    model = Transformer("bert").model()
    read = [[n.op for n in import_model(model, target=t).graph.nodes()] for t in ("ckks", "mpc")]
    assert read[0] == read[1]


def test_a_division_that_is_spelled_out_keeps_above_zero():
    """Power-Softmax divides by a mean of squares, whose interval would reach 0 if it were widened by a width."""
    path, data = model_path("digits_vit_he"), load("digits", "validation")
    compiled = compile_secure(path, calibration=load("digits", "calibration").x[:128], options=Options(target="mpc"))
    graph, x = import_model(path).graph, data.x[:24]
    wanted = evaluate(graph, {"x": x})["logits"].reshape(24, -1)
    found = compiled.run(x, backend="mpc-sim").outputs["logits"].reshape(24, -1)
    assert (found.argmax(1) == wanted.argmax(1)).all()
    np.testing.assert_allclose(found, wanted, atol=0.01 * np.abs(wanted).max())
    assert compiled.report["rounds"] < 30
