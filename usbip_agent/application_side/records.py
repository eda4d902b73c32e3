"""What of each import outlives the process: one small file in the runtime directory.

Written before the attach, so that a process that dies right after it leaves a record to adopt the port by; a
record without its attachment is found stale at the next start. The kernel's table is the truth, always.
"""

from __future__ import annotations

import ipaddress
import logging
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Protocol

from usbip_agent.application_side.imports import Offer
from usbip_agent.errors import ProtocolFault
from usbip_agent.service.records import RecordStore
from usbip_agent.wire import Operation, Request, decode_request, encode_request

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Record:
    """An import as it was, or was about to be, attached."""

    port: int
    descriptor: int
    """The socket's number in the process that attached; the kernel's table shows it."""
    offer: Offer
    rule: str
    since: int
    """Microseconds since the epoch."""


@dataclass(frozen=True, slots=True)
class _Stored:
    """A record as the file has it: the device in the 320 bytes of the request that brought it."""

    port: int
    descriptor: int
    busid: str
    request: str
    node: str
    """Empty for a plain connection."""
    address: str
    peer: str
    transport: str
    rule: str
    since: int
    certificate: str = ""
    """As ``Offer`` has it."""


class RecordKeeping(Protocol):
    """What is needed of records."""

    def write(self, record: Record) -> None: ...
    def drop(self, port: int) -> None: ...


class Records:
    """The records below one directory. Losing one costs its import at the next restart, and no more."""

    def __init__(self, directory: Path) -> None:
        self._store = RecordStore(directory, _Stored)

    def write(self, record: Record) -> None:
        """Puts *record* in place of an earlier one of its port, whole or not at all."""
        offer = record.offer
        self._store.put(str(record.port), _Stored(
            record.port, record.descriptor, offer.device.bus_id,
            encode_request(Request(Operation.EXPORT, offer.device)).hex(),
            offer.node or "", offer.address, offer.peer, offer.transport, record.rule, record.since,
            offer.certificate))

    def drop(self, port: int) -> None:
        """Removes the record of *port*; nothing when there is none."""
        self._store.remove(str(port))

    def read(self) -> tuple[Record, ...]:
        """Every record that makes sense; the others are removed."""
        found = []
        for name, stored in self._store.all():
            try:
                if name != str(stored.port):
                    raise ValueError(f"it tells of port {stored.port}")
                found.append(_record_of(stored))
            except (ValueError, TypeError, ProtocolFault) as error:
                log.warning("the record of port %s makes no sense: %s", name, error)
                self._store.remove(name)
        return tuple(found)


def _record_of(stored: _Stored) -> Record:
    for each in fields(_Stored):
        if type(getattr(stored, each.name)).__name__ != str(each.type):
            raise ValueError(f"{each.name} is not {each.type}")
    ipaddress.ip_address(stored.address)
    device = decode_request(bytes.fromhex(stored.request)).device
    offer = Offer(device, stored.address, stored.peer, stored.transport, stored.node or None,
                  stored.certificate)
    return Record(stored.port, stored.descriptor, offer, stored.rule, stored.since)
