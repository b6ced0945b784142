"""A transformer's softmax, normalization and activations give way to forms that run encrypted, kind after kind."""

from __future__ import annotations

from pi_compiler.models.training import transformers
from pi_compiler.models.training.methods.method import Stage, Task

__all__ = ["exchange"]


def exchange(task: Task) -> None:
    """Exchange what ``task.forms`` says, each kind followed by ``task.recipe.finetune``'s epochs.

    Raises:
        ParameterError: the network has neither attention nor layer normalization, or its teacher has other layers.
    """
    stages = transformers.exchange(
        task.module,
        task.forms.plan(task.recipe.finetune),
        task.data,
        task.validation,
        teacher=task.teacher,
        seed=task.seed,
        folder=task.folder,
        progress=task.progress,
        hooks=task.hooks,
    )
    task.stages += [Stage(s.kind, s.history) for s in stages]
