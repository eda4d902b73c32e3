"""How things look: tables, JSON, times. What comes from outside is made printable here, and nowhere else."""

from __future__ import annotations

import json
import sys
import time
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any, Final

from usbip_agent.text import printable

JSON_VERSION: Final = 1
"""Goes up when a key changes its meaning or goes away."""

CELL_LIMIT: Final = 64
"""Characters of one cell of a table, but for the last."""

GAP: Final = "  "
INDENT: Final = "      "


def print_line(text: str, limit: int = 1000) -> None:
    """One line on stdout, whatever is in *text*."""
    print(printable(text, limit))


def print_diagnostic(command: str, text: str) -> None:
    """One line on stderr, whatever is in *text*: ``usbip-agent: …``."""
    sys.stdout.flush()
    print(f"{command}: {printable(text, 1000)}", file=sys.stderr)


def print_json(content: dict[str, Any]) -> None:
    """*content* as the one object of the output, with its version."""
    print(json.dumps({"version": JSON_VERSION, **content}, indent=2))


def print_json_line(content: dict[str, Any]) -> None:
    """*content* as one of many objects, each in a line of its own, at once."""
    print(json.dumps({"version": JSON_VERSION, **content}), flush=True)


def print_table(header: Sequence[str], rows: Iterable[tuple[Sequence[str], Sequence[str]]]) -> None:
    """Aligned columns; each row is its cells, and the notes that stand indented below it."""
    shown = [([printable(cell, CELL_LIMIT) for cell in cells[:-1]] + [printable(cells[-1])], notes)
             for cells, notes in rows]
    widths = [max(map(columns, column)) for column in zip(header, *(cells for cells, _ in shown))]
    for cells, notes in [(list(header), ()), *shown]:
        padded = (cell + " " * (width - columns(cell)) for cell, width in zip(cells, widths))
        print(GAP.join(padded).rstrip())
        for note in notes:
            print_line(INDENT + note)


def columns(text: str) -> int:
    """How many columns of a terminal *text* takes: wide characters two, combining ones none."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(each) else 2 if unicodedata.east_asian_width(each) in "WF" else 1
        for each in text)


def ago(since: int, now: float | None = None) -> str:
    """The time since *since* (µs since the epoch): ``12 s``, ``3 min``, ``5 h``, ``2026-11-20 14:05``."""
    if since == 0:
        return "-"
    now = time.time() if now is None else now
    elapsed = now - since / 1_000_000
    if not -5 <= elapsed < 86400:
        return local_time(since)
    return duration(max(0.0, elapsed))


def duration(seconds: float) -> str:
    """``12 s``, ``3 min``, ``5 h``: as much as fits in a glance."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.0f} h"


def local_time(since: int) -> str:
    """``2026-11-20 14:05`` where this machine stands, ``-`` for a time that no calendar has."""
    try:
        return time.strftime("%Y-%m-%d %H:%M", time.localtime(since / 1_000_000))
    except (OverflowError, ValueError, OSError):
        return "-"


def counted(count: int, noun: str) -> str:
    """``1 rule``, ``2 rules``."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def natural_order(bus_id: str) -> tuple[tuple[bool, int, str], ...]:
    """A sort key: 1-2 before 1-10, vUDCs last."""
    words = bus_id.replace("-", ".").split(".")
    return tuple((not word.isdecimal(), int(word) if word.isdecimal() else 0, word) for word in words)
