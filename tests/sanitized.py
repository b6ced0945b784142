"""The native backend's tests with its C++ built for the address and undefined-behavior sanitizers.

Reads files, keys and calls of every malformed kind, and runs the operations on all instruction sets.

Builds into a temporary folder, so that the installed module stays as it is. Needs g++.

    python tests/sanitized.py [pytest arguments]
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
NAME = "pi_compiler.runtime.native._core"
FLAGS = "-g -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=undefined"
MODULE = "PI_SANITIZED_MODULE"
TESTS = ("test_native_fuzz.py", "test_native.py", "test_numbers.py", "test_secret.py")


def library(name: str) -> str:
    return subprocess.run(
        ["g++", f"-print-file-name={name}"], capture_output=True, text=True, check=True
    ).stdout.strip()


def build(folder: str) -> Path:
    command = [sys.executable, "setup.py", "-q", "build_ext", "--build-lib", folder, "--build-temp", f"{folder}/temp"]
    # Which of the two a C++ file gets differs between versions of setuptools.
    flags = {"CFLAGS": FLAGS, "CXXFLAGS": FLAGS, "LDFLAGS": "-fsanitize=address,undefined"}
    subprocess.run(command, cwd=ROOT, env={**os.environ, **flags}, check=True)
    module = next(Path(folder).rglob("_core*.so"))
    # Without these calls the tests would pass whatever the code does.
    if any(call not in module.read_bytes() for call in (b"__asan_report_load8", b"__ubsan_handle")):
        raise RuntimeError("the compiler did not instrument the module")
    return module


def inside(module: str) -> int:
    """Run the tests in a process that has the sanitizers' libraries loaded."""
    loader = importlib.machinery.ExtensionFileLoader(NAME, module)
    spec = importlib.util.spec_from_loader(NAME, loader)
    if spec is None:
        raise ImportError(module)
    import pi_compiler.runtime  # noqa: F401  (parents of the module come first)

    found = importlib.util.module_from_spec(spec)
    loader.exec_module(found)
    # Found before the installed one when the package asks for it.
    sys.modules[NAME] = found
    from pi_compiler.runtime.native import material

    if material.core is not found:
        raise ImportError("the tests would run on the installed module")
    arguments = ["-q", "-x", "-p", "no:cacheprovider", *sys.argv[1:]]
    return int(pytest.main([*arguments, *(str(ROOT / "tests/runtime" / name) for name in TESTS)]))


def main() -> int:
    if module := os.environ.get(MODULE):
        return inside(module)
    with tempfile.TemporaryDirectory() as folder:
        # The sanitizer intercepts C++ exceptions, for which the C++ library has to be there already.
        sanitizers = {
            MODULE: str(build(folder)),
            "LD_PRELOAD": f"{library('libasan.so')}:{library('libubsan.so')}:{library('libstdc++.so')}",
            "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1",
            "UBSAN_OPTIONS": "print_stacktrace=1",
        }
        return subprocess.run([sys.executable, *sys.argv], env={**os.environ, **sanitizers}, check=False).returncode


if __name__ == "__main__":
    raise SystemExit(main())
