"""Tensors that take several ciphertexts, encrypted."""

import numpy as np
import pytest
from networks import Builder

from pi_compiler import api
from pi_compiler.options import Activation, Options

pytest.importorskip("tenseal")


def test_a_tensor_that_fills_two_ciphertexts_runs_encrypted():
    b = Builder((1, 3, 40, 40))
    first = b.same("Relu", b.conv("x", 4))  # 4 x 40 x 40 values, 4096 slots
    second = b.same("Relu", b.conv(first, 4, stride=2))
    pooled = b.op("GlobalAveragePool", second, shape=(1, 4, 1, 1))
    options = Options(activation=Activation("quadratic"), log_n=13, backend="tenseal")
    model = api.compile(b.model(b.linear(pooled, 3)), calibration=b.samples(20), options=options)
    layers = {x["name"]: x for x in model.report["layers"]}
    assert layers["conv0"]["ciphertexts"] == 2
    x = model.sample(b.samples(1))
    (output,) = model.signature.outputs
    exact = model.session("clear").run(x).logits[output]
    found = model.session("tenseal").run(x).logits[output]
    assert -np.log2(np.abs(found - exact).max() / np.abs(exact).max()) > 10
