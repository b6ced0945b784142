"""Tables, images in folders, arrays with a test part: read or refused with all faults, split by fixed rules."""

from __future__ import annotations

import contextlib
import io
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pi_compiler.errors import CalibrationError, ParameterError, PiError
from pi_compiler.models import cifar
from pi_compiler.models.data import ALIASES, is_local, load, open_source, resolve
from pi_compiler.models.dataset import SPLITS, held_out_rows, turns
from pi_compiler.models.tables import read_csv

# --- the rules -----------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 3), min_size=1, max_size=200))
def test_every_sample_is_in_exactly_one_of_three_splits(labels: list[int]) -> None:
    """A sample that trained and tests would flatter every figure."""
    y = np.asarray(labels, dtype=np.int64)
    three = [turns(y, s) for s in ("train", "validation", "test")]
    assert sorted(np.concatenate(three).tolist()) == list(range(len(y)))
    two = [held_out_rows(y, s) for s in ("train", "validation")]
    assert sorted(np.concatenate(two).tolist()) == list(range(len(y)))
    for rule, train in ((turns, three[0]), (held_out_rows, two[0])):
        assert set(rule(y, "calibration")) <= set(train)


def test_the_rule_splits_every_class_alike() -> None:
    y = np.repeat(np.arange(3), 50)
    for split, count in (("train", 30), ("validation", 10), ("test", 10)):
        assert np.bincount(y[turns(y, split)]).tolist() == [count] * 3


# --- CIFAR-10's official batches -----------------------------------------------------------------

NAMES = ["data_batch_1.bin", "test_batch.bin"]


def batch(images: int, seed: int) -> bytes:
    rng = np.random.default_rng(seed)
    rows = rng.integers(0, 256, (images, 3073), dtype=np.uint8)
    rows[:, 0] %= 10
    return rows.tobytes()


def archive(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, raw in files.items():
            info = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            info.size = len(raw)
            tar.addfile(info, io.BytesIO(raw))
    return path


def test_official_batches_hold_a_label_then_three_planes(tmp_path: Path) -> None:
    raw = {name: batch(4, i) for i, name in enumerate(NAMES)}
    x, y = cifar.read_batches(archive(tmp_path / "c.tar.gz", raw), NAMES, 4)
    assert x.shape == (8, 3, 32, 32)
    first = np.frombuffer(raw[NAMES[0]], np.uint8)
    assert y[0] == first[0]
    assert x[0, 2, 0, 1] == first[1 + 2 * 1024 + 1], "blue, first row, second column"
    assert x[4, 0, 31, 31] == raw[NAMES[1]][1024]


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({NAMES[0]: batch(4, 0)}, "there is no cifar-10-batches-bin/test_batch.bin"),
        ({NAMES[0]: batch(4, 0), NAMES[1]: batch(4, 1)[:-1]}, "12291 bytes, needed 12292"),
        ({NAMES[0]: b"\x0a" + batch(4, 0)[1:], NAMES[1]: batch(4, 1)}, "label 10, needed 0 to 9"),
    ],
    ids=["missing", "short", "label"],
)
def test_damaged_official_batches_are_named(tmp_path: Path, files: dict[str, bytes], words: str) -> None:
    with pytest.raises(CalibrationError, match=words):
        cifar.read_batches(archive(tmp_path / "c.tar.gz", files), NAMES, 4)


def test_a_truncated_archive_is_refused(tmp_path: Path) -> None:
    path = archive(tmp_path / "c.tar.gz", {n: batch(4, 0) for n in NAMES})
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(CalibrationError, match="cannot be unpacked"):
        cifar.read_batches(path, NAMES, 4)


def test_another_checksum_is_an_error_and_never_another_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A half-copied archive must not silently become the JPEG copy."""
    monkeypatch.setenv("PI_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "cifar10").mkdir()
    archive(tmp_path / cifar.BINARY.path, {n: batch(4, 0) for n in NAMES})
    with pytest.raises(CalibrationError, match="checksum differs"):
        load("cifar10", "train")


def test_the_alias_takes_the_best_form_at_hand_and_says_which(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("PI_DATA_DIR", raising=False)
    assert resolve("cifar10") == "cifar10-binary", "nothing is here, the official form is what to download"
    assert not is_local("cifar10")
    for form in ALIASES["cifar10"]:
        monkeypatch.setattr("pi_compiler.models.data.is_local", lambda name, form=form: name == form)
        assert resolve("cifar10") == open_source("cifar10").name == form
    monkeypatch.setattr("pi_compiler.models.data.is_local", lambda name: name == "cifar10-jpeg")
    assert open_source("cifar10").quoted == "CIFAR-10 (JPEG)"


# --- tables --------------------------------------------------------------------------------------

TABLE = """age; job ;sex;income
20;cook;F;low
?;nurse;M;high
40;cook;F;low
30;guard;M;high
60;spy;F;low
"""


def table(tmp_path: Path, text: str, name: str = "t.csv") -> Path:
    path = tmp_path / name
    path.write_text(text)
    return path


def many(rows: int = 50) -> str:
    lines = ["age,job,sex,income"]
    for i in range(rows):
        lines.append(f"{20 + i % 7},{'cook' if i % 3 else 'spy'},{'F' if i % 2 else 'M'},{'high' if i % 5 else 'low'}")
    return "\n".join(lines)


def test_a_table_becomes_scaled_numbers_and_one_column_per_category(tmp_path: Path) -> None:
    data = open_source(str(table(tmp_path, many())), "income", "sex").load("train")
    assert data.x.dtype == np.float32
    assert data.x.shape[1:] == (1 + 2 + 2,), "age, two jobs, two sexes; the label is no feature"
    assert data.x.min() == 0.0
    assert data.x.max() == 1.0
    np.testing.assert_array_equal(data.x[:, 1:3].sum(1), 1.0)
    assert data.group_names == ("F", "M")
    assert data.groups is not None
    np.testing.assert_array_equal(data.groups, data.x[:, 4].astype(np.int64))
    assert set(data.labels) == {0, 1}


def test_only_training_rows_decide_scales_and_categories(tmp_path: Path) -> None:
    """A test row with the largest age and a job of its own changes nothing for the others."""
    lines = many().split("\n")
    y = np.asarray([line.endswith("low") for line in lines[1:]], dtype=np.int64)
    tested = int(turns(y, "test")[0])
    before = open_source(str(table(tmp_path, "\n".join(lines))), "income").load("train")
    lines[1 + tested] = "1000,astronaut,F," + lines[1 + tested].rsplit(",", 1)[1]
    source = open_source(str(table(tmp_path, "\n".join(lines))), "income")
    np.testing.assert_array_equal(source.load("train").x, before.x)
    row = source.load("test").x[0]
    assert row[0] > 100
    np.testing.assert_array_equal(row[1:3], 0.0)


def test_missing_numbers_become_the_training_median(tmp_path: Path) -> None:
    found = read_csv(table(tmp_path, TABLE))
    assert found.columns == ("age", "job", "sex", "income")
    part = found.split("train", "income")
    # Training ages are 20, ?, 40, 30, 60: the median is 35.
    np.testing.assert_allclose(part.x[1, 0], (35 - 20) / (60 - 20))


def test_a_group_column_of_numbers_is_cut_into_quarters(tmp_path: Path) -> None:
    lines = ["age,label", *(f"{i},{i % 2}" for i in range(100))]
    data = open_source(str(table(tmp_path, "\n".join(lines))), "label", "age").load("train")
    assert len(data.group_names) == 4
    assert data.groups is not None
    assert np.bincount(data.groups).tolist() == [15] * 4


@pytest.mark.parametrize(
    ("text", "label", "group", "words"),
    [
        ("a,b\n1,2\n1\n1,2,3\n", "b", None, "line 3 has 1 cells, needed 2.*line 4 has 3 cells"),
        ("a\n1\n2\n", "a", None, "besides the label"),
        ("a,b\n", "b", None, "no rows"),
        ("", "b", None, "no rows"),
        ("a,a\n1,2\n", "a", None, "same name: a"),
        ("a,b\n1,2\n3,4\n", None, None, "label column .*columns: a, b"),
        ("a,b\n1,2\n3,4\n", "c", "d", "no label column 'c'.*no group column 'd'"),
        ("a,b\n1,2\n3,4\n", "a", "a", "both label and group"),
        ("a,b\n1,2\n3,2\n", "b", None, "one class only"),
        ('a,b\n1,"2\n', "b", None, "cannot be read"),
    ],
)
def test_faults_of_a_table_are_named(
    tmp_path: Path, text: str, label: str | None, group: str | None, words: str
) -> None:
    with pytest.raises(CalibrationError, match="(?s)" + words):
        open_source(str(table(tmp_path, text)), label, group).load("train")


@settings(max_examples=150, deadline=None)
@given(raw=st.binary(max_size=80) | st.text(alphabet='ab,;\t\n"1?.', max_size=80).map(str.encode))
def test_any_bytes_are_a_table_or_refused(tmp_path_factory: pytest.TempPathFactory, raw: bytes) -> None:
    path = tmp_path_factory.mktemp("csv") / "t.csv"
    path.write_bytes(raw)
    with contextlib.suppress(PiError):
        found = read_csv(path)
        found.split("train", found.columns[-1], found.columns[0] if len(found.columns) > 1 else None)


def test_columns_are_for_tables_only(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x=np.ones((10, 2)), y=np.arange(10) % 2)
    with pytest.raises(ParameterError, match="name columns of a table"):
        open_source(str(tmp_path / "d.npz"), "income")
    with pytest.raises(ParameterError, match=r"(?s)has its labels.*adult-race"):
        open_source("digits", group="sex")


def test_adult_has_groups_by_sex_race_and_age() -> None:
    if not is_local("adult"):
        pytest.skip("adult is not on this machine")
    data = {"train": load("adult", "train"), "validation": load("adult-race", "validation")}
    data["test"] = load("adult-age", "test")
    assert data["train"].group_names == ("Female", "Male")
    assert len(data["validation"].group_names) == 5
    assert data["test"].group_names == ("below 25", "25 to below 40", "40 to below 60", "60 and more")
    assert sum(len(data[s]) for s in ("train", "validation", "test")) == 32_561
    # 7,841 of the 32,561 rows earn more than 50,000 dollars.
    assert sum(int(data[s].labels.sum()) for s in ("train", "validation", "test")) == 7_841
    assert data["train"].x.shape[1] == data["test"].x.shape[1]


# --- images in folders ---------------------------------------------------------------------------


def png(value: int, size: tuple[int, int] = (4, 3), mode: str = "L") -> bytes:
    stream = io.BytesIO()
    Image.new(mode, size, value if mode == "L" else (value, 0, 255)).save(stream, "png")
    return stream.getvalue()


def pictures(mode: str = "L", parts: tuple[str, ...] = ("",), count: int = 10) -> dict[str, bytes]:
    return {
        "/".join(filter(None, (part, label, f"{i:02d}.png"))): png(10 * i + place, mode=mode)
        for part in parts
        for place, label in enumerate(("cat", "dog"))
        for i in range(count)
    }


def stored(tmp_path: Path, form: str, files: dict[str, bytes], around: str = "") -> Path:
    """Images as a directory, zip or tar, perhaps with a folder around them."""
    path = tmp_path / f"images{form}"
    if form == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name, raw in files.items():
                archive.writestr(around + name, raw)
    elif form == ".tar.gz":
        with tarfile.open(path, "w:gz") as tar:
            for name, raw in files.items():
                info = tarfile.TarInfo(around + name)
                info.size = len(raw)
                tar.addfile(info, io.BytesIO(raw))
    else:
        for name, raw in files.items():
            place = path / around / name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(raw)
    return path


@pytest.mark.parametrize("form", ["", ".zip", ".tar.gz"])
@pytest.mark.parametrize("around", ["", "data/all/"])
def test_images_in_folders_are_the_same_in_every_wrapping(tmp_path: Path, form: str, around: str) -> None:
    path = stored(tmp_path, form, {**pictures(), "notes.txt": b"no image"}, around)
    source = open_source(str(path))
    data = {s: source.load(s) for s in SPLITS}
    assert [len(data[s]) for s in SPLITS] == [12, 4, 4, 12]
    assert data["train"].x.shape[1:] == (1, 3, 4)
    np.testing.assert_array_equal(np.bincount(data["test"].labels), [2, 2])
    np.testing.assert_allclose(np.unique(data["test"].x * 255), [40, 41, 90, 91], rtol=1e-6)


def test_folders_train_and_test_are_kept_apart(tmp_path: Path) -> None:
    path = stored(tmp_path, "", pictures("RGB", ("train", "test")))
    source = open_source(str(path))
    assert [len(source.load(s)) for s in ("train", "validation", "test")] == [18, 2, 20]
    assert source.load("test").x.shape == (20, 3, 3, 4)


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"cat/1.png": png(1), "dog/1.png": png(1, (5, 3))}, "5×3, the first image is 4×3"),
        ({"cat/1.png": b"no image", "dog/1.png": png(1)}, r"cat/1\.png is no image"),
        ({"cat/1.png": png(1)[:45], "dog/1.png": png(1)}, r"cat/1\.png is no image"),
        ({"1.png": png(1), "cat/1.png": png(1)}, r"CLASS/IMAGE.*1\.png does not"),
        ({"cat/1.png": png(1)}, "fewer than 2 classes"),
        ({"readme.txt": b""}, "0 images"),
    ],
)
@pytest.mark.parametrize("form", ["", ".zip"])
def test_faults_of_image_folders_are_named(tmp_path: Path, form: str, files: dict[str, bytes], words: str) -> None:
    with pytest.raises(CalibrationError, match="(?s)" + words):
        open_source(str(stored(tmp_path, form, files)))


@pytest.mark.parametrize("name", ["a.zip", "a.tar.gz"])
@pytest.mark.parametrize("raw", [b"", b"no archive", b"PK\x03\x04 rest"])
def test_what_is_no_archive_is_refused(tmp_path: Path, name: str, raw: bytes) -> None:
    (tmp_path / name).write_bytes(raw)
    with pytest.raises(CalibrationError, match=name):
        open_source(str(tmp_path / name))


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match="absent"):
        open_source(str(tmp_path / "absent") + "/")


# --- arrays --------------------------------------------------------------------------------------


def test_arrays_with_a_test_part_and_groups(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = {"x": rng.random((100, 2)), "y": np.arange(100) % 2, "group": np.where(np.arange(100) % 3, "b", "a")}
    other = {"x_test": rng.random((7, 2)), "y_test": np.zeros(7, int), "group_test": np.full(7, "b")}
    np.savez(tmp_path / "d.npz", **arrays, **other)
    source = open_source(str(tmp_path / "d.npz"))
    data = {s: source.load(s) for s in SPLITS}
    assert [len(data[s]) for s in SPLITS] == [90, 10, 7, 90]
    np.testing.assert_allclose(data["test"].x, other["x_test"].astype(np.float32))
    assert data["test"].group_names == ("a", "b")
    assert data["test"].groups is not None
    assert data["test"].groups.tolist() == [1] * 7
    assert len(data["train"].take(3).groups) == 3  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"y": None}, "needs arrays 'x' and 'y'"),
        ({"group": np.ones(3, int)}, r"'group' has shape \(3,\); needed \(20,\)"),
        ({"group": np.ones(20)}, "'group' has type float64"),
        ({"x_test": np.ones((2, 3)), "y_test": np.zeros(2, int)}, r"\(2,\) and, to test, \(3,\)"),
        ({"x_test": np.ones((2, 2)), "y_test": np.zeros(2, int), "group": np.ones(20, int)}, "come together"),
    ],
)
def test_faults_of_arrays_are_named(tmp_path: Path, change: dict[str, np.ndarray | None], words: str) -> None:
    arrays = {"x": np.ones((20, 2)), "y": np.arange(20) % 2} | change
    np.savez(tmp_path / "d.npz", **{k: v for k, v in arrays.items() if v is not None})
    with pytest.raises(CalibrationError, match=words):
        open_source(str(tmp_path / "d.npz"))
