"""What a transformer's steps see while it is trained: weights of attention and hidden states, for terms of the loss."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from pi_compiler.models.training.attention import Normalization, Softmax

__all__ = ["Seen", "Sight", "seen_in"]


@dataclass(slots=True)
class Seen:
    """What one forward pass showed, by the ONNX node's name.

    Attributes:
        weights: of attention (B, *shape).
        places: what is 1 where attention may look, where the network says so.
        states: what reached each normalization (B, *shape).
    """

    weights: dict[str, torch.Tensor] = field(default_factory=dict)
    places: dict[str, torch.Tensor] = field(default_factory=dict)
    states: dict[str, torch.Tensor] = field(default_factory=dict)

    def clear(self) -> None:
        """Forget it."""
        for found in (self.weights, self.places, self.states):
            found.clear()


class Sight:
    """Looks into a network from ``open`` to ``close``; ``seen`` is what its last forward pass showed."""

    def __init__(self) -> None:
        self.seen = Seen()
        self._handles: list[RemovableHandle] = []

    def open(self, model: nn.Module) -> None:
        """Begin."""
        for step in model.modules():
            if isinstance(step, Softmax):
                self._handles.append(step.register_forward_hook(self._softmax))
            elif isinstance(step, Normalization):
                self._handles.append(step.register_forward_hook(self._normalization))

    def close(self) -> None:
        """End, and forget what was seen."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self.seen.clear()

    def _softmax(self, step: nn.Module, inputs: tuple[torch.Tensor, ...], y: torch.Tensor) -> None:
        if isinstance(step, Softmax):
            self.seen.weights[step.node.origin] = y
            if len(inputs) > 1:
                self.seen.places[step.node.origin] = inputs[1]

    def _normalization(self, step: nn.Module, inputs: tuple[torch.Tensor, ...], y: torch.Tensor) -> None:
        if isinstance(step, Normalization):
            self.seen.states[step.node.origin] = inputs[0]


@contextmanager
def seen_in(model: nn.Module) -> Iterator[Seen]:
    """What forward passes inside the block show; the last one counts."""
    sight = Sight()
    sight.open(model)
    try:
        yield sight.seen
    finally:
        sight.close()
