"""Everything that can go wrong, as a tree of exceptions written for people.

PiError
├─ ModelError            something about the user's network
│  ├─ UnsupportedOperator
│  └─ ShapeMismatch
├─ CalibrationError      no data, NaN, or a range too wide to approximate
├─ BudgetError           no approximation, chain or plan fits the requested limits
├─ ParameterError        insecure or inconsistent parameters, bad option values
├─ BackendError
│  ├─ BackendUnavailable
│  ├─ UnsupportedInstruction
│  └─ ExecutionError
├─ ArtifactError         a saved model that is damaged, incomplete or from a newer version
└─ InternalError         our fault

A message has up to four lines: what and where (the layer's ONNX name), why, found against
needed, what to try.
"""

from __future__ import annotations

__all__ = [
    "ArtifactError",
    "BackendError",
    "BackendUnavailable",
    "BudgetError",
    "CalibrationError",
    "ExecutionError",
    "InternalError",
    "ModelError",
    "ParameterError",
    "PiError",
    "ShapeMismatch",
    "UnsupportedInstruction",
    "UnsupportedOperator",
]


class PiError(Exception):
    """Base of every error that the project raises on purpose.

    Args:
        what: one sentence: what went wrong and where.
        details: further lines: why, found against needed. Each is indented when printed.
        hint: what to try; printed after ``try:``.
    """

    def __init__(self, what: str, *details: str, hint: str | None = None) -> None:
        self.what = what
        self.details = details
        self.hint = hint
        super().__init__(what, *details)

    def __str__(self) -> str:
        lines = [self.what, *self.details]
        if self.hint is not None:
            lines.append(f"try: {self.hint}")
        return "\n  ".join(lines)


class ModelError(PiError):
    """Something about the user's network: unreadable, malformed or outside what is supported."""


class UnsupportedOperator(ModelError):
    """One or more operators have no private counterpart; the message names all of them."""


class ShapeMismatch(ModelError):
    """A tensor's shape or type is not what the model declares."""


class CalibrationError(PiError):
    """Calibration data are missing, malformed, or too wide to approximate on."""


class BudgetError(PiError):
    """No approximation, modulus chain or plan fits the requested limits."""


class ParameterError(PiError):
    """Cryptographic parameters or options are insecure, inconsistent or out of range."""


class BackendError(PiError):
    """A backend could not do what the program asks."""


class BackendUnavailable(BackendError):
    """The backend's library is not installed; the message says what to install."""


class UnsupportedInstruction(BackendError):
    """The program needs an instruction that the backend does not have."""


class ExecutionError(BackendError):
    """A failure while a program runs."""


class ArtifactError(PiError):
    """A saved model is damaged, incomplete, or written by a newer version."""


class InternalError(PiError):
    """A broken invariant of the compiler itself; please report it."""
