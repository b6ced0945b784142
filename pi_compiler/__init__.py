"""pi-compiler: takes an ONNX model and runs it on data nobody but its owner can read.

Example:
    >>> import pi_compiler
    >>> from pi_compiler.models import data, zoo
    >>> options = pi_compiler.Options(activation=pi_compiler.Activation("quadratic"))
    >>> samples = data.load("digits", "calibration").x
    >>> compiled = pi_compiler.compile(zoo.model_path("digits_cnn"), calibration=samples, options=options)
    >>> image = data.load("digits", "test").x[:1]
    >>> int(compiled.run(image, backend="clear").outputs["logits"].argmax())
    5

Names are looked up when they are first used, so that importing the package stays light.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pi_compiler.api import CompiledModel, compile, compile_secure, plan
    from pi_compiler.errors import (
        ArtifactError,
        BackendError,
        BackendUnavailable,
        BudgetError,
        CalibrationError,
        ExecutionError,
        InternalError,
        ModelError,
        ParameterError,
        PiError,
        ShapeMismatch,
        UnsupportedInstruction,
        UnsupportedOperator,
    )
    from pi_compiler.mpc import CompiledMpc
    from pi_compiler.options import Activation, Options

__version__ = "0.1.0"

__all__ = [
    "Activation",
    "ArtifactError",
    "BackendError",
    "BackendUnavailable",
    "BudgetError",
    "CalibrationError",
    "CompiledModel",
    "CompiledMpc",
    "ExecutionError",
    "InternalError",
    "ModelError",
    "Options",
    "ParameterError",
    "PiError",
    "ShapeMismatch",
    "UnsupportedInstruction",
    "UnsupportedOperator",
    "__version__",
    "compile",
    "compile_secure",
    "plan",
]

_MODULES = {
    "CompiledModel": "pi_compiler.api",
    "compile": "pi_compiler.api",
    "compile_secure": "pi_compiler.api",
    "CompiledMpc": "pi_compiler.mpc",
    "plan": "pi_compiler.api",
    "Activation": "pi_compiler.options",
    "Options": "pi_compiler.options",
}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(importlib.import_module(_MODULES.get(name, "pi_compiler.errors")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
