"""What is wrong with a configuration, as values: every error is collected, none is raised on its own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from usbip_agent.errors import ConfigurationFault
from usbip_agent.text import printable

MAXIMUM_SUGGESTING = 200
"""Problems and candidates up to which a nearest name is looked for: the search is slow, files may be long."""

MAXIMUM_LISTED = 10
"""Known names that a message lists."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One error in one file. Lines count from 1; 0 = the file as a whole."""

    file: Path
    line: int
    message: str

    def __str__(self) -> str:
        file = printable(str(self.file), 4096)
        return f"{file}:{self.line}: {self.message}" if self.line else f"{file}: {self.message}"


class InvalidConfiguration(ConfigurationFault):
    """The configuration has errors: all of them, in the order of the files and their lines."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        more = len(self.problems) - 1
        super().__init__(str(self.problems[0]) + (f", and {more} more" if more else ""))


@dataclass(frozen=True, slots=True)
class Source:
    """A file, and the short name that rules and messages call it by: ``agent.yaml``, ``agent.d/lab.yaml``."""

    path: Path
    name: str


@dataclass(frozen=True, slots=True)
class Place:
    """A line in a file; as text ``agent.yaml:12``."""

    source: Source
    line: int

    def __str__(self) -> str:
        return f"{printable(self.source.name)}:{self.line}"


NOWHERE = Place(Source(Path(), ""), 0)
"""The place of what no file has."""


class Problems:
    """The errors of one reading of the configuration, over all its files."""

    def __init__(self) -> None:
        self._found: list[tuple[Source, int, str]] = []

    def __len__(self) -> int:
        return len(self._found)

    def add(self, place: Place, message: str) -> None:
        self._found.append((place.source, place.line, message))

    def nearest(self, name: str, known: Iterable[str]) -> str:
        """``: did you mean "vendor"?`` or ``: known are …``: the end of a message about an unknown *name*."""
        candidates = [_without_credentials(each) for each in known]
        if max(len(self), len(candidates)) <= MAXIMUM_SUGGESTING and len(name) <= 64:
            if close := get_close_matches(name.lower(), candidates, n=1):
                return f': did you mean "{close[0]}"?'
        return f": known are {listed(candidates)}" if candidates else ""

    def raise_if_any(self, order: Sequence[Source]) -> None:
        """Raises InvalidConfiguration with all problems, sorted by the files' *order* and by line."""
        if not self._found:
            return
        position = {source: index for index, source in enumerate(order)}
        found = sorted(set(self._found), key=lambda each: (position.get(each[0], len(order)), *each[1:]))
        raise InvalidConfiguration([Problem(source.path, line, message) for source, line, message in found])


def listed(names: Sequence[str], word: str = "and") -> str:
    """``a, b and c``, cut after ten."""
    shown = list(names[:MAXIMUM_LISTED])
    if len(names) > MAXIMUM_LISTED:
        shown.append(f"{len(names) - MAXIMUM_LISTED} more")
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} {word} {shown[-1]}" if shown else ""


def quoted(text: str) -> str:
    """Foreign text as a message shows it: escaped, short, in quotes."""
    return f'"{printable(_without_credentials(text), 80)}"'


def _without_credentials(text: str) -> str:
    """*text* without the ``user:password`` of a URL, which may stand in any place by mistake."""
    before, at, rest = text.rpartition("@")
    return f"…@{rest}" if at and ":" in before else text
