"""SPU 0.9.5: the only place that imports it.

Its package imports jax, which nothing here needs and which does not go with the installed numpy, so its library is
loaded by itself; that needs no other package.
"""

from __future__ import annotations

import importlib.util
import sys
from importlib.machinery import ExtensionFileLoader
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from pi_compiler.errors import BackendUnavailable
from pi_compiler.ir.spu import FRACTION

INSTALL = "pip install --no-deps spu==0.9.5"
PROTOCOLS = ("semi2k", "cheetah", "aby3")
_NAME = "spu.libspu"


def missing() -> str | None:
    """None if the library is installed, else what to install."""
    return None if _place() is not None else f"spu is not installed; {INSTALL}"


def _place() -> Path | None:
    spec = find_spec("spu")
    places = [] if spec is None else list(spec.submodule_search_locations or ())
    return next((p for p in (Path(place) / "libspu.so" for place in places) if p.is_file()), None)


def load() -> ModuleType:
    """The library.

    Raises:
        BackendUnavailable: it is not installed, or this processor lacks what it needs.
    """
    if _NAME in sys.modules:
        return sys.modules[_NAME]
    place = _place()
    if place is None:
        raise BackendUnavailable(f"backend 'spu' is not available: {missing()}")
    try:
        loader = ExtensionFileLoader(_NAME, str(place))
        spec = importlib.util.spec_from_file_location(_NAME, place, loader=loader)
        if spec is None:
            raise ImportError(f"{place.name} is no module")
        found = importlib.util.module_from_spec(spec)
        sys.modules[_NAME] = found
        loader.exec_module(found)
        found._check_cpu_features()
        return found
    except (ImportError, RuntimeError) as error:
        sys.modules.pop(_NAME, None)
        what = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BackendUnavailable(f"backend 'spu' is not available: {what}", hint=INSTALL) from error


def log_to(file: Path) -> None:
    """Let the library write what it sent into a file, and nothing on the terminal."""
    options = load().logging.LogOptions()
    options.enable_console_logger = False
    options.system_log_path = str(file)
    load().logging.setup_logging(options)


def config(protocol: str, threads: int = 1) -> Any:
    """Settings that all parties of a run must share.

    Args:
        protocol: one of ``PROTOCOLS``.
        threads: per party.
    """
    library = load()
    kind = getattr(library.ProtocolKind, protocol.upper())
    made = library.RuntimeConfig(protocol=kind, field=library.FieldType.FM64, fxp_fraction_bits=FRACTION)
    # What is sent is only counted when profiling.
    made.enable_pphlo_profile = True
    made.max_concurrency = threads
    # Keeps what only one party knows apart from shares; halves what linear layers send under Cheetah.
    made.experimental_enable_colocated_optimization = True
    # A wrong most significant bit would be an error of 2^48: truncations must talk to the other party.
    made.trunc_allow_msb_error = False
    return made


def compiled(name: str, text: str, inputs: tuple[str, ...], outputs: tuple[str, ...]) -> Any:
    """A module ready to run; index vectors are public, everything else is secret.

    Args:
        name: for its log.
        text: StableHLO.
        inputs: names of its arguments.
        outputs: names of its results.
    """
    library = load()
    seen = library.Visibility
    visible = [seen.VIS_PUBLIC if n.startswith(PUBLIC) else seen.VIS_SECRET for n in inputs]
    source = library.CompilationSource(library.SourceIRType.STABLEHLO, text.encode(), visible)
    code = library.compile(source, library.CompilerOptions())
    return library.Executable(name=name, input_names=list(inputs), output_names=list(outputs), code=code)


PUBLIC = ("i", "p")
"""First letters of arguments that all parties know: indices and public constants."""
