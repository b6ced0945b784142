"""Importing stays light, and a compiled program needs neither ONNX nor torch."""

from __future__ import annotations

import doctest
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import pi_compiler

ROOT = Path(__file__).parent.parent
FOREIGN = ("torch", "onnx", "onnxruntime", "tenseal", "scipy", "numpy", "rich")


def python(code: str, cwd: Path | None = None) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=cwd, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_the_package_takes_less_than_half_a_second() -> None:
    timed = "import time; t = time.perf_counter(); import pi_compiler; print(time.perf_counter() - t)"
    assert min(float(python(timed)) for _ in range(3)) < 0.5


def test_importing_the_package_loads_no_foreign_library() -> None:
    loaded = python(f"import json, sys, pi_compiler; print(json.dumps([m for m in {FOREIGN} if m in sys.modules]))")
    assert json.loads(loaded) == []


def test_help_needs_no_numerical_library() -> None:
    heavy = ("torch", "onnx", "tenseal", "scipy")
    code = (
        "import sys; from pi_compiler.cli import main; code = main(['--help']); "
        f"print('LOADED', [m for m in {heavy} if m in sys.modules], code)"
    )
    assert python(code).splitlines()[-1] == "LOADED [] 0"


def test_a_program_runs_without_onnx_and_torch(tmp_path: Path) -> None:
    """A server that evaluates compiled models installs neither."""
    from pi_compiler.models.data import load
    from pi_compiler.models.zoo import model_path

    options = pi_compiler.Options(activation=pi_compiler.Activation("quadratic"))
    samples = load("digits", "calibration").x
    pi_compiler.compile(model_path("digits_cnn"), calibration=samples, options=options).save(tmp_path / "digits")
    np.save(tmp_path / "x.npy", np.zeros((1, 1, 8, 8)))
    code = (
        "import sys\n"
        "from pi_compiler.cli import main\n"
        f"code = main(['run', {str(tmp_path / 'digits')!r}, '--input', {str(tmp_path / 'x.npy')!r}])\n"
        "print(code, [m for m in ('torch', 'onnx', 'onnxruntime', 'onnx_ir') if m in sys.modules])"
    )
    assert python(code).splitlines()[-1] == "0 []"


def test_every_public_name_exists() -> None:
    missing = [name for name in pi_compiler.__all__ if getattr(pi_compiler, name, None) is None]
    assert missing == []
    assert set(pi_compiler.__all__) <= set(dir(pi_compiler))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        pi_compiler.nothing  # noqa: B018


def test_the_example_in_the_documentation_holds() -> None:
    assert doctest.testmod(pi_compiler, raise_on_error=True).attempted > 0


@pytest.mark.parametrize("name", ["approx", "runtime", "models"])
def test_top_level_folders_refuse_their_bare_names(name: str) -> None:
    """Under their bare names they would collide with a user's own folders, and classes would exist twice."""
    done = subprocess.run(
        [sys.executable, "-c", f"import {name}"], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode != 0
    assert f"pi_compiler.{name}" in done.stderr
