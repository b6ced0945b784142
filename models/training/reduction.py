"""From a model and a budget to a trained model with at most that many comparisons, and its record.

What is scored is the ONNX file that was written, read back; the test split is read once per reduced
model, after everything is decided. ``Record`` names are those of ``record.json``.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import logging
import math
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import nn

from pi_compiler import __version__, files
from pi_compiler.errors import BudgetError, InternalError, ParameterError
from pi_compiler.exporter import export
from pi_compiler.importer import import_model
from pi_compiler.ir.graph import Graph, Node
from pi_compiler.models.data import DATASETS, Dataset
from pi_compiler.models.training.engine import Epoch
from pi_compiler.models.training.extras import Extras
from pi_compiler.models.training.fairness import fairness
from pi_compiler.models.training.forms import Forms
from pi_compiler.models.training.fusion import fuse_layers
from pi_compiler.models.training.graph_module import GraphModule
from pi_compiler.models.training.masked import Kind, Masked
from pi_compiler.models.training.methods import METHODS
from pi_compiler.models.training.methods.method import Granularity, Recipe, Task
from pi_compiler.models.training.score import observe, score

__all__ = ["Job", "Splits", "check", "reduce"]

_log = logging.getLogger(__name__)
Json = dict[str, object]
Progress = Callable[[str, Epoch, int], None]


@dataclass(frozen=True, slots=True)
class Job:
    """One reduced model.

    Attributes:
        budget: most comparisons for one sample.
        method: a name of ``METHODS``.
        kind: what takes a ReLU's place.
        granularity: what is kept or replaced as one.
        seed: of everything random.
        recipe: how to train.
        extras: what it has besides the method.
        forms: what a transformer's parts give way to.
    """

    budget: int
    method: str
    kind: Kind
    granularity: Granularity
    seed: int
    recipe: Recipe
    extras: Extras = field(default_factory=Extras)
    forms: Forms = field(default_factory=Forms)

    @property
    def name(self) -> str:
        """The folder's name."""
        return f"{self.budget}-{self.method}-{self.kind}-{self.granularity}-seed{self.seed}"

    @property
    def settings(self) -> Json:
        """What decides the weights besides the name; extras and forms only where there are any."""
        plain, kept = self.extras == Extras(), self.forms == Forms()
        return (
            dataclasses.asdict(self.recipe)
            | ({} if plain else {"extras": dataclasses.asdict(self.extras)})
            | ({} if kept else {"forms": dataclasses.asdict(self.forms)})
        )


@dataclass(frozen=True, slots=True)
class Splits:
    """The data of a reduction.

    Attributes:
        train: trains, and shows the intervals of polynomials.
        validation: chooses.
        test: reads the test split; called once per reduced model, at the end.
    """

    train: Dataset
    validation: Dataset
    test: Callable[[], Dataset]


def check(graph: Graph, splits: Splits | None, jobs: list[Job]) -> GraphModule:
    """The network as a torch module, if everything fits; without data (None) as far as can be told.

    Raises:
        ParameterError: all that does not fit, in one message.
        ModelError: the graph cannot be trained.
    """
    module = GraphModule(graph)
    total, faults = module.comparisons, []
    for job in jobs:
        known = METHODS.get(job.method)
        after = job.forms.comparisons(module) if known is not None and known.transformers else 0
        if not 0 <= job.budget <= max(total, after):
            faults.append(f"budget {job.budget} is not between 0 and the model's {max(total, after)} comparisons")
        elif job.budget < after:
            faults.append(f"budget {job.budget} is below the {after} comparisons that stay after the exchange")
        if known is None:
            faults.append(f"no method is called '{job.method}'; known: {', '.join(METHODS)}")
            continue
        if known.transformers != job.forms.asked:
            faults.append(
                f"method '{job.method}' exchanges a transformer's parts, and nothing says for what: "
                "--softmax, --norm or --activation"
                if known.transformers
                else f"method '{job.method}' has no use for --softmax, --norm or --activation; 'exchange' has"
            )
        if known.transformers:
            faults += job.forms.faults_of(module)
        if known.only_zero and job.budget:
            faults.append(f"method '{job.method}' leaves no ReLU, budget {job.budget} cannot be chosen")
        if job.kind not in known.kinds:
            faults.append(f"method '{job.method}' has no kind '{job.kind}'; it has {', '.join(known.kinds)}")
        if job.granularity not in known.granularities:
            faults.append(
                f"method '{job.method}' cannot keep by {job.granularity}; it can by {', '.join(known.granularities)}"
            )
    faults += [] if splits is None else _faults_of_data(graph, splits)
    if not module.layers:
        faults.append("the model has no layer with weights, nothing can be trained")
    if faults:
        raise ParameterError(f"model '{graph.name}' cannot be reduced so", *dict.fromkeys(faults))
    return module


def _faults_of_data(graph: Graph, splits: Splits) -> list[str]:
    faults = []
    wanted, classes = graph.inputs[0].shape, graph.outputs[0].shape[-1]
    for name, data in (("train", splits.train), ("validation", splits.validation)):
        if data.x.shape[1:] not in (wanted, wanted[1:]):
            faults.append(f"{name} samples have shape {list(data.x.shape[1:])}, the model takes {list(wanted)}")
        if data.y is None:
            faults.append(f"{name} data have no labels")
        elif data.y.size and int(data.y.max()) >= classes:
            faults.append(f"{name} labels reach {int(data.y.max())}, the model has {classes} outputs")
    return faults


def reduce(
    graph: Graph,
    splits: Splits,
    job: Job,
    folder: Path,
    *,
    command: str,
    teacher: nn.Module | None = None,
    baseline: Json | None = None,
    progress: Progress | None = None,
) -> Json:
    """Train one reduced model; writes ``model.onnx`` and ``record.json`` into the folder and returns the record.

    A folder with a record is finished: its record is returned. An interrupted run goes on from the
    checkpoints in ``run/``.

    Args:
        graph: the all-ReLU network, trained.
        splits: its data.
        job: what is wanted.
        folder: where; made if missing.
        command: what the user typed, for the record.
        teacher: whose answers are distilled; None is the network itself.
        baseline: scores of the all-ReLU network (``score``), for the record.
        progress: called after each epoch with stage, epoch, and number of epochs.

    Raises:
        BudgetError, ParameterError: see ``check``; or the method missed the budget.
    """
    record_file = folder / "record.json"
    if record_file.is_file():
        found: Json = json.loads(record_file.read_text())
        return found
    start = time.perf_counter()
    module = check(graph, splits, [job])
    total = module.comparisons
    files.make_folder(folder / "run")
    torch.manual_seed(job.seed)
    task = Task(
        module,
        job.budget,
        job.kind,
        job.granularity,
        splits.train,
        splits.validation,
        job.recipe,
        job.seed,
        teacher or copy.deepcopy(module),
        folder / "run",
        progress,
        job.extras.hooks(job.seed),
        job.forms,
    )
    method = METHODS[job.method]
    if not method.transformers:
        module.normalize(task.batches())
    method.run(task)
    job.extras.finish(task)
    module = task.module
    observe(module, splits.train)
    if module.comparisons > job.budget:
        raise BudgetError(f"method '{job.method}' left {module.comparisons} comparisons, the budget is {job.budget}")
    written = export(fuse_layers(module.to_graph()), folder / "model.onnx")
    scored = GraphModule(import_model(written).graph)
    if scored.comparisons != module.comparisons:
        raise InternalError(
            f"the file compares {scored.comparisons} elements, training ended with {module.comparisons}"
        )
    test = splits.test()
    record: Json = {
        "model": graph.name,
        "dataset": splits.train.name,
        "quoted": DATASETS[splits.train.name].quoted if splits.train.name in DATASETS else splits.train.name,
        "method": job.method,
        "kind": job.kind,
        "granularity": job.granularity,
        "budget": job.budget,
        "relu_count": scored.comparisons,
        "relu_total": total,
        "seed": job.seed,
        "command": command,
        "versions": versions(),
        "settings": job.settings,
        "seconds": time.perf_counter() - start,
        "stages": [{"name": s.name, "history": [_jsonable(e) for e in s.history]} for s in task.stages],
        "layers": kept_by_layer(module),
        "validation": score(scored, splits.validation),
        "test": score(scored, test),
    }
    if job.extras.fairness:
        record["fairness"] = fairness(scored, GraphModule(graph), test)
    if baseline is not None:
        record["baseline"] = baseline
    files.write_json(record_file, record)
    return record


def _jsonable(epoch: Epoch) -> Json:
    """An epoch as JSON, which has no form for a loss that is not finite: null."""
    told = dataclasses.asdict(epoch)
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in told.items()}


def kept_by_layer(module: GraphModule) -> list[Json]:
    """What is left of every nonlinearity: elements, kept ones, kept ones per channel, the polynomial's interval."""
    layers: list[Json] = []
    for name, activation in module.relus.items():
        layer: Json = {
            "name": name,
            "shape": list(activation.node.shape),
            "elements": activation.node.size,
            "kept": activation.comparisons,
        }
        if isinstance(activation.function, Masked):
            mask = activation.function.mask
            layer["kept_by_channel"] = _by_channel(activation.node, mask)
            layer["low"], layer["high"] = float(activation.function.low), float(activation.function.high)
        layers.append(layer)
    return layers


def _by_channel(node: Node, mask: torch.Tensor) -> list[int]:
    if len(node.shape) < 2:
        return [int(mask.sum())]
    return [int(n) for n in mask.movedim(1, 0).flatten(1).sum(1).tolist()]


def versions() -> Json:
    """What made a record."""
    return {
        "pi-compiler": __version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }
