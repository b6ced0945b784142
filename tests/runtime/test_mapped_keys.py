"""Keys in a mapped file are those that were sent, and what is wrong with the file shows as an exception."""

from __future__ import annotations

import hashlib
import json
import os
import struct
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pi_compiler.errors import ArtifactError, ExecutionError, ParameterError, PiError
from pi_compiler.ir.layout import place
from pi_compiler.ir.params import make_params
from pi_compiler.ir.program import Port, Program, Signature
from pi_compiler.runtime import keyring
from pi_compiler.runtime.backend import get_backend
from pi_compiler.runtime.flooding import Flood
from pi_compiler.runtime.native import NativeBackend
from pi_compiler.runtime.native.material import MAPPED, NativeKeys, core_error
from pi_compiler.runtime.session import Session

pytestmark = pytest.mark.skipif(core_error() is not None, reason="the native module is not built")

PARAMS = make_params(10, 3, 30, log_q0=36, log_special=40, specials=2, insecure=True)
LEVELS = {1: 3, 5: 1, 500: 2}
WIRE = ("rotations.native", "relinearize.native", "conjugate.native")
BACKEND = NativeBackend(threads=1)


@cache
def client() -> object:
    return BACKEND.keygen(PARAMS, LEVELS, conjugate=True, insecure=True)


def mapped(folder: Path) -> NativeKeys:
    return BACKEND.map_keys(PARAMS, folder, insecure=True)


def written(folder: Path) -> Path:
    """A folder of keys with a mapped file."""
    client().save_eval_keys(folder)
    mapped(folder)
    return folder


@cache
def files() -> dict[str, bytes]:
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        return {path.name: path.read_bytes() for path in written(Path(name) / "keys").iterdir()}


def copied(folder: Path, *, without: tuple[str, ...] = (), content: bytes | None = None) -> Path:
    folder.mkdir(exist_ok=True)
    for name, original in files().items():
        if name not in without:
            (folder / name).write_bytes(original if content is None or name != MAPPED else content)
    return folder


def use(keys: NativeKeys) -> np.ndarray:
    """What a computation with every key gives."""
    ev = BACKEND.evaluator(PARAMS, keys)
    x = client().encrypt(np.arange(4) / 4, 1, PARAMS.scale)
    y = ev.relinearize(ev.mul(x, x))
    for step in LEVELS:
        y = ev.rotate(y, step)
    return client().decrypt(ev.conjugate(y))


def whole(keys: NativeKeys) -> list[np.ndarray]:
    return [np.asarray(key) for key in (*keys.rotation.values(), keys.relin, keys.conjugation)]


def test_mapped_keys_are_the_sent_ones_bit_for_bit_with_the_seeded_files_and_without(tmp_path: Path) -> None:
    folder = copied(tmp_path / "keys", without=(MAPPED,))
    expanded = BACKEND.load_keys(PARAMS, folder, insecure=True)
    for wire in (True, True, False):
        if not wire:
            for name in WIRE:
                (folder / name).unlink()
        keys = mapped(folder)
        assert keys.levels == expanded.levels == LEVELS
        assert keys.nbytes == expanded.nbytes
        for ours, theirs in zip(whole(keys), whole(expanded), strict=True):
            np.testing.assert_array_equal(ours, theirs)
        found = use(keys)
        np.testing.assert_allclose(found[:4], np.roll((np.arange(4) / 4) ** 2, -506 % 4), atol=2.0**-15)


def test_a_second_opening_expands_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = copied(tmp_path / "keys")
    monkeypatch.setattr("pi_compiler.runtime.native.mapped.open_wire", lambda *_: pytest.fail("expanded again"))
    before = (folder / MAPPED).stat().st_mtime_ns
    use(mapped(folder))
    assert (folder / MAPPED).stat().st_mtime_ns == before


def test_other_seeded_keys_replace_what_was_expanded_from_earlier_ones(tmp_path: Path) -> None:
    """Keys of an earlier secret would give noise, and nobody would see why."""
    folder = copied(tmp_path / "keys")
    other = BACKEND.keygen(PARAMS, LEVELS, conjugate=True, insecure=True)
    other.save_eval_keys(tmp_path / "other")
    for name in WIRE:
        (folder / name).write_bytes((tmp_path / "other" / name).read_bytes())
    fresh = BACKEND.load_keys(PARAMS, tmp_path / "other", insecure=True)
    for ours, theirs in zip(whole(mapped(folder)), whole(fresh), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert not list(folder.glob(".*"))


def test_keys_for_other_parameters_or_with_some_missing_are_refused(tmp_path: Path) -> None:
    folder = copied(tmp_path / "keys")
    other = make_params(10, 2, 30, log_q0=36, log_special=40, insecure=True)
    with pytest.raises(ExecutionError, match="other parameters"):
        BACKEND.map_keys(other, folder, insecure=True)
    manifest = json.loads((folder / "keys.json").read_text())
    (folder / "keys.json").write_text(json.dumps({**manifest, "rotations": [1, 5, 7, 500]}))
    with pytest.raises(ArtifactError, match="lacks keys"):
        mapped(folder)
    with pytest.raises(ArtifactError, match="no evaluation keys"):
        mapped(tmp_path / "nowhere")


def content_start() -> int:
    magic, line, _ = files()[MAPPED].split(b"\n", 2)
    return len(magic) + len(line) + 2


def test_every_damage_outside_of_the_keys_shows_when_the_file_is_opened(tmp_path: Path) -> None:
    original, start = files()[MAPPED], content_start()
    assert start % 4096 == 0
    cuts = [original[:at] for at in (0, 5, 40, start - 1, start, start + 64, len(original) // 2, len(original) - 1)]
    places = [*range(0, start, 97), *range(len(original) - 32 - 4 * 5, len(original))]
    flips = [original[:at] + bytes([original[at] ^ 4]) + original[at + 1 :] for at in places]
    for number, content in enumerate([*cuts, *flips, original + b"\0", b"\0" * len(original)]):
        folder = copied(tmp_path / str(number), content=content, without=WIRE)
        with pytest.raises(ArtifactError, match=r"delete it|cannot map"):
            mapped(folder)


def test_a_damaged_key_shows_at_its_first_use_and_the_others_serve(tmp_path: Path) -> None:
    original = bytearray(files()[MAPPED])
    original[content_start() + 12345] ^= 1  # in the first key, which is the rotation by 1
    keys = mapped(copied(tmp_path / "keys", content=bytes(original)))
    ev = BACKEND.evaluator(PARAMS, keys)
    x = client().encrypt(np.ones(4), 1, PARAMS.scale)
    ev.rotate(x, 5)
    for _ in range(2):
        with pytest.raises(ArtifactError, match=r"a key in .* is damaged"):
            ev.rotate(x, 1)
        with pytest.raises(ArtifactError, match=r"a key in .* is damaged"):
            ev.rotate_linear(x, 1)


def forged(change: Callable[[np.ndarray], None]) -> bytes:
    """A mapped file whose keys are changed and whose checksums fit, as an attacker would make it."""
    original, start = files()[MAPPED], content_start()
    header = json.loads(original[:start].split(b"\n", 2)[1])
    content = np.frombuffer(original, np.uint64, (len(original) - 32 - 4 * 5 - start) // 8, start).copy()
    change(content)
    sums, at = b"", 0
    for _, _, level in header["keys"]:
        size = PARAMS.key_bytes(level) // 8
        sums += struct.pack("<I", zlib.crc32(content[at : at + size].tobytes()))
        at += size
    return original[:start] + content.tobytes() + sums + hashlib.sha256(original[:start] + sums).digest()


def test_residues_that_are_not_below_their_modulus_are_refused_whatever_the_checksums_say(tmp_path: Path) -> None:
    def change(content: np.ndarray) -> None:
        content[7] = 2**63

    keys = mapped(copied(tmp_path / "keys", content=forged(change)))
    with pytest.raises(ArtifactError, match="damaged"):
        BACKEND.evaluator(PARAMS, keys).rotate(client().encrypt(np.ones(4), 1, PARAMS.scale), 1)
    use(mapped(copied(tmp_path / "same", content=forged(lambda _: None))))


def test_a_file_that_is_cut_off_while_it_is_mapped_gives_an_exception(tmp_path: Path) -> None:
    folder = copied(tmp_path / "keys")
    keys = mapped(folder)
    use(keys)
    ev = BACKEND.evaluator(PARAMS, keys)
    x = client().encrypt(np.ones(4), 1, PARAMS.scale)
    for size in (len(files()[MAPPED]) - 1, 4096):
        os.truncate(folder / MAPPED, size)
        with pytest.raises(ArtifactError, match="changed while it was in use"):
            ev.rotate(x, 1)


def test_nothing_writes_into_mapped_keys(tmp_path: Path) -> None:
    keys = mapped(copied(tmp_path / "keys"))
    key, core = keys.rotation[1], keys.ring.core
    for act in (
        lambda: core.ntt(key),
        lambda: core.intt(key),
        lambda: core.uniform(key, 0, 0, b"\0" * 16384),
        lambda: core.mul_add(key, 0, key, 0, key, 0, key, 0),
        lambda: core.add_gadget(key, 0, key, 0, 0),
        lambda: np.asarray(key).__setitem__((0, 0, 0), 1),
    ):
        with pytest.raises(ValueError, match=r"read.?only"):
            act()


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_damage_gives_an_exception_or_the_right_result(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    original = files()[MAPPED]
    at = data.draw(st.one_of(st.integers(0, 5000), st.integers(0, len(original) - 1)))
    junk = data.draw(st.binary(min_size=1, max_size=64))
    how = data.draw(st.sampled_from(["cut", "replaced", "inserted"]))
    rest = {"cut": b"", "replaced": junk + original[at + len(junk) :], "inserted": junk + original[at:]}[how]
    folder = copied(tmp_path_factory.mktemp("fuzz"), content=original[:at] + rest, without=WIRE)
    try:
        found = use(mapped(folder))
    except PiError:
        return
    np.testing.assert_allclose(found[:4], np.roll((np.arange(4) / 4) ** 2, -506 % 4), atol=2.0**-15)


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(["kind", "log_n", "primes", "special", "digit", "origin", "keys"]),
    value=st.one_of(
        st.integers(-(2**70), 2**70),
        st.none(),
        st.text(max_size=9),
        st.lists(
            st.tuples(st.sampled_from(["rotations.native", "x"]), st.integers(-1, 9), st.integers(-1, 9)), max_size=6
        ),
    ),
)
def test_headers_that_say_anything_are_refused_or_served(
    tmp_path_factory: pytest.TempPathFactory, name: str, value: object
) -> None:
    original, start = files()[MAPPED], content_start()
    magic, line, _ = original.split(b"\n", 2)
    head = magic + b"\n" + json.dumps({**json.loads(line), name: value}).encode()
    head += b" " * (-(len(head) + 1) % 4096) + b"\n"
    end = original[-32 - 20 : -32]
    content = head + original[start:-32] + hashlib.sha256(head + end).digest()
    try:
        use(mapped(copied(tmp_path_factory.mktemp("fuzz"), content=content, without=WIRE)))
    except PiError:
        return


# ---- A folder that outlasts the process ----


@pytest.fixture
def model(build: Callable[..., object]) -> tuple[Program, Signature]:
    """Squares of four values, each beside its neighbor's."""
    b = build(PARAMS)
    program = b.program(b.rotate(b.rescale(b.relinearize(b.mul(0, 0))), 1))
    layout = place((4,), PARAMS.slots, np.arange(4))
    level, scale, _ = b.types[program.outputs["y"][0]]
    ports = {"x": Port(layout, 1.0, PARAMS.max_level, PARAMS.scale)}, {"y": Port(layout, 1.0, level, scale)}
    return program, Signature(*ports, {})


@pytest.mark.parametrize("name", ["native", "clear"])
def test_a_second_session_takes_the_keys_of_the_first(
    name: str, model: tuple[Program, Signature], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program, signature = model
    x = {"x": np.arange(4) / 4}
    folder = tmp_path / "keys"
    for _ in range(2):
        session = Session(program, PARAMS, signature, name, insecure=True, keys=folder)
        found = session.run(x).outputs["y"]
        np.testing.assert_allclose(found, np.roll(x["x"] ** 2, -1), atol=2.0**-12)
        monkeypatch.setattr(keyring, "_make", lambda *_: pytest.fail("keys were made again"))
    secret = folder / keyring.SECRET
    assert secret.stat().st_mode & 0o777 == 0o600
    assert folder.stat().st_mode & 0o777 == 0o700
    assert sorted(p.name for p in tmp_path.iterdir()) == ["keys"]
    if name == "native":
        coefficients = session.client._coefficients.tobytes()
        assert coefficients in secret.read_bytes()
        assert all(coefficients[:64] not in p.read_bytes() for p in (folder / keyring.EVALUATION).iterdir())


def test_kept_keys_that_do_not_serve_a_program_are_refused_before_it_runs(
    build: Callable[..., object], model: tuple[Program, Signature], tmp_path: Path
) -> None:
    program, signature = model
    folder = tmp_path / "keys"
    Session(program, PARAMS, signature, "native", insecure=True, keys=folder)
    b = build(PARAMS)
    with pytest.raises(ExecutionError, match="1 rotation keys are missing: 3"):
        keyring.open_keys(get_backend("native"), b.program(b.rotate(0, 3)), PARAMS, folder, insecure=True)
    b = build(PARAMS)
    with pytest.raises(ExecutionError, match="1 rotation keys serve lower levels than needed: 1"):
        keyring.open_keys(get_backend("native"), b.program(b.rotate(0, 1)), PARAMS, folder, insecure=True)
    with pytest.raises(ExecutionError, match="for backend 'native', not 'clear'"):
        keyring.open_keys(get_backend("clear"), program, PARAMS, folder, insecure=True)


def test_a_folder_of_something_else_is_left_alone(model: tuple[Program, Signature], tmp_path: Path) -> None:
    program, signature = model
    (tmp_path / "mine").write_text("precious")
    with pytest.raises(ParameterError, match="holds something else than keys"):
        Session(program, PARAMS, signature, "native", insecure=True, keys=tmp_path)
    with pytest.raises(ParameterError, match="there is no folder"):
        Session(program, PARAMS, signature, "native", insecure=True, keys=tmp_path / "a" / "b")
    assert [p.name for p in tmp_path.iterdir()] == ["mine"]


def test_making_keys_that_fails_leaves_no_folder(
    model: tuple[Program, Signature], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise PiError("cannot write the keys: No space left on device")

    monkeypatch.setattr("pi_compiler.runtime.native.secret.write_keys", full)
    with pytest.raises(PiError, match="No space left"):
        Session(*model[:1], PARAMS, model[1], "native", insecure=True, keys=tmp_path / "keys")
    assert not list(tmp_path.iterdir())


def test_noise_for_released_outputs_takes_fresh_keys(model: tuple[Program, Signature], tmp_path: Path) -> None:
    """How many outputs left under a key is known to one session only."""
    flood = Flood(bits=8, releases=3, error=2.0**-16)
    with pytest.raises(ParameterError, match="counted for one session"):
        Session(model[0], PARAMS, model[1], "native", insecure=True, keys=tmp_path / "keys", flood=flood)
