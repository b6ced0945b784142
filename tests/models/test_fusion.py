"""Fused layers and networks of other widths compute what they should."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("torch")

from networks import Builder  # noqa: E402

from pi_compiler.errors import ModelError  # noqa: E402
from pi_compiler.importer import import_model  # noqa: E402
from pi_compiler.ir.graph import Graph  # noqa: E402
from pi_compiler.models.training.fusion import fuse_layers, multiplications  # noqa: E402
from pi_compiler.models.training.methods.reshape import Shape, cheapest_first, shapes  # noqa: E402
from pi_compiler.models.training.widths import Channels, with_widths  # noqa: E402
from pi_compiler.models.zoo import model_path  # noqa: E402
from pi_compiler.ops.evaluate import evaluate  # noqa: E402


def run(graph: Graph, x: np.ndarray) -> np.ndarray:
    return next(iter(evaluate(graph, {graph.inputs[0].origin: x}).values()))
