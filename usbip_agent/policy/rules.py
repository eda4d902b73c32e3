"""What the rules of both sides have in common: first match wins, each has a name, a place and one verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol, TypeVar

from usbip_agent.policy.document import Entry, Mapping
from usbip_agent.policy.keys import Reader, mapping_of, read_keys, section_of
from usbip_agent.policy.problems import Place, Problems, quoted

BUILT_IN = "built in"
"""Where a default stands that no file has."""


@dataclass(frozen=True, slots=True)
class Step:
    """What one rule said of a device. *location* is ``agent.yaml:12``."""

    rule: str
    location: str
    matched: bool
    why: str
    """``serial is "0123", not "01A*"``; of the deciding rule ``vendor 10c4 holds: connect to lab``."""


class Rule(Protocol):
    """A rule as it is read: a frozen dataclass of declared keys."""

    verdicts: ClassVar[tuple[str, ...]]
    """The keys of which each rule has exactly one."""

    @property
    def name(self) -> str:
        """What status, journal and explain call it."""

    @property
    def place(self) -> Place:
        """Where it stands."""


R = TypeVar("R", bound=Rule)


def rules_of(kind: type[R]) -> Reader[tuple[R, ...]]:
    """Reads the section ``rules``; a rule without a name is called after its number and file."""
    def read(entry: Entry, problems: Problems) -> tuple[R, ...] | None:
        return tuple(
            _read_rule(kind, mapping, f"rule {number} of {item.source.name}", problems)
            for number, item in enumerate(section_of(entry, problems), start=1)
            if (mapping := mapping_of(item, problems)) is not None
        )
    return read


def _read_rule(kind: type[R], mapping: Mapping, number: str, problems: Problems) -> R:
    rule = read_keys(kind, mapping, problems, what="a rule", name=number, place=mapping.place)
    given = [entry for name in kind.verdicts if (entry := mapping.get(name))]
    if not given:
        problems.add(mapping.place, f"{_called(rule)} says nothing: it needs {' or '.join(kind.verdicts)}")
    for entry in given[1:]:
        problems.add(entry.place, f"{_called(rule)} has both {given[0].name} and {entry.name}: it needs one")
    return rule


def _called(rule: Rule) -> str:
    return f"the rule {quoted(rule.name)}"


def refuse_equal_names(rules: Sequence[Rule], problems: Problems) -> None:
    """Notes every rule that has the name of an earlier one: status and journal tell rules by their names."""
    first: dict[str, Rule] = {}
    for rule in rules:
        known = first.setdefault(rule.name, rule)
        if known is not rule:
            problems.add(rule.place, f"{_called(rule)} stands in {known.place} already")
