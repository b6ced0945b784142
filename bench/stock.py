"""Two processes of stock CrypTen, on the loopback interface or in the two namespaces of ``namespaces.py``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import namespaces
import numpy as np


def both(script: str, model: Path, x: np.ndarray, *more: str, apart: bool) -> list[dict[str, Any]]:
    """What either process of a script of this folder prints, read as JSON.

    Args:
        script: its file; called with rank, rendezvous, model, a file that holds x, and what else is given.
        model: an ONNX file.
        x: the data owner's input.
        more: further arguments.
        apart: in namespaces, which have to be there.
    """
    with tempfile.TemporaryDirectory() as folder:
        np.save(f"{folder}/x.npy", x)
        arguments = [f"file://{folder}/meet", str(model), f"{folder}/x.npy", *more]
        started = [
            subprocess.Popen(
                [
                    *(namespaces.inside(rank) if apart else ()),
                    sys.executable,
                    str(Path(__file__).with_name(script)),
                    str(rank),
                    *arguments,
                ],
                stdout=subprocess.PIPE,
                env={
                    **os.environ,
                    "GLOO_SOCKET_IFNAME": namespaces.DEVICES[rank] if apart else "lo",
                    "OMP_NUM_THREADS": "1",
                },
            )
            for rank in (0, 1)
        ]
        return [json.loads(process.communicate(timeout=600)[0].splitlines()[-1]) for process in started]
