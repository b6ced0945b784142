"""ResNet-20 with the weights that Yerlan Idelbayev published, as ONNX.

``python -m pi_compiler.models.training.published --output FILE.onnx [--quadratic]``

With ``--quadratic`` every ReLU becomes a quadratic fitted to calibration data, one after the other,
each to what the network before it delivers, and nothing is retrained. That network shows what a
degree-2 ResNet-20 costs; its accuracy is what its record says.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import torch
from torch import nn

from pi_compiler.errors import ArtifactError
from pi_compiler.models.data import load
from pi_compiler.models.sources import RemoteFile, locate
from pi_compiler.models.training.command import exit_code
from pi_compiler.models.training.export import export_onnx
from pi_compiler.models.training.measure import accuracy, largest_inputs, with_quadratics
from pi_compiler.models.zoo import ZOO
from pi_compiler.models.zoo.resnet20 import build

__all__ = ["export_resnet20", "published_resnet20"]

_log = logging.getLogger(__name__)

_WEIGHTS: Final = RemoteFile(
    "weights/resnet20-12fca82f.th",
    "12fca82f0bebc4135bf1f32f6e3710e61d5108578464b84fd6d7f5c1b04036c8",
    ("https://github.com/akamaster/pytorch_resnet_cifar10/raw/master/pretrained_models/resnet20-12fca82f.th",),
)
_CALIBRATION_IMAGES = 256


def published_resnet20() -> nn.Module:
    """The network with the published weights (author's test accuracy 91.78 %), in evaluation mode.

    Raises:
        CalibrationError: the weights are neither in a data folder nor to be downloaded.
        ArtifactError: the file holds something else.
    """
    path = locate(_WEIGHTS)
    model = build()
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
        model.load_state_dict({name.removeprefix("module."): value for name, value in stored.items()})
    except (RuntimeError, KeyError, TypeError) as error:
        raise ArtifactError(f"weights file {path} does not hold a ResNet-20", str(error)) from error
    return model.eval()


def export_resnet20(output: Path, quadratic: bool = False) -> dict[str, object]:
    """Write ``output`` and a JSON record beside it; returns the record.

    Accuracy on ``cifar10-lossless:validation`` is that of images the weights were trained on; the
    100 test images are unseen.

    Raises:
        CalibrationError, ArtifactError: see ``published_resnet20``.
    """
    model, dataset = published_resnet20(), "cifar10-lossless"
    if quadratic:
        calibration = load(dataset, "calibration").take(_CALIBRATION_IMAGES)
        model = with_quadratics(model, calibration, one_by_one=True)
    export_onnx(model, ZOO["resnet20"].input_shape, output)
    record: dict[str, object] = {
        "name": output.stem,
        "command": "python -m pi_compiler.models.training.published"
        + (" --quadratic" if quadratic else "")
        + f" --output models/zoo/weights/{output.name}",
        "weights": _WEIGHTS.urls[0],
        "torch": torch.__version__,
        "validation_accuracy": accuracy(model, load(dataset, "validation"))[0],
        "note": "validation images are among those that the published weights were trained on",
        "largest_activation_inputs": largest_inputs(model, load(dataset, "calibration")),
        "sha256": hashlib.sha256(output.read_bytes()).hexdigest(),
        "test_accuracy": accuracy(model, load(dataset, "test"))[0],
    }
    output.with_suffix(".json").write_text(json.dumps(record, indent=2) + "\n")
    return record


def _main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m pi_compiler.models.training.published", description="ResNet-20")
    parser.add_argument("--output", type=Path, required=True, help="the ONNX file; a JSON record goes beside it")
    parser.add_argument("--quadratic", action="store_true", help="degree-2 activations instead of ReLU")
    given = parser.parse_args(arguments)
    return exit_code(lambda: export_resnet20(given.output, given.quadratic))


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
