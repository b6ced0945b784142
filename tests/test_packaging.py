"""The wheel holds what the folders hold, and nothing else.

Import names and folders differ (``approx`` is ``pi_compiler.approx``), so packages are listed by hand,
and a list written by hand must be compared.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
MAPPED = ("approx", "runtime", "models")


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def folders() -> dict[str, Path]:
    """Every package by import name, the folders behind the links taken once."""
    tops = {"pi_compiler": ROOT / "pi_compiler", **{f"pi_compiler.{n}": ROOT / n for n in MAPPED}}
    found: dict[str, Path] = {}
    for name, top in tops.items():
        for init in sorted(top.rglob("__init__.py")):
            place = init.parent.relative_to(top)
            if name == "pi_compiler" and place.parts[:1] and place.parts[0] in MAPPED:
                continue
            found[".".join((name, *place.parts))] = init.parent
    return found


COMPILED = (".cpp", ".h", ".so", ".pyd")
"""Sources of the extension, which the wheel has no use for, and the extension, which may be missing."""


def data_files(folder: Path) -> set[Path]:
    """What belongs to a package besides its modules and its compiled part."""
    return {
        path
        for path in folder.rglob("*")
        if path.is_file()
        and path.suffix not in (".py", *COMPILED)
        and "__pycache__" not in path.parts
        and next(p for p in path.parents if (p / "__init__.py").exists()) == folder
    }


def expected_files() -> set[str]:
    """Paths inside the wheel."""
    return {
        f"{name.replace('.', '/')}/{path.relative_to(folder)}"
        for name, folder in folders().items()
        for path in (*folder.glob("*.py"), *data_files(folder))
    }


def test_every_folder_is_a_listed_package() -> None:
    assert sorted(project()["tool"]["setuptools"]["packages"]) == sorted(folders())


def test_every_data_file_is_covered_by_a_pattern() -> None:
    patterns = project()["tool"]["setuptools"]["package-data"]
    for name, folder in folders().items():
        covered = {p for pattern in patterns.get(name, []) for p in folder.glob(pattern)}
        assert data_files(folder) <= covered, name


def test_the_version_is_said_once() -> None:
    import pi_compiler

    assert project()["project"]["version"] == pi_compiler.__version__


def test_torch_is_pinned() -> None:
    """Another version would replace the one that a machine has, at two gigabytes a time."""
    assert project()["project"]["optional-dependencies"]["torch"] == ["torch==2.13.0"]


@pytest.mark.slow
def test_without_a_compiler_the_wheel_installs_and_says_what_is_missing(tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    skip = shutil.ignore_patterns(
        ".git", ".venv", "build", "dist", "*.egg-info", "__pycache__", ".*cache", ".hypothesis", "*.so"
    )
    shutil.copytree(ROOT, copy, symlinks=True, ignore=skip)
    none = {**os.environ, "CC": "false", "CXX": "false"}
    command = [sys.executable, "-m", "pip", "--quiet", "wheel", "--no-deps", "--wheel-dir", str(tmp_path), str(copy)]
    subprocess.run(command, env=none, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    assert not any(n.endswith((".so", ".pyd")) for n in zipfile.ZipFile(wheel).namelist())

    code = """
import pi_compiler
from pi_compiler.errors import BackendUnavailable
from pi_compiler.runtime.backend import get_backend
assert pi_compiler.__file__.startswith(%r), pi_compiler.__file__
try:
    get_backend("native")
except BackendUnavailable as error:
    print(error)
print(get_backend("clear").name)
"""
    place = tmp_path / "place"
    zipfile.ZipFile(wheel).extractall(place)
    done = subprocess.run(
        [sys.executable, "-c", code % str(place)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(place)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "install a C++17 compiler (such as g++) and reinstall pi-compiler" in done.stdout
    assert done.stdout.endswith("clear\n")


@pytest.mark.slow
def test_the_wheel_holds_the_folders_and_imports_elsewhere(tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    skip = shutil.ignore_patterns(
        ".git", ".venv", "build", "dist", "*.egg-info", "__pycache__", ".*cache", ".hypothesis"
    )
    shutil.copytree(ROOT, copy, symlinks=True, ignore=skip)
    pip = [sys.executable, "-m", "pip", "--quiet"]
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", str(tmp_path), str(copy)], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {n for n in names if ".dist-info/" not in n and not n.endswith(COMPILED)} == expected_files()
    assert any(n.endswith("licenses/LICENSE") for n in names)

    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "empty")], check=True)
    python = str(tmp_path / "empty" / "bin" / "python")
    subprocess.run([python, "-m", "pip", "--quiet", "install", "--no-deps", str(wheel)], check=True)
    code = "import pi_compiler, pi_compiler.approx; print(pi_compiler.__file__)"
    done = subprocess.run([python, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.startswith(str(tmp_path / "empty"))
    for name in MAPPED:
        bare = subprocess.run([python, "-c", f"import {name}"], cwd=tmp_path, capture_output=True, check=False)
        assert bare.returncode != 0, f"the wheel installs a bare {name!r}"
