"""The MPC protocols that plans are made for: who takes part, whom they must trust, what they learn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, TypeAlias

from pi_compiler.errors import ParameterError

Dealer: TypeAlias = Literal["none", "third party", "first party"]


@dataclass(frozen=True, slots=True)
class MpcProtocol:
    """One protocol.

    Attributes:
        name: key of ``PROTOCOLS``.
        parties: how many compute, dealer not counted.
        dealer: who makes correlated randomness: nobody, a third party, or the first party itself.
        truncation: ``"local"`` or ``"interactive"``, see ``ir.mpc_program``.
        frac: fractional bits that its library uses by default.
        assumption: what the privacy of the data rests on, one sentence.
        offline: what its offline phase costs beyond the online one, in words.
    """

    name: str
    parties: int
    dealer: Dealer
    truncation: Literal["local", "interactive"]
    frac: int
    assumption: str
    offline: str


_LIST = (
    MpcProtocol(
        "crypten-ttp", 2, "third party", "local", 16,
        "the dealer colludes with neither party; a dealer and one party together learn everything",
        "the dealer's messages; counted separately",
    ),
    MpcProtocol(
        "crypten-tfp", 2, "first party", "local", 16,
        "NO PRIVACY against the first party, which makes the randomness and can compute every secret: "
        "for debugging only",
        "none, because the first party deals to itself",
    ),
    MpcProtocol(
        "semi2k", 2, "first party", "interactive", 16,
        "NO PRIVACY against the first party, the model's owner, which makes the randomness from both parties' seeds "
        "and can compute every secret: for debugging and measuring only (SPU's package has no third-party dealer)",
        "none, because the first party deals to itself",
    ),
    MpcProtocol(
        "cheetah", 2, "none", "interactive", 16,
        "lattice assumptions and oblivious transfer; no dealer",
        "nothing apart: everything is counted online, except one-time keys and base transfers",
    ),
    MpcProtocol(
        "aby3", 3, "none", "interactive", 16,
        "no two of the three parties collude (honest majority)",
        "nothing: randomness comes from pairwise seeds",
    ),
)  # fmt: skip

PROTOCOLS: Mapping[str, MpcProtocol] = MappingProxyType({p.name: p for p in _LIST})
"""All protocols by name."""


def protocol_of(name: str) -> MpcProtocol:
    """The protocol of that name.

    Raises:
        ParameterError: there is none.
    """
    if name not in PROTOCOLS:
        raise ParameterError(f"there is no protocol {name!r}", f"known: {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]


def threat_model(name: str, *, private_weights: bool = True) -> tuple[str, ...]:
    """What a run under a protocol protects and what it does not, line by line.

    Args:
        name: of the protocol.
        private_weights: whether weights are the model owner's secret.
    """
    p = protocol_of(name)
    dealer = {
        "none": "no dealer",
        "third party": "a third party deals the correlated randomness",
        "first party": "the first party deals the correlated randomness (no privacy)",
    }[p.dealer]
    weights = "the weights" if private_weights else "nothing but a copy of the public weights"
    learned = "could compute inputs and answers" if p.dealer == "first party" else "learns neither inputs nor answers"
    return (
        f"protocol: {p.name}, {p.parties} computing parties, {dealer}",
        "adversary: semi-honest; a party that deviates from the protocol can falsify results and learn secrets",
        f"rests on: {p.assumption}",
        f"the model's owner puts in {weights} and {learned}",
        "the data's owner puts in the inputs and learns the answers, and from them what answers tell about the model",
        "everybody learns: layers, shapes, which ReLUs are kept, activation polynomials, fractional bits"
        + ("" if private_weights else ", and all weights"),
        f"offline phase: {p.offline}",
    )
