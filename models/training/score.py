"""What a reduced network does on data: right answers per class, values that leave their polynomial's interval.

An image with an answer that is not finite is wrong; it never leaves the denominator.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn

from pi_compiler.models.data import Dataset
from pi_compiler.models.training.graph_module import GraphModule
from pi_compiler.models.training.steps import Activation, Polynomial, Step

__all__ = ["observe", "score"]

_BATCH = 500
_TAIL = 0.001
_SEEN = 10_000
_WIDER = 0.1
Json = dict[str, object]


def score(module: GraphModule, data: Dataset) -> Json:
    """Accuracy, per class and in all, and what reached each activation.

    Returns:
        ``images``, ``accuracy``, ``nan_images``, ``out_of_range_images`` (images with at least one value outside
        an interval), ``classes`` (class, images, correct), ``groups`` (the same), ``layers`` (name,
        max_abs, out_of_range as a share of the elements).
    """
    module.eval()
    labels = data.labels
    right = np.zeros(len(data), dtype=bool)
    lost = np.zeros(len(data), dtype=bool)
    outside = np.zeros(len(data), dtype=bool)
    layers: dict[str, list[float]] = {}
    rows = slice(0, 0)

    def see(step: Step, x: torch.Tensor) -> None:
        found = layers.setdefault(step.node.origin, [0.0, 0.0, 0.0])
        found[0] = max(found[0], float(torch.nan_to_num(x.abs(), nan=torch.inf).max()))
        if isinstance(step, Polynomial):
            out = ~((x >= step.low) & (x <= step.high))
            found[1] += float(out.sum())
            found[2] += out.numel()
            outside[rows] |= out.flatten(1).any(1).numpy()

    with torch.no_grad(), _watch(module, see):
        for start in range(0, len(data), _BATCH):
            rows = slice(start, min(start + _BATCH, len(data)))
            logits = module(torch.from_numpy(data.x[rows])).flatten(1)
            finite = torch.isfinite(logits).all(1).numpy()
            lost[rows] = ~finite
            right[rows] = finite & (logits.argmax(1).numpy() == labels[rows])
    groups = np.full(len(data), -1) if data.groups is None else data.groups
    return {
        "images": len(data),
        "accuracy": float(right.mean()),
        "nan_images": int(lost.sum()),
        "out_of_range_images": int(outside.sum()),
        "classes": [
            {"class": int(c), "images": int((labels == c).sum()), "correct": int(right[labels == c].sum())}
            for c in np.unique(labels)
        ],
        "groups": [
            {"group": name, "images": int((groups == g).sum()), "correct": int(right[groups == g].sum())}
            for g, name in enumerate(data.group_names)
        ],
        "layers": [
            {"name": name, "max_abs": _finite(largest), "out_of_range": out / count if count else 0.0}
            for name, (largest, out, count) in layers.items()
        ],
    }


def observe(module: GraphModule, data: Dataset) -> None:
    """Sets the interval of every replacement that has one (``low``, ``high``) to what reaches it on the data.

    The interval holds all but a thousandth of the images at either end, and a tenth of its width more: an image
    whose values escape would otherwise stretch it without bound, and nothing would ever lie outside. At most
    10,000 images are looked at, evenly spread.
    """
    module.eval()
    found: dict[str, tuple[nn.Module, list[float], list[float]]] = {}

    def see(step: Step, x: torch.Tensor) -> None:
        function = step.function if isinstance(step, Activation) else None
        if function is None or not hasattr(function, "low"):
            return
        _, lows, highs = found.setdefault(step.node.origin, (function, [], []))
        flat = torch.nan_to_num(x.flatten(1), nan=0.0)
        # As numbers: tensors this small, kept between large ones, would let the heap grow by a batch each time.
        lows.extend(flat.amin(1).tolist())
        highs.extend(flat.amax(1).tolist())

    seen = data.x[:: -(-len(data) // _SEEN)]
    with torch.no_grad(), _watch(module, see):
        for start in range(0, len(seen), _BATCH):
            module(torch.from_numpy(seen[start : start + _BATCH]))
    for function, lows, highs in found.values():
        low, high = (float(np.quantile(v, q)) for v, q in ((lows, _TAIL), (highs, 1.0 - _TAIL)))
        wider = max(_WIDER * (high - low), 1e-6)
        for name, value in (("low", low - wider), ("high", high + wider)):
            getattr(function, name).fill_(value)


@contextmanager
def _watch(module: GraphModule, see: Callable[[Step, torch.Tensor], None]) -> Iterator[None]:
    """Calls ``see(step, input)`` for every activation in every forward pass inside the block."""
    steps = [s for s in module.order if isinstance(s, Activation | Polynomial)]
    handles = [s.register_forward_pre_hook(lambda step, inputs: see(step, inputs[0])) for s in steps]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _finite(value: float) -> float:
    """JSON has no infinity; the largest float stands for it."""
    return min(value, float(np.finfo(np.float64).max))
