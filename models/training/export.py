"""A trained torch network to an ONNX file of standard operators."""

from __future__ import annotations

import os
import tempfile
import warnings
from pathlib import Path

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

__all__ = ["export_onnx", "fold_batch_norm"]

OPSET = 17


def fold_batch_norm(model: nn.Sequential) -> nn.Sequential:
    """A copy in evaluation mode in which every BatchNorm is part of the layer before it."""
    layers: list[tuple[str, nn.Module]] = []
    for name, layer in model.eval().named_children():
        before = layers[-1][1] if layers else None
        if isinstance(layer, nn.BatchNorm1d) and isinstance(before, nn.Linear):
            layers[-1] = (layers[-1][0], fuse_linear_bn_eval(before, layer))
        elif isinstance(layer, nn.BatchNorm2d) and isinstance(before, nn.Conv2d):
            layers[-1] = (layers[-1][0], fuse_conv_bn_eval(before, layer))
        else:
            layers.append((name, layer))
    folded = nn.Sequential()
    for name, layer in layers:
        folded.add_module(name, layer)
    return folded.eval()


def export_onnx(
    model: nn.Module,
    input_shape: tuple[int, ...],
    path: Path,
    *,
    whole: bool = False,
    output: str = "logits",
) -> None:
    """Write ``model`` as ONNX opset 17, batch 1, input ``x``, one output; whole file or none.

    The tracing exporter is used because its node names are the module names (``/conv1/Conv``), and
    errors and reports speak in those. ``whole``: the input holds integers, to be looked up.
    """
    model.eval()
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    partial = Path(name)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            warnings.filterwarnings("ignore", "Constant folding", UserWarning)
            torch.onnx.export(
                model,
                (torch.zeros(1, *input_shape, dtype=torch.int64 if whole else torch.float32),),
                str(partial),
                opset_version=OPSET,
                input_names=["x"],
                output_names=[output],
                dynamo=False,
            )
        partial.chmod(0o644)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
