"""The operators that the compiler knows, one block each.

``OPS`` holds the canonical operators, which a graph consists of; ``READERS`` says for each ONNX
operator how it becomes nodes of these.
"""

from collections.abc import Mapping
from types import MappingProxyType

from pi_compiler.ops import attention, convolution, elementwise, joint, linear, pooling, shaping
from pi_compiler.ops.op import Op, Reader

__all__ = ["INNER_READERS", "MPC_READERS", "OPS", "READERS", "Op", "Reader"]

_BLOCKS = (convolution, linear, pooling, shaping, elementwise)

OPS: Mapping[str, Op] = MappingProxyType({op.name: op for block in (*_BLOCKS, joint) for op in block.OPS})
"""Canonical operators by ``Node.op``."""

READERS: Mapping[str, Reader] = MappingProxyType({k: v for block in _BLOCKS for k, v in block.READERS.items()})
"""ONNX operators (default domain) by name."""

INNER_READERS: Mapping[str, Reader] = MappingProxyType(attention.READERS)
"""Those of several encrypted operands at once, which precede the former: matrix products, softmax, normalization."""

MPC_READERS: Mapping[str, Reader] = MappingProxyType(joint.MPC_READERS)
"""Those that are read otherwise, or only, for MPC."""
