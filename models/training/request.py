"""What a user asks ``reduce`` for, and everything that can be wrong with it before the work begins."""

from __future__ import annotations

import itertools
import shlex
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Literal, TypeVar, cast

from pi_compiler import files
from pi_compiler.api import named
from pi_compiler.errors import InternalError, ParameterError, PiError
from pi_compiler.importer import Imported, import_model
from pi_compiler.ir.graph import Graph
from pi_compiler.models.data import Dataset, open_source
from pi_compiler.models.training.defaults import recipe_for
from pi_compiler.models.training.engine import Settings
from pi_compiler.models.training.extras import Extras
from pi_compiler.models.training.forms import Forms
from pi_compiler.models.training.graph_module import GraphModule
from pi_compiler.models.training.masked import Kind
from pi_compiler.models.training.methods.method import Granularity, Recipe
from pi_compiler.models.training.reduction import Job, Splits, check
from pi_compiler.models.training.series import Series, read_splits
from pi_compiler.options import Options

__all__ = ["Request"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Request:
    """The arguments of ``pi-compiler reduce``.

    Attributes:
        model: an ONNX file.
        data: a known data set, or a file or folder (see ``models.own_data``).
        output: the folder for everything.
        budget: ReLU counts; where a transformer's parts are exchanged none is needed.
        method: names of ``METHODS``.
        kind: what takes a ReLU's place.
        granularity: what stays or goes as one.
        seed: of everything random.
        epochs: passes over the data while ReLUs are chosen.
        finetune_epochs: passes after that.
        batch_size: samples per step; None suits the data.
        plain: neither bfloat16 nor compiled kernels.
        teacher: an ONNX file whose answers are imitated; None is the model.
        label: a table's label column.
        group: a table's group column.
        input_shape: sizes of open dimensions, as typed.
        shapes: the same, by input name.
        maxpool: what to do with MaxPool.
        backend: whose CKKS costs to predict; ``"none"`` predicts none.
        extras: what training has besides the method.
        forms: what a transformer's parts give way to.
    """

    model: Path
    data: str
    output: Path
    budget: tuple[int, ...]
    method: tuple[str, ...] = ("autorep",)
    kind: tuple[str, ...] = ("quadratic",)
    granularity: Granularity = "pixel"
    seed: tuple[int, ...] = (0,)
    epochs: int = 20
    finetune_epochs: int = 20
    batch_size: int | None = None
    plain: bool = False
    teacher: Path | None = None
    label: str | None = None
    group: str | None = None
    input_shape: tuple[str, ...] = ()
    shapes: Mapping[str, tuple[int, ...]] | None = None
    maxpool: Literal["refuse", "average"] = "refuse"
    backend: str = "tenseal"
    extras: Extras = field(default_factory=Extras)
    forms: Forms = field(default_factory=Forms)

    @property
    def command(self) -> str:
        """The command line that does the same, with every default spelled out."""
        words = ["pi-compiler", "reduce", str(self.model)]
        apart = ("model", "shapes", "extras", "forms")
        told = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in apart}
        told |= {f.name: getattr(self.extras, f.name) for f in fields(self.extras)}
        if self.forms.asked:
            told |= {f.name: getattr(self.forms, f.name) for f in fields(self.forms)}
        for name, value in told.items():
            if value is None or value is False:
                continue
            option = f"--{name.replace('_', '-')}"
            for one in value if isinstance(value, tuple) else (value,):
                words += [option] if one is True else [option, f"{one:g}" if isinstance(one, float) else str(one)]
        return shlex.join(words)

    def open(self) -> tuple[Series, Splits]:
        """Read the model and the data and check that they fit together and to what is asked.

        Raises:
            PiError: what is wrong; a ``ParameterError`` with everything if it is several things.
        """
        faults = _Faults()
        model = faults.of(lambda: self._import(self.model))
        teacher = faults.of(lambda: self._import(Path(str(self.teacher)))) if self.teacher is not None else None
        source = faults.of(lambda: open_source(self.data, self.label, self.group))
        splits = faults.of(lambda: read_splits(source)) if source is not None else None
        training = faults.of(lambda: self._recipe(None if splits is None else splits.train))
        faults.of(self.extras.check)
        faults.of(self.forms.check)
        faults.of(self._check_budget)
        faults.of(lambda: files.check_folder(self.output))
        if model is None or training is None or source is None or splits is None:
            if model is not None:
                # What cannot be told from the data can still be told from the model.
                faults.of(lambda: check(model.graph, None, self._jobs(Recipe(Settings(1), Settings(1)), model.graph)))
            faults.check()
            raise InternalError("something could not be read and left no fault")
        series = Series(
            named(model.graph, self.model),
            model.model,
            source,
            tuple(self._jobs(training, model.graph)),
            self.output,
            self.command,
            None if self.backend == "none" else Options(backend=self.backend),
            None if teacher is None else teacher.graph,
        )
        faults.of(lambda: series.check(splits))
        faults.check()
        return series, splits

    def _import(self, path: Path) -> Imported:
        return import_model(path, input_shapes=self.shapes, maxpool=self.maxpool)

    def _recipe(self, data: Dataset | None) -> Recipe:
        """How to train on the data; without them only whether the numbers make sense.

        Raises:
            ParameterError: a number is out of range.
        """
        count = None if data is None else len(data)
        asked = Settings(max(self.epochs, self.finetune_epochs), 1 if self.batch_size is None else self.batch_size)
        faults = [f"--{n.replace('_', '-')} is negative" for n in ("epochs", "finetune_epochs") if getattr(self, n) < 0]
        if count is not None and asked.batch_size > count:
            faults.append(f"--batch-size {asked.batch_size} exceeds the {count} training samples")
        if faults:
            raise ParameterError("training cannot be done so", *faults)
        if data is None:
            return Recipe(asked, asked)
        # Compiled kernels need a C++ compiler.
        plain = self.plain or not any(map(shutil.which, ("c++", "g++", "clang++")))
        return recipe_for(data, self.epochs, self.finetune_epochs, batch_size=self.batch_size, plain=plain)

    def _check_budget(self) -> None:
        if not self.budget and not self.forms.asked:
            raise ParameterError("--budget is missing: the most ReLUs that may stay")

    def _jobs(self, training: Recipe, graph: Graph) -> list[Job]:
        budgets = self.budget
        if not budgets and self.forms.asked:
            budgets = (self.forms.comparisons(GraphModule(graph)),)
        wanted = itertools.product(self.seed, self.method, self.kind, budgets)
        training = self.extras.recipe(training)
        if self.forms.asked:
            training = replace(training, finetune=self.forms.settings(training.finetune))
        jobs = [
            Job(b, m, cast(Kind, k), self.granularity, s, training, self.extras, self.forms) for s, m, k, b in wanted
        ]
        return list({job.name: job for job in jobs}.values())


class _Faults:
    """Collects what goes wrong, to say it all at once."""

    def __init__(self) -> None:
        self.found: list[PiError] = []

    def of(self, step: Callable[[], T]) -> T | None:
        """The step's result, None if it raised."""
        try:
            return step()
        except PiError as error:
            self.found.append(error)
            return None

    def check(self) -> None:
        """Raise what was found: one error as it is, several as one."""
        if len(self.found) == 1:
            raise self.found[0]
        if self.found:
            lines = [line.strip() for error in self.found for line in str(error).split("\n")]
            raise ParameterError("there are several faults", *lines)
