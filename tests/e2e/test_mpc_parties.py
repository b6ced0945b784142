"""Commands between parties: all of them on one machine, and one per machine with what its owner may have."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from commands import Cli
from parties import free_ports

from pi_compiler.artifact_mpc import load_handout, load_weights
from pi_compiler.errors import ArtifactError
from pi_compiler.ir.mpc_program import encode
from pi_compiler.runtime.mpc import library

pytestmark = pytest.mark.skipif(library.missing() is not None, reason="crypten is not installed")


@pytest.fixture
def secure(cli: Cli, small_onnx: Path, samples: Path, tmp_path: Path) -> Path:
    """A small model compiled for MPC, with ReLU-like pieces and products."""
    place = tmp_path / "secure"
    done = cli("compile", small_onnx, "--target", "mpc", "--calibration", samples, "--output", place)
    assert done.code == 0, done.err
    return place


@pytest.fixture
def x(tmp_path: Path) -> Path:
    path = tmp_path / "x.npy"
    np.save(path, np.random.default_rng(5).normal(size=(2, 4)))
    return path


def simulated(cli: Cli, secure: Path, x: Path, tmp_path: Path) -> np.ndarray:
    y = tmp_path / "simulated.npy"
    assert cli("run", secure, "--input", x, "--backend", "mpc-sim", "--output", y).code == 0
    return np.load(y)


def test_run_starts_the_parties_and_prints_what_is_protected(cli, secure, x, tmp_path):
    y, report = tmp_path / "y.npy", tmp_path / "run.json"
    given = ("--backend", "crypten", "--parties", 2, "--network", "2,1000", "--output", y, "--json", report)
    done = cli("run", secure, "--input", x, *given)
    assert done.code == 0, done.err
    assert np.abs(np.load(y) - simulated(cli, secure, x, tmp_path)).max() < 1e-3
    found = json.loads(report.read_text())
    for layer in found["layers"]:
        assert layer["rounds"] == layer["predicted_rounds"], layer
        assert layer["bytes_sent"] == layer["predicted_bytes"], layer
    assert found["offline_bytes"] == found["predicted_offline_bytes"]
    assert found["rounds"] == found["predicted_rounds"]
    for line in ("crypten-ttp", "semi-honest", "the dealer colludes with neither", "learns neither inputs nor answers"):
        assert line in " ".join(done.out.split())


def test_one_party_per_machine_with_only_what_is_its_own(cli, secure, x, tmp_path):
    """The data owner and the dealer work from a handout; weights are a file that only the model owner names."""
    handout = tmp_path / "handout"
    assert cli("handout", secure, "--output", handout).code == 0
    weights = (secure / "weights.npz").rename(tmp_path / "weights.npz")
    (secure / "model.onnx").unlink()
    peers = ",".join(f"127.0.0.1:{port}" for port in free_ports(2))
    y = tmp_path / "y.npy"
    own = (
        [str(handout), "--rank", "0", "--weights", str(weights)],
        [str(handout), "--rank", "1", "--input", str(x), "--output", str(y)],
        [str(secure), "--rank", "2"],
    )
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "pi_compiler.cli", "party", *arguments, "--peers", peers],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for arguments in own
    ]
    try:
        said = [process.communicate(timeout=300) for process in started]
    finally:
        for process in started:
            process.kill()
    assert [process.returncode for process in started] == [0, 0, 0], said
    assert np.load(y).shape == (2, 2)
    given, constants = np.load(x), load_weights(load_handout(handout), weights).consts
    secrets = [f"{v:.4f}" for v in given.ravel()]
    for out, err in said:
        assert "crypten-ttp" in out
        assert not any(secret in out + err for secret in secrets)
    raw = [encode(given, 16).tobytes(), *(c.values.tobytes() for c in constants if c.owner == "model")]
    kept = [p.read_bytes() for p in handout.iterdir()]
    assert not any(secret in content for secret in raw if len(secret) > 8 for content in kept)


def test_weights_of_another_model_are_refused(cli, secure, x, tmp_path):
    other = tmp_path / "other.npz"
    np.savez(other, c0=np.zeros((2, 2), np.int64))
    with pytest.raises(ArtifactError, match="weights of another model"):
        load_weights(load_handout(secure), other)
    done = cli("party", secure, "--rank", 0, "--peers", "127.0.0.1:1,127.0.0.1:2", "--weights", other)
    assert done.code == 1
    assert "weights of another model" in done.err


def test_a_handout_opens_no_file_with_weights(cli, secure, tmp_path):
    """Whatever is in them: unreadable weights must not even be noticed."""
    (secure / "weights.npz").write_bytes(b"damaged")
    assert not any(c.values.any() for c in load_handout(secure).consts if c.owner == "model")
    (secure / "constants.npz").write_bytes(b"damaged")
    with pytest.raises(ArtifactError, match=r"constants\.npz is damaged"):
        load_handout(secure)


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("--rank", 3, "--peers", "a:1,b:2"), "rank 3, possible are 0 to 2"),
        (("--rank", 0, "--peers", "a:1"), "1 addresses; two parties listen"),
        (("--rank", 0, "--peers", "a:1,b"), "'b' is no address"),
        (("--rank", 0, "--peers", "a:1,b:2", "--input", "x.npy"), "only the data's owner has inputs"),
        (("--rank", 1, "--peers", "a:1,b:2"), "the data's owner needs an input"),
        (("--rank", 2, "--peers", "a:1,b:2", "--debug-first-party-dealer"), "rank 2, possible are 0 to 1"),
    ],
)
def test_seats_that_no_run_has_are_bad_use(cli, tmp_path, arguments, why):
    done = cli("party", tmp_path, *arguments)
    assert done.code == 2
    assert why in done.err


def test_parties_of_other_backends_are_bad_use(cli, secure, x):
    done = cli("run", secure, "--input", x, "--backend", "mpc-sim", "--parties", 2)
    assert done.code == 2
    assert "has no parties" in done.err
    done = cli("run", secure, "--input", x, "--backend", "crypten", "--parties", 3)
    assert done.code == 2
    assert "the protocol is one of two" in done.err


def test_plans_for_other_protocols_are_refused_before_anything_starts(cli, small_onnx, samples, x, tmp_path):
    """Interactive truncation does not wrap around, local truncation does, and such a plan has not bounded it."""
    place = tmp_path / "other"
    given = ("--target", "mpc", "--protocol", "semi2k", "--calibration", samples, "--output", place)
    assert cli("compile", small_onnx, *given).code == 0
    done = cli("run", place, "--input", x, "--backend", "crypten")
    assert done.code == 1
    assert "planned for protocol semi2k" in done.err
