"""Numbers for people and for programs: tables, and a few ways to say how much."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Aim:
    """Something that a figure should be."""

    text: str
    is_met: bool

    def __str__(self) -> str:
        return f"{'met   ' if self.is_met else 'MISSED'}  {self.text}"


@dataclass(frozen=True)
class Table:
    """A title, a line of headings, and rows: a name, then figures."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]

    def __str__(self) -> str:
        lines = [self.head, *self.rows]
        widths = [max(len(line[column]) for line in lines) for column in range(len(self.head))]
        shown = [self.title]
        for line in lines:
            figures = [cell.rjust(width) for cell, width in zip(line[1:], widths[1:])]
            cells = [line[0].ljust(widths[0]), *figures]
            shown.append(f"  {'  '.join(cells)}".rstrip())
        return "\n".join(shown)


@dataclass(frozen=True)
class Report:
    """What a bench found. ``figures`` is for programs: plain values, times in seconds, sizes in KiB."""

    title: str
    figures: Mapping[str, Any]
    tables: Sequence[Table]
    aims: Sequence[Aim] = ()
    notes: Sequence[str] = field(default=())

    def __str__(self) -> str:
        parts = [f"== {self.title}", *map(str, self.tables)]
        if self.aims:
            parts.append("\n".join(map(str, self.aims)))
        return "\n\n".join([*parts, *(f"Note: {note}" for note in self.notes)])

    def as_json(self) -> dict[str, Any]:
        return {"title": self.title, **self.figures, "notes": list(self.notes),
                "aims": [{"aim": aim.text, "met": aim.is_met} for aim in self.aims]}


def median(values: Iterable[float]) -> float:
    return statistics.median(values)


def percentile(values: Sequence[float], percent: int) -> float:
    """By linear interpolation between the values that were seen."""
    if len(values) < 2:
        return values[0]
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


def ms(seconds: float) -> str:
    return f"{seconds * 1000:.0f}"


def mib(kib: float) -> str:
    return f"{kib / 1024:.1f}"
