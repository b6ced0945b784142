"""Reductions that belong together: one model, one data set, several budgets, methods, kinds and seeds.

The output folder holds ``reduction.json`` (what belongs together, and the all-ReLU model's scores) and a
folder per reduced model. Whatever is finished stays: the same call again goes on where it was.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from pi_compiler import files
from pi_compiler.errors import ArtifactError, ParameterError
from pi_compiler.ir.graph import Graph
from pi_compiler.models.data import Source
from pi_compiler.models.training.costs import ckks_cost, mpc_cost
from pi_compiler.models.training.engine import Epoch
from pi_compiler.models.training.graph_module import GraphModule
from pi_compiler.models.training.reduction import Job, Splits, check, reduce
from pi_compiler.models.training.score import score
from pi_compiler.options import Options

__all__ = ["Series", "read_splits"]

Json = dict[str, object]
Progress = Callable[[int, Job, str, Epoch, int], None]
_FILE = "reduction.json"


def read_splits(source: Source) -> Splits:
    """The data to train and choose with, and a way to the test split.

    Raises:
        CalibrationError: files are missing or damaged.
    """
    return Splits(source.load("train"), source.load("validation"), lambda: source.load("test"))


@dataclass(frozen=True, slots=True)
class Series:
    """What is to be done, and where.

    Attributes:
        graph: the all-ReLU network.
        model_bytes: its ONNX file.
        source: the data.
        jobs: one per reduced model.
        folder: the output.
        command: what the user typed.
        options: of the compilations that costs are predicted with; None predicts none.
        teacher: whose answers are distilled; None is the network itself.
    """

    graph: Graph
    model_bytes: bytes
    source: Source
    jobs: tuple[Job, ...]
    folder: Path
    command: str
    options: Options | None
    teacher: Graph | None = None

    def check(self, splits: Splits) -> None:
        """Check everything that can be checked before the work.

        Raises:
            ParameterError: all that does not fit, in one message.
        """
        faults = [f for job in self.jobs for f in self._faults_of_folder(job)]
        if self.teacher is not None:
            taken, wanted = (g.inputs[0].shape for g in (self.teacher, self.graph))
            if taken != wanted or self.teacher.outputs[0].size != self.graph.outputs[0].size:
                faults.append(
                    f"the teacher takes {list(taken)} and gives {self.teacher.outputs[0].size} scores, "
                    f"the model takes {list(wanted)} and gives {self.graph.outputs[0].size}"
                )
        try:
            check(self.graph, splits, list(self.jobs))
        except ParameterError as error:
            raise ParameterError(error.what, *error.details, *dict.fromkeys(faults)) from error
        if faults:
            raise ParameterError(f"model '{self.graph.name}' cannot be reduced so", *dict.fromkeys(faults))

    def run(self, splits: Splits, progress: Progress | None = None) -> list[Json]:
        """Everything that is not done yet; the records in the order of the jobs.

        Args:
            splits: what ``read_splits`` loaded.
            progress: called after each epoch with the job's number, the job, the stage, the epoch, and how
                many epochs the stage has.
        """
        files.make_folder(self.folder)
        teacher: nn.Module | None = None if self.teacher is None else GraphModule(self.teacher)
        baseline = self._baseline(splits)
        records = []
        for number, job in enumerate(self.jobs):
            place = self.folder / job.name

            def told(stage: str, epoch: Epoch, epochs: int, number: int = number, job: Job = job) -> None:
                if progress is not None:
                    progress(number, job, stage, epoch, epochs)

            record = reduce(
                self.graph, splits, job, place, command=self.command, teacher=teacher, baseline=baseline, progress=told
            )
            if self.options is not None and "ckks" not in record:
                calibration = self.source.load("calibration")
                record["ckks"] = ckks_cost(place / "model.onnx", calibration, self.options)
                record["mpc"] = mpc_cost(place / "model.onnx", calibration)
                files.write_json(place / "record.json", record)
            records.append(record)
            self._list(baseline)
        return records

    def _baseline(self, splits: Splits) -> Json:
        """Scores of the all-ReLU network; its test split is read once per output folder."""
        stored = self._stored()
        if isinstance(found := stored.get("baseline"), dict):
            return found
        module = GraphModule(self.graph)
        baseline: Json = {
            "relu_count": module.comparisons,
            "validation": score(module, splits.validation),
            "test": score(module, splits.test()),
        }
        if self.options is not None:
            original = self.folder / "original.onnx"
            files.write(original, self.model_bytes)
            calibration = self.source.load("calibration")
            baseline["ckks"] = ckks_cost(original, calibration, self.options)
            baseline["mpc"] = mpc_cost(original, calibration)
        self._list(baseline)
        return baseline

    def _list(self, baseline: Json) -> None:
        """``reduction.json``, with every finished model in the folder."""
        done = sorted(p.parent.name for p in self.folder.glob("*/record.json"))
        listed = self._identity() | {
            "quoted": self.source.quoted,
            "command": self.command,
            "baseline": baseline,
            "models": done,
        }
        files.write_json(self.folder / _FILE, listed)

    def _identity(self) -> Json:
        """What has to be the same for reductions to belong together."""
        return {
            "model": self.graph.name,
            "model_sha256": hashlib.sha256(self.model_bytes).hexdigest(),
            "dataset": self.source.name,
        }

    def _stored(self) -> Json:
        path = self.folder / _FILE
        if not path.is_file():
            return {}
        try:
            found = json.loads(path.read_text())
            return {str(k): v for k, v in found.items()}
        except (OSError, ValueError, AttributeError) as error:
            raise ArtifactError(
                f"{path} cannot be read", str(error), hint="another --output, or remove the file"
            ) from error

    def _faults_of_folder(self, job: Job) -> list[str]:
        """A folder with something else in it is never overwritten nor taken for ours."""
        stored, faults = self._stored(), []
        for key, value in self._identity().items():
            if key in stored and stored[key] != value:
                faults.append(f"{self.folder} holds reductions with {key} {stored[key]}, here it is {value}")
        path = self.folder / job.name / "record.json"
        if not path.is_file():
            return faults
        try:
            settings = json.loads(path.read_text())["settings"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            return [*faults, f"{path} cannot be read: {error!r}; remove it to train again"]
        if settings != json.loads(json.dumps(job.settings)):
            faults.append(f"{path.parent} was trained with other settings; another --output, or remove it")
        return faults
