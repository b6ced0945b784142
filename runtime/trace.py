"""What a run cost: seconds per layer and opcode, and the memory that ciphertexts took at the peak."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pi_compiler.errors import PiError

ENCODE = "encode"
"""The opcode name under which late encoding of plaintexts is booked."""


@dataclass(frozen=True, slots=True)
class OpTime:
    """How often an opcode ran, and how long in all."""

    count: int
    seconds: float

    def __add__(self, other: OpTime) -> OpTime:
        return OpTime(self.count + other.count, self.seconds + other.seconds)


@dataclass(frozen=True, slots=True)
class Event:
    """A stretch of instructions of one layer.

    Attributes:
        origin: the layer.
        start: seconds since the run began.
        seconds: duration.
    """

    origin: str
    start: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Trace:
    """One run of a program.

    Attributes:
        seconds: wall time of the whole run.
        layers: per layer, in program order, per opcode name (and ``encode``) count and seconds.
        events: stretches of instructions of one layer, in order; the last one covers the rest
            where there are more than ``executor.MAX_EVENTS``.
        peak_ciphertexts: most ciphertexts alive at a time, inputs included.
        peak_ciphertext_bytes: most bytes that ciphertexts held at a time.
        pooled_ciphertext_bytes: the same where freed memory only serves ciphertexts of the same
            size, as in SEAL's pool: per size its own peak, added up.
        plaintext_bytes: memory of the plaintexts encoded beforehand.
    """

    seconds: float
    layers: Mapping[str, Mapping[str, OpTime]]
    events: tuple[Event, ...]
    peak_ciphertexts: int
    peak_ciphertext_bytes: int
    pooled_ciphertext_bytes: int
    plaintext_bytes: int

    def layer_seconds(self) -> dict[str, float]:
        """Seconds per layer."""
        return {name: sum(t.seconds for t in ops.values()) for name, ops in self.layers.items()}

    def opcodes(self) -> dict[str, OpTime]:
        """Count and seconds per opcode over all layers."""
        total: dict[str, OpTime] = {}
        for ops in self.layers.values():
            for name, time in ops.items():
                total[name] = total.get(name, OpTime(0, 0.0)) + time
        return total

    def to_json(self) -> dict[str, object]:
        """Everything, as JSON values; ``traceEvents`` is what chrome://tracing and Perfetto open."""
        return {
            "seconds": self.seconds,
            "peak_ciphertexts": self.peak_ciphertexts,
            "peak_ciphertext_bytes": self.peak_ciphertext_bytes,
            "pooled_ciphertext_bytes": self.pooled_ciphertext_bytes,
            "plaintext_bytes": self.plaintext_bytes,
            "opcodes": {name: {"count": t.count, "seconds": t.seconds} for name, t in self.opcodes().items()},
            "layers": [
                {
                    "name": layer,
                    "seconds": sum(t.seconds for t in ops.values()),
                    "opcodes": {name: {"count": t.count, "seconds": t.seconds} for name, t in ops.items()},
                }
                for layer, ops in self.layers.items()
            ],
            "displayTimeUnit": "ms",
            "traceEvents": [
                {"name": e.origin, "ph": "X", "pid": 0, "tid": 0, "ts": 1e6 * e.start, "dur": 1e6 * e.seconds}
                for e in self.events
            ],
        }

    def write(self, path: Path) -> None:
        """Write ``to_json`` to a file.

        Raises:
            PiError: the file cannot be written.
        """
        try:
            path.write_text(json.dumps(self.to_json(), indent=1), encoding="utf-8")
        except OSError as error:
            raise PiError(f"cannot write the trace to {str(path)!r}: {error.strerror}") from error


def merge(traces: Iterable[Trace]) -> Trace:
    """The trace of several runs one after the other: times and counts add, peaks are the highest.

    Raises:
        PiError: there is no trace.
    """
    runs = list(traces)
    if not runs:
        raise PiError("there is no run to report on")
    layers: dict[str, dict[str, OpTime]] = {}
    events: list[Event] = []
    start = 0.0
    for run in runs:
        for layer, ops in run.layers.items():
            total = layers.setdefault(layer, {})
            for name, time in ops.items():
                total[name] = total.get(name, OpTime(0, 0.0)) + time
        events += (Event(e.origin, start + e.start, e.seconds) for e in run.events)
        start += run.seconds
    return Trace(
        start,
        layers,
        tuple(events),
        max(run.peak_ciphertexts for run in runs),
        max(run.peak_ciphertext_bytes for run in runs),
        max(run.pooled_ciphertext_bytes for run in runs),
        max(run.plaintext_bytes for run in runs),
    )
