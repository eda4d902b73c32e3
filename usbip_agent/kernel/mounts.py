"""What is mounted and what is swap, and hearing of it when that changes.

The daemon lives in a mount namespace of its own, whose mounts say nothing to people: process 1 has the
system's. ``/proc/swaps`` is there only where the whole of /proc is.
"""

from __future__ import annotations

import asyncio
import os
import re
import select
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")

_ESCAPE = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class Mount:
    """One line of mountinfo, as far as it matters here (Documentation/filesystems/proc.rst, 3.5)."""

    number: str
    """``8:1``, the file system's; made up for btrfs and the like."""
    source: str
    """``/dev/sda1`` as whoever mounted it has called it."""
    where: str


def mounts(proc: Path = PROC) -> Iterator[Mount]:
    """The mounts of the system, or where they cannot be read, those that this process sees."""
    text = _read(proc / "1/mountinfo") or _read(proc / "self/mountinfo")
    for line in text.splitlines():
        fields, _, rest = line.partition(" - ")
        words, described = fields.split(" "), rest.split(" ")
        if len(words) >= 5 and len(described) >= 2:
            yield Mount(words[2], _unescaped(described[1]), _unescaped(words[4]))


def swaps(proc: Path = PROC) -> tuple[str, ...]:
    """The devices, and files, that are used as swap: ``/dev/sda2``, ``/dev/dm-1``."""
    lines = _read(proc / "swaps").splitlines()[1:]
    return tuple(_unescaped(line.split()[0]) for line in lines if line.strip())


def _read(file: Path) -> str:
    """All of *file*: a busy machine has more mounts than fit into one read."""
    try:
        return file.read_bytes().decode("utf-8", "surrogateescape")
    except OSError:
        return ""


def _unescaped(text: str) -> str:
    """``/media/a\\040b`` → ``/media/a b`` (seq_file's mangling)."""
    return _ESCAPE.sub(lambda found: chr(int(found[1], 8)), text)


class MountWatch:
    """Calls *on_change* whenever something was mounted, unmounted, or made swap or no longer swap.

    The kernel says so by POLLPRI on the open file (fs/proc_namespace.c, mounts_poll), beside a POLLIN that
    is always there. The event loop wants POLLIN, hence an epoll of our own in between. Its event is gone
    once it was looked at, and that is what the loop does: being woken is all there is to know.

    A file system is still being written out when it has left the table: its device is free a little later.
    """

    def __init__(self, on_change: Callable[[], None], proc: Path = PROC) -> None:
        self._on_change = on_change
        self._proc = proc
        self._poll: select.epoll | None = None
        self._files: list[int] = []

    def start(self) -> None:
        """Listens from now on; needs a running event loop."""
        own_table = self._proc / "self/mountinfo"
        tables = [self._proc / "1/mountinfo", self._proc / "swaps"]
        opened = [descriptor for table in tables if (descriptor := _opened(table)) is not None]
        self._files = opened or [descriptor for descriptor in [_opened(own_table)] if descriptor is not None]
        self._poll = select.epoll()
        for descriptor in self._files:
            self._poll.register(descriptor, select.EPOLLPRI)
        self._poll.poll(0)  # the first look reports what was before
        asyncio.get_running_loop().add_reader(self._poll.fileno(), self._changed)

    def close(self) -> None:
        if self._poll is not None:
            asyncio.get_running_loop().remove_reader(self._poll.fileno())
            self._poll.close()
            self._poll = None
        while self._files:
            os.close(self._files.pop())

    def _changed(self) -> None:
        if self._poll is not None:
            self._poll.poll(0)
            self._on_change()


def _opened(file: Path) -> int | None:
    try:
        return os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
