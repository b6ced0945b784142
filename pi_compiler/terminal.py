"""What people see: tables on standard output, progress and errors on standard error."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

import typer
from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

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
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda what, done, total: None
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=None)

        def report(what: str, done: int, total: int) -> None:
            bar.update(task, description=what, completed=done, total=total)

        yield report
