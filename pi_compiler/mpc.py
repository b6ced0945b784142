"""A model compiled for secure multi-party computation: what runs, what it costs, and answers of a backend."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

from numpy.typing import ArrayLike

from pi_compiler.artifact import Json
from pi_compiler.artifact_mpc import MpcArtifact, load_mpc, save_mpc
from pi_compiler.cost_mpc import MpcPrices, load_mpc_prices, network_of
from pi_compiler.ir.graph import FloatArray
from pi_compiler.ir.mpc_program import MpcProgram
from pi_compiler.passes.compilation import Compilation
from pi_compiler.pipelines import MPC, Observer, run
from pi_compiler.report.mpc import costs_report, mpc_report
from pi_compiler.runtime.mpc.backend import MpcResult, get_mpc_backend, run_batch, stacked
from pi_compiler.runtime.mpc.walk import Progress

Samples: TypeAlias = ArrayLike | Mapping[str, ArrayLike]


@dataclass(frozen=True, slots=True, eq=False)
class CompiledMpc:
    """A program on shares with everything needed to run it.

    Attributes:
        program: instructions, constants, ports.
        report: what ``explain`` prints, as JSON (see ``pi_compiler.report.mpc``).
        models: ``model.onnx`` as it came.
    """

    program: MpcProgram
    report: Json
    models: Mapping[str, bytes]

    def save(self, folder: str | os.PathLike[str]) -> int:
        """Write to a folder; returns its size in bytes.

        Raises:
            ParameterError: it cannot be written.
        """
        return save_mpc(MpcArtifact(self.program, self.report, self.models), Path(folder))

    @staticmethod
    def load(folder: str | os.PathLike[str]) -> CompiledMpc:
        """Read a folder that ``save`` wrote.

        Raises:
            ArtifactError: it is missing, damaged, from a newer version, or not for MPC.
        """
        a = load_mpc(Path(folder))
        return CompiledMpc(a.program, a.report, a.models)

    def explain(self) -> str:
        """The plan as text: choices, rounds, bytes, seconds per layer, threat model."""
        from pi_compiler.report.text import plain
        from pi_compiler.report.text_mpc import explain_mpc_view

        return plain(explain_mpc_view(self.report))

    def on(self, network: str | None = None, protocol: str | None = None, costs: Path | None = None) -> Json:
        """The report with costs of another network or protocol.

        Args:
            network: a preset or ``RTT,MBIT``; default that of the plan.
            protocol: default that of the plan.
            costs: a table of seconds.

        Raises:
            ParameterError: there is no such network or protocol, or the table is damaged.
        """
        planned = self.report["network"]
        name = network or (str(planned["name"]) if isinstance(planned, dict) else "lan")
        prices: MpcPrices = load_mpc_prices(protocol or self.program.protocol, costs)
        private = bool(self.report["private_weights"])
        return {**self.report, **costs_report(self.program, prices, network_of(name), private=private)}

    def run(self, x: Samples, *, backend: str = "auto", progress: Progress | None = None) -> MpcResult:
        """Answers of a batch of samples."""
        name = str(self.report["backend"]) if backend == "auto" else backend
        return run_batch(self.program, get_mpc_backend(name), self.stacked(x), progress=progress)

    def stacked(self, x: ArrayLike | Mapping[str, ArrayLike]) -> dict[str, FloatArray]:
        """See the function of that name."""
        return stacked(self.program, x)


def compile_mpc(c: Compilation, models: Mapping[str, bytes], observers: Sequence[Observer] = ()) -> CompiledMpc:
    """The passes for MPC on a prepared record.

    Raises:
        CalibrationError: the data cannot be used, or a nonlinearity cannot be replaced as asked.
        BudgetError: values leave the ring, or too many truncations would wrap around.
        UnsupportedOperator: naming every layer that cannot run on shares.
    """
    c = run(c, MPC, observers)
    program = Compilation.require(c.mpc_program, "finish", "encode")
    return CompiledMpc(replace(program, front=c.front), mpc_report(c), models)
