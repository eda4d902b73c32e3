"""What an import became on this machine: the device nodes below it, and what it calls itself.

The shipped rule (60-usbipa.rules) tags everything below vhci-hcd, so the kernel wakes this process for
nothing else. A node belongs to the import by the local busid in its path:
``…/vhci_hcd.0/usb3/3-1/3-1:1.0/…``.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from usbip_agent.blocking import in_thread
from usbip_agent.errors import DeadlineFault
from usbip_agent.kernel.uevents import Action, Uevent, UeventMonitor
from usbip_agent.names import UDEV_TAG_USBIPA
from usbip_agent.text import printable

_LOCAL_BUS_ID = re.compile(r"/vhci_hcd\.[0-9]+/usb[0-9]+/([0-9]+-[0-9]+)(?=/|$)")
_ENCODED = re.compile(rb"\\x([0-9a-f]{2})")
_HIDDEN_SUBSYSTEMS = frozenset({"usb", "bsg"})
"""The raw USB node is not what an import became; a bsg node is the same disk once more."""

MAXIMUM_NODES = 256
"""Nodes of one import that are kept: what hangs on it is up to the other side."""


MAXIMUM_MEANWHILE = 4096
"""Events that are kept during a listing; after more it is made once more."""

LISTING_PATIENCE = 1.0
"""Seconds that the start waits for the first listing."""

LISTING_DEADLINE = 300.0
"""Seconds for a listing, in which devices may hang one after the other."""

log = logging.getLogger(__name__)


def local_bus_id_of(sys_path: Path) -> str:
    """The busid of the import that *sys_path* belongs to; empty when it belongs to none (a root hub)."""
    match = _LOCAL_BUS_ID.search(str(sys_path))
    return match[1] if match else ""


@dataclass(frozen=True, slots=True)
class _Seen:
    """What was told of an import's device, or of something on it."""

    local_bus_id: str
    sys_path: Path
    is_device: bool
    """Whether it is the import's device itself."""
    is_gone: bool
    model: str
    node: str
    """Its device node, if it is one that an import becomes."""


@dataclass(slots=True)
class _Found:
    present: bool = False
    model: str = ""
    nodes: dict[Path, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Appearance:
    """How an import shows on this machine."""

    present: bool
    """Whether the device itself has been enumerated and is still there."""
    model: str
    device_nodes: tuple[str, ...]


NOTHING = Appearance(False, "", ())


class DeviceNodes:
    """Follows udev and tells *on_change* the local busid of each import that changed.

    What is there already is listed in a thread: libudev reads each ``uevent`` then, for which some kernels
    take the device's lock, and a device that hangs holds it for a minute or more while it is being reset.
    """

    def __init__(self, on_change: Callable[[str], None]) -> None:
        self._on_change = on_change
        self._found: dict[str, _Found] = {}
        self._monitor = UeventMonitor(self._take, self._look_again, tag=UDEV_TAG_USBIPA)
        self._listing: asyncio.Task[None] | None = None
        self._is_outdated = False
        self._meanwhile: list[_Seen] = []
        """What events have told since the listing began: it may be older."""

    async def start(self) -> None:
        """Listens from now on, and looks at what is there already: mostly that is known on return."""
        self._monitor.start()
        self._look_again()
        if self._listing is not None:
            await asyncio.wait([self._listing], timeout=LISTING_PATIENCE)

    def close(self) -> None:
        self._monitor.close()
        if self._listing is not None:
            self._listing.cancel()

    def of(self, local_bus_id: str) -> Appearance:
        """What is known of the import with *local_bus_id*."""
        found = self._found.get(local_bus_id)
        if found is None:
            return NOTHING
        return Appearance(found.present, found.model, tuple(sorted(set(found.nodes.values()), key=_natural)))

    def forget(self, local_bus_id: str) -> None:
        """The import has ended: the next one on its port must not be taken for it."""
        self._found.pop(local_bus_id, None)

    def _look_again(self) -> None:
        """Also when events were lost: whatever they would have told is in the listing, or gone from it."""
        self._is_outdated = True
        if self._listing is None or self._listing.done():
            self._listing = asyncio.create_task(self._list())

    async def _list(self) -> None:
        while self._is_outdated:
            self._is_outdated = False
            self._meanwhile.clear()
            try:
                listed = await in_thread("udev", self._all_seen, deadline=LISTING_DEADLINE)
            except DeadlineFault as fault:
                log.error("what imports became is not known: %s", fault)
                return
            if not self._is_outdated:
                self._begin_anew(listed + self._meanwhile)

    def _all_seen(self) -> list[_Seen]:
        events = self._monitor.enumerate_tagged(UDEV_TAG_USBIPA)
        return [seen for event in events if (seen := _seen(event)) is not None]

    def _begin_anew(self, known: Iterable[_Seen]) -> None:
        before, self._found = self._found, {}
        for seen in known:
            self._note(seen)
        for local_bus_id in before.keys() | self._found.keys():
            self._on_change(local_bus_id)

    def _take(self, event: Uevent) -> None:
        seen = _seen(event)
        if seen is None:
            return
        if self._listing is not None and not self._listing.done():
            self._meanwhile.append(seen)
            if len(self._meanwhile) > MAXIMUM_MEANWHILE:
                self._is_outdated = True
                self._meanwhile.clear()
        if self._note(seen):
            self._on_change(seen.local_bus_id)

    def _note(self, seen: _Seen) -> bool:
        """Notes what was *seen*; True when something is different now."""
        if seen.is_gone:
            return self._forget(seen)
        found = self._found.setdefault(seen.local_bus_id, _Found())
        if seen.is_device:
            changed = not found.present or (bool(seen.model) and seen.model != found.model)
            found.present, found.model = True, seen.model or found.model
            return changed
        if not seen.node or len(found.nodes) >= MAXIMUM_NODES:
            return False
        changed = found.nodes.get(seen.sys_path) != seen.node
        found.nodes[seen.sys_path] = seen.node
        return changed

    def _forget(self, seen: _Seen) -> bool:
        if seen.is_device:
            # Told in any case: who was forgotten may go when the next import has its port already.
            self._found.pop(seen.local_bus_id, None)
            return True
        found = self._found.get(seen.local_bus_id)
        return found is not None and found.nodes.pop(seen.sys_path, None) is not None


def _seen(event: Uevent) -> _Seen | None:
    """What *event* tells of an import; None when it is about something else. May have to wait for the kernel
    with what was listed, never with what udev has sent."""
    local_bus_id = local_bus_id_of(event.sys_path)
    if not local_bus_id:
        return None
    is_device, is_gone = event.sys_path.name == local_bus_id, event.action is Action.REMOVE
    is_hidden = is_device or event.subsystem in _HIDDEN_SUBSYSTEMS
    return _Seen(
        local_bus_id, event.sys_path, is_device, is_gone,
        model=_model_of(event) if is_device and not is_gone else "",
        node="" if is_hidden else printable(event.device_node))


def _model_of(event: Uevent) -> str:
    """The device's product string, else its manufacturer's, else what udev's hardware database calls it.

    All as udev has read them: a string's file in sysfs takes the device's lock, and while a device that hangs
    is being reset that is held for a minute, in which nothing else would go on here.
    """
    properties = event.properties.properties
    for string, number in (("ID_MODEL_ENC", "ID_MODEL_ID"), ("ID_VENDOR_ENC", "ID_VENDOR_ID")):
        said = _decoded(properties.get(string, ""))
        # A device that has no string is told by its number there (udev-builtin-usb_id.c).
        if said and said != properties.get(number, ""):
            return printable(said)
    return printable(properties.get("ID_MODEL_FROM_DATABASE", ""))


def _decoded(encoded: str) -> str:
    r"""The text that udev wrote with ``\x20`` in place of what is not safe in a name."""
    raw = _ENCODED.sub(lambda match: bytes([int(match[1], 16)]), encoded.encode("utf-8", "surrogateescape"))
    return raw.decode("utf-8", "replace").strip()


def _natural(node: str) -> tuple[str | int, ...]:
    """Sorts ``/dev/sda2`` before ``/dev/sda10``."""
    return tuple(int(part) if part.isdigit() else part for part in re.split(r"([0-9]+)", node))
