"""MPC backends whose parties are processes of this machine: what they share, whatever library computes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

from pi_compiler.ir.graph import FloatArray
from pi_compiler.ir.mpc_program import DATA_PARTY, MpcProgram
from pi_compiler.runtime.mpc.job import PartyResult, joined
from pi_compiler.runtime.mpc.launcher import Parties, Plan
from pi_compiler.runtime.mpc.walk import MpcTrace, Progress

__all__ = ["Processes"]


class Processes(ABC):
    """Real processes; inputs run one after the other.

    Args:
        plan: how the parties are started, and with which library.
    """

    name: str
    usual = Plan()

    def __init__(self, plan: Plan | None = None) -> None:
        self.plan = plan or self.usual
        self.parties: list[PartyResult] = []
        """What every party had at the end of the last run, by rank."""

    @abstractmethod
    def available(self) -> str | None:
        """None, or what is missing and how to get it."""

    @abstractmethod
    def check(self, program: MpcProgram) -> None:
        """Refuse what the library cannot run, before any process is started."""

    def run(
        self, program: MpcProgram, inputs: Mapping[str, FloatArray], *, progress: Progress | None = None
    ) -> tuple[dict[str, FloatArray], MpcTrace]:
        self.check(program)
        samples = min(len(x) for x in inputs.values())
        if progress is not None:
            progress("parties", 0, samples)
        with Parties(program, inputs, self.plan) as parties:
            self.parties = parties.wait()
        return dict(self.parties[DATA_PARTY].outputs), joined(self.parties, samples)
