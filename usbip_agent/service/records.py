"""Small records in the runtime directory: what a daemon must know of its links when it starts again.

One file for each, replaced atomically, readable by nobody else. They live in /run: a reboot forgets them
together with the links. A record that cannot be written costs a restart its memory of one link, so it is a
warning and never a fault; one for all, until there is room again.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar


class _Dataclass(Protocol):
    __dataclass_fields__: ClassVar[dict[str, Any]]


Record = TypeVar("Record", bound=_Dataclass)

log = logging.getLogger(__name__)

VERSION = 1
_LARGEST_RECORD = 16384


class RecordStore(Generic[Record]):
    """Records of one frozen dataclass with fields of str, int and bool, by name, below *directory*."""

    def __init__(self, directory: Path, kind: type[Record]) -> None:
        self._directory = directory
        self._kind = kind
        self._fails = False

    def put(self, name: str, record: Record) -> None:
        """Writes or replaces the record called *name* (a busid or a port: no slash)."""
        temporary = self._directory / f".{name}.new"
        content = json.dumps({"version": VERSION, **asdict(record)})
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(content)
            os.replace(temporary, self._directory / f"{name}.json")
            self._fails = False
        except OSError as error:
            log.log(logging.DEBUG if self._fails else logging.WARNING,
                    "%s: a restart will not know of it, as nothing can be written to %s: %s",
                    name, self._directory, error.strerror)
            self._fails = True
            _unlink(temporary)
            self.remove(name)  # what it said is no longer so

    def remove(self, name: str) -> None:
        """Forgets the record called *name*, if there is one."""
        _unlink(self._directory / f"{name}.json")

    def all(self) -> Iterator[tuple[str, Record]]:
        """Every record that can be read, with its name. One that cannot is a leftover, and removed.

        An earlier release may have left it: what that did not write yet has its default.
        """
        try:
            paths = sorted(self._directory.glob("*.json"))
        except OSError:
            return
        for path in paths:
            record = self._read(path)
            if record is None:
                self.remove(path.stem)
            else:
                yield path.stem, record

    def _read(self, path: Path) -> Record | None:
        try:
            with path.open("rb") as file:
                content = json.loads(file.read(_LARGEST_RECORD))
            if content.pop("version") != VERSION:
                return None
            known = {field.name: content[field.name] for field in fields(self._kind) if field.name in content}
            if any(not isinstance(value, str | int) for value in known.values()):
                return None
            record: Record = self._kind(**known)
            return record
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None


def _unlink(path: Path) -> None:
    try:
        os.unlink(path)
    except OSError:
        pass  # there was none, or there is no directory any more
