"""Runs an ONNX model as everybody else does: with onnxruntime where it is installed, else ONNX's own evaluator.

The first rung of the precision ladder: what the user's file means outside of this project.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator

from pi_compiler.errors import ShapeMismatch
from pi_compiler.importer.load import translated, type_name
from pi_compiler.ir.graph import FloatArray

Run = Callable[[dict[str, FloatArray]], list[FloatArray]]


def reference(model: bytes, inputs: Mapping[str, FloatArray]) -> dict[str, FloatArray]:
    """Outputs (B, *shape) of a model, computed in the precision that the file asks for.

    Args:
        model: the ONNX file.
        inputs: per input name samples (B, *shape), the model's own batch dimension included.

    Raises:
        ModelError: the model cannot run.
        ShapeMismatch: there are no samples.
    """
    proto = onnx.ModelProto()
    proto.ParseFromString(model)
    kinds = {i.name: type_name(i.type.tensor_type.elem_type) for i in proto.graph.input}
    names = [o.name for o in proto.graph.output]
    samples = {n: x.astype(_DTYPES.get(kinds.get(n, ""), np.float32)) for n, x in inputs.items()}
    count = min((len(x) for x in samples.values()), default=0)
    if not count:
        raise ShapeMismatch("there are no samples to run the model on")
    with translated("the model cannot run outside of this project"):
        run = _runner(proto, model, names)
        found = [run({n: x[i] for n, x in samples.items()}) for i in range(count)]
    return {n: np.stack([np.asarray(f[i], np.float64) for f in found]) for i, n in enumerate(names)}


_DTYPES: dict[str, type[np.generic]] = {
    "float": np.float32,
    "double": np.float64,
    "float16": np.float16,
    "int32": np.int32,
    "int64": np.int64,
    "bool": np.bool_,
}


def _runner(proto: onnx.ModelProto, model: bytes, names: list[str]) -> Run:
    try:
        import onnxruntime
    except ImportError:
        evaluator = ReferenceEvaluator(proto)
        return lambda feeds: list(evaluator.run(names, feeds))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return lambda feeds: list(session.run(names, feeds))
