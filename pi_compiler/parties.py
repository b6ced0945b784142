"""A compiled model between parties that are all processes of this machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pi_compiler.accuracy_mpc import Json, Progress, silent, timed_mpc_run
from pi_compiler.cost_mpc import Network, layer_costs, load_mpc_prices
from pi_compiler.errors import BackendUnavailable
from pi_compiler.ir.graph import FloatArray
from pi_compiler.ir.mpc_program import DATA_PARTY, MODEL_PARTY
from pi_compiler.mpc import CompiledMpc
from pi_compiler.party import DEALT, FIRST_PARTY, planned_for_it, told
from pi_compiler.report.text import entries
from pi_compiler.runtime.mpc.backend import MpcResult
from pi_compiler.runtime.mpc.crypten import CryptenMpc
from pi_compiler.runtime.mpc.launcher import Link, Plan
from pi_compiler.runtime.mpc.spu.backend import SpuMpc


@dataclass(frozen=True, slots=True)
class Meeting:
    """How parties of one machine meet.

    Attributes:
        parties: computing parties.
        network: emulated between them; None is the loopback interface.
        dealer: whether a third party deals; nobody does on SPU.
        timeout: seconds that a party waits for another.
        spu: the protocol under which SPU runs the model; empty: it runs on CrypTen.
    """

    parties: int = 2
    network: Network | None = None
    dealer: bool = True
    timeout: float = 60.0
    spu: str = ""

    def plan(self) -> Plan:
        """The same for the launcher.

        Raises:
            ParameterError: parties cannot be started like this.
        """
        link = None if self.network is None else Link(self.network.rtt / 2, self.network.bandwidth / 8)
        return Plan(self.parties, self.dealer, self.timeout, link=link, spu=self.spu)


def run_between(
    compiled: CompiledMpc, inputs: Mapping[str, FloatArray], meeting: Meeting, progress: Progress = silent
) -> tuple[Json, MpcResult]:
    """Run samples between processes of this machine.

    Args:
        compiled: the model.
        inputs: samples (B, *shape) by input name.
        meeting: how the parties meet.
        progress: observer.

    Returns:
        The report, seconds being those of one input's online phase, and the answers.

    Raises:
        PiError: a party failed.
    """
    backend = SpuMpc(meeting.plan()) if meeting.spu else CryptenMpc(meeting.plan())
    if (why := backend.available()) is not None:
        raise BackendUnavailable(f"backend {backend.name!r} is not available: {why}")
    if not meeting.spu:
        planned_for_it(compiled.program)
    protocol = meeting.spu or (DEALT if meeting.dealer else FIRST_PARTY)
    report, found = timed_mpc_run(compiled, inputs, backend, progress=progress)
    report = _priced(compiled, report, protocol)
    predicted = compiled.on(None if meeting.network is None else meeting.network.name, protocol)
    model, data = backend.parties[MODEL_PARTY], backend.parties[DATA_PARTY]
    samples = len(next(iter(inputs.values())))
    return {
        **report,
        "protocol": protocol,
        "network": "loopback" if meeting.network is None else meeting.network.name,
        "seconds": data.online.seconds / samples,
        "predicted_seconds": predicted["predicted_compute_seconds" if meeting.network is None else "predicted_seconds"],
        "predicted_rounds": predicted["rounds"],
        "predicted_bytes_sent": predicted["bytes_sent"],
        "bytes_to_model": data.online.sent / samples,
        "bytes_to_data": model.online.sent / samples,
        "offline_seconds": model.offline.seconds / samples,
        "offline_bytes": sum(p.offline.sent for p in backend.parties[DATA_PARTY + 1 :]) / samples,
        "predicted_offline_bytes": predicted["offline_bytes"],
        "setup_seconds": model.setup.seconds,
        "setup_bytes": model.setup.sent,
        "threat_model": [*told(protocol, bool(compiled.report["private_weights"]))],
    }, found


def _priced(compiled: CompiledMpc, report: Json, protocol: str) -> Json:
    """The report with the layers' rounds and bytes predicted for the protocol that ran, if it is not the plan's."""
    if protocol == compiled.program.protocol:
        return report
    prices = load_mpc_prices(protocol)
    costs, pairs = layer_costs(compiled.program, prices), prices.links // 2
    layers = [
        {**e, "predicted_rounds": costs[str(e["name"])].rounds, "predicted_bytes": pairs * costs[str(e["name"])].bytes}
        for e in entries(report["layers"])
    ]
    return {**report, "layers": layers}
