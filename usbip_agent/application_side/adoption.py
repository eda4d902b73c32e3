"""What to make, at start, of the kernel's table, the records and the sockets that systemd kept. Pure.

Whatever the process before was doing when it ended, one of these holds for each port:

- record, and the port carries it: ours; adopted. Its socket, if systemd has it, tells of the link's end; else
  udev does when the device goes.
- record, and the port is free or carries something else: it died before the attach, or the link ended
  meanwhile; the record is stale.
- a socket without an adopted port: a link that leads nowhere; ended, so that the stub recovers.
- a used port without a record: somebody else's (``usbip attach``); left alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from usbip_agent.application_side.records import Record
from usbip_agent.kernel.vhci import PortRow, PortState
from usbip_agent.service.notify import StoredDescriptor

_STORED_NAME = re.compile(r"import-([0-9]{1,9})")


def stored_name(port: int) -> str:
    """The name under which the link of *port* is left with systemd."""
    return f"import-{port}"


@dataclass(frozen=True, slots=True)
class Adoption:
    """An import to go on with."""

    record: Record
    row: PortRow
    descriptor: int | None
    """Its socket, where systemd kept it."""

    @property
    def is_broken(self) -> bool:
        """True when the port only waits to be detached."""
        return self.row.state == PortState.ERROR


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do, in this order."""

    adopt: tuple[Adoption, ...]
    stale_records: tuple[Record, ...]
    stray_descriptors: tuple[StoredDescriptor, ...]


def plan(rows: Iterable[PortRow], records: Iterable[Record], stored: Iterable[StoredDescriptor]) -> Plan:
    """What to adopt and what to clear away. What is no link of an import is left out of *stored*."""
    by_port = {row.port: row for row in rows}
    links: dict[int, StoredDescriptor] = {}
    strays = []
    for each in stored:
        if match := _STORED_NAME.fullmatch(each.name):
            port = int(match[1])
            if port in links:  # the newest is the last that was stored
                strays.append(links[port])
            links[port] = each
    adopt, stale = [], []
    for record in records:
        row = by_port.get(record.port)
        if row is not None and row.may_carry(record.offer.devid, record.descriptor):
            link = links.pop(record.port, None)
            adopt.append(Adoption(record, row, link.descriptor if link else None))
        else:
            stale.append(record)
    return Plan(tuple(adopt), tuple(stale), (*strays, *links.values()))
