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
        crop: whole pixels up, down, left, right, drawn after the geometric change; black outside.
        mirror: left and right are swapped in every second image.
    """

    degrees: float = 0.0
    shift: float = 0.0
    zoom: float = 0.0
    crop: int = 0
    mirror: bool = False

    def __call__(self, x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Images (n, channels, rows, columns), zero outside, bilinear."""
        if not self.degrees == self.shift == self.zoom == 0.0:
            x = self._geometric(x, generator)
        if self.mirror:
            swapped = torch.rand(len(x), generator=generator) < 0.5
            x = torch.where(swapped.view(-1, 1, 1, 1), x.flip(3), x)
        return self._cropped(x, generator) if self.crop else x

    def _cropped(self, x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        count, _, rows, columns = x.shape
        down, across = torch.randint(0, 2 * self.crop + 1, (2, count), generator=generator)
        padded = functional.pad(x, (self.crop,) * 4)
        i = down.view(-1, 1) + torch.arange(rows)
        j = across.view(-1, 1) + torch.arange(columns)
        picked = padded.permute(0, 2, 3, 1)[torch.arange(count).view(-1, 1, 1), i[:, :, None], j[:, None, :]]
        return picked.permute(0, 3, 1, 2)

    def _geometric(self, x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        count, _, rows, columns = x.shape
        draw = 2.0 * torch.rand(4, count, generator=generator) - 1.0
        angle = draw[0] * torch.pi * self.degrees / 180.0
        scale = 1.0 + draw[1] * self.zoom
        cos, sin = scale * torch.cos(angle), scale * torch.sin(angle)
        across, down = draw[2] * 2.0 * self.shift / columns, draw[3] * 2.0 * self.shift / rows
        theta = torch.stack([cos, -sin, across, sin, cos, down], dim=1).view(count, 2, 3)
        grid = functional.affine_grid(theta, list(x.shape), align_corners=False)
        return functional.grid_sample(x, grid, align_corners=False)
