"""Distillation of features: a student's activations should look like its teacher's, whatever their scale."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn import functional

from pi_compiler.models.training.steps import Activation

__all__ = ["feature_distance", "kept_activations"]


@contextmanager
def kept_activations(model: nn.Module, wanted: bool = True) -> Iterator[dict[str, torch.Tensor]]:
    """What every activation of a graph module returns in the forward pass inside the block, by ONNX node name.

    Args:
        model: holds the graph module.
        wanted: False keeps nothing.
    """
    found: dict[str, torch.Tensor] = {}
    steps = [m for m in model.modules() if wanted and isinstance(m, Activation)]
    handles = [s.register_forward_hook(lambda step, _, y: found.__setitem__(step.node.origin, y)) for s in steps]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def feature_distance(student: dict[str, torch.Tensor], teacher: dict[str, torch.Tensor]) -> torch.Tensor:
    """Half the squared distance between activations of unit norm, averaged over samples and activations.

    That is the post-ReLU activation mismatch of SENet (Kundu et al., ICLR 2023) with a squared distance. The
    teacher carries no gradient; activations of another size than the teacher's are left out.

    Args:
        student: (n, *shape) by name.
        teacher: likewise.
    """
    names = [n for n, y in student.items() if n in teacher and teacher[n].shape == y.shape]
    terms = [0.5 * (_unit(student[n]) - _unit(teacher[n].detach())).square().sum(1).mean() for n in names]
    return torch.stack(terms).mean() if terms else torch.zeros(())


def _unit(x: torch.Tensor) -> torch.Tensor:
    return functional.normalize(x.float().flatten(1), dim=1)
