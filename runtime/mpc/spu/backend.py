"""Backend ``spu``: the parties of one of SPU's protocols as processes of this machine."""

from __future__ import annotations

from pi_compiler.ir.mpc_program import MpcProgram
from pi_compiler.runtime.mpc.launcher import Plan
from pi_compiler.runtime.mpc.processes import Processes
from pi_compiler.runtime.mpc.spu import library
from pi_compiler.runtime.mpc.spu.text import write_modules


class SpuMpc(Processes):
    """As many parties as the plan's protocol has."""

    name = "spu"
    usual = Plan(spu="semi2k")

    def available(self) -> str | None:
        return library.missing()

    def check(self, program: MpcProgram) -> None:
        write_modules(program)
