"""Backend ``crypten``: a model's and a data's owner and a dealer as processes of this machine."""

from __future__ import annotations

from collections.abc import Mapping

from pi_compiler.ir.graph import FloatArray
from pi_compiler.ir.mpc_program import DATA_PARTY, MpcProgram
from pi_compiler.runtime.mpc import library
from pi_compiler.runtime.mpc.job import PartyResult, joined
from pi_compiler.runtime.mpc.launcher import Parties, Plan
from pi_compiler.runtime.mpc.walk import MpcTrace, Progress


class CryptenMpc:
    """Real processes; inputs run one after the other.

    Args:
        plan: how the parties are started.
    """

    name = "crypten"

    def __init__(self, plan: Plan | None = None) -> None:
        self.plan = plan or Plan()
        self.parties: list[PartyResult] = []
        """What every party had at the end of the last run, by rank."""

    def available(self) -> str | None:
        return library.missing()

    def run(
        self, program: MpcProgram, inputs: Mapping[str, FloatArray], *, progress: Progress | None = None
    ) -> tuple[dict[str, FloatArray], MpcTrace]:
        samples = min(len(x) for x in inputs.values())
        if progress is not None:
            progress("parties", 0, samples)
        with Parties(program, inputs, self.plan) as parties:
            self.parties = parties.wait()
        return dict(self.parties[DATA_PARTY].outputs), joined(self.parties, samples)
