"""CrypTen 0.4.1 on a current torch: the only place that imports it, and what of it may be used.

Its arithmetic and binary tensors are used, with our communicator and our provider of tuples. Its generator, a
Mersenne Twister, is shut: a code path that would draw a share from it fails. Its decoder is not used, being off by
one for some negative values, and neither are its launcher, importer and third-party provider.
"""

from __future__ import annotations

import importlib
import sys
import threading
from collections.abc import Callable
from importlib.util import find_spec
from types import ModuleType
from typing import Any

from pi_compiler.errors import BackendUnavailable, InternalError

INSTALL = "pip install 'pi-compiler[crypten]' and then pip install --no-deps crypten==0.4.1"
_MOVED = "torch.onnx._internal.registration"
_NOW = "torch.onnx._internal.torchscript_exporter.registration"

_BOUND = threading.local()
"""Per thread the party's communicator and provider: a thread is a party, in tests at least."""
_LOADING = threading.Lock()


def missing() -> str | None:
    """None if the library and what it needs are installed, else what is missing and how to get it."""
    lacking = [name for name in ("torch", "crypten", "cryptography", "omegaconf", "yaml") if find_spec(name) is None]
    return f"{', '.join(lacking)} not installed; {INSTALL}" if lacking else None


def load() -> ModuleType:
    """The library.

    Raises:
        BackendUnavailable: it is not installed, or does not import.
    """
    if (why := missing()) is not None:
        raise BackendUnavailable(f"backend 'crypten' is not available: {why}")
    with _LOADING:
        return _imported()


def _imported() -> ModuleType:
    try:
        if _MOVED not in sys.modules and find_spec(_MOVED) is None:
            # torch moved this module; crypten asks for it by its old name.
            sys.modules[_MOVED] = importlib.import_module(_NOW)
        return importlib.import_module("crypten")
    except ImportError as error:
        raise BackendUnavailable(f"backend 'crypten' is not available: {error}", hint=INSTALL) from error


def bind(communicator: object, provider: object) -> ModuleType:
    """The library, in this thread speaking through our communicator and taking tuples from our provider.

    Raises:
        BackendUnavailable: it is not installed.
    """
    crypten = load()
    _BOUND.communicator, _BOUND.provider = communicator, provider
    crypten.communicator.get = lambda: _BOUND.communicator
    crypten.mpc.get_default_provider = lambda: _BOUND.provider
    primitives = crypten.mpc.primitives
    for module in (primitives.arithmetic, primitives.binary):
        for name in ("generate_random_ring_element", "generate_kbit_random_tensor"):
            if hasattr(module, name):
                setattr(module, name, _shut(name))
    return crypten


def _shut(name: str) -> Callable[..., Any]:
    def refuse(*args: object, **kwargs: object) -> Any:
        raise InternalError(f"crypten's {name} is no source of shares")

    return refuse
