"""The networks of the literature have the ReLU counts that the literature says, counted in their ONNX graphs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from pi_compiler.importer import import_model
from pi_compiler.models.training.export import export_onnx
from pi_compiler.models.training.graph_module import GraphModule


class Block(nn.Module):
    """Two 3x3 convolutions and a projection where the shape changes; ``before`` puts ReLUs before them."""

    def __init__(self, channels_in: int, channels: int, stride: int, before: bool = False) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        same = stride == 1 and channels_in == channels
        self.shortcut = nn.Identity() if same else nn.Conv2d(channels_in, channels, 1, stride, bias=False)
        self.relu1, self.relu2, self.before = nn.ReLU(), nn.ReLU(), before

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.before:
            y: torch.Tensor = self.conv2(self.relu2(self.conv1(self.relu1(x)))) + self.shortcut(x)
            return y
        y = self.relu2(self.conv2(self.relu1(self.conv1(x))) + self.shortcut(x))
        return y


def residual(widths: list[int], blocks: int, stem: int, stem_relu: bool = True, wide: bool = False) -> nn.Module:
    """A residual network for 32x32 images, later stages halving the image; wide ones end without a ReLU."""
    layers: list[nn.Module] = [nn.Conv2d(3, stem, 3, padding=1, bias=False)]
    layers += [nn.ReLU()] if stem_relu else []
    channels = stem
    for stage, width in enumerate(widths):
        for i in range(blocks):
            layers.append(Block(channels, width, 2 if stage and not i else 1, wide))
            channels = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10))


def vgg16() -> nn.Module:
    """Thirteen convolutions, two hidden layers of 4,096, average pooling."""
    layers: list[nn.Module] = []
    channels = 3
    for width in (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0):
        if width:
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
            channels = width
        else:
            layers.append(nn.AvgPool2d(2))
    hidden = [nn.Linear(512, 4096), nn.ReLU(), nn.Linear(4096, 4096), nn.ReLU(), nn.Linear(4096, 10)]
    return nn.Sequential(*layers, nn.Flatten(), *hidden)


NETWORKS = {
    "ResNet-20": (lambda: residual([16, 32, 64], 3, 16), 188_416),
    "ResNet-32": (lambda: residual([16, 32, 64], 5, 16), 303_104),
    "ResNet-18 without a ReLU in the stem": (lambda: residual([64, 128, 256, 512], 2, 64, stem_relu=False), 491_520),
    "ResNet-18": (lambda: residual([64, 128, 256, 512], 2, 64), 557_056),
    "WRN-22-8": (lambda: residual([128, 256, 512], 3, 16, stem_relu=False, wide=True), 1_359_872),
    "VGG-16": (vgg16, 284_672),
}


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow if n > "ResNet-33" else ()) for n in NETWORKS])
def test_counts_are_those_of_the_literature(name: str, tmp_path: Path) -> None:
    build, count = NETWORKS[name]
    export_onnx(build(), (3, 32, 32), tmp_path / "model.onnx")
    module = GraphModule(import_model(str(tmp_path / "model.onnx")).graph)
    assert module.comparisons == count
