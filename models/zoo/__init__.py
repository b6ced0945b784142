"""The model zoo: small trained networks as ONNX files, and what is known about each.

Looking things up here is light: torch is imported only when a network is built.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from pi_compiler.errors import ArtifactError, ParameterError

if TYPE_CHECKING:
    from torch import nn

__all__ = ["ZOO", "Entry", "Record", "model_path"]

_WEIGHTS = Path(__file__).parent / "weights"


@dataclass(frozen=True, slots=True)
class Record:
    """What was measured when a network's file was made.

    Attributes:
        sha256: checksum of the ONNX file.
        validation_accuracy: fraction correct on the data set's validation split.
        test_accuracy: fraction correct on its test split.
        validation_accuracy_with_quadratics: the same with every ReLU replaced by the quadratic
            fitted to the calibration split, no retraining; None for networks without ReLU.
        largest_activation_inputs: largest absolute value before each activation, on training data.
    """

    sha256: str
    validation_accuracy: float
    test_accuracy: float
    validation_accuracy_with_quadratics: float | None
    largest_activation_inputs: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Entry:
    """One network.

    Attributes:
        name: its name, also that of its weights file.
        description: layers and origin, one line.
        dataset: the data set it is for, a name of ``pi_compiler.models.data.DATASETS``.
        input_shape: shape of one sample, without the batch axis.
        activation: ``"square"``, ``"quadratic"``, ``"relu"``, ``"gelu"``, ``"silu"``, or ``"polynomial"`` for networks
            that `reduce` made.
        module: the module of this folder that builds it, "" for the one of its own name.
    """

    name: str
    description: str
    dataset: str
    input_shape: tuple[int, ...]
    activation: str
    module: str = ""

    @property
    def path(self) -> Path:
        """The trained network: ONNX, opset 17, batch 1, input ``x``, output ``logits``."""
        return _WEIGHTS / f"{self.name}.onnx"

    def record(self) -> Record:
        """What was measured when the file was made.

        Raises:
            ArtifactError: the record is missing or damaged.
        """
        path = self.path.with_suffix(".json")
        try:
            raw = json.loads(path.read_text())
            quadratics = raw.get("validation_accuracy_with_quadratics")
            return Record(
                sha256=str(raw["sha256"]),
                validation_accuracy=float(raw["validation_accuracy"]),
                test_accuracy=float(raw["test_accuracy"]),
                validation_accuracy_with_quadratics=None if quadratics is None else float(quadratics),
                largest_activation_inputs={k: float(v) for k, v in raw["largest_activation_inputs"].items()},
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ArtifactError(f"record {path} of network '{self.name}' cannot be read", repr(error)) from error

    def build(self) -> nn.Module:
        """The untrained torch module, BatchNorms included. Needs torch."""
        module = importlib.import_module(f"pi_compiler.models.zoo.{self.module or self.name}")
        model: nn.Module = module.build()
        return model


_DIGIT, _IMAGE = (1, 8, 8), (1, 28, 28)
_COLOR = (3, 32, 32)

ZOO: Final[Mapping[str, Entry]] = MappingProxyType(
    {
        entry.name: entry
        for entry in (
            Entry("mlp", "784-128-128-10 perceptron with squares (SecureML)", "mnist", _IMAGE, "square"),
            Entry("lola", "conv 5x5/2, square, 845-100, square, 100-10 (LoLa)", "mnist", _IMAGE, "square"),
            Entry("lenet", "LeNet-5 with average pooling and a x² + b x + c per channel", "mnist", _IMAGE, "quadratic"),
            Entry("tutorial_cnn", "conv 7x7/3, square, 256-64, square, 64-10 (TenSEAL)", "mnist", _IMAGE, "square"),
            Entry("digits_cnn", "two 3x3 convolutions with ReLU, 64-10", "digits", _DIGIT, "relu"),
            Entry("digits_gelu", "two 3x3 convolutions with GELU, 64-10", "digits", _DIGIT, "gelu"),
            Entry("digits_silu", "two 3x3 convolutions with SiLU, 64-10", "digits", _DIGIT, "silu"),
            Entry(
                "digits_vit",
                "vision transformer, one block (bench/digits_vit.py)",
                "digits",
                _DIGIT,
                "gelu",
            ),
            Entry(
                "digits_vit_he",
                "the same with Power-Softmax, BatchNorm and quadratics, retrained",
                "digits",
                _DIGIT,
                "polynomial",
                "digits_vit",
            ),
            Entry("mnist_vit", "vision transformer, one block (bench/mnist_vit.py)", "mnist", _IMAGE, "gelu"),
            Entry(
                "mnist_vit_he",
                "the same with Power-Softmax, BatchNorm and quadratics, retrained",
                "mnist",
                _IMAGE,
                "polynomial",
                "mnist_vit",
            ),
            Entry(
                "text_classifier",
                "transformer of one block on 32 words (bench/text_classifier.py)",
                "sentiment",
                (32,),
                "gelu",
            ),
            Entry(
                "text_classifier_he",
                "the same with Power-Softmax, BatchNorm and quadratics, retrained",
                "sentiment",
                (32,),
                "polynomial",
                "text_classifier",
            ),
            Entry("resnet20", "ResNet-20, option-A shortcuts (He et al.)", "cifar10-lossless", _COLOR, "relu"),
            Entry(
                "resnet20_cifar10_jpeg",
                "ResNet-20 trained on CIFAR-10 (JPEG)",
                "cifar10-jpeg",
                (3, 32, 32),
                "relu",
                "resnet20",
            ),
            Entry(
                "resnet20_cifar10_jpeg_quadratic",
                "the same with a quadratic per channel for every ReLU, retrained (bench/relu_budget.py)",
                "cifar10-jpeg",
                _COLOR,
                "polynomial",
                "resnet20",
            ),
            Entry("resnet8_fashion", "ResNet-8 trained on Fashion-MNIST", "fashion_mnist", _IMAGE, "relu", "resnet8"),
        )
    }
)
"""Every network by name."""


def model_path(name: str) -> Path:
    """The ONNX file of a network of the zoo.

    Raises:
        ParameterError: no network has that name.
        ArtifactError: its file is not there.
    """
    if name not in ZOO:
        raise ParameterError(f"no network of the zoo is called '{name}'", f"there are: {', '.join(ZOO)}")
    path = ZOO[name].path
    if not path.is_file():
        raise ArtifactError(
            f"the file of network '{name}' is not there: {path}",
            hint="reinstall pi-compiler, whose part it is",
        )
    return path
