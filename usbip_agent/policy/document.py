"""YAML text → a tree that knows its lines. Scalars stay the characters that were written.

Built from the parser's events and not by a YAML constructor: ``0403``, ``1e10`` and ``no`` keep their
characters, nothing recurses, and every bound is checked before memory is spent.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import yaml

from usbip_agent.policy.problems import Place, Problems, Source, quoted

MAXIMUM_DEPTH = 16
MAXIMUM_NODES = 4_000_000
"""Mappings, lists and scalars in one file; what 16 MiB of honest rules do not reach."""

_STAR_HINT = "a pattern that begins with * needs quotes"

# libyaml is five times as fast; both read the same language.
_LOADER = getattr(yaml, "CBaseLoader", yaml.BaseLoader)


@dataclass(frozen=True, slots=True)
class Scalar:
    """A text. *plain* = written without quotes, so that nothing at all means "no value"."""

    text: str
    plain: bool

    @property
    def is_missing(self) -> bool:
        return self.plain and not self.text


@dataclass(frozen=True, slots=True)
class Listing:
    """A YAML sequence."""

    entries: tuple[Entry, ...]


@dataclass(frozen=True, slots=True)
class Mapping:
    """A YAML mapping, in the order of the file; keys are unique."""

    place: Place
    entries: tuple[Entry, ...]

    def get(self, name: str) -> Entry | None:
        """The entry of that key. Mappings read this way are short; those of hosts are walked."""
        return next((entry for entry in self.entries if entry.name == name), None)


Node = Scalar | Listing | Mapping


@dataclass(frozen=True, slots=True)
class Entry:
    """A value under its key; an item of a list goes by the key of the list."""

    name: str
    source: Source
    line: int
    value: Node

    @property
    def place(self) -> Place:
        return Place(self.source, self.line)

    @property
    def is_missing(self) -> bool:
        """Whether the key has no value, as a section has none whose lines are all commented out."""
        return isinstance(self.value, Scalar) and self.value.is_missing


@dataclass(slots=True)
class _Open:
    """A mapping or list whose end has not been read yet."""

    name: str
    line: int
    is_mapping: bool
    entries: list[Entry] = field(default_factory=list)
    first_lines: dict[str, int] = field(default_factory=dict)
    pending: str | None = None
    pending_line: int = 0


def parse_document(source: Source, data: bytes, problems: Problems) -> Mapping | None:
    """The mapping that a configuration file holds, or None when its text cannot be relied on.

    What YAML has beyond mappings, lists and text (anchors, aliases, tags, several documents, keys that are no
    text) is refused: each is a way to make a file say something else than it seems to.
    """
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        problems.add(Place(source, _line_of(data, error.start)), "this is not UTF-8 text")
        return None
    builder = _Builder(source, problems)
    try:
        for event in yaml.parse(data, Loader=_LOADER):
            if not builder.take(event):
                return None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        hint = f": {_STAR_HINT}" if "alias" in (error.context or "") else ""
        message = f"not YAML: {error.problem or error.context}{hint}"
        problems.add(Place(source, mark.line + 1 if mark else 0), message)
        return None
    except yaml.reader.ReaderError as error:
        problems.add(Place(source, _line_of(data, error.position)),
                     f"not YAML: the character U+{_code(error.character):04X} may not stand here")
        return None
    return builder.result()


def _line_of(data: bytes, offset: int) -> int:
    return data.count(b"\n", 0, offset) + 1


def _code(character: object) -> int:
    # The C parser gives the code, the other one the character.
    return character if isinstance(character, int) else ord(str(character))


class _Builder:
    """Takes the events of one file."""

    def __init__(self, source: Source, problems: Problems) -> None:
        self._source = source
        self._problems = problems
        self._stack: list[_Open] = [_Open("", 1, is_mapping=False)]
        self._nodes = 0
        self._documents = 0
        self._reliable = True

    def result(self) -> Mapping | None:
        top = self._stack[0].entries
        if not self._reliable:
            return None
        if not top or top[0].is_missing:
            self._refuse(1, 'empty: a configuration begins with "version: 1"')
            return None
        if not isinstance(top[0].value, Mapping):
            self._refuse(top[0].line, 'a configuration is a mapping that begins with "version: 1"')
            return None
        return top[0].value

    def take(self, event: yaml.Event) -> bool:
        """Takes one event; False: enough, this file is not read further."""
        line = event.start_mark.line + 1
        if isinstance(event, yaml.NodeEvent):
            self._nodes += 1
            if self._nodes > MAXIMUM_NODES:
                return self._refuse(line, f"too large: more than {MAXIMUM_NODES} values")
            self._take_node(event, line)
            if len(self._stack) > MAXIMUM_DEPTH + 1:
                return self._refuse(line, f"nested more than {MAXIMUM_DEPTH} deep")
        elif isinstance(event, yaml.CollectionEndEvent):
            closed = self._stack.pop()
            self._append(closed.line, self._closed(closed), closed.name)
        elif isinstance(event, yaml.DocumentStartEvent):
            self._documents += 1
            if self._documents > 1:
                return self._refuse(line, "a second document (---) begins here: a file holds one")
        return True

    def _take_node(self, event: yaml.NodeEvent, line: int) -> None:
        if isinstance(event, yaml.AliasEvent):
            self._refuse(line, f"aliases ({quoted('*' + event.anchor)}) are not taken: {_STAR_HINT}")
            self._put_scalar(line, Scalar("", plain=False))
            return
        if event.anchor is not None:
            self._refuse(line, f"anchors ({quoted('&' + event.anchor)}) are not taken: write it out")
        if event.tag is not None:
            self._refuse(line, f"tags ({quoted(event.tag)}) are not taken: every scalar is text")
        if isinstance(event, yaml.ScalarEvent):
            self._put_scalar(line, Scalar(event.value, plain=not event.style))
            return
        parent = self._stack[-1]
        if parent.is_mapping and parent.pending is None:
            self._refuse(line, "a key is one text, no list and no mapping")
            parent.pending, parent.pending_line = "", line
        name, at = (parent.pending or "", parent.pending_line) if parent.is_mapping else (parent.name, line)
        self._stack.append(_Open(name, at, isinstance(event, yaml.MappingStartEvent)))

    def _put_scalar(self, line: int, scalar: Scalar) -> None:
        parent = self._stack[-1]
        if not parent.is_mapping:
            self._append(line, scalar, parent.name)
        elif parent.pending is None:
            parent.pending, parent.pending_line = scalar.text, line
        else:
            self._append(line, scalar, parent.pending)

    def _append(self, line: int, value: Node, name: str) -> None:
        """Adds a value to the innermost open collection; of two equal keys the first one stays."""
        parent = self._stack[-1]
        if parent.is_mapping:
            name = parent.pending or ""
            key_line = parent.pending_line
            parent.pending = None
            first = parent.first_lines.setdefault(name, key_line)
            if len(parent.first_lines) == len(parent.entries):
                self._problems.add(Place(self._source, key_line),
                                   f"{quoted(name)} stands twice, first in line {first}")
                return
        parent.entries.append(Entry(name, self._source, line, value))

    def _closed(self, closed: _Open) -> Node:
        if closed.is_mapping:
            return Mapping(Place(self._source, closed.line), tuple(closed.entries))
        return Listing(tuple(closed.entries))

    def _refuse(self, line: int, message: str) -> bool:
        self._reliable = False
        self._problems.add(Place(self._source, line), message)
        return False
