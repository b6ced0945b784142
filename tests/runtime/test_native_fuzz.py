"""Whatever reaches the native backend from outside gives a Python exception or a sound result, never a crash.

Under ``make sanitize`` the same tests find every access outside of memory and every undefined operation.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pi_compiler.errors import ExecutionError, PiError
from pi_compiler.ir.params import Params, make_params, ntt_primes
from pi_compiler.runtime import keys as files
from pi_compiler.runtime.native import NativeBackend
from pi_compiler.runtime.native.evaluator import NativeEvaluator
from pi_compiler.runtime.native.material import NativeCiphertext, NativeKeys, NativePlaintext, core, core_error

pytestmark = pytest.mark.skipif(core_error() is not None, reason="the native module is not built")

PARAMS = make_params(10, 3, 30, log_q0=36, log_special=40, specials=2, insecure=True)
OTHER = make_params(10, 2, 30, log_q0=36, log_special=40, specials=1, insecure=True)
REFUSALS = (ValueError, TypeError, IndexError, OverflowError, MemoryError)


@cache
def parts(params: Params = PARAMS) -> tuple[object, NativeEvaluator]:
    backend = NativeBackend(threads=2)
    client = backend.keygen(params, (1, 5), conjugate=True, insecure=True)
    return client, backend.evaluator(params, client.eval_keys)


@cache
def originals() -> dict[str, bytes]:
    """Contents of one file of each kind, without the digest."""
    import tempfile

    client, ev = parts()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        client.save_eval_keys(folder)
        client.save(folder / "secret")
        client.public_key.save(folder / "public")
        x = client.encrypt(np.ones(4), 3, PARAMS.scale)
        client.encrypt_to(folder / "short", np.ones(4), 3, PARAMS.scale)
        ev.save_ciphertext(x, folder / "long")
        ev.save_ciphertext(ev.mul(x, x), folder / "wide")
        return {path.name: path.read_bytes() for path in folder.iterdir()}


KINDS = ("short", "long", "wide", "public", "secret", "rotations.native", "relinearize.native", "conjugate.native")


def load_and_use(folder: Path, kind: str) -> None:
    """Load what a damaged file says and compute with it; whatever it holds, this must be safe."""
    backend = NativeBackend(threads=2)
    client, ev = parts()
    if kind == "secret":
        client = backend.load_client(PARAMS, folder / kind, (1,), insecure=True)
        client.encrypt(np.ones(4), 1, PARAMS.scale)
    elif kind == "public":
        backend.load_public_key(PARAMS, folder / kind, insecure=True).encrypt(np.ones(4), 2, PARAMS.scale)
    elif kind.endswith(".native"):
        ev = backend.evaluator(PARAMS, backend.load_keys(PARAMS, folder, insecure=True))
        x = client.encrypt(np.ones(4), 3, PARAMS.scale)
        client.decrypt(ev.relinearize(ev.mul(ev.rotate(x, 5), ev.conjugate(x))))
    else:
        x = ev.load_ciphertext(folder / kind)
        client.decrypt(ev.add(ev.mul_plain(x, ev.encode(np.ones(4), ev.type_of(x).level, 8.0)), x))


def damaged(folder: Path, kind: str, change: Callable[[bytes], bytes], *, reseal: bool) -> None:
    """The files, one of them changed; resealed, its digest fits, as an attacker would make it."""
    for name, content in originals().items():
        if name != kind:
            (folder / name).write_bytes(content)
        elif reseal:
            inner = change(content[:-32])
            files.write_sealed(folder / name, lambda path, inner=inner: Path(path).write_bytes(inner) and None)
        else:
            (folder / name).write_bytes(change(content))


@settings(max_examples=60, deadline=None)
@given(data=st.data(), kind=st.sampled_from(KINDS), reseal=st.booleans())
def test_truncated_extended_and_bit_flipped_files(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, kind: str, reseal: bool
) -> None:
    size = len(originals()[kind])
    at = data.draw(st.one_of(st.integers(0, 2000), st.integers(0, size - 33)))
    mask, junk = data.draw(st.integers(1, 255)), data.draw(st.binary(max_size=64))
    damages: dict[str, Callable[[bytes], bytes]] = {
        "cut": lambda c: c[: at % len(c)],
        "flipped": lambda c: c[: at % len(c)] + bytes([c[at % len(c)] ^ mask]) + c[at % len(c) + 1 :],
        "longer": lambda c: c + b"\0" + junk,
        "replaced": lambda c: c[: at % len(c)] + junk + c[at % len(c) + len(junk) :],
        "shifted": lambda c: c[: at % len(c)] + b"x" + c[at % len(c) :],
        "other": lambda c: originals()[data.draw(st.sampled_from(KINDS))][:-32],
    }
    folder = tmp_path_factory.mktemp("fuzz")
    damaged(folder, kind, damages[data.draw(st.sampled_from(sorted(damages)))], reseal=reseal)
    try:
        load_and_use(folder, kind)
    except PiError:
        return


VALUES = st.one_of(
    st.integers(-(2**70), 2**70), st.floats(), st.text(max_size=70), st.none(), st.booleans(), st.lists(st.integers())
)


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    name=st.sampled_from(["kind", "level", "polys", "scale", "seed", "log_n", "primes", "special", "keys"]),
    value=VALUES,
    inner=st.booleans(),
)
def test_files_whose_header_says_something_else(
    tmp_path_factory: pytest.TempPathFactory, kind: str, name: str, value: object, inner: bool
) -> None:
    def change(content: bytes) -> bytes:
        magic, line, rest = content.split(b"\n", 2)
        header = json.loads(line)
        if inner and "keys" in header:
            step = next(iter(header["keys"]))
            header["keys"][step] = {**header["keys"][step], name: value} if value is not None else value
        else:
            header[name] = value
        return b"\n".join((magic, json.dumps(header).encode(), rest))

    folder = tmp_path_factory.mktemp("fuzz")
    damaged(folder, kind, change, reseal=True)
    try:
        load_and_use(folder, kind)
    except PiError:
        return


# ---- The compiled module ----


@cache
def things() -> list[object]:
    """Objects of two rings at several levels, and what is none."""
    found: list[object] = []
    for params in (PARAMS, OTHER):
        r = NativeBackend(threads=2)._ring(params, insecure=True).core
        top, digits = params.max_level, r.digits(params.max_level)
        found += [r.empty(1, top, True), r.empty(2, top, False), r.empty(3, top, False), r.empty(2, 0, False)]
        found += [r.empty(2, top, True), r.empty(2 * digits, top, True), r.empty(2 * r.digits(1), 1, True)]
        found += [r.encode(np.ones(4), 8.0, top), r.encode(np.ones(512), 8.0, 1, True), r.encode(np.ones(1), 8.0, top)]
        found += [r.decompose(r.empty(2, top, False)), r.decompose(r.empty(2, 1, False)), r]
        found += [r.map(2, top, False, np.asarray(r.empty(2, top, False)))]
    found += [None, "x", b"", b"\0" * 8192, 0.5, [], {}, object(), np.ones(4), np.ones(1024), np.zeros((2, 4, 1024))]
    found += [np.ones(1024)[::2], np.full(4, np.inf), np.full(4, 1e308), np.array(["a"]), np.zeros(2048, np.uint64)]
    return found


ARGUMENT = st.one_of(
    st.integers(0, 10**6).map(lambda i: things()[i % len(things())]),
    st.integers(-2, 8),
    st.sampled_from([2**31 - 1, 2**31, 2**63, 2**64, -(2**31), 2047, 1.0, 2.0**60, 1e300, float("nan"), True]),
)
METHODS = (
    "add add_gadget add_plain decode decompose digits divide_special drop empty encode intt linear_sum linear_sums "
    "load map mul mul_add mul_plain neg ntt permute product_sum relinearize rescale rotate rotate_extended "
    "rotate_first small sub uniform valid"
).split()


def test_every_method_of_a_ring_is_tried() -> None:
    assert sorted(METHODS) == sorted(m for m in dir(core.Ring) if not m.startswith("_") and m != "kernels")


@settings(max_examples=600, deadline=None)
@given(
    method=st.sampled_from(METHODS),
    arguments=st.lists(ARGUMENT, min_size=1, max_size=8),
    nested=st.integers(0, 3),
)
def test_calls_with_anything_at_all(method: str, arguments: list[object], nested: int) -> None:
    r = parts()[0]._ring.core
    if nested == 1:  # the form that linear_sum takes
        pairs = list(zip(arguments[1::2], arguments[2::2], strict=False))
        arguments = [[(pairs, arguments[0], 3)], PARAMS.max_level]
    if nested == 2:  # the form that linear_sums takes
        arguments = [arguments[1::2], [arguments[2::2]] * 3, PARAMS.max_level]
    try:
        result = getattr(r, method)(*arguments)
    except REFUSALS:
        return
    if isinstance(result, core.Polys) and not result.extended and (method != "map" or r.valid(result)):
        # Sound: it can be computed with, and every residue is below its prime.
        words = np.asarray(r.add(result, result))
        assert all(words[:, i].max() < q for i, q in enumerate(PARAMS.primes[: result.level + 1]))


@settings(max_examples=150, deadline=None)
@given(
    method=st.sampled_from(
        ["rotate", "rotate_extended", "relinearize", "linear_sum", "linear_sums", "mul_add", "add_gadget"]
    ),
    picks=st.lists(st.integers(0, 12), min_size=4, max_size=4),
    numbers=st.lists(st.integers(-1, 7), min_size=4, max_size=4),
)
def test_calls_with_operands_of_the_right_kinds(method: str, picks: list[int], numbers: list[int]) -> None:
    """Nearly right calls get deeper than random ones."""
    r = parts()[0]._ring.core
    a, b, c, d = (things()[p] for p in picks)
    calls: dict[str, Callable[[], object]] = {
        "rotate": lambda: r.rotate(a, b, c, numbers[0]),
        "rotate_extended": lambda: r.rotate_extended(a, b, c, numbers[0]),
        "relinearize": lambda: r.relinearize(a, b),
        "linear_sum": lambda: r.linear_sum([([(a, b)], c, numbers[0])], numbers[1]),
        "linear_sums": lambda: r.linear_sums([a, b], [[c, d], [d, c]], numbers[0]),
        "mul_add": lambda: r.mul_add(a, numbers[0], b, numbers[1], c, numbers[2], d, numbers[3]),
        "add_gadget": lambda: r.add_gadget(a, numbers[0], b, numbers[1], numbers[2]),
    }
    try:
        calls[method]()
    except REFUSALS:
        return


PRIMES = [*PARAMS.primes, *PARAMS.special, *ntt_primes(10, 20, 2), *ntt_primes(10, 59, 2)]


@settings(max_examples=120, deadline=None)
@given(
    log_n=st.one_of(st.integers(9, 11), st.sampled_from([-1, 0, 18, 64, 2**31, 2**70])),
    primes=st.lists(
        st.one_of(st.sampled_from(PRIMES), st.integers(-1, 2**64), st.sampled_from([0, 1, 2, 2**60, 2**61 - 1])),
        max_size=6,
    ),
    specials=st.integers(-1, 7),
    threads=st.sampled_from([-1, 0, 1, 2, 257, 2**31]),
    kernels=st.sampled_from(["", "portable", "avx2", "avx512ifma", "mmx", "\0"]),
)
def test_rings_of_any_numbers(log_n: int, primes: list[int], specials: int, threads: int, kernels: str) -> None:
    try:
        r = core.Ring(log_n, primes, specials, threads, kernels)
    except REFUSALS:
        return
    level = len(primes) - specials - 1
    plain = r.encode(np.ones(1), 4.0, level)
    decoded = r.decode(r.add_plain(r.empty(1, level, False), plain))
    np.testing.assert_allclose(decoded, 4.0, atol=1e-6)


@pytest.mark.parametrize("scale", [1e300, 1e308, 5e-324])
@pytest.mark.parametrize("value", [1e308, -1e308, 5e-324])
@pytest.mark.parametrize("period", [1, 2, 64, 512])
def test_values_and_scales_at_the_ends_of_doubles(scale: float, value: float, period: int) -> None:
    r = parts()[0]._ring.core
    values = np.full(period, value)
    values[::3] *= -1
    try:
        plain = r.encode(values, scale, 3)
    except REFUSALS:
        return
    assert np.isfinite(r.decode(r.add_plain(r.empty(1, 3, False), plain))).all()


# ---- The evaluator ----


def test_material_of_other_parameters_is_refused_by_every_operation() -> None:
    client, ev = parts()
    stranger, other_ev = parts(OTHER)
    x, y = client.encrypt(np.ones(4), 2, PARAMS.scale), stranger.encrypt(np.ones(4), 2, OTHER.scale)
    plain = other_ev.encode(np.ones(4), 2, OTHER.scale)
    for act in (
        lambda: ev.add(x, y),
        lambda: ev.sub(y, x),
        lambda: ev.neg(y),
        lambda: ev.mul(x, y),
        lambda: ev.add_plain(y, plain),
        lambda: ev.mul_plain(x, plain),
        lambda: ev.rotate(y, 1),
        lambda: ev.conjugate(y),
        lambda: ev.relinearize(y),
        lambda: ev.rescale(y, 1.0),
        lambda: ev.drop_level(y, 0),
        lambda: ev.linear_sum([(1, [(y, plain)])]),
        lambda: ev.linear_sum([(1, [(x, plain)])]),
        lambda: ev.linear_sums([y], [[ev.encode(np.ones(1), 2, PARAMS.scale)]]),
        lambda: ev.linear_sums([x], [[other_ev.encode(np.ones(1), 2, OTHER.scale)]]),
        lambda: client.decrypt(y),
        lambda: client.decrypt(plain),
        lambda: NativeBackend().evaluator(PARAMS, stranger.eval_keys),
    ):
        with pytest.raises(ExecutionError):
            act()


def test_books_that_do_not_fit_their_polynomials_crash_nothing() -> None:
    """Whoever builds ciphertexts and keys by hand gets an exception from the module."""
    client, ev = parts()
    ring = client._ring
    low, wide = ring.core.empty(2, 0, False), ring.core.empty(2, 3, True)
    plain = NativePlaintext(ring, ring.core.encode(np.ones(4), 8.0, 1), PARAMS.scale)
    forged = NativeEvaluator(NativeKeys(ring, {1: low}, low, low))
    for act in (
        lambda: ev.mul(NativeCiphertext(ring, wide, 1.0), NativeCiphertext(ring, wide, 1.0)),
        lambda: ev.rotate(NativeCiphertext(ring, wide, 1.0), 1),
        lambda: client.decrypt(NativeCiphertext(ring, ring.core.empty(1, 2, False), 1.0)),
        lambda: client.decrypt(NativeCiphertext(ring, ring.core.empty(4, 2, False), 1.0)),
        lambda: ev.add_plain(NativeCiphertext(ring, low, PARAMS.scale), plain),
        lambda: forged.rotate(client.encrypt(np.ones(4), 3, PARAMS.scale), 1),
        lambda: forged.conjugate(client.encrypt(np.ones(4), 3, PARAMS.scale)),
    ):
        with pytest.raises((ValueError, ExecutionError)):
            act()
