"""Which files a configuration consists of, and their bytes; and the host name: all input of this room."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from usbip_agent.policy.document import Mapping, parse_document
from usbip_agent.policy.problems import Place, Problems, Source

MAXIMUM_BYTES = 16 * 1024 * 1024
"""All files of a configuration together."""


@dataclass(frozen=True, slots=True)
class Documents:
    """What was read: the sources in their order, and the mappings of those that could be read."""

    sources: tuple[Source, ...]
    mappings: tuple[Mapping, ...]

    @property
    def are_complete(self) -> bool:
        """False when a file is missing from the mappings, so that a name not found may stand there."""
        return len(self.sources) == len(self.mappings)


def read_configuration(configuration: Path, drop_ins: Path, problems: Problems) -> Documents:
    """*configuration*, then the ``*.yaml`` of the directory *drop_ins* in name order.

    A directory that does not exist is empty. Hidden files (an editor's ``.#lab.yaml``) are passed over.
    """
    files = [configuration, *_drop_ins(drop_ins, configuration, problems)]
    return read_files(files, problems)


def read_files(files: Sequence[Path], problems: Problems) -> Documents:
    """The named files, in this order. What cannot be read is a problem and missing from the mappings."""
    sources = tuple(Source(file, _short_name(file, files[0])) for file in dict.fromkeys(files))
    return Documents(sources, tuple(_parse_each(sources, problems)))


def short_host_name() -> str:
    """The kernel's host name up to its first dot."""
    return os.uname().nodename.partition(".")[0]


def _drop_ins(directory: Path, configuration: Path, problems: Problems) -> Sequence[Path]:
    try:
        names = os.listdir(directory)
    except FileNotFoundError:
        return ()
    except OSError as error:
        problems.add(Place(Source(directory, _short_name(directory, configuration)), 0), _reason(error))
        return ()
    names = sorted(name for name in names if name.endswith(".yaml") and not name.startswith("."))
    return [directory / name for name in names]


def _short_name(file: Path, main: Path) -> str:
    try:
        return str(file.relative_to(main.parent))
    except ValueError:
        return str(file)


def _parse_each(sources: Sequence[Source], problems: Problems) -> Iterable[Mapping]:
    left = MAXIMUM_BYTES
    for source in sources:
        data = _read(source, left, problems)
        if data is None:
            continue
        left -= len(data)
        mapping = parse_document(source, data, problems)
        if mapping is not None:
            yield mapping


def _read(source: Source, limit: int, problems: Problems) -> bytes | None:
    """At most *limit* bytes of a regular file; more is a problem and is not read."""
    try:
        # O_NONBLOCK: opening a FIFO must not wait for a writer.
        descriptor = os.open(source.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
        with open(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                problems.add(Place(source, 0), "this is not a regular file")
                return None
            data = b"" if status.st_size > limit else file.read(limit + 1)
    except (OSError, ValueError) as error:
        problems.add(Place(source, 0), _reason(error))
        return None
    if status.st_size > limit or len(data) > limit:
        most = MAXIMUM_BYTES // 1024 // 1024
        problems.add(Place(source, 0), f"too large: a configuration has at most {most} MiB in all its files")
        return None
    return data


def _reason(error: OSError | ValueError) -> str:
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    strerror = error.strerror if isinstance(error, OSError) else None
    return f"cannot be read: {strerror or error}"
