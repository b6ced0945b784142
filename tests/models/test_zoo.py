"""The committed networks are the recorded ones and do what their records say."""

import hashlib
import json

import numpy as np
import onnx
import onnxruntime
import pytest

from pi_compiler.errors import ArtifactError, ParameterError
from pi_compiler.models import zoo
from pi_compiler.models.data import Dataset, is_local, load
from pi_compiler.models.zoo import ZOO, Entry, model_path

WANTED_TEST_ACCURACY = {
    "mlp": 0.975,
    "lola": 0.98,
    "lenet": 0.988,
    "tutorial_cnn": 0.98,
    "digits_cnn": 0.97,
    "digits_gelu": 0.97,
    "digits_silu": 0.97,
    "digits_vit": 0.97,
    "digits_vit_he": 0.97,
    "mnist_vit": 0.97,
    "mnist_vit_he": 0.97,
    "text_classifier": 0.78,
    "text_classifier_he": 0.78,
}


def onnx_accuracy(entry: Entry, data: Dataset) -> float:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(model_path(entry.name)), options)
    kind = np.int64 if "int64" in session.get_inputs()[0].type else np.float32
    answers = [int(session.run(None, {"x": sample[None].astype(kind)})[0].argmax()) for sample in data.x]
    return float(np.mean(np.asarray(answers) == data.labels))


@pytest.mark.parametrize("name", sorted(ZOO))
def test_the_file_has_the_recorded_checksum(name: str):
    assert hashlib.sha256(model_path(name).read_bytes()).hexdigest() == ZOO[name].record().sha256


@pytest.mark.parametrize("name", sorted(ZOO))
def test_the_file_is_standard_onnx_of_the_registered_shape(name: str):
    model = onnx.load(model_path(name))
    onnx.checker.check_model(model, full_check=True)
    reduced = ZOO[name].activation == "polynomial"
    versions = [("", 20), ("pi_compiler", 1)] if reduced else [("", 17)]
    assert [(o.domain, o.version) for o in model.opset_import] == versions
    (given,) = model.graph.input
    assert given.name == "x"
    assert tuple(d.dim_value for d in given.type.tensor_type.shape.dim) == (1, *ZOO[name].input_shape)
    assert [o.name for o in model.graph.output] == ["logits"]
    kinds = {node.op_type for node in model.graph.node}
    assert "BatchNormalization" not in kinds
    assert ("Relu" in kinds) == (ZOO[name].activation == "relu")


LARGE = ("resnet20_cifar10_jpeg", "resnet20_cifar10_jpeg_quadratic")


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in LARGE else n for n in sorted(ZOO)])
def test_validation_accuracy_is_the_recorded_one(name: str):
    entry = ZOO[name]
    if not is_local(entry.dataset):
        pytest.skip(f"{entry.dataset} is not on this machine")
    data = load(entry.dataset, "validation")
    # two samples may sit on the fence between two float summation orders
    assert onnx_accuracy(entry, data) == pytest.approx(entry.record().validation_accuracy, abs=2.1 / len(data))


@pytest.mark.parametrize("name", sorted(WANTED_TEST_ACCURACY))
def test_recorded_test_accuracy_reaches_what_the_zoo_promises(name: str):
    assert ZOO[name].record().test_accuracy >= WANTED_TEST_ACCURACY[name]


@pytest.mark.parametrize("name", sorted(WANTED_TEST_ACCURACY))
def test_activations_see_small_numbers(name: str):
    assert max(ZOO[name].record().largest_activation_inputs.values()) <= 32.0


def test_the_demo_network_loses_less_than_a_point_to_quadratics():
    record = ZOO["digits_cnn"].record()
    assert record.validation_accuracy_with_quadratics is not None
    assert record.validation_accuracy - record.validation_accuracy_with_quadratics < 0.01


def test_an_unknown_network_lists_the_known_ones():
    with pytest.raises(ParameterError, match=r"(?s)lenet5.*lenet"):
        model_path("lenet5")


def test_a_missing_file_or_record_is_named(tmp_path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(zoo, "_WEIGHTS", tmp_path)
    with pytest.raises(ArtifactError, match=r"mlp\.onnx"):
        model_path("mlp")
    with pytest.raises(ArtifactError, match=r"mlp\.json"):
        ZOO["mlp"].record()
    (tmp_path / "mlp.json").write_text(json.dumps({"sha256": "0"}))
    with pytest.raises(ArtifactError, match="validation_accuracy"):
        ZOO["mlp"].record()
