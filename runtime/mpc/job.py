"""What a party is told and what it has at the end: records that need no library."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pi_compiler.errors import ParameterError
from pi_compiler.ir.graph import FloatArray
from pi_compiler.ir.mpc_program import MpcProgram
from pi_compiler.runtime.mpc.walk import LayerCost, MpcTrace, Traffic


@dataclass(frozen=True, slots=True)
class Address:
    """Where a party listens."""

    host: str
    port: int

    @staticmethod
    def parse(text: str) -> Address:
        """``host:port``.

        Raises:
            ParameterError: it is not.
        """
        host, _, port = text.strip().rpartition(":")
        if not host or not port.isdigit() or not 0 < int(port) < 65536:
            raise ParameterError(f"{text!r} is no address", hint="host:port, such as 192.0.2.1:7700")
        return Address(host.strip("[]"), int(port))

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """What a party is to do.

    Attributes:
        rank: 0 model owner, 1 data owner, 2 dealer.
        program: with private constants at the model's owner, blank ones elsewhere.
        peers: where parties 0 and 1 listen, as this party sees it.
        inputs: at the data owner, per input (N, *shape) of its INPUT instruction; None elsewhere.
        dealer: whether a third party deals; else the model's owner does, and nothing is private from it.
        timeout: seconds to wait for another party's message.
        threads: of this process.
        patience: seconds to wait until all parties are connected; None is ``timeout``.
    """

    rank: int
    program: MpcProgram
    peers: Sequence[Address]
    inputs: Mapping[str, FloatArray] | None = None
    dealer: bool = True
    timeout: float = 60.0
    threads: int = 1
    patience: float | None = None


@dataclass(frozen=True, slots=True, eq=False)
class SpuJob:
    """What a party is to do on SPU.

    Attributes:
        rank: 0 model owner, 1 data owner, 2 the helper of three-party protocols.
        program: with private constants at the model's owner, blank ones elsewhere.
        protocol: ``semi2k``, ``cheetah`` or ``aby3``.
        peers: where all parties listen, as this party sees it.
        inputs: at the data owner, per input (N, *shape) of its INPUT instruction; None elsewhere.
        timeout: seconds to wait for another party's message.
        threads: of this process.
        patience: seconds to wait until all parties are connected; None is ``timeout``.
    """

    rank: int
    program: MpcProgram
    protocol: str
    peers: Sequence[Address]
    inputs: Mapping[str, FloatArray] | None = None
    timeout: float = 60.0
    threads: int = 1
    patience: float | None = None

    @property
    def samples(self) -> int:
        """How many inputs this party has."""
        return len(next(iter(self.inputs.values()))) if self.inputs else 0


@dataclass(frozen=True, slots=True)
class Phase:
    """Seconds and traffic of a stretch of a run, as one party saw it.

    Attributes:
        seconds: wall time.
        rounds: messages waited for one after the other.
        sent: bytes sent to any party.
        received: bytes received from any party.
    """

    seconds: float = 0.0
    rounds: int = 0
    sent: int = 0
    received: int = 0

    def __add__(self, other: Phase) -> Phase:
        return Phase(
            self.seconds + other.seconds,
            self.rounds + other.rounds,
            self.sent + other.sent,
            self.received + other.received,
        )


@dataclass(frozen=True, slots=True, eq=False)
class PartyResult:
    """What a party has at the end.

    Attributes:
        rank: whose.
        outputs: at the data owner, per output (N, *shape); empty elsewhere.
        setup: connecting aside, once per model: masked weights.
        offline: dealing, all inputs.
        online: all inputs.
        trace: of the online phase, per layer, all inputs; None at the dealer.
        each: seconds of the online phase, per input; empty at the dealer.
    """

    rank: int
    outputs: Mapping[str, FloatArray]
    setup: Phase
    offline: Phase
    online: Phase
    trace: MpcTrace | None
    each: tuple[float, ...] = ()


def joined(parties: Sequence[PartyResult], samples: int) -> MpcTrace:
    """All computing parties' traces in one: the slower ones' seconds, all their bytes, rounds per input."""
    layers: dict[str, LayerCost] = {}
    for trace in (p.trace for p in parties):
        for name, cost in ({} if trace is None else trace.layers).items():
            so_far = layers.get(name, LayerCost())
            rounds = max(so_far.traffic.rounds, cost.traffic.rounds // samples)
            sent = so_far.traffic.bytes_sent + cost.traffic.bytes_sent
            layers[name] = LayerCost(max(so_far.seconds, cost.seconds), Traffic(rounds, sent))
    return MpcTrace(layers)
