"""How the parties find each other: listen, connect, say hello, and agree that they mean the same run.

Party r accepts connections of higher ranks and connects to lower ones. The first thing said on every connection
is a hello; on the data line it carries what both sides must agree on, and a public key.
"""

from __future__ import annotations

import base64
import contextlib
import json
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pi_compiler.errors import ExecutionError, ShapeMismatch
from pi_compiler.runtime.mpc.job import Address
from pi_compiler.runtime.mpc.mesh import DEALER, Link, Mesh, PeerStopped, party_name, read_exactly
from pi_compiler.runtime.mpc.streams import Agreement, Stream

WIRE = 1
"""Version of what is said over the wire."""

_HELLO_BYTES = 1 << 14
_RETRY = 0.05


@dataclass(frozen=True, slots=True)
class Terms:
    """What all parties of a run must agree on.

    Attributes:
        digest: of the program's public part.
        summary: the same for people: what a party thinks it runs.
        dealer: whether a third party deals.
        samples: how many inputs; the data owner knows, others have 0.
    """

    digest: str
    summary: str
    dealer: bool
    samples: int = 0


@dataclass(frozen=True, slots=True)
class Meeting:
    """All parties, connected.

    Attributes:
        mesh: the connections.
        streams: randomness shared with each other party, by rank.
        samples: how many inputs the data owner brings.
    """

    mesh: Mesh
    streams: Mapping[int, Stream]
    samples: int


def listen(address: Address) -> socket.socket:
    """A listening socket.

    Raises:
        ExecutionError: the address is taken, or not this machine's.
    """
    try:
        return socket.create_server((address.host, address.port), reuse_port=False)
    except OSError as error:
        raise ExecutionError(
            f"cannot listen on {address}: {error.strerror or error}", hint="another port, or this machine's address"
        ) from error


def meet(
    rank: int,
    peers: Sequence[Address],
    terms: Terms,
    *,
    timeout: float,
    patience: float,
    listening: socket.socket | None = None,
) -> Meeting:
    """Connect to all other parties.

    Args:
        rank: this party.
        peers: addresses of parties 0 and 1; the dealer only connects.
        terms: what this party takes the run to be.
        timeout: seconds to wait for every message later.
        patience: seconds to wait for the others now.
        listening: a socket that listens already; default is made from ``peers``.

    Raises:
        ExecutionError: a port is taken, or a party is absent.
        ShapeMismatch: parties do not mean the same run.
    """
    last = DEALER if terms.dealer else DEALER - 1
    above, below = range(rank + 1, last + 1), range(rank)
    agreement = Agreement()
    hello = _hello(rank, terms, agreement)
    server = listening if listening is not None or not above else listen(peers[rank])
    deadline = time.monotonic() + patience
    lines: dict[tuple[int, str], socket.socket] = {}
    heard: dict[int, dict[str, object]] = {}
    try:
        for peer in below:
            for kind in ("data", "control"):
                lines[peer, kind] = _dial(peer, peers[peer], deadline, patience)
                _say(lines[peer, kind], {**hello, "line": kind})
            heard[peer] = _hear(lines[peer, "data"], peer, deadline, patience)
        if server is not None:
            _accept(server, set(above), hello, lines, heard, deadline, patience)
    except BaseException:
        for line in lines.values():
            line.close()
        raise
    finally:
        if server is not None:
            server.close()
    mesh = Mesh(rank, {p: Link(p, lines[p, "data"], lines[p, "control"]) for p in (*below, *above)}, timeout)
    return _agreed(mesh, rank, terms, agreement, heard)


def _hello(rank: int, terms: Terms, agreement: Agreement) -> dict[str, object]:
    return {
        "wire": WIRE,
        "rank": rank,
        "digest": terms.digest,
        "summary": terms.summary,
        "dealer": terms.dealer,
        "samples": terms.samples,
        "key": base64.b64encode(agreement.public).decode(),
    }


def _dial(peer: int, address: Address, deadline: float, timeout: float) -> socket.socket:
    while True:
        try:
            return socket.create_connection((address.host, address.port), max(0.01, deadline - time.monotonic()))
        except OSError as error:
            if time.monotonic() + _RETRY > deadline:
                raise PeerStopped(
                    f"{party_name(peer)} does not answer at {address} within {timeout:g} seconds",
                    str(error.strerror or error),
                    hint="start all parties with the same --peers",
                ) from error
            time.sleep(_RETRY)


def _accept(
    server: socket.socket,
    missing: set[int],
    hello: Mapping[str, object],
    lines: dict[tuple[int, str], socket.socket],
    heard: dict[int, dict[str, object]],
    deadline: float,
    timeout: float,
) -> None:
    """Accept both lines of every party of a higher rank; whoever says no proper hello is ignored."""
    wanted = {(peer, kind) for peer in missing for kind in ("data", "control")}
    while wanted:
        server.settimeout(max(0.001, deadline - time.monotonic()))
        try:
            line, _ = server.accept()
        except OSError as error:
            absent = " and ".join(party_name(p) for p in sorted({peer for peer, _ in wanted}))
            raise PeerStopped(
                f"{absent} did not connect within {timeout:g} seconds", hint="start all parties with the same --peers"
            ) from error
        said = _read_hello(line, min(deadline, time.monotonic() + 2.0))
        rank, kind = (said.get("rank"), said.get("line")) if said is not None else (None, None)
        if said is None or not isinstance(rank, int) or not isinstance(kind, str) or (rank, kind) not in wanted:
            line.close()
            continue
        wanted.discard((rank, kind))
        lines[rank, kind] = line
        if kind == "data":
            heard[rank] = said
            _say(line, {**hello, "line": "data"})


def _say(line: socket.socket, hello: Mapping[str, object]) -> None:
    body = json.dumps(hello).encode()
    with contextlib.suppress(OSError):
        line.sendall(len(body).to_bytes(4, "big") + body)


def _hear(line: socket.socket, peer: int, deadline: float, timeout: float) -> dict[str, object]:
    said = _read_hello(line, deadline)
    if said is None:
        raise PeerStopped(f"{party_name(peer)} did not say hello within {timeout:g} seconds, or is no party of a run")
    return said


def _read_hello(line: socket.socket, deadline: float) -> dict[str, object] | None:
    line.settimeout(max(0.01, deadline - time.monotonic()))
    try:
        size = int.from_bytes(read_exactly(line, 4), "big")
        found = json.loads(read_exactly(line, size)) if size <= _HELLO_BYTES else None
        return found if isinstance(found, dict) else None
    except (OSError, EOFError, ValueError):
        return None


def _agreed(
    mesh: Mesh, rank: int, terms: Terms, agreement: Agreement, heard: Mapping[int, Mapping[str, object]]
) -> Meeting:
    """The meeting, after comparing what everybody said; all parties find the same faults."""
    faults: list[str] = []
    for peer, said in heard.items():
        who = party_name(peer)
        if said.get("wire") != WIRE:
            faults.append(f"{who} speaks version {said.get('wire')} of the protocol, this party version {WIRE}")
        if said.get("rank") != peer:
            faults.append(f"{who} says that it is party {said.get('rank')}")
        if said.get("digest") != terms.digest:
            faults.append(f"{who} has {said.get('summary')}")
        if said.get("dealer") != terms.dealer:
            faults.append(f"{who} expects {'a' if said.get('dealer') else 'no'} dealer")
    if faults:
        mesh.abort("the parties do not mean the same run")
        raise ShapeMismatch(
            "the parties do not mean the same run",
            f"{party_name(rank)}, this one, has {terms.summary}",
            *faults,
            hint="the same compiled model, without its weights at the data owner and the dealer, for all parties",
        )
    samples = terms.samples or int(str(heard[1].get("samples", 0)) if 1 in heard else 0)
    streams = {
        peer: agreement.stream(
            base64.b64decode(str(said.get("key"))), f"pi-compiler {terms.digest} {min(rank, peer)} {max(rank, peer)}"
        )
        for peer, said in heard.items()
    }
    return Meeting(mesh, streams, samples)
