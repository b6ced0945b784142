"""Randomness of the operating system, in arrays that are wiped after use.

``os.urandom`` gives immutable bytes, which nobody can wipe; here the system writes into an array.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

_DEVICE = "/dev/urandom"


def fill(array: NDArray[np.uint8] | NDArray[np.uint64]) -> None:
    """Overwrite a contiguous array with random bytes of the operating system."""
    os.urandom(1)  # waits until the system has gathered enough, which the device may not
    left = array.data.cast("B")
    with contextlib.suppress(OSError), open(_DEVICE, "rb", buffering=0) as device:
        while left and (count := device.readinto(left)):
            left = left[count:]
    # Systems without the device.
    left[:] = os.urandom(len(left))


@contextlib.contextmanager
def wiped(*arrays: NDArray[np.generic]) -> Iterator[None]:
    """Set arrays to zero when the block is left, however that happens."""
    try:
        yield
    finally:
        for array in arrays:
            array[...] = 0
