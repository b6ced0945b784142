"""Compiled networks between two parties and a dealer: the answers of the simulator, the traffic of the plan."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from networks import Builder, residual
from networks_mpc import Transformer
from parties import answers, in_threads

from pi_compiler import api
from pi_compiler.cost_mpc import layer_costs, load_mpc_prices
from pi_compiler.ir.mpc_meaning import shared_rows
from pi_compiler.options import Options
from pi_compiler.runtime.mpc import library
from pi_compiler.runtime.mpc.backend import get_mpc_backend

pytestmark = pytest.mark.skipif(library.missing() is not None, reason="crypten is not installed")


def pooled() -> tuple[Builder, onnx.ModelProto]:
    """Comparisons of more than two values, and smooth functions."""
    b = Builder((1, 2, 6, 6))
    x = b.op("MaxPool", b.conv("x", 3), shape=(1, 3, 3, 3), kernel_shape=[2, 2], strides=[2, 2])
    return b, b.model(b.linear(b.same("Sigmoid", b.same("Tanh", x)), 4))


OPTIONS = Options(target="mpc", wrap_budget=0.1, embedding="secret")


def made(name: str) -> tuple[onnx.ModelProto, np.ndarray]:
    if name == "residual":
        b, model = residual()
    elif name == "pooled":
        b, model = pooled()
    else:
        t = Transformer("gpt", tokens=3, width=8, vocabulary=11)
        return t.model(), t.samples(40)
    return model, b.samples(40).reshape(40, *b.shape)


@pytest.mark.parametrize("name", ["residual", "pooled", "gpt"])
def test_parties_answer_like_the_simulator_and_send_what_the_plan_says(name):
    model, samples = made(name)
    compiled = api.compile_secure(model, calibration=samples, options=OPTIONS)
    program = compiled.program
    inputs = {n: shared_rows(p, samples[:1]) for n, p in program.inputs.items()}
    found = in_threads(program, inputs, timeout=60)
    clear, _ = get_mpc_backend("mpc-clear").run(program, inputs)
    simulated, _ = get_mpc_backend("mpc-sim").run(program, inputs)
    for output, values in answers(found).items():
        error = np.abs(simulated[output] - clear[output]).max()
        assert np.abs(values - clear[output]).max() <= 4 * error + 2.0**-12, output
    model_owner, data_owner, dealer = found
    planned = layer_costs(program, load_mpc_prices("crypten-ttp"))
    for layer, cost in planned.items():
        sent = [party.trace.layers[layer].traffic.bytes_sent for party in (model_owner, data_owner)]
        assert sent == [cost.to_data, cost.to_model], layer
        assert data_owner.trace.layers[layer].traffic.rounds == cost.rounds, layer
    assert dealer.offline.sent == sum(cost.dealt for cost in planned.values())
    assert model_owner.setup.sent == sum(cost.setup for cost in planned.values())
