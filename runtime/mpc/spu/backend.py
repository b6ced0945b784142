"""Backend ``spu``: the parties of one of SPU's protocols as processes of this machine."""

from __future__ import annotations

from collections.abc import Mapping

from pi_compiler.ir.graph import FloatArray
from pi_compiler.ir.mpc_program import DATA_PARTY, MpcProgram
from pi_compiler.runtime.mpc.job import PartyResult, joined
from pi_compiler.runtime.mpc.launcher import Parties, Plan
from pi_compiler.runtime.mpc.spu import library
from pi_compiler.runtime.mpc.spu.text import write_modules
from pi_compiler.runtime.mpc.walk import MpcTrace, Progress


class SpuMpc:
    """Real processes; inputs run one after the other.

    Args:
        plan: how the parties are started, and under which protocol.
    """

    name = "spu"

    def __init__(self, plan: Plan | None = None) -> None:
        self.plan = plan or Plan(spu="semi2k")
        self.parties: list[PartyResult] = []
        """What every party had at the end of the last run, by rank."""

    def available(self) -> str | None:
        return library.missing()

    def run(
        self, program: MpcProgram, inputs: Mapping[str, FloatArray], *, progress: Progress | None = None
    ) -> tuple[dict[str, FloatArray], MpcTrace]:
        write_modules(program)  # refuses what SPU cannot run before any process is started
        samples = min(len(x) for x in inputs.values())
        if progress is not None:
            progress("parties", 0, samples)
        with Parties(program, inputs, self.plan) as parties:
            self.parties = parties.wait()
        return dict(self.parties[DATA_PARTY].outputs), joined(self.parties, samples)
