"""The compiled part of the native backend; everything else is in pyproject.toml.

The extension is optional: without a C++ compiler the installation succeeds and the backend says
what is missing.
"""

from pathlib import Path

from pybind11.setup_helpers import Pybind11Extension
from setuptools import setup

SOURCES = Path("runtime/native")

setup(
    ext_modules=[
        Pybind11Extension(
            "pi_compiler.runtime.native._core",
            sorted(str(path) for path in SOURCES.glob("*.cpp")),
            depends=sorted(str(path) for path in SOURCES.glob("*.h")),
            cxx_std=17,
            extra_compile_args=["-O3", "-Wall", "-Wextra", "-Wno-maybe-uninitialized", "-Wno-psabi"],
            optional=True,
        )
    ]
)
