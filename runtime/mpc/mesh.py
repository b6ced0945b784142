"""Connections between the parties: a message goes both ways at once, so a round takes one one-way latency.

Between two processes there are two TCP connections. The data line carries ring elements and nothing else: who
sends how much is known from the program, so there are no headers, and bytes on the wire are bytes counted. The
control line carries the end, ``done`` or why a party stopped, and now and then that a party is busy. Whoever waits
watches all control lines, so a party that dies, and the system closing its connections with it, is noticed at
once, a party that falls silent within the time-out.
"""

from __future__ import annotations

import contextlib
import json
import select
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from pi_compiler.errors import ExecutionError, PiError

PARTIES: Final = ("model owner", "data owner", "dealer")
DEALER: Final = 2
HELPER: Final = "helper"
"""What the third party of a three-party protocol is called."""
_REASON_BYTES = 1 << 14
_PIECE = 1 << 20
_REASSURING = 0.25
"""Share of the time-out after which a busy party says that it is alive."""
_LAST_WORDS = 2.0
"""Seconds to wait for a reason after a data line broke."""


class PeerStopped(ExecutionError):
    """Another party ended the run, or is gone."""


def party_name(rank: int, *, helper: bool = False) -> str:
    """A party for people; with ``helper`` the third one computes too, instead of dealing."""
    return f"party {rank} ({HELPER if helper and rank == DEALER else PARTIES[rank]})"


@dataclass(slots=True)
class Link:
    """The two connections to one party.

    Attributes:
        peer: its rank.
        data: ring elements.
        control: how it ends.
        sent: bytes of data sent.
        received: bytes of data received.
        done: the peer has said that it has finished.
    """

    peer: int
    data: socket.socket
    control: socket.socket
    sent: int = 0
    received: int = 0
    done: bool = False

    def __post_init__(self) -> None:
        self.data.setblocking(False)
        self.control.setblocking(False)
        self.data.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


@dataclass(slots=True)
class _Transfer:
    """Messages under way: what is still to be sent, and where what comes goes."""

    out: dict[int, memoryview] = field(default_factory=dict)
    into: dict[int, memoryview] = field(default_factory=dict)

    @property
    def pending(self) -> bool:
        return bool(self.out or self.into)


class Mesh:
    """A party's connections to all others.

    Args:
        rank: this party.
        links: by the other party's rank.
        timeout: seconds without any progress after which a wait fails.
    """

    def __init__(self, rank: int, links: Mapping[int, Link], timeout: float) -> None:
        self.rank, self.links, self.timeout = rank, dict(links), timeout
        self.rounds = 0
        self._spoke = time.monotonic()

    @property
    def sent(self) -> int:
        """Bytes sent on all data lines."""
        return sum(link.sent for link in self.links.values())

    def send(self, peer: int, message: Any) -> None:
        """One message one way; a round."""
        self.exchange({peer: message}, {})

    def receive(self, peer: int, size: int) -> bytearray:
        """The other side of ``send``."""
        return self.exchange({}, {peer: size})[peer]

    def exchange(self, outgoing: Mapping[int, Any], sizes: Mapping[int, int]) -> dict[int, bytearray]:
        """Send and receive at once; counts as one round.

        Args:
            outgoing: per peer a buffer.
            sizes: per peer how many bytes will come.

        Raises:
            PeerStopped: a party stopped, is gone, or has been silent for too long.
        """
        found = {peer: bytearray(size) for peer, size in sizes.items()}
        transfer = _Transfer(
            {peer: view for peer, buffer in outgoing.items() if (view := memoryview(buffer).cast("B")).nbytes},
            {peer: memoryview(buffer) for peer, buffer in found.items() if len(buffer)},
        )
        self.rounds += 1
        while transfer.pending:
            self._step(transfer)
        return found

    def _step(self, transfer: _Transfer) -> None:
        """Wait until something can move, and move it."""
        links = self.links
        control = {link.control: link for link in links.values() if not link.done}
        reading = {links[peer].data: links[peer] for peer in transfer.into}
        writing = {links[peer].data: links[peer] for peer in transfer.out}
        readable, writable, _ = select.select([*control, *reading], list(writing), [], self.timeout)
        if not readable and not writable:
            silent = " and ".join(party_name(p) for p in sorted({*transfer.into, *transfer.out}))
            raise PeerStopped(
                f"{silent} sent nothing for {self.timeout:g} seconds",
                hint="a longer --timeout, if its machine is only slow",
            )
        for link in (control[s] for s in readable if s in control):
            self._listen(link)
        self._reassure()
        for link in (writing[s] for s in writable):
            self._push(link, transfer)
        for link in (reading[s] for s in readable if s in reading):
            self._pull(link, transfer)

    def _push(self, link: Link, transfer: _Transfer) -> None:
        view = transfer.out[link.peer]
        try:
            count = link.data.send(view[:_PIECE])
        except BlockingIOError:
            return
        except OSError as error:
            raise self._gone(link) from error
        link.sent += count
        if count == len(view):
            del transfer.out[link.peer]
        else:
            transfer.out[link.peer] = view[count:]

    def _pull(self, link: Link, transfer: _Transfer) -> None:
        view = transfer.into[link.peer]
        try:
            count = link.data.recv_into(view, min(len(view), _PIECE))
        except BlockingIOError:
            return
        except OSError as error:
            raise self._gone(link) from error
        if not count:
            raise self._gone(link)
        link.received += count
        if count == len(view):
            del transfer.into[link.peer]
        else:
            transfer.into[link.peer] = view[count:]

    def _reassure(self) -> None:
        """Tell parties that wait for this one, now and then, that it is busy with others."""
        now = time.monotonic()
        if now - self._spoke < self.timeout * _REASSURING:
            return
        self._spoke = now
        for link in self.links.values():  # those that are done too: they wait for this party's own end
            _write_frame(link.control, {"kind": "alive"})

    def _listen(self, link: Link) -> None:
        """A control line has something to say."""
        reason = _read_frame(link.control, _LAST_WORDS)
        if reason is None:
            raise self._gone(link, waited=True)
        if reason.get("kind") == "done":
            link.done = True
        if reason.get("kind") in ("done", "alive"):
            return
        what = str(reason.get("reason", ""))[:_REASON_BYTES]
        raise PeerStopped(f"{party_name(link.peer)} stopped the run: {what}")

    def _gone(self, link: Link, waited: bool = False) -> PiError:
        """The error for a connection that broke; the control line may still say why."""
        reason = None if waited else _read_frame(link.control, _LAST_WORDS)
        if reason is not None and reason.get("kind") == "abort":
            return PeerStopped(f"{party_name(link.peer)} stopped the run: {reason.get('reason', '')!s}")
        return PeerStopped(
            f"{party_name(link.peer)} is gone: its connection closed in the middle of the run",
            hint="the other party's own message says why, if it could still write one",
        )

    def finish(self) -> None:
        """Tell everybody that this party is done, and wait until they are.

        Raises:
            PeerStopped: somebody is not.
        """
        for link in self.links.values():
            _write_frame(link.control, {"kind": "done"})
        while waiting := {link.control: link for link in self.links.values() if not link.done}:
            readable, _, _ = select.select(list(waiting), [], [], self.timeout)
            if not readable:
                silent = " and ".join(party_name(link.peer) for link in waiting.values())
                raise PeerStopped(f"{silent} sent nothing for {self.timeout:g} seconds")
            for line in readable:
                self._listen(waiting[line])
            self._reassure()
        self.close()

    def abort(self, reason: str) -> None:
        """Tell everybody why this party stops; never fails."""
        for link in self.links.values():
            with contextlib.suppress(OSError):
                _write_frame(link.control, {"kind": "abort", "reason": reason})
        self.close()

    def close(self) -> None:
        """Close all connections."""
        for link in self.links.values():
            for line in (link.control, link.data):
                with contextlib.suppress(OSError):
                    line.shutdown(socket.SHUT_WR)
                line.close()


def _write_frame(line: socket.socket, content: Mapping[str, object]) -> None:
    body = json.dumps(content).encode()[:_REASON_BYTES]
    line.settimeout(_LAST_WORDS)
    with contextlib.suppress(OSError):
        line.sendall(len(body).to_bytes(4, "big") + body)


def _read_frame(line: socket.socket, seconds: float) -> dict[str, object] | None:
    """A frame of a control line; None if the line is closed or talks nonsense."""
    line.settimeout(seconds)
    try:
        size = int.from_bytes(read_exactly(line, 4), "big")
        if size > _REASON_BYTES:
            return None
        found = json.loads(read_exactly(line, size))
        return found if isinstance(found, dict) else None
    except (OSError, ValueError, EOFError):
        return None


def read_exactly(line: socket.socket, size: int) -> bytes:
    """So many bytes of a blocking socket.

    Raises:
        EOFError: it was closed before.
    """
    found = bytearray()
    while len(found) < size:
        piece = line.recv(size - len(found))
        if not piece:
            raise EOFError
        found += piece
    return bytes(found)
