"""``reduce`` and ``report`` from the command line: results, interruptions, and everything people get wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from commands import Cli, Outcome
from onnx import helper, numpy_helper

from pi_compiler.importer import import_model
from pi_compiler.models.data import load
from pi_compiler.models.training import series
from pi_compiler.models.training.costs import ckks_cost
from pi_compiler.models.training.engine import Epoch
from pi_compiler.models.zoo import model_path
from pi_compiler.options import Activation, Options

SHORT = ("--epochs", 2, "--finetune-epochs", 1, "--backend", "none")


def record(folder: Path) -> dict[str, Any]:
    found = json.loads((folder / "record.json").read_text())
    assert isinstance(found, dict)
    return found


def comparisons(path: Path) -> int:
    """ReLU elements of a file, counted on its graph."""
    return sum(n.size for n in import_model(path).graph.nodes() if n.op == "Relu")


def test_reduce_then_report_on_digits(cli: Cli, digits_onnx: Path, tmp_path: Path) -> None:
    """The whole line: files with at most the budget's ReLUs, records, a page that needs no network."""
    out = tmp_path / "out"
    done = cli(
        "reduce", digits_onnx, "--data", "digits", "--budget", 300, "--budget", 0, "--granularity", "channel",
        "--output", out, "--json", tmp_path / "r.json", *SHORT,
    )  # fmt: skip
    assert done.code == 0, done.err
    assert "autorep" in done.out
    for budget in (300, 0):
        folder = out / f"{budget}-autorep-quadratic-channel-seed0"
        found = record(folder)
        assert comparisons(folder / "model.onnx") == found["relu_count"] <= budget
        assert found["test"]["images"] == 355
        assert sum(c["images"] for c in found["test"]["classes"]) == 355
        assert found["command"].startswith(f"pi-compiler reduce {digits_onnx} --data digits")
    plain = record(out / "0-autorep-quadratic-channel-seed0")
    assert plain["test"]["accuracy"] > 0.9
    assert json.loads((tmp_path / "r.json").read_text())["models"][1] == plain

    told = cli("report", out, "--json", tmp_path / "report.json")
    assert told.code == 0, told.err
    page = (out / "report" / "report.html").read_text()
    assert "digits_cnn on Digits" in page
    assert f"{100 * plain['test']['accuracy']:.2f}" in page
    assert "http://" not in page
    assert "https://" not in page
    assert (out / "report" / "accuracy.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((out / "report" / "report.json").read_text()) == json.loads(
        (tmp_path / "report.json").read_text()
    )


def test_everything_besides_the_method_is_recorded_and_reported(cli: Cli, digits_onnx: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = cli(
        "reduce", digits_onnx, "--data", "digits", "--budget", 100, "--range-penalty", "pillar", "--bound", 6, "--clip",
        "--faults", "pos-zero", "--balance", 0.02, "--fairness", "--output", out, *SHORT,
    )  # fmt: skip
    assert done.code == 0, done.err
    found = record(out / "100-autorep-quadratic-pixel-seed0")
    assert found["settings"]["extras"]["faults"] == "pos-zero"
    assert "--range-penalty pillar --bound 6 --clip" in found["command"]
    assert [s["name"] for s in found["stages"]] == ["search", "finetune", "mitigation"]
    groups = found["fairness"]["groups"]
    assert sum(g["images"] for g in groups) == 355
    told = cli("report", out)
    assert told.code == 0, told.err
    page = (out / "report" / "report.html").read_text()
    assert "distance to the boundary" in page
    assert f"{groups[0]['gradient_norm']:.3g}" in page


def test_costs_are_those_of_a_plan_or_the_reason_why_there_is_none(digits_onnx: Path) -> None:
    digits = load("digits", "calibration")
    planned = ckks_cost(digits_onnx, digits, Options(activation=Activation("quadratic")))
    assert planned["levels"] == 5
    assert float(str(planned["predicted_seconds"])) > 0
    refused = ckks_cost(digits_onnx, digits, Options(log_n=12))
    assert set(refused) == {"refused", "details"}
    assert "levels" in str(refused)


@pytest.mark.parametrize("after", [1, 2, 3], ids=["search", "end of search", "finetune"])
def test_an_interrupted_run_started_again_ends_as_if_nothing_had_happened(
    cli: Cli, digits_onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    """Checkpoints must hold everything: weights, optimizer, masks, random generators."""
    words = ("reduce", digits_onnx, "--data", "digits", "--budget", 200, *SHORT, "--output")
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert cli(*words, whole).code == 0

    reduce, seen = series.reduce, []

    def interrupted(*args: Any, progress: Any, **more: Any) -> Any:
        def told(stage: str, epoch: Epoch, epochs: int) -> None:
            seen.append(stage)
            if len(seen) == after:
                raise KeyboardInterrupt
            progress(stage, epoch, epochs)

        return reduce(*args, progress=told, **more)

    with monkeypatch.context() as patch:
        patch.setattr(series, "reduce", interrupted)
        stopped = cli(*words, broken)
    assert stopped.code == 130
    assert "interrupted" in stopped.err
    assert "Traceback" not in stopped.err
    name = "200-autorep-quadratic-pixel-seed0"
    assert not (broken / name / "record.json").exists()
    assert not (broken / name / "model.onnx").exists()

    resumed = cli(*words, broken)
    assert resumed.code == 0, resumed.err
    assert (broken / name / "model.onnx").read_bytes() == (whole / name / "model.onnx").read_bytes()
    a, b = record(whole / name), record(broken / name)
    assert a["test"] == b["test"]
    assert [len(s["history"]) for s in b["stages"]] == [2, 1]


def test_what_is_finished_is_not_trained_again(
    cli: Cli, digits_onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("reduce", digits_onnx, "--data", "digits", "--budget", 0, *SHORT, "--output", tmp_path / "out")
    assert cli(*words).code == 0
    before = (tmp_path / "out" / "0-autorep-quadratic-pixel-seed0" / "record.json").read_bytes()
    read = series.Source.load
    asked: list[str] = []
    monkeypatch.setattr(series.Source, "load", lambda self, split: asked.append(split) or read(self, split))
    assert cli(*words).code == 0
    assert "test" not in asked, "the test split is read once"
    assert (tmp_path / "out" / "0-autorep-quadratic-pixel-seed0" / "record.json").read_bytes() == before

    other = cli(*words, "--seed", 0, "--finetune-epochs", 2)
    assert other.code == 2
    assert "other settings" in other.err


# --- what people get wrong -----------------------------------------------------------------------


def refused(found: Outcome, code: int, *words: str) -> None:
    assert found.code == code, found.err or found.out
    assert found.out == ""
    assert "Traceback" not in found.err
    assert "fault of pi-compiler" not in found.err
    for word in words:
        assert word in found.err, found.err


def test_all_faults_of_a_command_come_at_once(cli: Cli, digits_onnx: Path, tmp_path: Path) -> None:
    found = cli(
        "reduce", digits_onnx, "--data", "digitz", "--budget", -1, "--budget", 769, "--method", "magic", "--method",
        "autorep", "--kind", "cubic", "--epochs", -3, "--bound", 0, "--balance", -1, "--output",
        tmp_path / "out",
    )  # fmt: skip
    refused(
        found, 2, "no data set is called 'digitz'", "cifar10", "no method is called 'magic'", "budget -1", "budget 769",
        "the model's 768 comparisons", "no kind 'cubic'", "--epochs is negative",
        "range bound 0", "balancing groups, -1",
    )  # fmt: skip
    assert not (tmp_path / "out").exists()


def test_data_that_do_not_fit_the_model_are_refused_before_training(
    cli: Cli, digits_onnx: Path, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "d.npz", x=rng.random((60, 1, 9, 8)), y=np.arange(60) % 12)
    found = cli("reduce", digits_onnx, "--data", tmp_path / "d.npz", "--budget", 5, *SHORT, "--output", tmp_path / "o")
    refused(found, 2, "samples have shape [1, 9, 8], the model takes [1, 1, 8, 8]", "labels reach 11", "10 outputs")
    assert not (tmp_path / "o").exists()


def test_a_model_with_two_inputs_is_refused(cli: Cli, tmp_path: Path) -> None:
    values = [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, (1, 4)) for n in ("a", "b", "y")]
    nodes = [helper.make_node("Add", ["a", "b"], ["s"]), helper.make_node("Relu", ["s"], ["y"])]
    onnx.save(
        helper.make_model(
            helper.make_graph(nodes, "two", values[:2], values[2:]),
            opset_imports=[helper.make_opsetid("", 17)],
            ir_version=9,
        ),
        tmp_path / "two.onnx",
    )
    found = cli(
        "reduce", tmp_path / "two.onnx", "--data", "digits", "--budget", 1, *SHORT, "--output", tmp_path / "out"
    )
    refused(found, 1, "one input", "a, b")


def test_a_model_file_and_data_file_that_are_missing_are_both_named(cli: Cli, tmp_path: Path) -> None:
    found = cli(
        "reduce", tmp_path / "no.onnx", "--data", tmp_path / "no.npz", "--budget", 1, "--output", tmp_path / "out"
    )
    refused(found, 2, "no.onnx", "no.npz")


REDUCE = ("reduce", "m.onnx", "--data", "digits", "--budget", 1, "--output", "o")


@pytest.mark.parametrize(
    ("words", "module", "extra"), [(REDUCE, "torch", "torch"), (("report", "o"), "matplotlib", "report")]
)
def test_a_missing_library_is_named_with_the_extra_to_install(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, words: tuple[object, ...], module: str, extra: str
) -> None:
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == module else find(name, *a))
    refused(cli(*words), 1, "not installed", f"pip install 'pi-compiler[{extra}]'")


def test_report_refuses_a_folder_that_reduce_did_not_write(cli: Cli, tmp_path: Path) -> None:
    refused(cli("report", tmp_path), 1, "holds no reduction.json", "pi-compiler reduce")


def test_a_table_is_reduced_by_its_columns(cli: Cli, tmp_path: Path) -> None:
    """A table with groups goes the same way as images."""
    rng = np.random.default_rng(1)
    rows = ["size,color,who,label"]
    for i in range(200):
        size, color = rng.normal() + 2 * (i % 2), rng.choice(["red", "blue"])
        rows.append(f"{size:.3f},{color},{'a' if i % 3 else 'b'},{'yes' if i % 2 else 'no'}")
    (tmp_path / "t.csv").write_text("\n".join(rows))
    weights = {"w": rng.normal(size=(5, 6)), "v": rng.normal(size=(6, 2))}
    nodes = [
        helper.make_node("Gemm", ["x", "w"], ["h"], "one"),
        helper.make_node("Relu", ["h"], ["r"], "act"),
        helper.make_node("Gemm", ["r", "v"], ["y"], "two"),
    ]
    constants = [numpy_helper.from_array(v.astype(np.float32), n) for n, v in weights.items()]
    ends = [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, s) for n, s in (("x", (1, 5)), ("y", (1, 2)))]
    onnx.save(
        helper.make_model(
            helper.make_graph(nodes, "table", ends[:1], ends[1:], constants),
            opset_imports=[helper.make_opsetid("", 17)],
            ir_version=9,
        ),
        tmp_path / "m.onnx",
    )
    words = ("reduce", tmp_path / "m.onnx", "--data", tmp_path / "t.csv", "--budget", 2, *SHORT, "--output")
    wrong = cli(*words, tmp_path / "o", "--group", "whom")
    refused(wrong, 1, "needs the name of its label column", "no group column 'whom'", "size, color, who, label")
    done = cli(*words, tmp_path / "o", "--label", "label", "--group", "who")
    assert done.code == 0, done.err
    found = record(tmp_path / "o" / "2-autorep-quadratic-pixel-seed0")
    assert found["dataset"] == "t.csv"
    assert [g["group"] for g in found["test"]["groups"]] == ["a", "b"]
    assert sum(g["correct"] for g in found["test"]["groups"]) == sum(c["correct"] for c in found["test"]["classes"])


TRANSFORMER = ("--softmax", "power:4", "--norm", "batch", "--activation", "poly:2", "--finetune-epochs", 1)


def test_a_transformer_is_reduced_to_what_runs_encrypted_and_reported(cli: Cli, tmp_path: Path) -> None:
    """Softmax, LayerNorm and GELU are gone from the file; the record says what was asked for and what it came to."""
    data = load("digits", "train").take(320)
    np.savez(tmp_path / "few.npz", x=data.x, y=data.y)
    output = tmp_path / "out"
    done = cli(
        "reduce", model_path("digits_vit"), "--data", tmp_path / "few.npz", *TRANSFORMER, "--distill-attention", 1,
        "--distill-hidden", 0.1, "--head-entropy", 1e-3, "--backend", "none", "--output", output,
    )  # fmt: skip
    assert done.code == 0, done.err
    folder = output / "0-exchange-quadratic-pixel-seed0"
    told = record(folder)
    assert [s["name"] for s in told["stages"]] == ["attention", "norms", "activations"]
    assert told["settings"]["forms"]["softmax"] == "power:4"
    assert told["settings"]["finetune"]["optimizer"] == "adamw"
    assert "--head-entropy 0.001" in told["command"]
    kinds = {n.op for n in import_model(folder / "model.onnx").graph.nodes()}
    assert not kinds & {"InnerSoftmax", "LayerNorm", "Gelu"}
    reported = cli("report", output)
    assert reported.code == 0, reported.err
    assert "exchange" in (output / "report" / "report.html").read_text()


def test_everything_wrong_with_an_exchange_is_said_before_the_work(cli: Cli, tmp_path: Path) -> None:
    words = ("--data", "digits", "--output", tmp_path / "out")
    wrong = cli("reduce", model_path("digits_vit"), *words, "--softmax", "cube", "--norm", "b", "--distill-hidden", -1)
    assert wrong.code == 2
    for part in ("--softmax 'cube'", "power:2, power:4", "--norm 'b'", "--distill-hidden -1"):
        assert part in wrong.err
    other = cli("reduce", model_path("digits_cnn"), *words, "--softmax", "power:2", "--norm", "batch")
    assert other.code == 2
    for part in ("no softmax inside", "no layer normalization", "no transformer"):
        assert part in other.err
    missing = cli("reduce", model_path("digits_cnn"), *words)
    assert missing.code == 2
    assert "--budget is missing" in missing.err
    alone = cli("reduce", model_path("digits_vit"), *words, "--budget", 0, "--head-entropy", 1)
    assert alone.code == 2
    assert "--softmax, --norm or --activation" in alone.err
    assert not (tmp_path / "out").exists()
