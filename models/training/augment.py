"""Small random rotations, shifts and zooms of image batches, in memory."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional

__all__ = ["Augmentation"]


@dataclass(frozen=True, slots=True)
class Augmentation:
    """Largest change in each direction; every image draws its own, uniformly.

    Attributes:
        degrees: rotation either way.
        shift: pixels up, down, left, right.
        zoom: relative size, 0.1 meaning 0.9 to 1.1.
    """

    degrees: float = 0.0
    shift: float = 0.0
    zoom: float = 0.0

    def __call__(self, x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Images (n, channels, rows, columns), zero outside, bilinear."""
        if self.degrees == self.shift == self.zoom == 0.0:
            return x
        count, _, rows, columns = x.shape
        draw = 2.0 * torch.rand(4, count, generator=generator) - 1.0
        angle = draw[0] * torch.pi * self.degrees / 180.0
        scale = 1.0 + draw[1] * self.zoom
        cos, sin = scale * torch.cos(angle), scale * torch.sin(angle)
        across, down = draw[2] * 2.0 * self.shift / columns, draw[3] * 2.0 * self.shift / rows
        theta = torch.stack([cos, -sin, across, sin, cos, down], dim=1).view(count, 2, 3)
        grid = functional.affine_grid(theta, list(x.shape), align_corners=False)
        return functional.grid_sample(x, grid, align_corners=False)
