"""The commands for MPC, end to end on the digits network, and what people may get wrong."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from commands import Cli
from small_onnx import make_onnx

from pi_compiler.api import CompiledModel
from pi_compiler.cost_mpc import NETWORKS, MpcCost, network_of
from pi_compiler.errors import ParameterError
from pi_compiler.ir.protocols import PROTOCOLS, threat_model


@pytest.fixture(scope="module")
def secure(digits_onnx: Path, shipped_costs: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The digits network compiled for MPC; not to be changed."""
    from pi_compiler.cli import main

    place = tmp_path_factory.mktemp("secure") / "digits"
    arguments = ["compile", digits_onnx, "--target", "mpc", "--calibration", "digits:calibration", "--output", place]
    assert main([str(a) for a in arguments]) == 0
    return place


def test_explain_says_what_a_run_costs_and_whom_it_trusts(cli: Cli, secure: Path, tmp_path: Path) -> None:
    done = cli("explain", secure, "--network", "40,100", "--json", tmp_path / "r.json")
    assert done.code == 0
    assert "Threat model" in done.out
    assert "the dealer colludes with neither party" in done.out
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["target"] == "mpc"
    assert report["rounds"] == sum(e["rounds"] for e in report["layers"]) == 14
    assert report["bytes_sent"] == report["bytes_to_model"] + report["bytes_to_data"]
    assert report["predicted_seconds"] > report["seconds_by_network"]["lan"]


def test_stages_can_be_printed_and_dumped(cli: Cli, digits_onnx: Path, tmp_path: Path) -> None:
    given = [
        "compile",
        digits_onnx,
        "--target",
        "mpc",
        "--calibration",
        "digits:calibration",
        "--output",
        tmp_path / "m",
    ]
    done = cli(*given, "--print-after", "encode", "--dump-dir", tmp_path / "stages")
    assert done.code == 0, done.err
    assert "ltz(" in done.out
    names = sorted(p.name.split("-")[1] for p in (tmp_path / "stages").iterdir())
    passes = ("blocks", "calibrate", "encode", "forms", "front", "hide", "protect", "recognize", "trade")
    assert names == [f"{name}.txt" for name in passes]
    assert cli(*given, "--print-after", "lower").code == 2


def test_another_protocol_is_priced_without_compiling_again(cli: Cli, secure: Path) -> None:
    done = cli("explain", secure, "--protocol", "cheetah")
    assert done.code == 0
    assert "no dealer" in done.out


def test_whole_test_sets_run_in_the_simulator(cli: Cli, secure: Path, tmp_path: Path) -> None:
    """Fixed point may not cost 0.2 points of accuracy."""
    done = cli("evaluate", secure, "--data", "digits:test", "--backend", "mpc-sim", "--json", tmp_path / "e.json")
    assert done.code == 0, done.err
    report = json.loads((tmp_path / "e.json").read_text())
    assert report["samples"] == report["encrypted_samples"] == 355
    assert abs(report["accuracy"]["simulated"] - report["accuracy"]["original"]) <= 0.002


def test_a_run_prints_its_threat_model_and_writes_answers(cli: Cli, secure: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((3, 1, 8, 8)))
    done = cli("run", secure, "--input", tmp_path / "x.npy", "--output", tmp_path / "y.npy")
    assert done.code == 0, done.err
    assert "simulated, nothing was sent" in done.out
    assert "semi-honest" in done.out
    assert np.load(tmp_path / "y.npy").shape == (3, 10)


def test_one_table_compares_every_scheme(cli: Cli, secure: Path, tmp_path: Path) -> None:
    done = cli("explain", secure, "--compare", "--json", tmp_path / "c.json")
    assert done.code == 0, done.err
    rows = json.loads((tmp_path / "c.json").read_text())["rows"]
    assert [r["scheme"] for r in rows] == [f"mpc {name}" for name in PROTOCOLS]
    assert all(r["wan_seconds"] > r["lan_seconds"] for r in rows)
    assert "--calibration" in done.out


def test_a_folder_survives_saving_and_notices_damage(cli: Cli, secure: Path, tmp_path: Path) -> None:
    from pi_compiler.mpc import CompiledMpc

    compiled = CompiledMpc.load(secure)
    x = np.random.default_rng(0).random((2, 1, 8, 8))
    compiled.save(tmp_path / "again")
    again = CompiledMpc.load(tmp_path / "again")
    outputs = [m.run(x, backend="mpc-clear").outputs["logits"] for m in (compiled, again)]
    np.testing.assert_array_equal(*outputs)
    weights = tmp_path / "again" / "weights.npz"
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    done = cli("explain", tmp_path / "again")
    assert done.code == 1
    assert "weights.npz is damaged" in done.err


def test_folders_of_one_target_do_not_pass_for_the_other(cli: Cli, secure: Path, folder: Path) -> None:
    from pi_compiler.errors import ArtifactError

    with pytest.raises(ArtifactError, match="compiled for mpc"):
        CompiledModel.load(secure)
    done = cli("explain", folder, "--network", "wan")
    assert done.code == 2
    assert "compiled for ckks" in done.err


@pytest.mark.parametrize(("flags", "said"), [
    (["--network", "fast"], "presets: lan, man, wan, wan-cheetah"), (["--protocol", "yao"], "known: crypten-ttp"),
    (["--frac-bits", "60"], "must be in [6, 24]"), (["--activation", "nothing"], "exact, puma"),
    (["--log-n", "13", "--emit-onnx", "p.onnx"], "--emit-onnx, --log-n: for --target ckks only"),
])  # fmt: skip
def test_bad_options_are_bad_use(cli: Cli, digits_onnx: Path, tmp_path: Path, flags: list[str], said: str) -> None:
    given = ["compile", digits_onnx, "--target", "mpc", "--calibration", "digits:calibration"]
    done = cli(*given, "--output", tmp_path / "m", *flags)
    assert done.code == 2
    assert said in done.err
    assert not (tmp_path / "m").exists()


def test_options_of_mpc_mean_nothing_for_ckks(cli: Cli, digits_onnx: Path, tmp_path: Path) -> None:
    given = ["compile", digits_onnx, "--calibration", "digits:calibration", "--output", tmp_path / "m"]
    done = cli(*given, "--network", "wan")
    assert done.code == 2
    assert "--network: for --target mpc only" in done.err


def test_inputs_that_do_not_fit_are_all_named(cli: Cli, secure: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.full((2, 1, 8, 8), 1e30))
    done = cli("run", secure, "--input", tmp_path / "x.npy")
    assert done.code == 1
    assert "beyond the fixed-point range" in done.err


def test_transformers_are_for_both_targets_but_comparisons_are_refused_for_ckks(cli: Cli, tmp_path: Path) -> None:
    import onnx
    from onnx import helper

    nodes = [
        helper.make_node("LayerNormalization", ["x", "s"], ["n"], "norm"),
        helper.make_node("Softmax", ["x"], ["p"], "soft"),
        helper.make_node("Transpose", ["n"], ["t"], "turn"),
        helper.make_node("MatMul", ["p", "t"], ["y"], "attend"),
    ]
    scale = {"s": np.ones(4, np.float32)}
    onnx.save(make_onnx(nodes, scale, (5, 4)), tmp_path / "t.onnx")
    for target in ("ckks", "mpc"):
        assert "Every operator" in cli("inspect", tmp_path / "t.onnx", "--target", target).out
    largest = helper.make_node("Max", ["n", "x"], ["y"], "largest")
    onnx.save(make_onnx([nodes[0], largest], scale, (5, 4)), tmp_path / "m.onnx")
    refused = cli("inspect", tmp_path / "m.onnx")
    assert "Unsupported: 1" in refused.out
    assert "largest" in refused.out
    assert "Every operator" in cli("inspect", tmp_path / "m.onnx", "--target", "mpc").out


def test_networks_are_presets_or_numbers() -> None:
    assert network_of("10,400").rtt == NETWORKS["man"].rtt
    assert network_of("10,400").bandwidth == NETWORKS["man"].bandwidth
    for wrong in ("", "1", "1,2,3", "a,b", "-1,5", "5,0", "nan,1"):
        with pytest.raises(ParameterError, match="no network"):
            network_of(wrong)


def test_time_is_compute_plus_rounds_plus_the_busier_direction() -> None:
    """By hand: 0.5 s + 10 rounds of 20 ms + 2.5 MB at 100 Mbit/s."""
    cost = MpcCost(rounds=10, to_data=2.5e6, to_model=1e6, compute=0.5)
    assert NETWORKS["wan"].seconds(cost) == pytest.approx(0.5 + 0.2 + 0.2)


def test_every_protocol_says_who_deals_and_what_is_learned() -> None:
    for name, protocol in PROTOCOLS.items():
        lines = " ".join(threat_model(name))
        assert "semi-honest" in lines
        assert "learns the answers" in lines
        assert ("NO PRIVACY" in lines) == (protocol.dealer == "first party")
        assert ("learns neither inputs nor answers" in lines) == (protocol.dealer != "first party")
