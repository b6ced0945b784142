"""From a ``torch.nn.Module`` to ONNX bytes. The only module of the compiler that imports torch."""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from pi_compiler.errors import ModelError

if TYPE_CHECKING:
    import torch

OPSET = 18


def to_onnx(module: torch.nn.Module, example_input: object) -> bytes:
    """Trace a module in evaluation mode; its own mode is restored afterwards.

    Args:
        module: the network.
        example_input: one batch for its only input (a tensor or an array), or a tuple of batches;
            the first sample is used, and brought to the type and device of the weights.

    Raises:
        ModelError: torch cannot run or export it.
    """
    import torch

    examples = example_input if isinstance(example_input, tuple) else (example_input,)
    weights = next(module.parameters(), torch.zeros(0))
    tensors = tuple(torch.as_tensor(x)[:1].to(weights) for x in examples)
    names = ["x"] if len(tensors) == 1 else [f"x{i}" for i in range(len(tensors))]
    was_training = module.training
    try:
        module.eval()
        with warnings.catch_warnings(), torch.no_grad(), tempfile.TemporaryDirectory() as folder:
            warnings.simplefilter("ignore")
            path = Path(folder) / "model.onnx"
            # The tracing exporter names nodes after modules, and reports speak in those names.
            torch.onnx.export(module, tensors, str(path), opset_version=OPSET, input_names=names, dynamo=False)
            return path.read_bytes()
    except Exception as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise ModelError(
            f"torch cannot export {type(module).__name__} to ONNX",
            *lines[:3],
            hint="torch.onnx.export by hand, then compile the .onnx file",
        ) from error
    finally:
        module.train(was_training)
