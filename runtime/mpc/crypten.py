"""Backend ``crypten``: a model's and a data's owner and a dealer as processes of this machine."""

from __future__ import annotations

from pi_compiler.ir.mpc_program import MpcProgram
from pi_compiler.runtime.mpc import library
from pi_compiler.runtime.mpc.processes import Processes


class CryptenMpc(Processes):
    """Two parties and a dealer on CrypTen's transport."""

    name = "crypten"

    def available(self) -> str | None:
        return library.missing()

    def check(self, program: MpcProgram) -> None:
        """Nothing is refused: every opcode runs."""
