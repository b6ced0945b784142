"""Operators at the very end of a network, which the client applies in clear after decryption."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from scipy import special

from pi_compiler.errors import InternalError
from pi_compiler.ir.graph import Attr, FloatArray

CLIENT_OPS = ("Softmax", "LogSoftmax", "ArgMax")


def apply_client_ops(ops: Sequence[tuple[str, Mapping[str, Attr]]], values: FloatArray) -> FloatArray:
    """What the client makes of a decrypted output.

    Args:
        ops: one entry of ``Graph.client_ops``.
        values: (B, *shape), the output's shape with ONNX's batch dimension.

    Returns:
        (B, *shape); class numbers of ArgMax are float64 too.
    """
    for op, attrs in ops:
        axis = int(str(attrs["axis"])) + 1
        if op == "Softmax":
            values = np.asarray(special.softmax(values, axis=axis))
        elif op == "LogSoftmax":
            values = np.asarray(special.log_softmax(values, axis=axis))
        elif op == "ArgMax":
            values = _argmax(values, axis, bool(attrs["select_last_index"]), bool(attrs["keepdims"]))
        else:
            raise InternalError(f"{op} is not an operator of the client")
    return values


def _argmax(values: FloatArray, axis: int, last: bool, keep: bool) -> FloatArray:
    if last:
        found = values.shape[axis] - 1 - np.argmax(np.flip(values, axis), axis=axis, keepdims=keep)
    else:
        found = np.argmax(values, axis=axis, keepdims=keep)
    return np.asarray(found, dtype=np.float64)
