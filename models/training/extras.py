"""What a reduction may have besides its method: activations kept in range, faulty ReLUs, groups kept together."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from pi_compiler.errors import ParameterError
from pi_compiler.models.training.engine import Hooks
from pi_compiler.models.training.faults import Faults, FaultyTraining
from pi_compiler.models.training.methods.method import Recipe, Task
from pi_compiler.models.training.mitigation import Form, GroupPenalty, mitigate
from pi_compiler.models.training.ranges import Boundary, Clipping, Pillar

__all__ = ["Extras"]


@dataclass(frozen=True, slots=True)
class Extras:
    """Additions to any method.

    Attributes:
        range_penalty: ``"pillar"`` (a growing power of what comes near the ends) or ``"boundary"`` (exponential
            outside), see ``ranges``.
        bound: the ends, [-bound, bound].
        clip: cut what reaches replaced activations to the ends while training.
        faults: what ties count as when ReLUs that stay are Circa's truncated stochastic ones while training.
        balance: rate of the dual ascent that keeps groups (or classes) together in a fine-tuning after the
            method's own, 0 for none; see ``mitigation``.
        balance_form: what counts as violation.
        fairness: gradient norms and distances to the boundary per group, for the record.
    """

    range_penalty: Literal["none", "pillar", "boundary"] = "none"
    bound: float = 5.0
    clip: bool = False
    faults: Literal["none", "pos-zero", "neg-pass"] = "none"
    balance: float = 0.0
    balance_form: Form = "absolute"
    fairness: bool = False

    def check(self) -> None:
        """Check what numbers can be wrong.

        Raises:
            ParameterError: all that is out of range.
        """
        faults = []
        if not self.bound > 0:
            faults.append(f"the range bound {self.bound} must be positive")
        if not self.balance >= 0:
            faults.append(f"the rate of balancing groups, {self.balance}, must not be negative")
        if faults:
            raise ParameterError("training cannot be done so", *faults)

    def recipe(self, recipe: Recipe) -> Recipe:
        """Without compiled kernels where activations are watched: compiled code would be cut at each of them."""
        if self.range_penalty == "none" and not self.clip and self.faults == "none":
            return recipe
        return replace(
            recipe,
            search=replace(recipe.search, compiled=False),
            finetune=replace(recipe.finetune, compiled=False),
        )

    def hooks(self, seed: int) -> tuple[Hooks, ...]:
        """What every stage of a method has besides its own."""
        found: list[Hooks] = []
        if self.range_penalty == "pillar":
            found.append(Pillar(self.bound))
        elif self.range_penalty == "boundary":
            found.append(Boundary(self.bound))
        if self.clip:
            found.append(Clipping(self.bound))
        if self.faults != "none":
            found.append(FaultyTraining(Faults(self.faults), seed))
        return tuple(found)

    def finish(self, task: Task) -> None:
        """After the method: the fine-tuning that keeps groups together, if it was asked for."""
        if self.balance:
            groups = task.data.labels if task.data.groups is None else task.data.groups
            penalty = GroupPenalty(groups, self.balance, self.balance_form)
            task.module = mitigate(task, penalty, task.recipe.finetune)
