"""Operators at the very end of a network, which the client applies in clear after decryption."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from pi_compiler.errors import InternalError
from pi_compiler.ir.graph import FloatArray

CLIENT_OPS = ("Softmax", "LogSoftmax", "ArgMax")


def apply_client_ops(ops: Sequence[tuple[str, Mapping[str, object]]], values: FloatArray, rank: int) -> FloatArray:
    """What the client makes of a decrypted output.

    Args:
        ops: one entry of ``Graph.client_ops``.
        values: (..., *shape) with the output's shape, ONNX's batch dimension included.
        rank: number of dimensions of that shape; axes count within it.

    Returns:
        (..., *shape); class numbers of ArgMax are float64 too.
    """
    for op, attrs in ops:
        axis = int(str(attrs["axis"])) % rank - rank
        if op in ("Softmax", "LogSoftmax"):
            shifted = values - values.max(axis=axis, keepdims=True)
            log_sum = np.log(np.exp(shifted).sum(axis=axis, keepdims=True))
            values = np.exp(shifted - log_sum) if op == "Softmax" else shifted - log_sum
        elif op == "ArgMax":
            keep = bool(attrs["keepdims"])
            values = _argmax(values, axis, bool(attrs["select_last_index"]), keep)
            rank -= not keep
        else:
            raise InternalError(f"{op} is not an operator of the client")
    return values


def _argmax(values: FloatArray, axis: int, last: bool, keep: bool) -> FloatArray:
    if last:
        found = values.shape[axis] - 1 - np.argmax(np.flip(values, axis), axis=axis, keepdims=keep)
    else:
        found = np.argmax(values, axis=axis, keepdims=keep)
    return np.asarray(found, dtype=np.float64)
