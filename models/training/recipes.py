"""How each network of the zoo is trained: everything that, with a seed, decides the weights.

Values were chosen on the validation split.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from pi_compiler.models.training.augment import Augmentation

__all__ = ["RECIPES", "Recipe"]


_NONE = Augmentation()
_DIGITS = Augmentation(degrees=8.0, shift=0.5, zoom=0.05)
_MNIST = Augmentation(degrees=10.0, shift=1.5, zoom=0.1)


@dataclass(frozen=True, slots=True)
class Recipe:
    """AdamW with a one-cycle learning rate, cross-entropy, and bounds that keep polynomials tame.

    Attributes:
        epochs: passes over the training split; the epoch with the best validation accuracy is kept.
        batch_size: images per step.
        learning_rate: the peak.
        weight_decay: AdamW's, decoupled.
        clip_norm: gradients are scaled down to this norm.
        augmentation: changes of the training images.
        range_bound: inputs of activations beyond it are penalized,
        range_weight: with this weight times the mean square of the excess.
        mismatch_weight: weight of the mean square difference between each ReLU and the quadratic
            nearest to it over the batch; 0 where there is no ReLU.
        rehearsal_weight: weight of the cross-entropy when every ReLU is that quadratic; 0 likewise.
    """

    epochs: int
    batch_size: int = 128
    learning_rate: float = 3e-3
    weight_decay: float = 1e-2
    clip_norm: float = 1.0
    augmentation: Augmentation = _NONE
    range_bound: float = 6.0
    range_weight: float = 0.1
    mismatch_weight: float = 0.0
    rehearsal_weight: float = 0.0


RECIPES: Final[Mapping[str, Recipe]] = MappingProxyType(
    {
        "digits_cnn": Recipe(
            epochs=120,
            batch_size=64,
            augmentation=_DIGITS,
            mismatch_weight=3.0,
            rehearsal_weight=1.0,
        ),
        "digits_gelu": Recipe(epochs=120, batch_size=64, augmentation=_DIGITS),
        "digits_silu": Recipe(epochs=120, batch_size=64, augmentation=_DIGITS),
        "mlp": Recipe(epochs=20, augmentation=_MNIST),
        "lola": Recipe(epochs=25, augmentation=_MNIST),
        "tutorial_cnn": Recipe(epochs=15, augmentation=_MNIST),
        "lenet": Recipe(epochs=20, augmentation=_MNIST),
    }
)
