"""A node and a host on one cable, fresh from their snapshots, and gone without trace after."""
from __future__ import annotations

import shutil
from pathlib import Path
from types import TracebackType
from typing import Iterable, Mapping

from . import cache
from .devices import Device
from .guest import Guest
from .machine import State
from .network import Switch

Plugged = Iterable[tuple[Device, int | str]]


class Pair:
    """The guests of one test, by name: usually ``node`` and ``host``, more if the test wants."""

    def __init__(self, states: Mapping[str, State]) -> None:
        self._work = cache.scratch()
        self.switch = Switch()
        self.guests = {name: Guest(name, state, self.switch, self._work / name)
                       for name, state in states.items()}

    def start(self, cold: bool = False, devices: Mapping[str, Plugged] | None = None) -> Pair:
        """Starts all guests; ``devices`` (guest name → device and port) are there from the start.

        Call it in the main thread: the guests die with the thread that started them.
        """
        try:
            for name, guest in self.guests.items():
                guest.start(cold, (devices or {}).get(name, ()))
            for guest in self.guests.values():
                guest.ready()
        except BaseException:
            self.close()
            raise
        return self

    @property
    def node(self) -> Guest:
        """The device side."""
        return self.guests["node"]

    @property
    def host(self) -> Guest:
        """The application side."""
        return self.guests["host"]

    def __getitem__(self, name: str) -> Guest:
        return self.guests[name]

    def dump(self, directory: Path) -> None:
        """Leaves each guest's journal, kernel log, state and console in a directory."""
        for name, guest in self.guests.items():
            place = directory / name
            place.mkdir(parents=True, exist_ok=True)
            (place / "context.txt").write_text(guest.context(), "utf-8")
            for file, command in (("journal.txt", "journalctl -b --no-pager -o short-precise"),
                                  ("dmesg.txt", "dmesg")):
                try:
                    (place / file).write_bytes(guest.run(command, 40, check=False).raw)
                except Exception as error:  # a dead guest must not hide the test's own failure
                    (place / file).write_text(f"{error}\n", "utf-8")
            for log in ("console.log", "qemu.log"):
                if (guest.work / log).exists():
                    shutil.copyfile(guest.work / log, place / log)

    def close(self) -> None:
        """Ends everything."""
        for guest in self.guests.values():
            guest.close()
        self.switch.close()
        shutil.rmtree(self._work, ignore_errors=True)

    def __enter__(self) -> Pair:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.close()
