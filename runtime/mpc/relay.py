"""An emulated network: a relay process that delays and paces what passes between the parties' sockets.

Needs no rights, which ``tc netem`` does, and some kernels do not have it. Each link has its own rate in each
direction, shared by its connections; bytes leave a link one latency after their last one entered it.
"""

from __future__ import annotations

import asyncio
import contextlib
import selectors
import socket
import sys
import threading
import time
from dataclasses import dataclass

_CHUNK = 1 << 16
_QUEUED = 4096


@dataclass(slots=True)
class _Way:
    """One direction of a link.

    Attributes:
        latency: seconds.
        rate: bytes per second.
        free: when the last byte accepted so far will have entered.
    """

    latency: float
    rate: float
    free: float = 0.0

    def arrival(self, size: int) -> float:
        """When the last of so many bytes, offered now, comes out."""
        self.free = max(self.free, time.perf_counter()) + size / self.rate
        return self.free + self.latency


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: _Way) -> None:
    """One direction of a connection until it ends; its end is delayed like everything else."""
    queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_QUEUED)

    async def take() -> None:
        data = b"?"
        while data:
            try:
                data = await reader.read(_CHUNK)
            except OSError:
                data = b""
            await queue.put((way.arrival(len(data)), data))

    async def give() -> None:
        while True:
            due, data = await queue.get()
            if (wait := due - time.perf_counter()) > 0:
                await asyncio.sleep(wait)
            if not data:
                if writer.can_write_eof():
                    writer.write_eof()
                return
            writer.write(data)
            await writer.drain()

    taking = asyncio.create_task(take())
    try:
        await give()
    except OSError:
        writer.close()
    finally:
        taking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await taking


async def _serve(listening: socket.socket, target: tuple[str, int], latency: float, rate: float) -> None:
    up, down = _Way(latency, rate), _Way(latency, rate)

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection(*target)
        except OSError:
            writer.close()
            return
        for end in (writer, far_writer):
            end.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await asyncio.gather(_carry(reader, far_writer, up), _carry(far_reader, writer, down))
        for end in (writer, far_writer):
            end.close()

    server = await asyncio.start_server(connected, sock=listening)
    async with server:
        await server.serve_forever()


async def _relay(latency: float, rate: float, links: list[tuple[socket.socket, tuple[str, int]]]) -> None:
    await asyncio.gather(*(_serve(listening, target, latency, rate) for listening, target in links))


def main(arguments: list[str]) -> None:
    """``LATENCY_SECONDS BYTES_PER_SECOND FD:HOST:PORT ...``: one link per listening socket that was passed down.

    Ends when standard input closes, that is, with whoever started it.
    """
    latency, rate = float(arguments[0]), float(arguments[1])
    links = []
    for text in arguments[2:]:
        number, host, port = text.split(":")
        links.append((socket.socket(fileno=int(number)), (host, int(port))))
    threading.Thread(target=_end_with_parent, daemon=True).start()
    # The default selector rounds waits up to whole milliseconds, more than a LAN's latency.
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selectors.SelectSelector())) as runner:
        runner.run(_relay(latency, rate, links))


def _end_with_parent() -> None:
    import os

    sys.stdin.buffer.read()
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])
