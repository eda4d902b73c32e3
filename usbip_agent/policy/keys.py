"""Declared keys: a frozen dataclass says which keys a mapping takes and how each is read.

A new key is one line in its dataclass::

    port: int = key(one(port_number), default=DEFAULT_PORT)

Reading never stops at an error: the problem is noted and the field keeps its default. Such a half-read value
never leaves the loader, which raises when anything at all was noted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any, TypeVar

from usbip_agent.policy.document import Entry, Listing, Mapping, Scalar
from usbip_agent.policy.files import Documents
from usbip_agent.policy.problems import Problems, listed, quoted

T = TypeVar("T")
E = TypeVar("E", bound=StrEnum)

Reader = Callable[[Entry, Problems], T | None]
"""Reads the value of one entry; None = a problem was noted."""

Parser = Callable[[str], T]
"""Text → value; raises ValueError with a message that reads well after ``port: ``."""

MAXIMUM_TEXT = 4096
MAXIMUM_ITEMS = 4096
"""Characters of one text, items of one list of texts."""


@dataclass(frozen=True, slots=True)
class Key:
    """What is known of one key."""

    name: str
    read: Reader[Any]
    required: bool
    once: bool
    """At most one of all files may have it."""


def key(read: Reader[T], *, default: T, required: bool = False, once: bool = False,
        compare: bool = True) -> T:
    """Declares a dataclass field that is a key of the mapping, of the same name."""
    return field(default=default, metadata={"key": (read, required, once)}, compare=compare)


def keys_of(kind: type[Any]) -> tuple[Key, ...]:
    """The keys that *kind* declares."""
    return tuple(Key(each.name, *each.metadata["key"]) for each in fields(kind) if "key" in each.metadata)


def read_keys(kind: type[T], mapping: Mapping, problems: Problems, *, what: str, **given: Any) -> T:
    """*mapping* as a *kind*; *what* names it in messages, *given* are the fields that are no keys."""
    known = keys_of(kind)
    entries = {entry.name: entry for entry in mapping.entries}
    refuse_unknown(mapping, [each.name for each in known], problems, what=what)
    for each in known:
        entry = entries.get(each.name)
        if entry is None:
            if each.required:
                problems.add(mapping.place, f"{what} needs {each.name}")
            continue
        value = each.read(entry, problems)
        if value is not None:
            given[each.name] = value
    return kind(**given)


def refuse_unknown(mapping: Mapping, known: list[str], problems: Problems, *, what: str) -> None:
    """Notes every key of *mapping* that is not *known*."""
    for entry in mapping.entries:
        if entry.name not in known:
            hint = problems.nearest(entry.name, known)
            problems.add(entry.place, f"{what} has no key {quoted(entry.name)}{hint}")


def refuse_repeated(kind: type[Any], documents: Documents, problems: Problems) -> None:
    """Notes every key that has a value in a second file although it may have one in one file only."""
    for each in keys_of(kind):
        entries = [mapping.get(each.name) for mapping in documents.mappings]
        found = [entry for entry in entries if entry is not None and not entry.is_missing]
        if each.once:
            for entry in found[1:]:
                problems.add(entry.place, f"{each.name} stands in {found[0].place} already")


def mapping_of(entry: Entry, problems: Problems) -> Mapping | None:
    """The mapping that must stand here."""
    if isinstance(entry.value, Mapping):
        return entry.value
    problems.add(entry.place, f"{entry.name}: a mapping (key: value) must stand here, not {_shown(entry)}")
    return None


def section_of(entry: Entry, problems: Problems) -> tuple[Entry, ...]:
    """The items of a list that may be empty, also by having all its lines commented out."""
    if isinstance(entry.value, Listing):
        return entry.value.entries
    if not entry.is_missing:
        problems.add(entry.place, f"{entry.name}: a list must stand here, not {_shown(entry)}")
    return ()


def text_of(entry: Entry, problems: Problems) -> str | None:
    """The text that must stand here; written-out emptiness (``""``) is a text, nothing at all is not."""
    if not isinstance(entry.value, Scalar):
        problems.add(entry.place, f"{entry.name}: one text must stand here, not {_shown(entry)}")
    elif entry.value.is_missing:
        problems.add(entry.place, f'{entry.name}: the value is missing (an empty text is written "")')
    elif len(entry.value.text) > MAXIMUM_TEXT:
        problems.add(entry.place, f"{entry.name}: longer than {MAXIMUM_TEXT} characters")
    else:
        return entry.value.text
    return None


def _shown(entry: Entry) -> str:
    match entry.value:
        case Scalar() as scalar:
            return "nothing" if scalar.is_missing else quoted(scalar.text)
        case Listing():
            return "a list"
        case Mapping():
            return "a mapping"


def one(parse: Parser[T]) -> Reader[T]:
    """Reads one text by *parse*."""
    def read(entry: Entry, problems: Problems) -> T | None:
        text = text_of(entry, problems)
        if text is None:
            return None
        try:
            return parse(text)
        except ValueError as error:
            problems.add(entry.place, f"{entry.name}: {error}")
            return None
    return read


def one_or_more(parse: Parser[T]) -> Reader[tuple[T, ...]]:
    """Reads one text or a list of different ones, each by *parse*. An empty list is an error."""
    return several(one(parse))


def several(read_one: Reader[T]) -> Reader[tuple[T, ...]]:
    """Reads one value or a list of different ones, each by *read_one*. An empty list is an error."""
    def read(entry: Entry, problems: Problems) -> tuple[T, ...] | None:
        items = entry.value.entries if isinstance(entry.value, Listing) else (entry,)
        if not items or len(items) > MAXIMUM_ITEMS:
            what = "the list is empty" if not items else f"the list has more than {MAXIMUM_ITEMS} items"
            problems.add(entry.place, f"{entry.name}: {what}")
            return None
        values: dict[T, None] = {}
        for item in items:
            value = read_one(item, problems)
            if value in values:
                shown = item.value.text if isinstance(item.value, Scalar) else ""
                problems.add(item.place, f"{entry.name}: {quoted(shown)} stands twice")
            elif value is not None:
                values[value] = None
        return tuple(values)
    return read


def choice(kind: type[E], *, without: tuple[E, ...] = ()) -> Parser[E]:
    """Parses a member of the enumeration *kind*."""
    members = {str(member): member for member in kind if member not in without}

    def parse(text: str) -> E:
        if text not in members:
            raise ValueError(f"{quoted(text)} is none of {listed(list(members), 'or')}")
        return members[text]
    return parse


def only_true(text: str) -> bool:
    """``true``. What else could be written after ``ignore:`` would not be a rule."""
    if text != "true":
        raise ValueError(f"only true can stand here, not {quoted(text)}")
    return True
