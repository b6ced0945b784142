"""Backend ``crypten``: a model's and a data's owner and a dealer as processes of this machine."""

from __future__ import annotations

from collections.abc import Mapping

from pi_compiler.ir.graph import FloatArray
from pi_compiler.ir.mpc_program import DATA_PARTY, MODEL_PARTY, MpcProgram
from pi_compiler.runtime.mpc import library
from pi_compiler.runtime.mpc.job import PartyResult
from pi_compiler.runtime.mpc.launcher import Parties, Plan
from pi_compiler.runtime.mpc.walk import LayerCost, MpcTrace, Progress, Traffic


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


def joined(parties: list[PartyResult], samples: int) -> MpcTrace:
    """Both computing parties' traces in one: the slower one's seconds, both directions' bytes, rounds per input."""
    model, data = parties[MODEL_PARTY].trace, parties[DATA_PARTY].trace
    if model is None or data is None:
        return MpcTrace({})
    layers = {}
    for name, ours in model.layers.items():
        theirs = data.layers.get(name, LayerCost())
        sent = ours.traffic.bytes_sent + theirs.traffic.bytes_sent
        layers[name] = LayerCost(max(ours.seconds, theirs.seconds), Traffic(ours.traffic.rounds // samples, sent))
    return MpcTrace(layers)
