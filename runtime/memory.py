"""Resident memory of this process, now and at its peak, as the operating system counts it."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")
_RESET_PEAK = "5"


def resident_bytes() -> int:
    """Bytes of memory that the process holds now; its peak where the system does not say."""
    return _status("VmRSS") or peak_bytes()


def peak_bytes() -> int:
    """Most bytes that the process held at a time, since ``reset_peak`` where that has an effect."""
    unit = 1 if sys.platform == "darwin" else 1024
    return _status("VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def reset_peak() -> None:
    """Forget earlier peaks; does nothing where the system has no such switch."""
    try:
        _CLEAR.write_text(_RESET_PEAK)
    except OSError:
        return


def _status(field: str) -> int:
    """A field of the process's status in bytes, 0 if there is none."""
    try:
        lines = _STATUS.read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:")), 0)
