"""Memory and threads of the native backend under sanitizers; its other tests reach them through whole operations only.

Under the address sanitizer the pool gives every block an allocation of its own, so that cutting and joining blocks is
checked here: no block may overlap another.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent
SOURCES = HERE.parents[1] / "runtime" / "native"
COMPILER = shutil.which("c++") or shutil.which("g++")


@pytest.mark.skipif(COMPILER is None, reason="no C++ compiler")
@pytest.mark.parametrize("sanitizer", ["thread", "undefined"])
def test_blocks_never_overlap_and_every_iteration_runs_once(sanitizer, tmp_path):
    program = tmp_path / "stress"
    flags = [
        "-std=c++17",
        "-O1",
        "-g",
        f"-fsanitize={sanitizer}",
        "-fno-sanitize-recover=all",
        f"-I{SOURCES}",
        "-pthread",
    ]
    made = [str(HERE / "memory_stress.cpp"), str(SOURCES / "memory.cpp"), "-o", str(program)]
    built = subprocess.run([str(COMPILER), *flags, *made], capture_output=True, text=True)
    if built.returncode and "cannot find" in built.stderr:
        pytest.skip(f"this compiler has no {sanitizer} sanitizer")
    assert built.returncode == 0, built.stderr
    ran = subprocess.run([str(program)], capture_output=True, text=True, timeout=240)
    assert ran.returncode == 0, ran.stdout + ran.stderr
