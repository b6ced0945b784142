"""Splits are fixed and disjoint; a user's file is read or refused with all its faults."""

import contextlib
import gzip
import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pi_compiler.errors import CalibrationError, ParameterError, PiError
from pi_compiler.models.data import DATASETS, SPLITS, is_local, load, parse_spec, read_data
from pi_compiler.models.mnist import read_idx

SHAPES = {
    "digits": (1, 8, 8),
    "mnist": (1, 28, 28),
    "fashion_mnist": (1, 28, 28),
    "cifar10-lossless": (3, 32, 32),
    "cifar10-jpeg": (3, 32, 32),
}
SIZES = {
    "digits": (1085, 357, 355, 512),
    "mnist": (55_000, 5_000, 10_000, 1_000),
    "fashion_mnist": (55_000, 5_000, 10_000, 1_000),
    "cifar10-lossless": (3_000, 1_000, 100, 1_000),
}


def rows_of(x: np.ndarray) -> set[bytes]:
    return {row.tobytes() for row in x}


@pytest.mark.parametrize("name", sorted(SIZES))
def test_splits_are_disjoint_and_calibration_is_part_of_train(name: str):
    if not is_local(name):
        pytest.skip(f"{name} is not on this machine")
    data = {split: load(name, split) for split in SPLITS}
    assert tuple(len(data[split]) for split in SPLITS) == SIZES[name]
    rows = {split: rows_of(data[split].x) for split in SPLITS}
    assert not rows["train"] & rows["validation"]
    assert not (rows["train"] | rows["validation"]) & rows["test"]
    assert rows["calibration"] <= rows["train"]
    for part in data.values():
        assert part.x.dtype == np.float32
        assert part.x.shape[1:] == SHAPES[name]
        assert part.x.min() >= 0.0
        assert part.x.max() == 1.0
        assert set(part.labels) == set(range(10))


def test_digits_are_split_alike_in_every_class():
    counts = [np.bincount(load("digits", split).labels) for split in ("train", "validation", "test")]
    total = sum(counts)
    for part, share in zip(counts, (0.6, 0.2, 0.2), strict=True):
        assert np.all(np.abs(part - share * total) <= 2)


def test_loading_twice_gives_the_same_samples():
    first, second = load("digits", "calibration"), load("digits", "calibration")
    np.testing.assert_array_equal(first.x, second.x)
    np.testing.assert_array_equal(first.labels, second.labels)


def test_digits_scale_from_sixteen_levels_to_one():
    assert set(np.unique(load("digits", "train").x * 16)) == set(map(float, range(17)))


def test_compressed_cifar_images_follow_their_folders():
    if not is_local("cifar10-jpeg"):
        pytest.skip("cifar10-jpeg is not on this machine")
    data = load("cifar10-jpeg", "calibration")
    assert data.x.shape == (1_000, 3, 32, 32)
    assert data.x.max() <= 1.0
    np.testing.assert_array_equal(data.labels, np.tile(np.arange(10), 100))


def test_unknown_name_and_split_are_reported_together():
    with pytest.raises(ParameterError) as caught:
        load("minst", "tests")
    for part in ("minst", "tests", "mnist", "validation"):
        assert part in str(caught.value)
    with pytest.raises(ParameterError, match="minst"):
        is_local("minst")


@pytest.mark.parametrize("spec", ["digits", "digits:", ":test", "", "some/model.onnx"])
def test_a_spec_without_name_and_split_says_what_is_expected(spec: str):
    with pytest.raises(ParameterError, match="NAME:SPLIT"):
        read_data(spec)


def test_a_spec_names_a_known_split():
    assert parse_spec("mnist:test") == ("mnist", "test")
    assert len(read_data("digits:validation")) == 357
    assert "digits" in DATASETS


# --- IDX files ---------------------------------------------------------------------------------

IDX = b"\x00\x00\x08\x02\x00\x00\x00\x02\x00\x00\x00\x03abcdef"


def test_an_idx_file_has_its_declared_shape(tmp_path: Path):
    path = tmp_path / "f.gz"
    path.write_bytes(gzip.compress(IDX))
    np.testing.assert_array_equal(read_idx(path), np.frombuffer(b"abcdef", np.uint8).reshape(2, 3))


@pytest.mark.parametrize(
    "raw",
    [
        gzip.compress(IDX)[:-12],
        gzip.compress(IDX[:-1]),
        gzip.compress(IDX + b"g"),
        gzip.compress(IDX[:6]),
        gzip.compress(b"\x00\x00\x0d" + IDX[3:]),
        gzip.compress(b""),
        IDX,
        b"",
    ],
    ids=["truncated gzip", "short", "long", "half a header", "floats", "empty", "not gzip", "no bytes"],
)
def test_a_damaged_idx_file_is_refused(tmp_path: Path, raw: bytes):
    path = tmp_path / "f.gz"
    path.write_bytes(raw)
    with pytest.raises(CalibrationError, match=r"f\.gz"):
        read_idx(path)


# --- a user's files ----------------------------------------------------------------------------


def test_inputs_and_labels_come_back_from_an_npz(tmp_path: Path):
    path = tmp_path / "own.npz"
    np.savez(path, x=np.arange(12, dtype=np.uint8).reshape(3, 4), y=np.array([2, 0, 1], dtype=np.uint8))
    data = read_data(path)
    assert (data.x.dtype, data.labels.dtype) == (np.float32, np.int64)
    np.testing.assert_array_equal(data.x, np.arange(12.0).reshape(3, 4))
    np.testing.assert_array_equal(data.labels, [2, 0, 1])
    assert (data.name, data.split) == ("own.npz", "all")
    assert len(data.take(2)) == len(data.take(2).labels) == 2


def test_labels_are_optional_until_accuracy_needs_them(tmp_path: Path):
    path = tmp_path / "own.npy"
    np.save(path, np.ones((3, 4)))
    data = read_data(str(path))
    assert data.y is None
    with pytest.raises(CalibrationError, match=r"own\.npy have no labels"):
        _ = data.labels


def test_all_faults_of_a_file_come_in_one_message(tmp_path: Path):
    path = tmp_path / "own.npz"
    x = np.ones((3, 4))
    x[1, 2], x[2, 0] = np.nan, np.inf
    np.savez(path, x=x, y=np.array([0.0, 1.0]))
    with pytest.raises(CalibrationError) as caught:
        read_data(path)
    for part in ("2 values that are NaN or infinite", "(1, 2)", "float64; needed: integers", "(2,); needed (3,)"):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"images": np.ones((2, 2))}, "no array 'x'.*images"),
        ({"x": np.ones((2, 2), dtype=complex)}, "complex128"),
        ({"x": np.array([["a", "b"]])}, "real or integer numbers"),
        ({"x": np.ones((0, 4))}, "empty"),
        ({"x": np.ones(4)}, r"shape \(4,\)"),
        ({"x": np.full((2, 2), 1e60)}, "infinite in float32"),
        ({"x": np.ones((2, 2)), "y": np.array([0, -1])}, "negative label"),
        ({"x": np.array([[{}]], dtype=object)}, "pickled objects"),
    ],
)
def test_unusable_contents_are_named(tmp_path: Path, arrays: dict[str, np.ndarray], words: str):
    path = tmp_path / "own.npz"
    np.savez(path, **arrays)
    with pytest.raises(CalibrationError, match="(?s)" + words):
        read_data(path)


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(CalibrationError, match=r"absent\.npz does not exist"):
        read_data(tmp_path / "absent.npz")


def valid_npz() -> bytes:
    stream = io.BytesIO()
    np.savez_compressed(stream, x=np.ones((3, 4), np.float32), y=np.arange(3))
    return stream.getvalue()


def valid_npy() -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.ones((3, 4), np.float32))
    return stream.getvalue()


@pytest.mark.filterwarnings("ignore")
@settings(max_examples=200, deadline=None)
@given(
    kind=st.sampled_from(["npz", "npy", "idx.gz"]),
    changes=st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=4),
    cut=st.none() | st.integers(0, 10_000),
)
def test_a_damaged_file_is_read_or_refused_but_never_a_foreign_error(
    tmp_path_factory: pytest.TempPathFactory, kind: str, changes: list[tuple[int, int]], cut: int | None
):
    raw = bytearray({"npz": valid_npz(), "npy": valid_npy(), "idx.gz": gzip.compress(IDX)}[kind])
    for at, value in changes:
        raw[at % len(raw)] = value
    path = tmp_path_factory.mktemp("fuzz") / f"f.{kind}"
    path.write_bytes(raw if cut is None else raw[: cut % (len(raw) + 1)])
    with contextlib.suppress(PiError):
        read_idx(path) if kind == "idx.gz" else read_data(path)
