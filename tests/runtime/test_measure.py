"""The cost table has the form that predictions read, and times that make sense."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import pi_compiler.runtime
from pi_compiler.errors import BackendUnavailable, ParameterError
from pi_compiler.ir.params import MAX_LOG_QP
from pi_compiler.ir.switching import UNITS
from pi_compiler.runtime.measure import TOP_LEVEL, _params, measure
from pi_compiler.runtime.native.material import core_error

OPERATIONS = {
    "add", "sub", "neg", "mul", "square", "add_plain", "mul_plain", "mul_scalar", "rotate", "relinearize", "rescale",
    "drop_level", "encode", "encode_scalar", "encrypt", "decrypt", "keygen",
}  # fmt: skip


@pytest.mark.parametrize("backend", ["clear", "sim", "tenseal"])
def test_every_operation_gets_a_time_at_every_level(backend: str) -> None:
    if backend == "tenseal":
        pytest.importorskip("tenseal")
    table = json.loads(json.dumps(measure(backend, [12], seconds=0.5)))
    assert table["backend"] == backend
    assert 0 < table["overhead"] < 1e-4
    assert set(table["ops"]) == {"12"}
    assert set(table["ops"]["12"]) == OPERATIONS
    for seconds in table["ops"]["12"].values():
        assert len(seconds) == TOP_LEVEL[12] + 1
        assert all(s >= 0 for s in seconds)
    if backend == "tenseal":
        ops = table["ops"]["12"]
        assert ops["rotate"][3] > 2 * ops["rotate"][0] > 4 * ops["add"][0] > 0
        assert table["key_bytes"]["12"] == [8 * (k + 1) * 2 * (k + 2) * 4096 for k in range(4)]


@pytest.mark.skipif(core_error() is not None, reason="the native module is not built")
def test_units_of_work_are_measured_where_matrix_products_are_one_call() -> None:
    ops = measure("native", [12], seconds=0.5)["ops"]["12"]
    assert set(ops) == OPERATIONS | set(UNITS)
    found = {name: ops[name] for name in UNITS}
    assert all(len(seconds) == 1 and seconds[0] >= 0 for seconds in found.values())
    assert found["transform"][0] > 0


@pytest.mark.parametrize("log_n", TOP_LEVEL)
def test_every_ring_that_can_be_measured_has_secure_parameters_with_fast_primes(log_n: int) -> None:
    params = _params(log_n, TOP_LEVEL[log_n])
    assert params.max_level == TOP_LEVEL[log_n]
    assert params.log_qp <= MAX_LOG_QP[log_n]
    assert max(*params.primes, *params.special) < 2**50


@pytest.mark.parametrize("log_ns", [[], [9], [13, 20]])
def test_ring_degrees_that_cannot_be_measured_are_refused(log_ns: list[int]) -> None:
    with pytest.raises(ParameterError, match="cannot measure ring degrees"):
        measure("clear", log_ns)


def test_unknown_backends_are_refused() -> None:
    with pytest.raises(ParameterError, match="no backend 'cuda'"):
        measure("cuda", [12])


def test_the_shipped_table_covers_the_usual_rings() -> None:
    table = json.loads((Path(pi_compiler.runtime.__file__).parent / "costs_tenseal.json").read_text())
    assert table["backend"] == "tenseal"
    assert {"12", "13", "14", "15"} <= set(table["ops"])
    for log_n, ops in table["ops"].items():
        assert set(ops) == OPERATIONS
        assert len(ops["rotate"]) == TOP_LEVEL[int(log_n)] + 1
        assert ops["rotate"] == sorted(ops["rotate"])


def test_a_missing_library_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tenseal")
    import pi_compiler.runtime.tenseal as module
    from pi_compiler.runtime.backend import get_backend

    monkeypatch.setattr(module, "seal", None)
    with pytest.raises(BackendUnavailable, match="pip install"):
        get_backend("tenseal")
