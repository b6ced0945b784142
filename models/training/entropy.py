"""How widely each head of attention looks, and a term of the loss that keeps it between one place and all of them.

Without normalization and activations heads collapse onto single places or spread over all; AERO (Jha and Reagen, 2024,
arXiv 2410.13060) keeps each head's entropy near a trained share of the largest one. The term is that of its authors'
code but for three things that matter beyond one block without padding: it is a mean over rows instead of their sum, so
that its weight does not depend on the batch; the largest entropy is that of the places which are not hidden; each layer
has thresholds of its own.
"""

from __future__ import annotations

import torch
from torch import nn

from pi_compiler.models.data import Dataset
from pi_compiler.models.training.engine import Hooks
from pi_compiler.models.training.graph_module import GraphModule
from pi_compiler.models.training.seeing import Seen, Sight, seen_in

__all__ = ["Entropy", "head_entropies"]

_TINY = 1e-9
_BATCH = 200


class Entropy(Hooks):
    """``weight`` times the mean of (H - theta H_max)², where that exceeds ``tolerance`` H_max; theta is trained.

    H is the entropy of a row of weights, H_max the logarithm of how many places it may look at, theta one number
    per head.

    Args:
        student: whose heads.
        weight: of the mean over rows, entropies in nats; AERO's 1e-5 of the sum is 1e-5 times the rows of a batch
            here, 1e-2 for 32 samples of 32 words.
        tolerance: relative to H_max; 0.2 in AERO.
        share: theta at first.
        rate: learning rate of theta.
    """

    def __init__(
        self,
        student: GraphModule,
        weight: float,
        tolerance: float = 0.2,
        share: float = 0.5,
        rate: float = 1e-3,
    ) -> None:
        self.weight, self.tolerance, self.rate = weight, tolerance, rate
        self.sight = Sight()
        self.shares = {
            s.node.origin: nn.Parameter(torch.full((_heads(s.node.shape),), share))
            for s in student.order
            if s.node.op == "InnerSoftmax"
        }

    def groups(self, model: nn.Module) -> list[dict[str, object]]:
        return [{"params": list(self.shares.values()), "lr": self.rate, "weight_decay": 0.0}]

    def state(self) -> dict[str, torch.Tensor]:
        return {name: share.detach().clone() for name, share in self.shares.items()}

    def load_state(self, state: dict[str, torch.Tensor]) -> None:
        with torch.no_grad():
            for name, share in state.items():
                self.shares[name].copy_(share)

    def before_epoch(self, model: nn.Module, epoch: int, epochs: int) -> None:
        self.sight.open(model)

    def after_epoch(self, model: nn.Module, epoch: int, epochs: int) -> bool:
        self.sight.close()
        return True

    def penalty(self, model: nn.Module, x: torch.Tensor, y: torch.Tensor, logits: torch.Tensor) -> torch.Tensor | None:
        terms = []
        for name in self.sight.seen.weights:
            entropy, largest, rows = _entropies(self.sight.seen, name)
            gap = entropy - self.shares[name].view(-1, 1) * largest
            counted = rows * (gap.abs() > self.tolerance * largest)
            terms.append((gap.square() * counted).sum() / rows.expand_as(gap).sum().clamp(min=1.0))
        self.sight.seen.clear()
        return self.weight * torch.stack(terms).mean() if terms else None


def _heads(shape: tuple[int, ...]) -> int:
    """Heads of weights (..., heads, rows, places)."""
    return shape[-3] if len(shape) > 2 else 1


def _entropies(seen: Seen, name: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Entropy of every row (B, heads, rows), the largest that it can have, and which rows count."""
    weights = seen.weights[name]
    count, places = weights.shape[-2], weights.shape[-1]
    share = weights.reshape(len(weights), -1, count, places).clamp(min=0.0)
    share = share / share.sum(-1, keepdim=True).clamp(min=_TINY)
    entropy = -(share * (share + _TINY).log()).sum(-1)
    open_ = seen.places.get(name)
    if open_ is None:
        return entropy, torch.full_like(entropy[:1], float(places)).log(), torch.ones_like(entropy[:1])
    open_ = open_.reshape(len(open_), -1, open_.shape[-2], places)
    number = open_.sum(-1).clamp(min=1.0)
    # A word that may not be looked at does not look either.
    rows = open_[:, :, 0] if count == places else torch.ones_like(entropy)
    return entropy, number.log().expand_as(entropy), rows.expand_as(entropy)


@torch.no_grad()
def head_entropies(module: GraphModule, data: Dataset) -> dict[str, list[float]]:
    """Mean entropy of each head in nats, by softmax: over the samples and the rows that are not padding."""
    module.eval()
    sums: dict[str, torch.Tensor] = {}
    counts: dict[str, torch.Tensor] = {}
    with seen_in(module) as seen:
        for start in range(0, len(data), _BATCH):
            x = torch.from_numpy(data.x[start : start + _BATCH])
            module(x)
            for name in seen.weights:
                entropy, _, rows = _entropies(seen, name)
                rows = rows.expand_as(entropy)
                sums[name] = sums.get(name, torch.zeros(entropy.shape[1])) + (entropy * rows).sum((0, 2))
                counts[name] = counts.get(name, torch.zeros(entropy.shape[1])) + rows.sum((0, 2))
    return {name: (total / counts[name].clamp(min=1.0)).tolist() for name, total in sums.items()}
