"""Files are whole and right, or there is an error that says so."""

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

from pi_compiler.errors import CalibrationError
from pi_compiler.models.sources import RemoteFile, cache_folder, find, locate, search_folders

CONTENT = b"the content of a data file"
SHA256 = hashlib.sha256(CONTENT).hexdigest()
UNREACHABLE = "https://localhost:9/file"


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    given, cache = tmp_path / "given", tmp_path / "cache"
    monkeypatch.setenv("PI_DATA_DIR", str(given))
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    return given, cache / "pi-compiler"


def put(folder: Path, content: bytes) -> Path:
    path = folder / "set" / "file.gz"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    return path


def file(*urls: str) -> RemoteFile:
    return RemoteFile("set/file.gz", SHA256, urls)


def served(tmp_path: Path, content: bytes) -> str:
    path = tmp_path / "served"
    path.write_bytes(content)
    return path.as_uri()


def test_the_given_folder_comes_before_the_cache(folders: tuple[Path, Path]):
    given, cache = folders
    cached = put(cache, CONTENT)
    assert find(file()) == cached
    own = put(given, CONTENT)
    assert find(file()) == own


def test_without_a_given_folder_only_the_cache_is_searched():
    assert search_folders({"XDG_CACHE_HOME": "/c"}) == (Path("/c/pi-compiler"),)
    assert cache_folder({}) == Path.home() / ".cache" / "pi-compiler"


def test_a_wrong_checksum_is_an_error_and_not_a_reason_to_look_further(folders: tuple[Path, Path]):
    given, cache = folders
    damaged = put(given, CONTENT[:-1])
    put(cache, CONTENT)
    with pytest.raises(CalibrationError, match="checksum differs") as caught:
        locate(file())
    assert str(damaged) in str(caught.value)
    assert SHA256 in str(caught.value)


def test_a_download_lands_in_the_cache_and_is_used_again(folders: tuple[Path, Path], tmp_path: Path):
    url = served(tmp_path, CONTENT)
    path = locate(file(url))
    assert path == folders[1] / "set" / "file.gz"
    assert path.read_bytes() == CONTENT
    (tmp_path / "served").unlink()
    assert locate(file(url)) == path


def test_the_second_address_serves_when_the_first_does_not(folders: tuple[Path, Path], tmp_path: Path):
    assert locate(file(UNREACHABLE, served(tmp_path, CONTENT))).read_bytes() == CONTENT


def test_a_download_with_a_wrong_checksum_leaves_nothing_behind(folders: tuple[Path, Path], tmp_path: Path):
    with pytest.raises(CalibrationError, match="could not be downloaded") as caught:
        locate(file(served(tmp_path, b"something else")))
    assert hashlib.sha256(b"something else").hexdigest() in str(caught.value)
    assert [path for path in folders[1].rglob("*") if path.is_file()] == []


def test_offline_the_error_names_folders_addresses_and_a_way_out(folders: tuple[Path, Path]):
    with pytest.raises(CalibrationError) as caught:
        locate(file(UNREACHABLE))
    for part in (str(folders[0]), str(folders[1]), UNREACHABLE, "PI_DATA_DIR"):
        assert part in str(caught.value)


def test_a_file_that_nobody_serves_says_which_checksum_it_needs(folders: tuple[Path, Path]):
    with pytest.raises(CalibrationError, match="no place to download it from") as caught:
        locate(file())
    assert SHA256 in str(caught.value)


def test_data_and_zoo_import_neither_torch_nor_data_packages():
    heavy = "{'torch', 'onnx', 'sklearn', 'PIL', 'tenseal'}"
    code = f"import sys, pi_compiler.models.zoo, pi_compiler.models.data; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
