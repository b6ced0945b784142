"""The form of every benchmark's output: ``bench/results/NAME.json``, a list of rows two runs can be compared by."""

from __future__ import annotations

import json
import platform
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pi_compiler import files

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True, slots=True)
class Row:
    """One figure.

    Attributes:
        name: what was measured.
        value: our figure.
        unit: of both figures.
        peer: what it is compared with, or what was asked for.
        peer_value: the peer's figure.
        ratio: peer / ours for costs, ours / peer for qualities; above 1 is better than the peer.
    """

    name: str
    value: float
    unit: str
    peer: str | None = None
    peer_value: float | None = None
    ratio: float | None = None


def cost(name: str, value: float, unit: str, peer: str, peer_value: float) -> Row:
    """A figure that should be small, with its peer's."""
    return Row(name, value, unit, peer, peer_value, peer_value / value if value else None)


def quality(name: str, value: float, unit: str, peer: str, peer_value: float) -> Row:
    """A figure that should be large, with what was asked for."""
    return Row(name, value, unit, peer, peer_value, value / peer_value if peer_value else None)


def read(name: str) -> list[Row]:
    """What was written last; nothing if nothing was."""
    path = RESULTS / f"{name}.json"
    return [Row(**row) for row in json.loads(path.read_text())] if path.exists() else []


def write(name: str, rows: Sequence[Row]) -> Path:
    """Write rows, all or none, and print them."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    files.write_json(path, [asdict(r) for r in rows])
    for r in rows:
        peer = "" if r.peer is None else f"   {r.peer}: {r.peer_value:.4g}  ratio {r.ratio or float('nan'):.3g}"
        print(f"{r.name:40s} {r.value:12.5g} {r.unit:10s}{peer}")
    return path


def machine() -> str:
    """Processor name and Python version, for the log."""
    try:
        text = subprocess.run(["lscpu"], capture_output=True, text=True, check=True).stdout
        model = next(line.split(":", 1)[1].strip() for line in text.splitlines() if line.startswith("Model name"))
    except (OSError, subprocess.CalledProcessError, StopIteration):
        model = platform.processor() or platform.machine()
    return f"{model}, Python {platform.python_version()}"
