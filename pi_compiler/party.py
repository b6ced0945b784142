"""This process as one party of a run under MPC; it opens only what its owner may have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pi_compiler.artifact import Json
from pi_compiler.artifact_mpc import load_handout, load_weights
from pi_compiler.errors import BackendUnavailable, ParameterError
from pi_compiler.ir.client_ops import apply_client_ops
from pi_compiler.ir.graph import FloatArray
from pi_compiler.ir.mpc_program import DATA_PARTY, MODEL_PARTY, MpcProgram
from pi_compiler.ir.protocols import threat_model
from pi_compiler.runtime.mpc import library
from pi_compiler.runtime.mpc.backend import shared_inputs, stacked
from pi_compiler.runtime.mpc.job import Address, Job

DEALT, FIRST_PARTY = "crypten-ttp", "crypten-tfp"
_NETWORK = (
    "network: plain TCP, keys of masks agreed by X25519; whoever only listens learns sizes and times, but parties are "
    "not authenticated: tunnel what is not trusted"
)
_SPU_NETWORK = "network: plain TCP, parties are not authenticated: tunnel what is not trusted"


def planned_for_it(program: MpcProgram) -> None:
    """Refuse plans for protocols that truncate interactively: nobody has bounded their wrap-arounds."""
    if program.protocol not in (DEALT, FIRST_PARTY):
        raise ParameterError(
            f"the model was planned for protocol {program.protocol}, which backend 'crypten' does not run",
            hint=f"pi-compiler compile --target mpc --protocol {DEALT}",
        )


def told(protocol: str, private: bool) -> tuple[str, ...]:
    """The threat model of a run over our own connections, or SPU's, line by line."""
    over = _NETWORK if protocol in (DEALT, FIRST_PARTY) else _SPU_NETWORK
    return (*threat_model(protocol, private_weights=private), over)


@dataclass(frozen=True, slots=True)
class Seat:
    """This process as one party.

    Attributes:
        rank: 0 model owner, 1 data owner, 2 dealer.
        peers: where parties 0 and 1 listen, ``host:port,host:port``.
        dealer: whether a third party deals.
        timeout: seconds to wait for another party.
    """

    rank: int
    peers: str
    dealer: bool = True
    timeout: float = 60.0


def checked(seat: Seat) -> None:
    """Refuse a seat that no run has.

    Raises:
        ParameterError: rank or addresses make no sense.
    """
    last = 2 if seat.dealer else 1
    faults = []
    if not 0 <= seat.rank <= last:
        faults.append(f"rank {seat.rank}, possible are 0 to {last}")
    addresses = seat.peers.split(",")
    if len(addresses) != 2:
        faults.append(f"{len(addresses)} addresses; two parties listen, model owner and data owner")
    if not seat.timeout > 0:
        faults.append(f"timeout {seat.timeout:g}, which is not positive")
    if faults:
        raise ParameterError(
            "this is no party of a run", *faults, hint="--peers HOST0:PORT,HOST1:PORT --rank 0, 1 or 2"
        )
    for address in addresses:
        Address.parse(address)


def threats(folder: Path, seat: Seat) -> tuple[str, ...]:
    """The threat model of a party's run.

    Raises:
        ArtifactError: the folder is damaged.
    """
    program = load_handout(folder)
    private = any(c.owner == "model" for c in program.consts)
    return told(DEALT if seat.dealer else FIRST_PARTY, private)


def take_part(
    folder: Path, seat: Seat, weights: Path | None = None, samples: object = None
) -> tuple[Json, Mapping[str, FloatArray]]:
    """Be one party of a run.

    Args:
        folder: the compiled model; its weights are read by the model's owner only.
        seat: which party.
        weights: the model owner's constants, default those in the folder.
        samples: the data owner's inputs.

    Returns:
        The report, and the data owner's answers (empty elsewhere).

    Raises:
        PiError: see ``runtime.mpc.party.run_party``.
    """
    checked(seat)
    if (why := library.missing()) is not None:
        raise BackendUnavailable(f"backend 'crypten' is not available: {why}")
    from pi_compiler.runtime.mpc.party import run_party

    program = load_handout(folder)
    planned_for_it(program)
    if seat.rank == MODEL_PARTY:
        program = load_weights(program, weights if weights is not None else folder)
    elif weights is not None:
        raise ParameterError("only the model's owner may have the weights", hint="--weights at --rank 0 only")
    inputs = _inputs(program, samples) if seat.rank == DATA_PARTY else None
    peers = [Address.parse(text) for text in seat.peers.split(",")]
    done = run_party(Job(seat.rank, program, peers, inputs, seat.dealer, seat.timeout))
    phases = {"setup": done.setup, "offline": done.offline, "online": done.online}
    report: Json = {"rank": seat.rank, "protocol": DEALT if seat.dealer else FIRST_PARTY}
    for name, phase in phases.items():
        report |= {f"{name}_seconds": phase.seconds, f"{name}_rounds": phase.rounds}
        report |= {f"{name}_bytes_sent": phase.sent, f"{name}_bytes_received": phase.received}
    answers = {
        name: apply_client_ops(program.client_ops.get(name, ()), np.asarray(values), len(program.outputs[name].shape))
        for name, values in done.outputs.items()
    }
    return report, answers


def _inputs(program: MpcProgram, samples: object) -> dict[str, FloatArray]:
    if samples is None:
        raise ParameterError("the data's owner needs an input", hint="--input X.npy")
    return shared_inputs(program, stacked(program, samples))  # type: ignore[arg-type]
