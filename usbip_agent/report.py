"""What each daemon tells the world of a device or an import: D-Bus properties, and the JSON of ``status``.

One frozen value per object. ``bus`` turns it into properties, ``cli`` into JSON and tables; neither knows how
it came to be. Times are microseconds since the epoch, 0 = none.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from enum import StrEnum
from functools import cache
from typing import Any


class ExportState(StrEnum):
    """Where a device on the device side stands."""

    IGNORED = "ignored"
    BINDING = "binding"
    CONNECTING = "connecting"
    CONNECTED = "connected"
    WAITING = "waiting"
    HELD = "held"
    BLOCKED = "blocked"
    FAILED = "failed"


class ImportState(StrEnum):
    """Where an import on the application side stands."""

    ATTACHING = "attaching"
    ATTACHED = "attached"
    DETACHING = "detaching"


def _uint32() -> Any:
    return field(default=0, metadata={"signature": "u"})


def _time() -> Any:
    return field(default=0, metadata={"signature": "t"})


def _list() -> Any:
    return field(default=(), metadata={"signature": "as"})


@dataclass(frozen=True, slots=True)
class DeviceReport:
    """``org.usbip.Agent1.Device``."""

    bus_id: str
    vendor: str = ""
    product: str = ""
    serial: str = ""
    manufacturer: str = ""
    model: str = ""
    classes: tuple[str, ...] = _list()
    path: str = ""
    speed: str = ""
    kind: str = ""
    rule: str = ""
    state: str = ExportState.IGNORED
    reason: str = ""
    host: str = ""
    transport: str = ""
    peer: str = ""
    since: int = _time()
    attempts: int = _uint32()
    next_attempt: int = _time()


@dataclass(frozen=True, slots=True)
class ImportReport:
    """``org.usbip.Usbipa1.Import``."""

    port: int = _uint32()
    hub: str = ""
    node: str = ""
    peer: str = ""
    bus_id: str = ""
    vendor: str = ""
    product: str = ""
    model: str = ""
    speed: str = ""
    local_bus_id: str = ""
    device_nodes: tuple[str, ...] = _list()
    rule: str = ""
    transport: str = ""
    state: str = ImportState.ATTACHING
    since: int = _time()


Report = DeviceReport | ImportReport


@dataclass(frozen=True, slots=True)
class Property:
    """One field of a report as D-Bus sees it."""

    field: str
    name: str
    signature: str


@cache
def properties_of(report: type[DeviceReport] | type[ImportReport]) -> tuple[Property, ...]:
    """The D-Bus properties of a report, in the order of the contract: ``bus_id`` is ``BusId s``."""
    return tuple(
        Property(entry.name, "".join(word.capitalize() for word in entry.name.split("_")),
                 entry.metadata.get("signature", "s"))
        for entry in fields(report))
