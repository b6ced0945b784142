"""What every command shares: arguments, errors that become exit codes, output files."""

from __future__ import annotations

import functools
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal, ParamSpec

import typer

from pi_compiler import files
from pi_compiler.errors import ParameterError, PiError
from pi_compiler.terminal import complain

P = ParamSpec("P")

Model = Annotated[Path, typer.Argument(metavar="MODEL", help="An .onnx file.")]
JsonFile = Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the report for machines.")]
Shapes = Annotated[
    list[str] | None,
    typer.Option("--input-shape", metavar="NAME=1,3,32,32", help="Shape of an input with open dimensions."),
]
MaxPool = Annotated[
    Literal["refuse", "average"],
    typer.Option("--maxpool", help="Refuse MaxPool (MPC: compute it), or put average pooling in its place."),
]


def guarded(command: Callable[P, None]) -> Callable[P, None]:
    """A command whose errors are printed for people and become exit codes."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except (typer.Exit, typer.Abort):
            raise
        except KeyboardInterrupt:
            complain("interrupted")
            raise typer.Exit(130) from None
        except BrokenPipeError:
            # Whoever reads our output has seen enough; Python must not try to flush the rest.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(1) from None
        except Exception as error:
            raise fail(error, 1) from error

    return run


def fail(error: Exception, code: int) -> typer.Exit:
    """Print an error; returns the exit to raise."""
    if os.environ.get("PI_DEBUG") == "1":
        complain("".join(traceback.format_exception(error)))
    complain(f"{type(error).__name__}: {error}")
    if not isinstance(error, PiError):
        complain("  this is a fault of pi-compiler; PI_DEBUG=1 shows where it happened")
    return typer.Exit(code)


def bad_use(error: PiError) -> typer.Exit:
    """An argument makes no sense: print why; returns the exit to raise."""
    return fail(error, 2)


def parse_shapes(texts: list[str] | None) -> dict[str, tuple[int, ...]] | None:
    """``NAME=1,3,32,32`` per input."""
    shapes: dict[str, tuple[int, ...]] = {}
    for text in texts or ():
        name, _, sizes = text.rpartition("=")
        numbers = sizes.replace("x", ",").split(",")
        if not name or not all(n.strip().isdigit() and int(n) > 0 for n in numbers):
            raise bad_use(ParameterError(f"--input-shape {text!r} is not NAME=SIZE,SIZE,...", hint="x=1,3,32,32"))
        shapes[name] = tuple(int(n) for n in numbers)
    return shapes or None


def known_backend(name: str) -> str:
    """A backend's name, checked; ``auto`` is one."""
    from pi_compiler.runtime.backend import AUTO, BACKENDS

    if name not in (AUTO, *BACKENDS):
        raise bad_use(ParameterError(f"there is no backend {name!r}", f"known: {AUTO}, {', '.join(BACKENDS)}"))
    return name


def chosen_backend(name: str) -> str:
    """A backend's name, checked to be available; ``auto`` becomes the one that it stands for."""
    from pi_compiler.runtime.backend import get_backend

    return get_backend(known_backend(name)).name


def check_outputs(*paths: Path | None) -> None:
    """Fail before the work if a file could not be written after it."""
    for path in paths:
        if path is not None:
            files.check_file(path)


def write_report(path: Path | None, report: object) -> None:
    """The report for machines, if one is wanted."""
    if path is not None:
        files.write_json(path, report)
