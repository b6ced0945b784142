"""A command line inside the process, small ONNX models, and one compiled network for all tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from commands import Cli, Outcome
from small_onnx import dense

from pi_compiler.api import CompiledModel, compile
from pi_compiler.cli import main
from pi_compiler.models.data import load
from pi_compiler.models.zoo import model_path
from pi_compiler.options import Activation, Options


@pytest.fixture(scope="session", autouse=True)
def shipped_costs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Plans must not depend on what somebody measured on this machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        if data := os.environ.get("PI_DATA_DIR"):
            patch.setenv("PI_DATA_DIR", str(Path(data).resolve()))
        yield


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    """Runs a command and catches what it prints."""

    def run(*args: object) -> Outcome:
        capsys.readouterr()
        code = main([str(a) for a in args])
        printed = capsys.readouterr()
        return Outcome(code, printed.out, printed.err)

    return run


@pytest.fixture(scope="session")
def digits_onnx() -> Path:
    return model_path("digits_cnn")


@pytest.fixture(scope="session")
def compiled(digits_onnx: Path, shipped_costs: None) -> CompiledModel:
    samples = load("digits", "calibration").x
    options = Options(activation=Activation("quadratic"), backend="tenseal")
    return compile(digits_onnx, calibration=samples, options=options)


@pytest.fixture(scope="session")
def folder(compiled: CompiledModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled network on disk; not to be changed."""
    place = tmp_path_factory.mktemp("compiled") / "digits"
    compiled.save(place)
    return place


@pytest.fixture
def small_onnx(tmp_path: Path) -> Path:
    path = tmp_path / "small.onnx"
    onnx.save(dense(), path)
    return path


@pytest.fixture
def samples(tmp_path: Path) -> Path:
    """Calibration data for ``dense``."""
    path = tmp_path / "samples.npy"
    np.save(path, np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32))
    return path
