"""The other end of NOTIFY_SOCKET: everything that systemd would hear, and its descriptor store."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

from tests.component.agent.fake_host import DEADLINE

Fields = dict[str, str]


class FakeSystemd:
    """Hears one message after the other. ``close`` closes what is stored."""

    def __init__(self, address: Path) -> None:
        self.address = address
        self.heard: list[Fields] = []
        self.status = ""
        self.stored: dict[str, int] = {}
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(address))

    def hear(self, deadline: float = DEADLINE) -> Fields | None:
        """One message; None when none comes within *deadline* seconds."""
        self._socket.settimeout(max(deadline, 0.001))
        try:
            data, descriptors, _flags, _address = socket.recv_fds(self._socket, 4096, 1)
        except TimeoutError:
            return None
        fields = dict(line.partition("=")[::2] for line in data.decode("ascii").splitlines())
        self.heard.append(fields)
        self.status = fields.get("STATUS", self.status)
        if "FDSTORE" in fields or "FDSTOREREMOVE" in fields:
            old = self.stored.pop(fields["FDNAME"], None)
            if old is not None:
                os.close(old)
        if "FDSTORE" in fields:
            assert ("FDPOLL" in fields) != fields["FDNAME"].startswith("export-"), fields
            self.stored[fields["FDNAME"]] = descriptors[0]
        return fields

    def until(self, field: str) -> Fields:
        """The next message with *field*."""
        return self._until(lambda fields: field in fields, f"no {field}")

    def until_status(self, text: str) -> str:
        """Waits for a status line with *text* in it, and returns it; the last one may be it already."""
        if text not in self.status:
            self._until(lambda fields: text in fields.get("STATUS", ""), f"no status with {text!r}")
        return self.status

    @property
    def exports(self) -> set[str]:
        """The busids of which link, device and hub are in the store; all three or none."""
        found: dict[str, set[str]] = {}
        for name in self.stored:
            role, bus_id = name.partition("@")[0].split("-", 1)
            found.setdefault(bus_id, set()).add(role)
        assert all(roles <= {"export", "device", "hub"} for roles in found.values()), found
        return {bus_id for bus_id, roles in found.items() if len(roles) == 3}

    def until_stored(self, *bus_ids: str) -> None:
        """Waits until the links of these devices, and what is held of them, are all that is in the store."""
        def is_so() -> bool:
            return self.exports == set(bus_ids) and len(self.stored) == 3 * len(bus_ids)

        if not is_so():
            self._until(lambda fields: is_so(), f"{bus_ids} are not what is stored")

    def _until(self, wanted: Callable[[Fields], bool], otherwise: str) -> Fields:
        end = time.monotonic() + DEADLINE
        while (fields := self.hear(end - time.monotonic())) is not None:
            if wanted(fields):
                return fields
        raise AssertionError(f"{otherwise} within {DEADLINE} s; {sorted(self.stored)}; {self.heard[-8:]}")

    def quiet(self, seconds: float) -> list[Fields]:
        """All that is heard in so many seconds."""
        end, before = time.monotonic() + seconds, len(self.heard)
        while self.hear(end - time.monotonic()) is not None:
            pass
        return self.heard[before:]

    def close(self) -> None:
        self._socket.close()
        for descriptor in self.stored.values():
            os.close(descriptor)
