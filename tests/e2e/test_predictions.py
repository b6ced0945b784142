"""What the report predicts is what a run counts."""

import pytest
from networks import mlp, residual

from pi_compiler import api
from pi_compiler.ir.program import Opcode
from pi_compiler.options import Activation, Options

pytest.importorskip("tenseal")


@pytest.fixture(scope="module", params=[mlp, residual], ids=["mlp", "residual"])
def ran(request):
    b, onnx_model = request.param()
    options = Options(activation=Activation("quadratic"), backend="tenseal")
    model = api.compile(onnx_model, calibration=b.samples(30), options=options)
    session = model.session("tenseal")
    sample = model.sample(b.samples(1))
    return model, session, session.run(sample)


def test_ciphertext_memory_is_what_the_executor_counts(ran):
    model, _, result = ran
    assert model.report["peak_ciphertext_bytes"] == result.trace.pooled_ciphertext_bytes


def test_keys_and_plaintexts_take_the_bytes_that_were_predicted(ran):
    model, session, _ = ran
    assert model.report["key_bytes"] == session.key_bytes
    assert model.report["plaintext_bytes"] == pytest.approx(session.prepared.plaintext_bytes, rel=0.05)


def test_counts_are_those_of_the_run(ran):
    model, _, result = ran
    counts = {name: t.count for name, t in result.trace.opcodes().items()}
    assert counts["rotate"] == model.report["rotations"] == model.program.count(Opcode.ROTATE)
    assert counts["mul_plain"] == model.report["plain_products"]
    assert counts["mul"] == model.report["products"]
    assert counts["rescale"] == model.report["rescalings"]


def test_levels_are_spent_to_the_last(ran):
    model, _, _ = ran
    (output,) = model.signature.outputs.values()
    (entry,) = model.signature.inputs.values()
    assert output.level == 0
    assert entry.level == model.report["levels"] == model.params.max_level
