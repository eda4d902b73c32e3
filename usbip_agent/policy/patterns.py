"""Texts to be matched: exact ones, and shell patterns, which are compiled once."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from fnmatch import translate

from usbip_agent.policy.problems import quoted

MAXIMUM_PATTERN = 256
_META = frozenset("*?[")


@dataclass(frozen=True, slots=True)
class Wanted:
    """One accepted value: its text as the configuration has it, and what compares with the device's.

    Without *pattern*, *exact* must be the whole text; with it, the pattern must cover the whole text.
    """

    shown: str
    exact: str
    pattern: re.Pattern[str] | None = field(default=None, compare=False)

    def holds(self, text: str) -> bool:
        return self.exact == text if self.pattern is None else self.pattern.match(text) is not None


def shell_pattern(text: str) -> Wanted:
    """A shell pattern (``*``, ``?``, ``[a-z]``), case-sensitive. Raises ValueError when it is too long.

    fnmatch.translate (3.11) puts what a ``*`` skips into atomic groups, so that matching a hostile serial
    never backtracks into an earlier star: time is bounded by pattern length × text length.
    """
    if len(text) > MAXIMUM_PATTERN:
        raise ValueError(f"{quoted(text)} is longer than {MAXIMUM_PATTERN} characters")
    if _META.isdisjoint(text):
        return Wanted(quoted(text), text)
    return Wanted(quoted(text), text, re.compile(translate(text)))


def any_holds(wanted: Iterable[Wanted], text: str) -> bool:
    """True when one of *wanted* holds for *text*."""
    return any(each.holds(text) for each in wanted)
