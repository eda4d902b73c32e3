"""What an import became on this machine: the device nodes below it, and what it calls itself.

The shipped rule (60-usbipa.rules) tags everything below vhci-hcd, so the kernel wakes this process for
nothing else. A node belongs to the import by the local busid in its path:
``…/vhci_hcd.0/usb3/3-1/3-1:1.0/…``.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from usbip_agent.kernel.uevents import Action, Uevent, UeventMonitor
from usbip_agent.names import UDEV_TAG_USBIPA
from usbip_agent.text import printable

_LOCAL_BUS_ID = re.compile(r"/vhci_hcd\.[0-9]+/usb[0-9]+/([0-9]+-[0-9]+)(?=/|$)")
_ENCODED = re.compile(rb"\\x([0-9a-f]{2})")
_HIDDEN_SUBSYSTEMS = frozenset({"usb", "bsg"})
"""The raw USB node is not what an import became; a bsg node is the same disk once more."""

MAXIMUM_NODES = 256
"""Nodes of one import that are kept: what hangs on it is up to the other side."""


def local_bus_id_of(sys_path: Path) -> str:
    """The busid of the import that *sys_path* belongs to; empty when it belongs to none (a root hub)."""
    match = _LOCAL_BUS_ID.search(str(sys_path))
    return match[1] if match else ""


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
    """Follows udev and tells *on_change* the local busid of each import that changed."""

    def __init__(self, on_change: Callable[[str], None]) -> None:
        self._on_change = on_change
        self._found: dict[str, _Found] = {}
        self._monitor = UeventMonitor(self._take, self._look_again, tag=UDEV_TAG_USBIPA)

    def start(self) -> None:
        """Listens from now on, and looks at what is there already. Needs a running event loop."""
        self._monitor.start()
        self._look_again()

    def close(self) -> None:
        self._monitor.close()

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
        before, self._found = self._found, {}
        for event in self._monitor.enumerate_tagged(UDEV_TAG_USBIPA):
            self._note(event)
        for local_bus_id in before.keys() | self._found.keys():
            self._on_change(local_bus_id)

    def _take(self, event: Uevent) -> None:
        local_bus_id = local_bus_id_of(event.sys_path)
        if local_bus_id and self._note(event):
            self._on_change(local_bus_id)

    def _note(self, event: Uevent) -> bool:
        """Notes *event*; True when something is different now."""
        local_bus_id = local_bus_id_of(event.sys_path)
        if not local_bus_id:
            return False
        is_device = event.sys_path.name == local_bus_id
        if event.action is Action.REMOVE:
            return self._forget(local_bus_id, event.sys_path, is_device)
        found = self._found.setdefault(local_bus_id, _Found())
        if is_device:
            model = _model_of(event)
            changed = not found.present or (bool(model) and model != found.model)
            found.present, found.model = True, model or found.model
            return changed
        if not event.device_node or event.subsystem in _HIDDEN_SUBSYSTEMS:
            return False
        if len(found.nodes) >= MAXIMUM_NODES:
            return False
        node = printable(event.device_node)
        changed = found.nodes.get(event.sys_path) != node
        found.nodes[event.sys_path] = node
        return changed

    def _forget(self, local_bus_id: str, sys_path: Path, is_device: bool) -> bool:
        if is_device:
            # Told in any case: who was forgotten may go when the next import has its port already.
            self._found.pop(local_bus_id, None)
            return True
        found = self._found.get(local_bus_id)
        return found is not None and found.nodes.pop(sys_path, None) is not None


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
