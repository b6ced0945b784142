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
from pi_compiler.ir.protocols import protocol_of, threat_model
from pi_compiler.runtime.mpc import library
from pi_compiler.runtime.mpc.backend import shared_inputs, stacked
from pi_compiler.runtime.mpc.job import Address, Job, PartyResult
from pi_compiler.runtime.mpc.launcher import Plan, run_seat
from pi_compiler.runtime.mpc.spu import library as spu_library

DEALT, FIRST_PARTY = "crypten-ttp", "crypten-tfp"
_NETWORK = (
    "network: plain TCP, keys of masks agreed by X25519; whoever only listens learns sizes and times, but parties are "
    "not authenticated: tunnel what is not trusted"
)
_BOTH = "model owner and data owner"
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
        rank: 0 model owner, 1 data owner, 2 dealer, or the helper of three-party protocols.
        peers: where the parties listen, ``host:port,host:port``: 0 and 1, of three computing parties all.
        dealer: whether a third party deals; nobody does on SPU.
        timeout: seconds to wait for another party.
        spu: the protocol under which SPU runs the model; empty: it runs on CrypTen.
    """

    rank: int
    peers: str
    dealer: bool = True
    timeout: float = 60.0
    spu: str = ""

    @property
    def protocol(self) -> str:
        """What all parties run."""
        return self.spu or (DEALT if self.dealer else FIRST_PARTY)


def checked(seat: Seat) -> None:
    """Refuse a seat that no run has.

    Raises:
        ParameterError: rank or addresses make no sense.
    """
    computing = protocol_of(seat.protocol).parties
    last = computing - 1 + (seat.dealer and not seat.spu)
    faults = []
    if not 0 <= seat.rank <= last:
        faults.append(f"rank {seat.rank}, possible are 0 to {last}")
    addresses = seat.peers.split(",")
    if len(addresses) != computing:
        who = "three parties listen, the helper too" if computing == 3 else "two parties listen, " + _BOTH
        faults.append(f"{len(addresses)} addresses; {who}")
    if seat.spu and not seat.dealer:
        faults.append("a first party that deals is CrypTen's")
    if not seat.timeout > 0:
        faults.append(f"timeout {seat.timeout:g}, which is not positive")
    if faults:
        hosts = ",".join(f"HOST{n}:PORT" for n in range(computing))
        ranks = " or ".join((", ".join(map(str, range(last))), str(last)))
        raise ParameterError("this is no party of a run", *faults, hint=f"--peers {hosts} --rank {ranks}")
    for address in addresses:
        Address.parse(address)


def threats(folder: Path, seat: Seat) -> tuple[str, ...]:
    """The threat model of a party's run.

    Raises:
        ArtifactError: the folder is damaged.
    """
    program = load_handout(folder)
    private = any(c.owner == "model" for c in program.consts)
    return told(seat.protocol, private)


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
        PiError: see ``runtime.mpc.party.run_party`` and ``runtime.mpc.spu.party.run_spu_party``.
    """
    checked(seat)
    if (why := spu_library.missing() if seat.spu else library.missing()) is not None:
        raise BackendUnavailable(f"backend {'spu' if seat.spu else 'crypten'!r} is not available: {why}")
    program = load_handout(folder)
    if not seat.spu:
        planned_for_it(program)
    if seat.rank == MODEL_PARTY:
        program = load_weights(program, weights if weights is not None else folder)
    elif weights is not None:
        raise ParameterError("only the model's owner may have the weights", hint="--weights at --rank 0 only")
    inputs = _inputs(program, samples) if seat.rank == DATA_PARTY else None
    done = _ran(seat, program, inputs)
    phases = {"setup": done.setup, "offline": done.offline, "online": done.online}
    report: Json = {"rank": seat.rank, "protocol": seat.protocol}
    for name, phase in phases.items():
        report |= {f"{name}_seconds": phase.seconds, f"{name}_rounds": phase.rounds}
        report |= {f"{name}_bytes_sent": phase.sent, f"{name}_bytes_received": phase.received}
    answers = {
        name: apply_client_ops(program.client_ops.get(name, ()), np.asarray(values), len(program.outputs[name].shape))
        for name, values in done.outputs.items()
    }
    return report, answers


def _ran(seat: Seat, program: MpcProgram, inputs: dict[str, FloatArray] | None) -> PartyResult:
    peers = [Address.parse(text) for text in seat.peers.split(",")]
    if seat.spu:
        return run_seat(seat.rank, program, inputs, peers, Plan(len(peers), timeout=seat.timeout, spu=seat.spu))
    from pi_compiler.runtime.mpc.party import run_party

    return run_party(Job(seat.rank, program, peers, inputs, seat.dealer, seat.timeout))


def _inputs(program: MpcProgram, samples: object) -> dict[str, FloatArray]:
    if samples is None:
        raise ParameterError("the data's owner needs an input", hint="--input X.npy")
    return shared_inputs(program, stacked(program, samples))  # type: ignore[arg-type]
