"""DeepReDuce (Jha et al., ICML 2021): whole layers of ReLUs go, the least critical stages first.

A stage is a run of ReLU layers of the same image size. Its criticality is what it adds alone,
``C = (accuracy with ReLUs in this stage only - accuracy without any) / N^0.07`` with N its number of ReLUs, after
a short training with distillation (section 3.1). Stages are culled from the least critical on; what is left may
be thinned, which drops every other layer. The variant with the most ReLUs within the budget is trained. The
channel and resolution scaling of the paper's third step is ``reshape.deepreshape``.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from pi_compiler.models.training.engine import fit
from pi_compiler.models.training.graph_module import GraphModule
from pi_compiler.models.training.masked import Masked
from pi_compiler.models.training.measure import accuracy
from pi_compiler.models.training.methods.autorep import Coefficients, fit_polynomials
from pi_compiler.models.training.methods.method import Task, mask_relus

__all__ = ["criticality", "deepreduce", "stages_of", "variants"]

EXPONENT = 0.07


def stages_of(sizes: Mapping[str, tuple[int, ...]]) -> list[list[str]]:
    """Names of ReLU layers, in order, grouped while the image size (all axes after the channel) stays the same."""
    found: list[list[str]] = []
    last: tuple[int, ...] | None = None
    for name, shape in sizes.items():
        if shape[2:] != last:
            found.append([])
        found[-1].append(name)
        last = shape[2:]
    return found


def variants(stages: Sequence[Sequence[str]], order: Sequence[int]) -> list[list[str]]:
    """The layers that stay, for every number of culled stages, whole and thinned.

    Args:
        stages: names by stage.
        order: stages from the least to the most critical.
    """
    found: list[list[str]] = []
    for culled in range(len(stages) + 1):
        gone = set(order[:culled])
        whole = [name for k, stage in enumerate(stages) if k not in gone for name in stage]
        # Thinning keeps the first layer of every pair: a stage of one layer stays.
        thinned = [name for k, stage in enumerate(stages) if k not in gone for name in stage[::2]]
        found += [whole, thinned]
    return found


def criticality(task: Task, masked: Mapping[str, Masked], stages: Sequence[Sequence[str]]) -> list[float]:
    """Per stage, see the module's docstring; a network is trained for each, and one without ReLUs.

    The epochs of ``recipe.search`` are shared out among these networks.
    """
    epochs = max(1, task.recipe.search.epochs // (len(stages) + 1))
    settings = replace(task.recipe.search, epochs=epochs, choose=False)
    exponent = task.recipe.options.get("exponent", EXPONENT)

    def trained(kept: Sequence[str], name: str) -> float:
        module = copy.deepcopy(task.module)
        alone = _masked_of(module, masked)
        _keep(alone, kept)
        torch.manual_seed(task.seed)
        fit(
            module,
            settings,
            task.data,
            task.validation,
            seed=task.seed,
            folder=None if task.folder is None else task.folder / name,
            hooks=(Coefficients(alone, task), *task.hooks),
            teacher=task.teacher,
        )
        return accuracy(module, task.validation)[0]

    none = trained((), "critical-none")
    found = []
    for k, stage in enumerate(stages):
        count = sum(masked[name].node.size for name in stage)
        found.append((trained(stage, f"critical-{k}") - none) / count**exponent)
    return found


def deepreduce(task: Task) -> None:
    """See the module's docstring; layers only.

    Recipe options: ``exponent`` (of the number of ReLUs in the criticality, 0.07), ``range`` (weight of the range
    penalty).
    """
    masked = mask_relus(task)
    fit_polynomials(task.module, masked, task.batches())
    sizes = {n: m.node.size for n, m in masked.items()}
    if 0 < task.relu_budget < sum(sizes.values()):
        stages = stages_of({n: m.node.shape for n, m in masked.items()})
        critical = criticality(task, masked, stages)
        order = sorted(range(len(stages)), key=lambda k: critical[k])
        counted = [(sum(sizes[n] for n in kept), kept) for kept in variants(stages, order)]
        _, kept = max((c for c in counted if c[0] <= task.relu_budget), key=lambda c: c[0])
    else:
        kept = list(masked) if task.relu_budget else []
    _keep(masked, kept)
    task.run("finetune", task.recipe.finetune, (Coefficients(masked, task),))


def _masked_of(module: GraphModule, names: Mapping[str, Masked]) -> dict[str, Masked]:
    """The same replacements in a copied module."""
    functions = {n: module.activations[n].function for n in names}
    return {n: f for n, f in functions.items() if isinstance(f, Masked)}


def _keep(masked: Mapping[str, Masked], kept: Sequence[str]) -> None:
    for name, m in masked.items():
        m.mask.fill_(float(name in kept))
