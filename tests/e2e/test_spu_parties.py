"""Commands on SPU: all parties on one machine, and one per machine; and what happens when they do not meet."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from commands import Cli
from parties import free_ports

from pi_compiler.artifact_mpc import load_handout, load_weights
from pi_compiler.cost_mpc import load_mpc_prices
from pi_compiler.errors import ExecutionError, ParameterError
from pi_compiler.ir.mpc_program import encode
from pi_compiler.party import Seat, take_part
from pi_compiler.runtime.mpc.spu import library

pytestmark = pytest.mark.skipif(library.missing() is not None, reason="spu is not installed")


@pytest.fixture
def secure(cli: Cli, small_onnx: Path, samples: Path, tmp_path: Path) -> Path:
    place = tmp_path / "secure"
    given = ("--target", "mpc", "--protocol", "semi2k", "--calibration", samples, "--output", place)
    assert cli("compile", small_onnx, *given).code == 0
    return place


@pytest.fixture
def handout(cli: Cli, secure: Path, tmp_path: Path) -> Path:
    place = tmp_path / "handout"
    assert cli("handout", secure, "--output", place).code == 0
    return place


@pytest.fixture
def x(tmp_path: Path) -> Path:
    path = tmp_path / "x.npy"
    np.save(path, np.random.default_rng(5).normal(size=(2, 4)))
    return path


def peers(count: int = 2) -> str:
    return ",".join(f"127.0.0.1:{port}" for port in free_ports(count))


class Started:
    """Parties as processes of their own; none outlives the test."""

    def __init__(self, *own: tuple[object, ...], peers: str, timeout: float = 60.0):
        common = ("--backend", "spu", "--peers", peers, "--timeout", timeout)
        self.processes = [
            subprocess.Popen(
                [sys.executable, "-m", "pi_compiler.cli", "party", *map(str, (*arguments, *common))],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for arguments in own
        ]

    def __enter__(self) -> Started:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            process.kill()

    def ended(self) -> list[tuple[int, str, str]]:
        """Per party its exit status, and what it said."""
        said = [process.communicate(timeout=300) for process in self.processes]
        return [(p.returncode, *s) for p, s in zip(self.processes, said, strict=True)]


def simulated(cli: Cli, secure: Path, x: Path, tmp_path: Path) -> np.ndarray:
    y = tmp_path / "simulated.npy"
    assert cli("run", secure, "--input", x, "--backend", "mpc-sim", "--output", y).code == 0
    return np.load(y)


def test_run_starts_spu_s_parties_on_a_network_and_says_what_is_protected(cli, secure, x, tmp_path):
    y, report = tmp_path / "y.npy", tmp_path / "run.json"
    given = ("--backend", "spu", "--network", "2,1000", "--output", y, "--json", report)
    done = cli("run", secure, "--input", x, *given)
    assert done.code == 0, done.err
    assert np.abs(np.load(y) - simulated(cli, secure, x, tmp_path)).max() < 1e-3
    found = json.loads(report.read_text())
    for layer in found["layers"]:
        assert layer["rounds"] == layer["predicted_rounds"], layer
        assert abs(layer["bytes_sent"] - layer["predicted_bytes"]) <= 64, layer
    assert "NO PRIVACY against the first party" in " ".join(done.out.split())


def test_one_party_per_machine_on_spu_with_only_what_is_its_own(cli, secure, handout, x, tmp_path):
    weights, y = (secure / "weights.npz").rename(tmp_path / "weights.npz"), tmp_path / "y.npy"
    owner = (handout, "--rank", 0, "--weights", weights)
    with Started(owner, (handout, "--rank", 1, "--input", x, "--output", y), peers=peers()) as parties:
        ended = parties.ended()
    assert [code for code, _, _ in ended] == [0, 0], ended
    given, constants = np.load(x), load_weights(load_handout(handout), weights).consts
    for _, out, err in ended:
        assert "semi2k" in out
        assert not any(f"{v:.4f}" in out + err for v in given.ravel())
    weights.rename(secure / "weights.npz")
    assert np.abs(np.load(y) - simulated(cli, secure, x, tmp_path)).max() < 1e-3
    raw = [encode(given, 16).tobytes(), *(c.values.tobytes() for c in constants if c.owner == "model")]
    kept = [p.read_bytes() for p in handout.iterdir()]
    assert not any(secret in content for secret in raw if len(secret) > 8 for content in kept)


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["cheetah", "aby3"])
def test_other_protocols_run_with_one_party_per_machine(cli, secure, handout, x, tmp_path, protocol):
    y, under = tmp_path / "y.npy", ("--protocol", protocol)
    own = [(secure, "--rank", 0, *under), (handout, "--rank", 1, "--input", x, "--output", y, *under)]
    if protocol == "aby3":
        own.append((handout, "--rank", 2, *under))
    with Started(*own, peers=peers(len(own))) as parties:
        ended = parties.ended()
    assert [code for code, _, _ in ended] == [0] * len(own), ended
    assert np.abs(np.load(y) - simulated(cli, secure, x, tmp_path)).max() < 1e-3


def test_parties_that_mean_different_runs_all_say_so(cli, small_onnx, samples, handout, secure, x, tmp_path):
    """Of one model, planned with other fractional bits: shapes are equal, what would be computed is not."""
    other = tmp_path / "other"
    given = ("--target", "mpc", "--protocol", "semi2k", "--frac-bits", 14, "--calibration", samples, "--output", other)
    assert cli("compile", small_onnx, *given).code == 0
    with Started((other, "--rank", 0), (handout, "--rank", 1, "--input", x), peers=peers()) as parties:
        ended = parties.ended()
    assert [code for code, _, _ in ended] == [1, 1], ended
    prints = [{word for word in err.split() if len(word) == 16} for _, _, err in ended]
    for _, _, err in ended:
        assert "the parties do not mean the same run" in err
        assert "with spu 0.9.5" in err
        assert "Traceback" not in err
    assert len(prints[0] & prints[1]) >= 2, "both name both fingerprints"


def test_whoever_waits_in_vain_says_for_whom(secure):
    start = time.monotonic()
    with pytest.raises(ExecutionError, match=r"party 1 \(data owner\) at 127\.0\.0\.1:\d+ does not answer within 0\.5"):
        take_part(secure, Seat(0, peers(), timeout=0.5, spu="semi2k"))
    # Loading the library takes a while.
    assert time.monotonic() - start < 30


def test_a_port_in_use_is_named(handout):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        place = f"127.0.0.1:1,127.0.0.1:{port}"
        with pytest.raises(ExecutionError, match=f"cannot listen on 127.0.0.1:{port}"):
            take_part(handout, Seat(1, place, timeout=0.5, spu="semi2k"), samples=np.zeros((1, 4)))


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_the_survivor_of_a_killed_party_says_so_and_ends(secure, handout, tmp_path, victim):
    many = tmp_path / "many.npy"
    np.save(many, np.zeros((3000, 4)))
    with Started((secure, "--rank", 0), (handout, "--rank", 1, "--input", many), peers=peers(), timeout=5) as parties:
        killed, survivor = parties.processes[victim], parties.processes[1 - victim]
        # Once the runtime has run for a while, both are at it.
        time.sleep(8)
        assert killed.poll() is None
        killed.kill()
        start = time.monotonic()
        _, err = survivor.communicate(timeout=60)
    assert survivor.returncode == 1
    assert time.monotonic() - start < 20
    assert "another party is gone" in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("--rank", 2, "--peers", "a:1,b:2", "--backend", "spu"), "rank 2, possible are 0 to 1"),
        (("--rank", 3, "--peers", "a:1,b:2,c:3", "--backend", "spu", "--protocol", "aby3"), "possible are 0 to 2"),
        (("--rank", 0, "--peers", "a:1,b:2", "--backend", "spu", "--protocol", "aby3"), "three parties listen"),
        (("--rank", 0, "--peers", "a:1,b:2", "--backend", "spu", "--protocol", "crypten-ttp"), "it runs semi2k"),
        (("--rank", 0, "--peers", "a:1,b:2", "--protocol", "semi2k"), "--backend spu"),
        (("--rank", 0, "--peers", "a:1,b:2", "--backend", "mpc-sim"), "has no parties"),
        (
            ("--rank", 0, "--peers", "a:1,b:2", "--backend", "spu", "--debug-first-party-dealer"),
            "a first party that deals is CrypTen's",
        ),
    ],
)
def test_seats_that_no_run_on_spu_has_are_bad_use(cli, tmp_path, arguments, why):
    done = cli("party", tmp_path, *arguments)
    assert done.code == 2
    assert why in done.err


@pytest.mark.parametrize("backend", ["crypten", "native"])
def test_tables_of_a_protocol_are_measured_on_spu_only(cli, backend):
    done = cli("calibrate-cost", "--backend", backend, "--protocol", "semi2k")
    assert done.code == 2
    assert "--backend spu" in done.err


@pytest.mark.slow
def test_seconds_are_measured_on_this_machine(cli, secure, tmp_path):
    place = tmp_path / "costs.json"
    done = cli("calibrate-cost", "--backend", "spu", "--protocol", "semi2k", "--output", place)
    assert done.code == 0, done.err
    prices = load_mpc_prices("semi2k", place)
    assert prices.measured_here
    assert sum(c.compute for c in prices.each(load_handout(secure))) > 0
    with pytest.raises(ParameterError, match="protocol 'semi2k', not 'aby3'"):
        load_mpc_prices("aby3", place)
