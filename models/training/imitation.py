"""Distillation of what is inside a transformer: weights of attention and hidden states, besides the answers.

Networks whose softmax and GELU were exchanged lose most of what they had without it (MPCFormer, ICLR 2023); the losses
are those of TinyBERT (2020).
"""

from __future__ import annotations

import torch
from torch import nn

from pi_compiler.errors import ParameterError
from pi_compiler.models.training.engine import Hooks
from pi_compiler.models.training.graph_module import GraphModule
from pi_compiler.models.training.seeing import Sight

__all__ = ["Imitation"]


class Imitation(Hooks):
    """Mean squared distances to a teacher's weights of attention and hidden states.

    Weights are summed over what each row looks at; hidden states (what reaches the normalizations) are
    relative to the teacher's mean square. Both are means over layers, rows and samples.

    Args:
        student: which network is going to be trained.
        teacher: has layers of the same names; frozen.
        attention: weight of the first, 0 for none.
        hidden: weight of the second, 0 for none.

    Raises:
        ParameterError: the teacher has no layer of one of these names.
    """

    def __init__(self, student: GraphModule, teacher: nn.Module, attention: float, hidden: float) -> None:
        self.teacher, self.attention, self.hidden = teacher, attention, hidden
        self.ours, self.theirs = Sight(), Sight()
        wanted = {s.node.origin for s in student.order if s.node.op in ("InnerSoftmax", "LayerNorm")}
        known = {s.node.origin for s in teacher.order} if isinstance(teacher, GraphModule) else set[str]()
        if missing := sorted(wanted - known):
            raise ParameterError(
                "weights of attention and hidden states cannot be imitated",
                f"the teacher has no layers {', '.join(map(repr, missing))}",
                hint="a teacher of the same layers, or none: then it is the network itself as it came",
            )

    def before_epoch(self, model: nn.Module, epoch: int, epochs: int) -> None:
        self.ours.open(model)
        self.theirs.open(self.teacher)

    def after_epoch(self, model: nn.Module, epoch: int, epochs: int) -> bool:
        self.ours.close()
        self.theirs.close()
        return True

    def penalty(self, model: nn.Module, x: torch.Tensor, y: torch.Tensor, logits: torch.Tensor) -> torch.Tensor | None:
        # Where answers are distilled too, the teacher has seen this batch already.
        if not self.theirs.seen.weights and not self.theirs.seen.states:
            with torch.no_grad():
                self.teacher.eval()(x)
        ours, theirs = self.ours.seen, self.theirs.seen
        terms = []
        if self.attention and ours.weights:
            distances = [(w - theirs.weights[n]).square().sum(-1).mean() for n, w in ours.weights.items()]
            terms.append(self.attention * torch.stack(distances).mean())
        if self.hidden and ours.states:
            distances = [
                (h - theirs.states[n]).square().mean() / theirs.states[n].square().mean().clamp(min=1e-12)
                for n, h in ours.states.items()
            ]
            terms.append(self.hidden * torch.stack(distances).mean())
        ours.clear()
        theirs.clear()
        return torch.stack(terms).sum() if terms else None
