"""The pieces of a page and how they become HTML: one file that needs nothing else."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

__all__ = ["Card", "Cell", "Part", "Picture", "Row", "Section", "Table", "cells", "render"]


@dataclass(frozen=True, slots=True)
class Cell:
    """A text, smaller print under it, and a CSS class."""

    text: str
    under: str = ""
    mark: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a table; the first cell names it."""

    cells: tuple[Cell, ...]
    mark: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """A table; with a text in ``folded`` it opens on a click."""

    head: tuple[Cell, ...]
    rows: tuple[Row, ...]
    caption: str = ""
    folded: str = ""


@dataclass(frozen=True, slots=True)
class Picture:
    """A figure as SVG, base64; ``width`` in units of the letter size."""

    svg: str
    caption: str
    width: float

    @staticmethod
    def of(svg: bytes, caption: str, width: float) -> Picture:
        """From the bytes of an SVG file."""
        return Picture(base64.b64encode(svg).decode(), caption, width)


@dataclass(frozen=True, slots=True)
class Card:
    """A box of names and what is to say about them."""

    title: str
    rows: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Section:
    """A heading, what stands before, between and behind figures and tables."""

    title: str
    text: tuple[str, ...] = ()
    figures: tuple[Picture, ...] = ()
    tables: tuple[Table, ...] = ()
    code: tuple[str, ...] = ()
    after: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Part:
    """What is said about one model on one data set."""

    id: str
    name: str
    lead: tuple[str, ...]
    cards: tuple[Card, ...]
    sections: tuple[Section, ...] = field(default=())


def cells(texts: Iterable[str | Cell]) -> tuple[Cell, ...]:
    """Texts as cells; cells stay."""
    return tuple(t if isinstance(t, Cell) else Cell(t) for t in texts)


def render(title: str, subtitle: str, parts: Sequence[Part], footer: str) -> str:
    """The page. Every text is escaped."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    template = environment.get_template("reduction.html")
    return template.render(title=title, subtitle=subtitle, parts=parts, footer=footer)
