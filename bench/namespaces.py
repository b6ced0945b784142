"""Two network namespaces with an emulated network between them, for peers whose sockets no proxy can stand before.

Each namespace has a TUN device; this process carries packets from one to the other, delayed and paced. It needs
root, ``ip`` and ``/dev/net/tun``, but no ``netem`` in the kernel. What runs without root is
``pi_compiler.runtime.mpc.relay``, a proxy for TCP connections.

    python bench/namespaces.py RTT_MS MBIT     # until it is interrupted or its input ends; prints "ready"
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import struct
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

NAMES = ("pi-wan-a", "pi-wan-b")
HOSTS = ("10.77.0.1", "10.77.0.2")
DEVICES = ("piwan0", "piwan1")
_MTU = 16_000  # few, large packets, so that this process can keep up
_SET_INTERFACE = 0x400454CA
_TUN_WITHOUT_HEADER = 0x0001 | 0x1000
_BUFFERS = "4096 1048576 67108864"


def possible() -> str | None:
    """None, or why this machine cannot make namespaces."""
    if os.geteuid() != 0:
        return "two namespaces need root"
    if not os.path.exists("/dev/net/tun"):
        return "there is no /dev/net/tun"
    found = subprocess.run(["ip", "netns", "list"], capture_output=True, check=False)
    return None if found.returncode == 0 else "ip netns does not work here"


@contextlib.contextmanager
def between(rtt: float, rate: float) -> Iterator[None]:
    """The two namespaces, joined by a network, while the context lasts.

    Args:
        rtt: seconds there and back.
        rate: bits per second in each direction.
    """
    command = [sys.executable, __file__, repr(1e3 * rtt), repr(rate / 1e6)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as relay:
        try:
            if relay.stdout is None or relay.stdout.readline().strip() != "ready":
                raise RuntimeError("the namespaces could not be made")
            yield
        finally:
            relay.send_signal(signal.SIGTERM)
            relay.wait(30)


def inside(side: int) -> list[str]:
    """What to put before a command so that it runs in a namespace."""
    return ["ip", "netns", "exec", NAMES[side]]


@dataclass(slots=True)
class _Way:
    """Packets on their way from one side to the other."""

    packets: deque[tuple[float, bytes]] = field(default_factory=deque)
    free: float = 0.0


def _ip(*arguments: str, check: bool = True) -> None:
    subprocess.run(["ip", *arguments], check=check, capture_output=not check)


def _device(side: int) -> int:
    """A TUN device inside a fresh namespace; returns its file descriptor here."""
    name, device = NAMES[side], DEVICES[side]
    _ip("netns", "del", name, check=False)
    _ip("netns", "add", name)
    handle = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(handle, _SET_INTERFACE, struct.pack("16sH", device.encode(), _TUN_WITHOUT_HEADER))
    _ip("link", "set", device, "netns", name)
    _ip("-n", name, "link", "set", "lo", "up")
    _ip("-n", name, "addr", "add", f"{HOSTS[side]}/24", "dev", device)
    _ip("-n", name, "link", "set", device, "mtu", str(_MTU), "txqueuelen", "10000", "up")
    for setting in (f"net.ipv4.tcp_rmem={_BUFFERS}", f"net.ipv4.tcp_wmem={_BUFFERS}"):
        subprocess.run([*inside(side), "sysctl", "-qw", setting], check=True)
    # A connection that idles between rounds must not start slowly again: real long-lived ones are tuned so too.
    subprocess.run([*inside(side), "sysctl", "-qw", "net.ipv4.tcp_slow_start_after_idle=0"], check=True)
    return handle


def _carry(handles: list[int], latency: float, rate: float) -> None:
    """What one device sends comes out of the other, until standard input closes."""
    ways = (_Way(), _Way())
    while True:
        now = time.perf_counter()
        wait = 1.0
        for side, way in enumerate(ways):
            while way.packets and way.packets[0][0] <= now:
                _, packet = way.packets.popleft()
                with contextlib.suppress(OSError):
                    os.write(handles[1 - side], packet)
            if way.packets:
                wait = min(wait, max(0.0, way.packets[0][0] - now))
        readable, _, _ = select.select([*handles, sys.stdin], [], [], wait)
        if sys.stdin in readable and not sys.stdin.buffer.read1(1):
            return
        for handle in (h for h in readable if h in handles):
            _take(handle, ways[handles.index(handle)], latency, rate)


def _take(handle: int, way: _Way, latency: float, rate: float) -> None:
    now = time.perf_counter()
    for _ in range(64):
        try:
            packet = os.read(handle, 1 << 16)
        except BlockingIOError:
            return
        way.free = max(way.free, now) + 8 * len(packet) / rate
        way.packets.append((way.free + latency, packet))


def main() -> None:
    """Make the namespaces, carry packets until a signal comes, and remove them."""
    rtt, rate = float(sys.argv[1]) / 1e3, float(sys.argv[2]) * 1e6

    def stop(*_: object) -> None:
        raise SystemExit(0)

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    try:
        handles = [_device(side) for side in (0, 1)]
        print("ready", flush=True)
        _carry(handles, rtt / 2, rate)
    finally:
        for name in NAMES:
            _ip("netns", "del", name, check=False)


if __name__ == "__main__":
    main()
