"""Whatever people hand in, they get a clear message, exit code 1 or 2, and no half-written file."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from commands import Cli, Outcome
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, external_data_helper, helper
from small_onnx import dense, make_onnx

from pi_compiler.artifact import FORMAT
from pi_compiler.cli import main


class Attempt:
    """Compilations into a fresh place, each of which must fail without a trace."""

    def __init__(self, cli: Cli, samples: Path, tmp_path: Path) -> None:
        self.cli, self.samples = cli, samples
        self.place = tmp_path / "place"
        self.place.mkdir()

    def __call__(self, model: Path, *more: object, calibration: object = None, code: int = 1) -> Outcome:
        out = self.place / "m"
        found = self.cli(
            "compile", model, "--calibration", calibration or self.samples, "--output", out,
            "--json", self.place / "c.json", "--emit-onnx", self.place / "he.onnx", *more,
        )  # fmt: skip
        assert found.code == code, found.err or found.out
        assert found.out == ""
        assert "fault of pi-compiler" not in found.err
        assert "Traceback" not in found.err
        assert list(self.place.iterdir()) == []
        return found


@pytest.fixture
def attempt(cli: Cli, samples: Path, tmp_path: Path) -> Attempt:
    return Attempt(cli, samples, tmp_path)


def saved(model: onnx.ModelProto, folder: Path) -> Path:
    path = folder / "model.onnx"
    onnx.save(model, path)
    return path


# --- models --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (b"to be or not to be, that is the question", "not an ONNX"),
        (b"PK\x03\x04 rest of a zip", "zip archive"),
        (b"\x93NUMPY rest of an array", "NumPy array"),
    ],
    ids=["empty", "text", "zip", "numpy"],
)
def test_what_is_no_onnx_file_is_named(attempt: Attempt, tmp_path: Path, content: bytes, says: str) -> None:
    (tmp_path / "strange.onnx").write_bytes(content)
    found = attempt(tmp_path / "strange.onnx")
    assert found.err.startswith("ModelError: ")
    assert "strange.onnx" in found.err
    assert says in found.err


def test_a_missing_model_is_named(attempt: Attempt, tmp_path: Path) -> None:
    assert "missing.onnx" in attempt(tmp_path / "missing.onnx").err


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_a_truncated_model_is_refused(attempt: Attempt, digits_onnx: Path, tmp_path: Path, share: float) -> None:
    whole = digits_onnx.read_bytes()
    (tmp_path / "cut.onnx").write_bytes(whole[: int(share * len(whole))])
    found = attempt(tmp_path / "cut.onnx", calibration="digits:calibration")
    assert found.err.startswith("ModelError: ")
    assert "cut.onnx" in found.err


def test_missing_external_data_are_named(attempt: Attempt, tmp_path: Path) -> None:
    model = dense()
    external_data_helper.convert_model_to_external_data(model, location="weights.bin", size_threshold=0)
    path = saved(model, tmp_path)
    (tmp_path / "weights.bin").unlink()
    found = attempt(path)
    assert found.err.startswith("ModelError: external data")
    assert "weights.bin" in found.err


def test_open_dimensions_ask_for_their_sizes(attempt: Attempt, tmp_path: Path) -> None:
    path = saved(make_onnx([helper.make_node("Tanh", ["x"], ["y"])], shape=("batch", "width")), tmp_path)
    found = attempt(path)
    assert found.err.startswith("ModelError: ")
    assert "'x'" in found.err
    assert "width" in found.err
    assert "--input-shape" in found.err or "input_shapes" in found.err


def test_all_unsupported_operators_come_in_one_message(attempt: Attempt, tmp_path: Path) -> None:
    nodes = [
        helper.make_node("LogSoftmax", ["x"], ["a"], "hidden_softmax"),
        helper.make_node("LpNormalization", ["a"], ["b"], "norm"),
        helper.make_node("TopK", ["b", "k"], ["c", "i"], "top"),
        helper.make_node("Tanh", ["c"], ["y"], "fine"),
    ]
    found = attempt(saved(make_onnx(nodes, {"k": np.array([2], np.int64)}), tmp_path))
    assert found.err.startswith("UnsupportedOperator: ")
    for word in ("LogSoftmax 'hidden_softmax'", "LpNormalization 'norm'", "TopK 'top'"):
        assert word in found.err
    assert found.err.count("try: ") >= 3
    assert "fine" not in found.err


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_named(attempt: Attempt, tmp_path: Path, value: float) -> None:
    weights = {"w": np.eye(4, dtype=np.float32)}
    weights["w"][1, 2] = value
    found = attempt(saved(make_onnx([helper.make_node("MatMul", ["x", "w"], ["y"], "layer")], weights), tmp_path))
    assert found.err.startswith("ModelError: ")
    assert "'w'" in found.err
    assert "layer" in found.err


def test_shapes_that_do_not_fit_together_are_refused(attempt: Attempt, tmp_path: Path) -> None:
    weights = {"w": np.eye(5, dtype=np.float32)}
    found = attempt(saved(make_onnx([helper.make_node("MatMul", ["x", "w"], ["y"], "layer")], weights), tmp_path))
    assert found.err.startswith("ModelError: ")


def test_inputs_that_are_no_numbers_are_refused(attempt: Attempt, tmp_path: Path) -> None:
    model = make_onnx([helper.make_node("Identity", ["x"], ["y"])])
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.STRING
    assert "string" in attempt(saved(model, tmp_path)).err


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_no_damage_to_a_model_is_a_fault_of_ours(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    """Bytes changed, cut or doubled anywhere: refused with a name, or still a model."""
    whole = bytearray(dense("Relu").SerializeToString())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(whole) - 1))
        match data.draw(st.sampled_from(["flip", "cut", "double"])):
            case "flip":
                whole[at] ^= data.draw(st.integers(1, 255))
            case "cut":
                del whole[at : at + data.draw(st.integers(1, 40))]
            case _:
                whole[at:at] = whole[at : at + 20]
        if not whole:
            break
    path = tmp_path_factory.getbasetemp() / "damaged.onnx"
    path.write_bytes(bytes(whole))
    code = main(["inspect", str(path)])
    printed = capsys.readouterr()
    assert code in (0, 1)
    assert "fault of pi-compiler" not in printed.err
    assert bool(printed.err) == (code == 1)


# --- calibration data ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("x", "says"),
    [
        (np.full((8, 4), np.nan), "NaN"),
        (np.full((8, 4), np.inf), "infinite"),
        (np.zeros((0, 4)), "empty"),
        (np.zeros((8, 5)), "shape"),
        (np.zeros((8, 4), complex), "complex"),
        (np.full((8, 4), "seven"), "<U5"),
    ],
    ids=["nan", "infinity", "empty", "shape", "complex", "text"],
)
def test_calibration_data_that_cannot_be_used(
    attempt: Attempt, small_onnx: Path, tmp_path: Path, x: np.ndarray, says: str
) -> None:
    np.save(tmp_path / "bad.npy", x)
    found = attempt(small_onnx, calibration=tmp_path / "bad.npy")
    assert found.err.startswith(("CalibrationError: ", "ShapeMismatch: "))
    assert says in found.err


def test_calibration_files_that_cannot_be_read(attempt: Attempt, small_onnx: Path, tmp_path: Path) -> None:
    assert "does not exist" in attempt(small_onnx, calibration=tmp_path / "none.npy").err
    (tmp_path / "text.npz").write_text("no zip at all")
    assert "text.npz" in attempt(small_onnx, calibration=tmp_path / "text.npz").err
    np.save(tmp_path / "pickle.npy", np.array([{}], object), allow_pickle=True)
    assert "pickle" in attempt(small_onnx, calibration=tmp_path / "pickle.npy").err
    assert "NAME:SPLIT" in attempt(small_onnx, calibration="samples.csv").err
    assert "unknown" in attempt(small_onnx, calibration="unknown:train").err


def test_test_data_do_not_calibrate(attempt: Attempt, digits_onnx: Path) -> None:
    found = attempt(digits_onnx, calibration="digits:test", code=2)
    assert "digits:calibration" in found.err


def test_a_range_too_wide_for_the_requested_error(attempt: Attempt, tmp_path: Path) -> None:
    model = saved(dense("Relu", scale=1e4), tmp_path)
    found = attempt(model, "--activation", "chebyshev", "--activation-error", "0.001")
    assert found.err.startswith("CalibrationError: ")
    assert "'act'" in found.err
    assert "0.001" in found.err
    assert "try: " in found.err


# --- options and outputs -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "says"),
    [
        (("--activation", "cubic"), "known: auto, quadratic"),
        (("--activation", "act=chebyshev:0"), "known: auto, quadratic"),
        (("--activation-error", "small"), "'small'"),
        (("--activation-error", "-1"), "activation_error"),
        (("--margin", "0.5"), "margin"),
        (("--log-n", "40"), "log_n"),
        (("--backend", "paper"), "tenseal"),
        (("--input-shape", "x"), "NAME=SIZE"),
        (("--input-shape", "x=1,0"), "NAME=SIZE"),
        (("--print-after", "magic"), "calibrate"),
        (("--maxpool", "never"), "--maxpool"),
        (("--nonsense",), "--nonsense"),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, tuple) else "",
)
def test_options_that_make_no_sense_are_bad_use(
    attempt: Attempt, small_onnx: Path, option: tuple[str, ...], says: str
) -> None:
    assert says in attempt(small_onnx, *option, code=2).err


def test_an_activation_for_a_layer_that_is_none(attempt: Attempt, small_onnx: Path) -> None:
    found = attempt(small_onnx, "--activation", "first=quadratic")
    assert found.err.startswith("ParameterError: ")
    assert "act" in found.err


def test_a_depth_that_no_parameters_allow(attempt: Attempt, tmp_path: Path) -> None:
    names = ["x", *(f"h{i}" for i in range(12)), "y"]
    nodes = [helper.make_node("Sigmoid", [a], [b], f"act{i}") for i, (a, b) in enumerate(itertools.pairwise(names))]
    found = attempt(saved(make_onnx(nodes), tmp_path), "--activation", "chebyshev:27")
    assert found.err.startswith("BudgetError: ")
    assert "levels" in found.err
    assert "try: " in found.err


def test_places_that_cannot_be_written_are_refused_before_the_work(
    cli: Cli, small_onnx: Path, samples: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pi_compiler.api

    def reached(*args: object, **kwargs: object) -> None:
        raise AssertionError("the work began")

    monkeypatch.setattr(pi_compiler.api, "compile", reached)
    (tmp_path / "file").write_text("mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    base = ("compile", small_onnx, "--calibration", samples)
    fine = ("--output", tmp_path / "m")
    for arguments in (
        ("--output", tmp_path / "file"),
        ("--output", tmp_path / "file" / "below"),
        ("--output", tmp_path / "full"),
        ("--output", "/proc/m"),
        (*fine, "--json", tmp_path / "no" / "c.json"),
        (*fine, "--json", tmp_path / "full"),
        (*fine, "--emit-onnx", "/proc/he.onnx"),
        (*fine, "--dump-dir", tmp_path / "file"),
    ):
        found = cli(*base, *arguments)
        assert found.code == 1, arguments
        assert found.err.startswith("ParameterError: cannot write") or "left alone" in found.err
    assert (tmp_path / "full" / "mine.txt").read_text() == "mine"
    for arguments in (("--output", tmp_path / "y.txt"), ("--output", "/proc/y.npy"), ("--profile", tmp_path / "full")):
        assert cli("run", folder, "--input", "digits:test", *arguments).code == 1
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize("command", ["calibrate-cost", "demo"])
def test_other_commands_check_their_outputs_first_too(cli: Cli, tmp_path: Path, command: str) -> None:
    found = cli(command, "--json", tmp_path / "no" / "r.json")
    assert found.code == 1
    assert found.err.startswith("ParameterError: cannot write")


# --- running -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("x", "says"),
    [
        (np.zeros((2, 1, 8, 9)), "shape"),
        (np.zeros((64,)), "shape"),
        (np.zeros((0, 1, 8, 8)), "empty"),
        (np.full((1, 1, 8, 8), np.nan), "not finite"),
        (np.zeros((1, 1, 8, 8), complex), "complex"),
        (np.full((1, 1, 8, 8), "a"), "<U1"),
    ],
    ids=["shape", "flat", "empty", "nan", "complex", "text"],
)
def test_inputs_that_do_not_fit(cli: Cli, folder: Path, tmp_path: Path, x: np.ndarray, says: str) -> None:
    np.save(tmp_path / "x.npy", x)
    found = cli("run", folder, "--input", tmp_path / "x.npy", "--backend", "clear", "--output", tmp_path / "y.npy")
    assert found.code == 1
    assert found.err.startswith("ShapeMismatch: ")
    assert says in found.err
    assert not (tmp_path / "y.npy").exists()


def test_inputs_of_another_name(cli: Cli, folder: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", image=np.zeros((1, 1, 8, 8)))
    found = cli("run", folder, "--input", tmp_path / "x.npz", "--backend", "clear")
    assert found.code == 1
    assert "'image'" in found.err


def test_accuracy_needs_labels_that_fit(cli: Cli, folder: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x=np.zeros((3, 1, 8, 8)))
    assert "labels" in cli("evaluate", folder, "--data", tmp_path / "d.npz", "--backend", "clear").err
    np.savez(tmp_path / "d.npz", x=np.zeros((3, 1, 8, 8)), y=np.array([0, 1, 12]))
    found = cli("evaluate", folder, "--data", tmp_path / "d.npz", "--backend", "clear")
    assert found.code == 1
    assert "12" in found.err


# --- compiled models -----------------------------------------------------------------------------


def test_a_folder_that_is_no_compiled_model(cli: Cli, tmp_path: Path) -> None:
    for command in (("explain", tmp_path), ("run", tmp_path / "none", "--input", "digits:test")):
        found = cli(*command)
        assert found.code == 1
        assert found.err.startswith("ArtifactError: ")


def test_an_artifact_of_a_newer_version_says_so(cli: Cli, folder: Path, tmp_path: Path) -> None:
    newer = tmp_path / "newer"
    shutil.copytree(folder, newer)
    manifest = json.loads((newer / "manifest.json").read_text())
    manifest["manifest"]["format"] = FORMAT + 1
    manifest["manifest"]["version"] = "99.0"
    (newer / "manifest.json").write_text(json.dumps(manifest))
    found = cli("explain", newer)
    assert found.code == 1
    assert "99.0" in found.err
    assert "upgrade" in found.err


FILES = ["constants.bin", "manifest.json", "model.onnx", "polynomial.onnx", "program.npz"]


def test_damage_is_tried_on_every_file(folder: Path) -> None:
    assert sorted(p.name for p in folder.iterdir()) == FILES


@pytest.mark.parametrize("name", FILES)
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(share=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), cut=st.booleans())
def test_a_flipped_bit_or_a_missing_end_is_noticed(
    name: str,
    share: float,
    bit: int,
    cut: bool,
    folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
    capsys: pytest.CaptureFixture[str],
) -> None:
    place = tmp_path_factory.getbasetemp() / "damaged"
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(folder, place)
    data = bytearray((place / name).read_bytes())
    at = int(share * len(data))
    if cut:
        del data[at:]
    else:
        data[at] ^= 1 << bit
    (place / name).write_bytes(bytes(data))
    code = main(["explain", str(place)])
    printed = capsys.readouterr()
    assert code == 1, f"byte {at} of {name}"
    assert printed.err.startswith("ArtifactError: ")
    assert name in printed.err or "newer" in printed.err


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(cli: Cli, folder: Path, tmp_path: Path, name: str) -> None:
    place = tmp_path / "part"
    shutil.copytree(folder, place)
    (place / name).unlink()
    found = cli("explain", place)
    assert found.code == 1
    assert found.err.startswith("ArtifactError: ")
    assert name in found.err
