"""``auto`` takes the best backend that is there, and says what to install where none is."""

from __future__ import annotations

import importlib.util

import pytest

from pi_compiler.errors import BackendUnavailable
from pi_compiler.ir.params import Params, make_params
from pi_compiler.runtime.backend import AUTO, best_for, get_backend
from pi_compiler.runtime.native import material

HAS_TENSEAL = importlib.util.find_spec("tenseal") is not None
needs_native = pytest.mark.skipif(material.core_error() is not None, reason="the native module is not built")
needs_tenseal = pytest.mark.skipif(not HAS_TENSEAL, reason="tenseal is not installed")
SMALL = make_params(13, 3, 40, log_q0=44, log_special=48)
SEVERAL = make_params(13, 3, 30, log_q0=36, log_special=40, specials=2)
LARGE = make_params(14, 3, 40, log_q0=50, log_special=60)


@pytest.fixture
def no_native(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(material, "core", None)
    monkeypatch.setattr(material, "_CORE_ERROR", "No module named '_core'", raising=False)


@pytest.fixture
def no_tenseal(monkeypatch: pytest.MonkeyPatch) -> None:
    module = pytest.importorskip("pi_compiler.runtime.tenseal")
    monkeypatch.setattr(module, "seal", None)


@needs_native
def test_native_comes_first() -> None:
    assert get_backend(AUTO).name == "native"


@needs_tenseal
@pytest.mark.usefixtures("no_native")
def test_without_the_compiled_module_it_is_tenseal() -> None:
    assert get_backend(AUTO).name == "tenseal"
    assert best_for(SMALL, "native") == "tenseal"
    assert best_for(SEVERAL, "native") == "native"  # which then says why it is not there


@pytest.mark.usefixtures("no_native", "no_tenseal")
def test_with_neither_both_say_what_to_install() -> None:
    with pytest.raises(BackendUnavailable) as caught:
        get_backend(AUTO)
    assert "install a C++17 compiler" in str(caught.value)
    assert "pip install 'pi-compiler[tenseal]'" in str(caught.value)


@needs_native
@needs_tenseal
@pytest.mark.parametrize(
    ("params", "planned", "expected"),
    [
        (SMALL, "tenseal", "native"),
        (SMALL, "native", "native"),
        (SEVERAL, "native", "native"),
        (LARGE, "tenseal", "tenseal"),  # its primes are beyond the fast transforms
        (SMALL, "clear", "clear"),
        (SMALL, "sim", "sim"),
    ],
)
def test_a_plan_runs_where_it_runs_fastest(params: Params, planned: str, expected: str) -> None:
    assert best_for(params, planned) == expected
