"""What people see: tables on standard output, progress and errors on standard error."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

import typer
from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from pi_compiler.report.text import plain

Report: TypeAlias = Callable[[str, int, int], None]
"""Called as (what, done, in all)."""


def show(view: RenderableType) -> None:
    """Print a table or a text; wide enough for every table where standard output is no terminal."""
    if sys.stdout.isatty():
        Console(highlight=False).print(view)
    else:
        typer.echo(plain(view))


def complain(text: str) -> None:
    """Print an error."""
    Console(stderr=True, highlight=False, markup=False, soft_wrap=True).print(text)


@contextmanager
def progress() -> Iterator[Report]:
    """A bar that shows what runs; nothing where standard error is no terminal."""
    with progress_bars(1) as (report,):
        yield report


@contextmanager
def progress_bars(count: int) -> Iterator[tuple[Report, ...]]:
    """Bars below each other, the widest task first; nothing where standard error is no terminal."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield (lambda what, done, total: None,) * count
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bars:

        def reporter(task: TaskID) -> Report:
            return lambda what, done, total: bars.update(task, description=what, completed=done, total=total)

        yield tuple(reporter(bars.add_task("", total=None)) for _ in range(count))
