"""Every command, from the command line to files and exit code."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from commands import Cli
from onnx import helper
from small_onnx import make_onnx

from pi_compiler import __version__
from pi_compiler.api import CompiledModel
from pi_compiler.errors import ExecutionError
from pi_compiler.models.data import load
from pi_compiler.pipelines import CKKS
from pi_compiler.runtime.flooding import Flood

PLAN = (
    "levels depth rotations distinct_rotations plain_products products bootstraps log_n log_qp security_bits key_bytes "
    "ciphertext_bytes peak_memory_bytes predicted_seconds rounds bytes_sent offline_bytes layers"
).split()


def read(path: Path) -> dict[str, object]:
    found = json.loads(path.read_text())
    assert isinstance(found, dict)
    return found


def test_inspect_counts_operators_and_relus(cli: Cli, digits_onnx: Path, tmp_path: Path) -> None:
    found = cli("inspect", digits_onnx, "--json", tmp_path / "i.json")
    assert found.code == 0
    assert "/relu1/Relu" in found.out
    report = read(tmp_path / "i.json")
    assert report["operators"] == {"Conv": 2, "Relu": 2, "AveragePool": 1, "Flatten": 1, "Gemm": 1}
    assert report["relu_count"] == 8 * 8 * 8 + 16 * 4 * 4
    assert report["unsupported"] == []
    assert [n["name"] for n in report["nonlinearities"]] == ["/relu1/Relu", "/relu2/Relu"]  # type: ignore[attr-defined]


def test_inspect_lists_what_is_unsupported_and_succeeds(cli: Cli, tmp_path: Path) -> None:
    """Listing is its purpose; refusing is that of compile."""
    nodes = [helper.make_node("LogSoftmax", ["x"], ["h"], "soft"), helper.make_node("Relu", ["h"], ["y"], "act")]
    onnx.save(make_onnx(nodes), tmp_path / "m.onnx")
    found = cli("inspect", tmp_path / "m.onnx", "--json", tmp_path / "i.json")
    assert found.code == 0
    assert [u["node"] for u in read(tmp_path / "i.json")["unsupported"]] == ["soft"]  # type: ignore[attr-defined]


def test_compile_then_explain_then_run_then_evaluate(cli: Cli, digits_onnx: Path, tmp_path: Path) -> None:
    out, plan = tmp_path / "digits", tmp_path / "plan.json"
    compiled = cli(
        "compile", digits_onnx, "--calibration", "digits:calibration", "--output", out,
        "--activation", "quadratic", "--json", plan, "--emit-onnx", tmp_path / "poly.onnx",
    )  # fmt: skip
    assert compiled.code == 0, compiled.err
    assert "least_squares" in compiled.out
    assert set(PLAN) <= set(read(plan))

    explained = cli("explain", out, "--json", tmp_path / "explained.json")
    assert explained.code == 0
    assert read(tmp_path / "explained.json") == read(plan)
    for word in ("ring degree", "security", "/conv2/Conv", "switching keys", "peak", "cost table"):
        assert word in explained.out

    images = load("digits", "test").take(3)
    np.save(tmp_path / "x.npy", images.x)
    ran = cli(
        "run", out, "--input", tmp_path / "x.npy", "--output", tmp_path / "y.npy",
        "--backend", "sim", "--json", tmp_path / "run.json", "--profile", tmp_path / "trace.json",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    assert np.load(tmp_path / "y.npy").shape == (3, 10)
    assert np.load(tmp_path / "y.npy").argmax(axis=1).tolist() == images.labels.tolist()
    report = read(tmp_path / "run.json")
    assert set("seconds predicted_seconds peak_memory_bytes precision_bits backend layers".split()) <= set(report)
    assert report["backend"] == "sim"
    assert float(str(report["precision_bits"])) > 10
    assert read(tmp_path / "trace.json")["traceEvents"]

    judged = cli(
        "evaluate", out, "--data", "digits:test", "--limit", 4, "--backend", "sim", "--json", tmp_path / "e.json"
    )
    assert judged.code == 0, judged.err
    report = read(tmp_path / "e.json")
    assert report["samples"] == len(load("digits", "test"))
    accuracy = report["accuracy"]
    assert isinstance(accuracy, dict)
    assert list(accuracy) == ["original", "polynomial", "simulated", "encrypted"]
    assert accuracy["original"] > 0.98
    assert abs(accuracy["polynomial"] - accuracy["simulated"]) < 0.01
    assert report["agreement"] == 1.0
    assert {o["name"] for o in report["out_of_range"]} == {"/relu1/Relu", "/relu2/Relu"}  # type: ignore[attr-defined]


@pytest.mark.parametrize(("bits", "backend"), [(10, "native"), (28, "tenseal")])
def test_auto_plans_for_native_unless_only_larger_primes_keep_the_precision(
    cli: Cli, small_onnx: Path, samples: Path, tmp_path: Path, bits: int, backend: str
) -> None:
    pytest.importorskip("tenseal")
    pytest.importorskip("pi_compiler.runtime.native._core")
    args = ("compile", small_onnx, "--calibration", samples, "--precision-bits", bits)
    made = cli(*args, "--output", tmp_path / "m", "--json", tmp_path / "plan.json")
    assert made.code == 0, made.err
    assert read(tmp_path / "plan.json")["backend"] == backend
    ran = cli("run", tmp_path / "m", "--input", samples, "--limit", 1, "--json", tmp_path / "run.json")
    assert ran.code == 0, ran.err
    assert read(tmp_path / "run.json")["backend"] == backend
    assert float(str(read(tmp_path / "run.json")["precision_bits"])) > bits
    alone = cli(*args, "--output", tmp_path / "n", "--backend", "native")
    assert alone.code == (backend != "native"), alone.err


def test_answers_that_leave_their_owner_carry_noise_and_cost_bits(
    cli: Cli, small_onnx: Path, samples: Path, tmp_path: Path
) -> None:
    out, np_x = tmp_path / "m", tmp_path / "x.npy"
    made = cli("compile", small_onnx, "--calibration", samples, "--output", out, "--precision-bits", 28)
    assert made.code == 0, made.err
    np.save(np_x, np.load(samples)[:8])
    bits: dict[int, float] = {}
    for k in (0, 10, 20):
        flood = ("--flood-bits", k) if k else ()
        ran = cli("run", out, "--input", np_x, "--backend", "sim", "--json", tmp_path / f"{k}.json", *flood)
        assert ran.code == 0, ran.err
        report = read(tmp_path / f"{k}.json")
        bits[k] = float(str(report["precision_bits"]))
        assert report["flood_bits"] == (k or None)
        assert ("with noise for handing out" in ran.out) == bool(k)
    # Margin 4, then 8 sqrt(8 samples * 2 values) 2^(k/2): 12 bits, and 5 more. The largest of 16 draws counts,
    # here and in the simulated error, so that each is off by a bit easily.
    assert 9 < bits[0] - bits[10] < 16
    assert 2 < bits[10] - bits[20] < 8
    drowned = cli("run", out, "--input", np_x, "--output", tmp_path / "y.npy", "--backend", "sim", "--flood-bits", 64)
    assert drowned.code == 1
    assert "would drown the answers" in drowned.err
    assert "--precision-bits" in drowned.err
    assert not (tmp_path / "y.npy").exists()


def test_kept_keys_serve_later_runs(cli: Cli, small_onnx: Path, samples: Path, tmp_path: Path) -> None:
    out, np_x, keys = tmp_path / "m", tmp_path / "x.npy", tmp_path / "keys"
    assert cli("compile", small_onnx, "--calibration", samples, "--output", out).code == 0
    np.save(np_x, np.load(samples)[:1])
    run = ("run", out, "--input", np_x, "--keys", keys)
    first = cli(*run, "--output", tmp_path / "a.npy")
    assert first.code == 0, first.err
    made = {p: p.stat().st_mtime_ns for p in keys.rglob("*")}
    again = cli(*run, "--output", tmp_path / "b.npy")
    assert again.code == 0, again.err
    assert {p: p.stat().st_mtime_ns for p in keys.rglob("*")} == made
    np.testing.assert_allclose(np.load(tmp_path / "a.npy"), np.load(tmp_path / "b.npy"), atol=1e-3)
    assert cli(*run, "--flood-bits", 8).code == 2
    occupied = cli("run", out, "--input", np_x, "--keys", out)
    assert occupied.code == 1
    assert "holds something else than keys" in occupied.err


def test_a_session_releases_no_more_outputs_than_its_noise_is_made_for(compiled: CompiledModel) -> None:
    session = compiled.session("clear", flood=Flood(bits=8, releases=3, error=2.0**-16))
    image = compiled.sample(load("digits", "test").x[:2])
    exact = compiled.session("clear").run(image).logits
    found = session.run(image).logits
    for name, values in exact.items():
        off = (found[name] - values).std() / session.flood.deviation(values[0].size)
        assert 0.5 < off < 2
    with pytest.raises(ExecutionError, match="3 outputs may leave under this key, this would be number 4"):
        session.run(image)


def test_emitted_onnx_runs_in_onnxruntime_and_agrees_with_clear(
    cli: Cli, compiled: CompiledModel, small_onnx: Path, samples: Path, tmp_path: Path
) -> None:
    found = cli(
        "compile", small_onnx, "--calibration", samples, "--output", tmp_path / "m", "--emit-onnx", tmp_path / "he.onnx"
    )
    assert found.code == 0, found.err
    model = CompiledModel.load(tmp_path / "m")
    session = onnxruntime.InferenceSession(str(tmp_path / "he.onnx"), providers=["CPUExecutionProvider"])
    x = np.load(samples)[:1]
    exact = model.run(x, backend="clear").logits["y"]
    np.testing.assert_allclose(session.run(None, {"x": x})[0], exact, atol=1e-4)


def test_print_after_and_dump_dir_show_the_stages(cli: Cli, small_onnx: Path, samples: Path, tmp_path: Path) -> None:
    dump = tmp_path / "dump"
    dump.mkdir()
    (dump / "07-fold.txt").write_text("from an earlier run")
    (dump / "mine.txt").write_text("not ours")
    found = cli(
        "compile", small_onnx, "--calibration", samples, "--output", tmp_path / "m",
        "--print-after", "fold", "--print-after", "lower", "--dump-dir", dump,
    )  # fmt: skip
    assert found.code == 0, found.err
    assert "# after fold" in found.out
    assert "rescale" in found.out
    assert "# after calibrate" not in found.out
    stages = [f"{i:02}-{name}.txt" for i, (name, _) in enumerate(CKKS, 1)]
    assert sorted(p.name for p in dump.iterdir()) == sorted([*stages, "mine.txt"])
    texts = {name: (dump / file).read_text() for file, (name, _) in zip(stages, CKKS, strict=True)}
    assert "Sigmoid" in texts["recognize"]
    assert "Poly" in texts["approximate"]
    assert "mul_plain" in texts["lower"]


def test_options_reach_the_compiler(cli: Cli, small_onnx: Path, samples: Path, tmp_path: Path) -> None:
    found = cli(
        "compile", small_onnx, "--calibration", samples, "--output", tmp_path / "m", "--json", tmp_path / "c.json",
        "--activation", "quadratic", "--activation", "act=chebyshev:5", "--margin", "1.5", "--log-n", "14",
    )  # fmt: skip
    assert found.code == 0, found.err
    report = read(tmp_path / "c.json")
    (fit,) = report["activations"]  # type: ignore[misc]
    assert fit["degree"] == 5
    assert report["log_n"] == 14
    assert fit["domain"][1] - fit["domain"][0] == pytest.approx(1.5 * (fit["range"]["high"] - fit["range"]["low"]))


def test_activation_error_takes_powers_of_two(cli: Cli, small_onnx: Path, samples: Path, tmp_path: Path) -> None:
    """The form in which error messages suggest one."""
    degrees = []
    for error in ("2^-3", "2^-6"):
        report = tmp_path / "c.json"
        found = cli(
            "compile", small_onnx, "--calibration", samples, "--output", tmp_path / "m",
            "--activation-error", error, "--json", report,
        )  # fmt: skip
        assert found.code == 0, found.err
        (fit,) = read(report)["activations"]  # type: ignore[misc]
        degrees.append(fit["degree"])
        assert fit["max_error"] <= 2.0 ** float(error[2:])
    assert degrees[0] < degrees[1]


def test_a_budget_chooses_fits_and_shows_the_others(cli: Cli, small_onnx: Path, samples: Path, tmp_path: Path) -> None:
    found = cli(
        "compile", small_onnx, "--calibration", samples, "--output", tmp_path / "m",
        "--max-accuracy-drop", "0.05", "--json", tmp_path / "c.json", "--print-after", "choose",
    )  # fmt: skip
    assert found.code == 0, found.err
    assert read(tmp_path / "c.json")["pareto"]
    assert "Choices of fits" in found.out
    assert "act: " in found.out
    refused = cli(
        "compile", small_onnx, "--calibration", samples, "--output", tmp_path / "n", "--max-latency", "0.0001"
    )
    assert refused.code == 1
    assert refused.err.startswith("BudgetError: ")


def test_open_dimensions_get_a_size(cli: Cli, samples: Path, tmp_path: Path) -> None:
    nodes = [helper.make_node("Tanh", ["x"], ["y"], "act")]
    onnx.save(make_onnx(nodes, shape=(1, "n")), tmp_path / "open.onnx")
    found = cli(
        "compile",
        tmp_path / "open.onnx",
        "--calibration",
        samples,
        "--output",
        tmp_path / "m",
        "--input-shape",
        "x=1,4",
    )
    assert found.code == 0, found.err


def test_a_named_input_per_array(cli: Cli, tmp_path: Path) -> None:
    """Models with several inputs take a .npz with one array for each."""
    model = make_onnx([helper.make_node("Mul", ["x", "z"], ["y"], "gate")])
    model.graph.input.append(helper.make_tensor_value_info("z", onnx.TensorProto.FLOAT, (1, 4)))
    onnx.save(model, tmp_path / "two.onnx")
    rng = np.random.default_rng(0)
    x, z = rng.normal(size=(2, 30, 4))
    np.savez(tmp_path / "cal.npz", x=x, z=z)
    found = cli("compile", tmp_path / "two.onnx", "--calibration", tmp_path / "cal.npz", "--output", tmp_path / "m")
    assert found.code == 0, found.err
    np.savez(tmp_path / "in.npz", x=x[:2], z=z[:2])
    found = cli(
        "run", tmp_path / "m", "--input", tmp_path / "in.npz", "--backend", "clear", "--output", tmp_path / "y.npz"
    )
    assert found.code == 0, found.err
    np.testing.assert_allclose(np.load(tmp_path / "y.npz")["y"], x[:2] * z[:2], atol=1e-6)


def test_a_final_softmax_is_applied_by_the_client(cli: Cli, samples: Path, tmp_path: Path) -> None:
    nodes = [helper.make_node("Tanh", ["x"], ["h"], "act"), helper.make_node("Softmax", ["h"], ["y"], "soft")]
    onnx.save(make_onnx(nodes), tmp_path / "s.onnx")
    found = cli("compile", tmp_path / "s.onnx", "--calibration", samples, "--output", tmp_path / "m")
    assert found.code == 0, found.err
    assert "client applies Softmax" in found.out
    cli("run", tmp_path / "m", "--input", samples, "--limit", 2, "--backend", "clear", "--output", tmp_path / "y.npy")
    np.testing.assert_allclose(np.load(tmp_path / "y.npy").sum(axis=-1), 1.0)


def test_maxpool_is_replaced_on_demand_and_its_cost_is_measured(cli: Cli, tmp_path: Path) -> None:
    """The original's accuracy stays that of the file, with its MaxPool."""
    nodes = [
        helper.make_node("MaxPool", ["x"], ["p"], "pool", kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Flatten", ["p"], ["y"], "flat"),
    ]
    onnx.save(make_onnx(nodes, shape=(1, 1, 4, 4)), tmp_path / "max.onnx")
    x = np.random.default_rng(0).normal(size=(40, 1, 4, 4)).astype(np.float32)
    best = x.reshape(40, 2, 2, 2, 2).max(axis=(2, 4)).reshape(40, 4).argmax(axis=1)
    np.savez(tmp_path / "d.npz", x=x, y=best)
    refused = cli("compile", tmp_path / "max.onnx", "--calibration", tmp_path / "d.npz", "--output", tmp_path / "m")
    assert refused.code == 1
    assert "pool" in refused.err
    assert "--maxpool average" in refused.err or "average pooling" in refused.err
    found = cli(
        "compile", tmp_path / "max.onnx", "--calibration", tmp_path / "d.npz", "--output", tmp_path / "m",
        "--maxpool", "average",
    )  # fmt: skip
    assert found.code == 0, found.err
    assert "average pooling" in found.out
    assert "of the answers on 40 calibration" in " ".join(found.out.split())
    judged = cli(
        "evaluate", tmp_path / "m", "--data", tmp_path / "d.npz", "--backend", "clear", "--json", tmp_path / "e.json"
    )
    assert judged.code == 0, judged.err
    accuracy = read(tmp_path / "e.json")["accuracy"]
    assert isinstance(accuracy, dict)
    assert accuracy["original"] == 1.0
    assert accuracy["polynomial"] < 1.0


def test_calibrate_cost_writes_a_table_that_plans_use(
    cli: Cli, small_onnx: Path, samples: Path, tmp_path: Path
) -> None:
    table = tmp_path / "costs.json"
    found = cli("calibrate-cost", "--log-n", 12, "--log-n", 13, "--seconds", 1, "--output", table)
    assert found.code == 0, found.err
    assert "rotate" in found.out
    found = cli(
        "compile", small_onnx, "--calibration", samples, "--output", tmp_path / "m", "--costs", table,
        "--json", tmp_path / "c.json",
    )  # fmt: skip
    assert found.code == 0, found.err
    assert read(tmp_path / "c.json")["costs_measured_here"] is True


def test_demo_shows_the_whole_line(cli: Cli, tmp_path: Path) -> None:
    found = cli("demo", "--images", 2, "--output", tmp_path / "digits", "--json", tmp_path / "demo.json")
    assert found.code == 0, found.err
    for word in ("Predictions", "Seconds per layer", "Precision ladder", "Accuracy", "evaluation keys"):
        assert word in found.out
    assert " NO " not in found.out
    report = read(tmp_path / "demo.json")
    assert report["evaluation"]["agreement"] == 1.0  # type: ignore[index]
    assert report["run"]["precision_bits"] > 10  # type: ignore[index]
    assert cli("explain", tmp_path / "digits").code == 0


def test_help_and_version_and_bare_call(cli: Cli) -> None:
    helped = cli("--help")
    assert helped.code == 0
    for command in "inspect compile explain run evaluate calibrate-cost demo".split():
        assert command in helped.out
    assert cli("--version").out.strip() == f"pi-compiler {__version__}"
    assert cli().code == 2


def test_nothing_but_tables_reaches_a_pipe(small_onnx: Path) -> None:
    """No progress, no colors, no padding where nobody watches."""
    command = [sys.executable, "-m", "pi_compiler.cli", "inspect", str(small_onnx)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert done.stderr == ""
    assert "\x1b" not in done.stdout
    assert all(line == line.rstrip() for line in done.stdout.splitlines())


def test_interrupting_leaves_no_traceback_and_no_files(small_onnx: Path, samples: Path, tmp_path: Path) -> None:
    out = tmp_path / "empty" / "m"
    code = (
        "import os, signal\n"
        # What a shell starts in the background ignores interrupts, and so would what the tests start.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "import pi_compiler.api as api\n"
        "def stop(*a, **k): os.kill(os.getpid(), signal.SIGINT)\n"
        "api.compile = stop\n"
        "from pi_compiler.cli import main\n"
        f"raise SystemExit(main(['compile', {str(small_onnx)!r}, '--calibration', {str(samples)!r}, "
        f"'--output', {str(out)!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 128 + signal.SIGINT
    assert done.stderr.strip() == "interrupted"
    assert not out.parent.exists()


def test_pi_debug_shows_where_an_error_came_from(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = tmp_path / "missing.onnx"
    assert "Traceback" not in cli("inspect", missing).err
    monkeypatch.setenv("PI_DEBUG", "1")
    assert "Traceback" in cli("inspect", missing).err


def test_a_reader_that_leaves_early_is_no_fault(folder: Path) -> None:
    command = f"{sys.executable} -m pi_compiler.cli explain {folder} | head -1"
    done = subprocess.run(
        ["bash", "-c", command],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    assert "Traceback" not in done.stderr
    assert "BrokenPipe" not in done.stderr


def test_a_plan_alone_writes_nothing(cli: Cli, small_onnx: Path, samples: Path, tmp_path: Path) -> None:
    report = tmp_path / "plan.json"
    found = cli("compile", small_onnx, "--calibration", samples, "--plan-only", "--json", report)
    assert found.code == 0, found.err
    assert "levels" in found.out
    planned = json.loads(report.read_text())
    assert planned["bootstraps"] == 0
    assert planned["predicted_seconds"] > 0
    assert [p.name for p in tmp_path.iterdir() if p.name not in (small_onnx.name, samples.name)] == ["plan.json"]


def test_a_model_needs_a_place_and_a_plan_takes_none(cli: Cli, small_onnx: Path, samples: Path, tmp_path: Path) -> None:
    nowhere = cli("compile", small_onnx, "--calibration", samples)
    assert nowhere.code == 2
    assert "--output" in nowhere.err
    both = cli("compile", small_onnx, "--calibration", samples, "--plan-only", "--output", tmp_path / "m")
    assert both.code == 2
    assert "--plan-only" in both.err
