"""How a budget method trains unless the user says otherwise, by what the data are. Chosen on validation splits."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from pi_compiler.models.data import Dataset
from pi_compiler.models.training.augment import Augmentation
from pi_compiler.models.training.engine import Settings
from pi_compiler.models.training.methods.method import Recipe

__all__ = ["AUGMENTATIONS", "recipe_for"]

AUGMENTATIONS: Final[Mapping[str, Augmentation]] = MappingProxyType(
    {
        "digits": Augmentation(degrees=8.0, shift=0.5, zoom=0.05),
        "mnist": Augmentation(degrees=10.0, shift=1.5, zoom=0.1),
        "fashion_mnist": Augmentation(crop=2, mirror=True),
        "cifar10-binary": Augmentation(crop=4, mirror=True),
        "cifar10-jpeg": Augmentation(crop=4, mirror=True),
        "cifar10-lossless": Augmentation(crop=4, mirror=True),
    }
)
"""Changes of the training images by data set; a data set that is not here gets none."""

_LARGE = 5_000_000
_CROSSINGS = 1.5


def recipe_for(
    data: Dataset, search_epochs: int, finetune_epochs: int, *, batch_size: int | None = None, plain: bool = False
) -> Recipe:
    """A recipe for a data set: small ones in small batches, large ones compiled and in bfloat16.

    Indicators begin between 0 and 1; their rate lets each cross that range one and a half times while the
    search lasts, however short it is.

    Args:
        data: what trains.
        search_epochs: while the mask is found.
        finetune_epochs: after it is fixed.
        batch_size: samples per step, instead of what suits the data.
        plain: neither bfloat16 nor compiled kernels.
    """
    large = data.x.size >= _LARGE
    batch = batch_size if batch_size is not None else min(128 if large else 64, len(data))
    augmentation = AUGMENTATIONS.get(data.name, Augmentation())
    search = Settings(
        epochs=search_epochs,
        batch_size=batch,
        optimizer="adamw",
        learning_rate=1e-3,
        schedule="cosine",
        augmentation=augmentation,
        distill=1.0,
        bfloat16=large and not plain,
        compiled=large and not plain,
        choose=False,
    )
    finetune = Settings(
        epochs=finetune_epochs,
        batch_size=batch,
        learning_rate=0.02,
        augmentation=augmentation,
        distill=1.0,
        clip_norm=1.0,
        bfloat16=large and not plain,
        compiled=large and not plain,
    )
    steps = max(1, search_epochs * (len(data) // batch))
    # A cosine's mean is one half.
    rate = _CROSSINGS / (0.5 * steps * search.learning_rate)
    return Recipe(search, finetune, options={"indicator_rate": rate})
