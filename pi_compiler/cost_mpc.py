"""What an MPC program costs: bytes and rounds, and seconds by a network and a table.

``T = compute + rounds * RTT / 2 + max(bytes per direction) * 8 / bandwidth``: a round is one exchange in
both directions at once, so it takes one one-way latency. Bytes and rounds are counted instruction by instruction:
exactly for the two-party backend (``ir.two_party``), SPU's SEMI2K (``ir.spu``) and ABY3 (``ir.aby3``), for Cheetah
(``ir.cheetah``) up to the size of compressed ciphertexts. Seconds are a table's, per opcode, and on SPU per module.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from math import prod
from operator import add
from pathlib import Path
from types import MappingProxyType

from pi_compiler.errors import ParameterError
from pi_compiler.ir.aby3 import aby3_sent
from pi_compiler.ir.cheetah import cheetah_traffic
from pi_compiler.ir.mpc_program import LINEAR, MpcInstr, MpcOp, MpcProgram
from pi_compiler.ir.spu import Held, held, semi2k_traffic
from pi_compiler.ir.spu_work import spu_work
from pi_compiler.ir.two_party import ELEMENT_BYTES, traffic


@dataclass(frozen=True, slots=True)
class MpcCost:
    """What an instruction, a layer or a program costs.

    Attributes:
        rounds: one after the other.
        to_data: bytes that the model's owner sends the data's owner.
        to_model: bytes in the other direction. With three parties: bytes per link and direction, the same twice.
        busiest: with three parties: the most bytes that one sends another.
        dealt: bytes that a dealer sends before the run.
        setup: bytes that the model's owner sends once per model (masked weights).
        compute: seconds of local work.
    """

    rounds: int = 0
    to_data: float = 0.0
    to_model: float = 0.0
    dealt: float = 0.0
    setup: float = 0.0
    compute: float = 0.0
    busiest: float = 0.0

    def __add__(self, other: MpcCost) -> MpcCost:
        return MpcCost(
            self.rounds + other.rounds,
            self.to_data + other.to_data,
            self.to_model + other.to_model,
            self.dealt + other.dealt,
            self.setup + other.setup,
            self.compute + other.compute,
            self.busiest + other.busiest,
        )

    @property
    def bytes(self) -> float:
        """Online bytes in both directions."""
        return self.to_data + self.to_model


@dataclass(frozen=True, slots=True)
class Network:
    """Round-trip time in seconds and bits per second in each direction."""

    name: str
    rtt: float
    bandwidth: float

    def seconds(self, cost: MpcCost) -> float:
        """Predicted seconds of the online phase."""
        busiest = max(cost.to_data, cost.to_model, cost.busiest)
        return cost.compute + cost.rounds * self.rtt / 2 + busiest * 8 / self.bandwidth

    def offline_seconds(self, cost: MpcCost) -> float:
        """Predicted seconds of the dealer's messages, sent in one stream."""
        return cost.dealt * 8 / self.bandwidth


NETWORKS: Mapping[str, Network] = MappingProxyType(
    {
        n.name: n
        for n in (
            Network("lan", 0.5e-3, 1e9),
            Network("man", 10e-3, 400e6),
            Network("wan", 40e-3, 100e6),
            Network("wan-cheetah", 40e-3, 400e6),
        )
    }
)
"""Presets: round-trip time, bandwidth."""


def network_of(text: str) -> Network:
    """A preset's name, or ``RTT,MBIT``: milliseconds there and back, megabits per second.

    Raises:
        ParameterError: neither.
    """
    if text in NETWORKS:
        return NETWORKS[text]
    try:
        rtt, rate = (float(part) for part in text.split(","))
        if rtt >= 0 and rate > 0 and math.isfinite(rtt + rate):
            return Network(text, rtt * 1e-3, rate * 1e6)
    except ValueError:
        pass
    raise ParameterError(
        f"{text!r} is no network", f"presets: {', '.join(NETWORKS)}", hint="RTT,MBIT: 40,100 is 40 ms and 100 Mbit/s"
    )


@dataclass(frozen=True, slots=True, eq=False)
class MpcPrices:
    """Prices of one protocol.

    Attributes:
        protocol: its name.
        machine: where seconds were measured.
        seconds: per opcode {call, element, product}: seconds per call, per element touched, per scalar product; on SPU
            per kind of work, see ``ir.spu_work``.
        links: directions that bytes spread over evenly: 2, or 6 with three parties.
        measured_here: false for the shipped table.
    """

    protocol: str
    machine: str
    seconds: Mapping[str, Mapping[str, float]]
    links: int
    measured_here: bool = False

    def each(self, program: MpcProgram, *, within: bool = False) -> list[MpcCost]:
        """Per instruction what it costs.

        Args:
            program: which.
            within: whether it is a piece of a network, so that its inputs are shares already.
        """
        if library_of(self.protocol) == "spu":
            return self._on_spu(program, held(program, within=within))
        dealer, masked = self.protocol == "crypten-ttp", set[int]()
        found = []
        for instr, sent in zip(program.instrs, traffic(program), strict=True):
            setup = 0
            weight = program.private_weight(instr)
            if weight is not None and instr.weight not in masked:
                masked.add(instr.weight)
                setup = ELEMENT_BYTES * weight.values.size
            dealt = sent.offline if dealer else 0
            compute = self._compute(program, instr)
            found.append(MpcCost(sent.rounds, sent.to_data, sent.to_model, dealt, setup, compute))
        return found

    def _compute(self, program: MpcProgram, instr: MpcInstr) -> float:
        rates = self.seconds.get(instr.op, {})
        touched = sum(program.instrs[a].size for a in instr.args) + instr.size
        products = _products(program, instr) if instr.op in (*LINEAR, MpcOp.DOT) else 0
        return rates.get("call", 0.0) + touched * rates.get("element", 0.0) + products * rates.get("product", 0.0)

    def _on_spu(self, program: MpcProgram, how: Held) -> list[MpcCost]:
        seconds = [work.seconds(self.seconds) for work in spu_work(program, self.protocol, how)]
        if self.protocol == "aby3":
            sent = zip(aby3_sent(program, how), seconds, strict=True)
            return [
                MpcCost(c.rounds, c.bytes / self.links, c.bytes / self.links, compute=s, busiest=c.busiest)
                for c, s in sent
            ]
        counted = (semi2k_traffic if self.protocol == "semi2k" else cheetah_traffic)(program, how)
        return [MpcCost(t.rounds, t.to_data, t.to_model, compute=s) for t, s in zip(counted, seconds, strict=True)]


def _products(program: MpcProgram, instr: MpcInstr) -> int:
    """Scalar products of a linear opcode or of a product of shares."""
    weight = program.consts[instr.weight].values.shape if instr.weight >= 0 else ()
    match instr.op:
        case MpcOp.CONV:
            return instr.size * prod(weight[1:])
        case MpcOp.MATMUL:
            return instr.size * int(weight[-2])
        case MpcOp.DOT:
            return instr.size * program.instrs[instr.args[0]].shape[-1]
        case _:
            return instr.size


def layer_costs(program: MpcProgram, prices: MpcPrices) -> dict[str, MpcCost]:
    """Cost per layer, in program order."""
    found: dict[str, MpcCost] = {}
    for instr, cost in zip(program.instrs, prices.each(program), strict=True):
        layer = program.origins[instr.origin]
        found[layer] = found.get(layer, MpcCost()) + cost
    return found


def total_cost(program: MpcProgram, prices: MpcPrices, *, within: bool = False) -> MpcCost:
    """Cost of a whole run; ``within``: of a piece of a network, whose inputs are shares already."""
    return reduce(add, prices.each(program, within=within), MpcCost())


def mpc_table_path(protocol: str) -> Path:
    """Where ``calibrate-cost`` keeps this machine's seconds of a protocol; CrypTen's two share theirs."""
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    name = "crypten" if library_of(protocol) == "crypten" else f"spu-{protocol}"
    return Path(cache) / "pi-compiler" / f"costs-{name}.json"


def library_of(protocol: str) -> str:
    """The library that runs a protocol."""
    return "crypten" if protocol.startswith("crypten") else "spu"


def load_mpc_prices(protocol: str, path: Path | None = None) -> MpcPrices:
    """Prices of a protocol: the shipped table, with this machine's seconds where it was measured.

    Args:
        protocol: a key of ``ir.protocols.PROTOCOLS``.
        path: read seconds from this file instead.

    Raises:
        ParameterError: a table is damaged, or does not hold the protocol.
    """
    shipped = Path(__file__).parent / "runtime" / "costs_mpc.json"
    own = path if path is not None else mpc_table_path(protocol)
    source = shipped
    try:
        table = json.loads(shipped.read_text())[protocol]
        seconds, machine, here = table["seconds"], table["machine"], False
        if path is not None or own.exists():
            source = own
            measured = json.loads(own.read_text())
            if measured["backend"] != library_of(protocol):
                raise ParameterError(f"{own} holds costs of {measured['backend']!r}, not {library_of(protocol)!r}")
            if measured.get("protocol", protocol) != protocol:
                raise ParameterError(f"{own} holds costs of protocol {measured['protocol']!r}, not {protocol!r}")
            seconds, machine, here = measured["seconds"], measured["machine"], True
        rates = {op: {k: float(v) for k, v in row.items()} for op, row in seconds.items()}
        return MpcPrices(protocol, str(machine), rates, int(table["links"]), here)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as e:
        raise ParameterError(
            f"cannot read the cost table {source}: {e}", hint="pi-compiler calibrate-cost, which writes a new one"
        ) from e
