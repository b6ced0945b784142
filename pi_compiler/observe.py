"""Observers between passes: progress, printed stages, dumped stages."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from pi_compiler import files
from pi_compiler.passes.compilation import Compilation
from pi_compiler.pipelines import CKKS, MPC, Pass
from pi_compiler.report.stages import stage_text


class Ticker:
    """Says which pass runs; the first one from the beginning."""

    def __init__(self, report: Callable[[str, int, int], None], passes: Sequence[tuple[str, Pass]] = CKKS) -> None:
        self._report = report
        self._names = [name for name, _ in passes]
        report(self._names[0], 0, len(self._names))

    def __call__(self, name: str, c: Compilation, seconds: float) -> None:
        done = self._names.index(name) + 1
        self._report(self._names[done] if done < len(self._names) else "save", done, len(self._names))


class Printer:
    """Hands the text of the stages after some passes, line by line, to a function.

    Args:
        passes: after which ones.
        line: what to do with a line.
    """

    def __init__(self, passes: Collection[str], line: Callable[[str], None]) -> None:
        self._passes = passes
        self._line = line

    def __call__(self, name: str, c: Compilation, seconds: float) -> None:
        if name not in self._passes:
            return
        self._line(f"# after {name}, {seconds:.3f} s")
        for line in stage_text(name, c):
            self._line(line)


class Dumper:
    """Writes every stage to ``NN-pass.txt`` in a folder, whose files from earlier runs go first.

    Raises:
        ParameterError: the folder cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        files.check_folder(folder)
        files.make_folder(folder)
        for name, _ in (*CKKS, *MPC):
            for stale in folder.glob(f"[0-9][0-9]-{name}.txt"):
                stale.unlink()
        self._folder = folder
        self._number = itertools.count(1)

    def __call__(self, name: str, c: Compilation, seconds: float) -> None:
        files.write(self._folder / f"{next(self._number):02}-{name}.txt", stage_text(name, c))
