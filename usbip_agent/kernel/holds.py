"""What is held open in usbfs, so that the kernel's structures of exported devices outlive an unplug.

usbip-host's table points to the structure of each device that it was ever bound to, and ``rebind`` follows
that pointer (see ``stub``). A device *and its hub* that are open in usbfs have their structures for as long.
The descriptors are left in a vault as well, from which they come back when the daemon is started again: a
device may be pulled out in between.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from usbip_agent.device import Device, Enumeration
from usbip_agent.kernel import sysfs

DEVICE_NODES = Path("/dev/bus/usb")
ROLES = ("device", "hub")
_NAME = re.compile(r"(device|hub)-(\d+-[\d.]+)@(\d+)\.(\d+)")

log = logging.getLogger(__name__)


class Vault(Protocol):
    """Keeps dups of descriptors, by name, beyond the life of this process."""

    def store(self, name: str, descriptor: int, *, until_it_ends: bool = True) -> None:
        """Keeps one; not *until_it_ends*: even when the other side is gone."""

    def forget(self, name: str) -> None:
        """Keeps it no longer."""


class Holds:
    """The descriptors of all devices that are held."""

    def __init__(self, vault: Vault | None = None, kept: Mapping[str, int] | None = None) -> None:
        self._vault = vault
        self._held = _by_enumeration(kept or {})

    def in_place_of(self, bus_id: str) -> tuple[Enumeration, ...]:
        """Everybody who is held of those who were and are in one place."""
        return tuple(each for each in tuple(self._held) if each.bus_id == bus_id)

    def all(self) -> tuple[Enumeration, ...]:
        return tuple(self._held)

    def hold(self, device: Device, directory: Path) -> None:
        """Opens *device* and its hub, both or none. May wait for the kernel."""
        this = device.enumeration
        if this in self._held:
            return
        directory = directory.resolve()
        opened = [_open(directory), _open(directory.parent)]
        descriptors = [descriptor for descriptor in opened if descriptor is not None]
        if len(descriptors) == len(ROLES):
            self._held[this] = descriptors
        else:
            _close(descriptors)

    def is_gone(self, device: Device, directory: Path) -> bool:
        """Whether the kernel knows already that *device*, which is held, was pulled out: long before sysfs.

        It is asked by opening it once more. What is held says that it is gone as soon as its local driver is.
        """
        if device.enumeration not in self._held:
            return False
        descriptor = _open(directory.resolve())
        if descriptor is None:
            return True
        os.close(descriptor)
        return False

    def keep(self, device: Device) -> None:
        """Leaves what is held of *device* in the vault."""
        this = device.enumeration
        if self._vault is not None:
            for role, descriptor in zip(ROLES, self._held.get(this, ())):
                self._vault.store(_name(this, role), descriptor, until_it_ends=False)

    def let_go(self, this: Enumeration) -> None:
        """Closes what is held of it, here and in the vault."""
        descriptors = self._held.pop(this, None)
        if descriptors is None:
            return
        _close(descriptors)
        if self._vault is not None:
            for role in ROLES:
                self._vault.forget(_name(this, role))


def _name(this: Enumeration, role: str) -> str:
    return f"{role}-{this.bus_id}@{this.bus_number}.{this.device_number}"


def is_name_of_hold(name: str) -> bool:
    """Whether a descriptor that comes out of the vault is one of these."""
    return _NAME.fullmatch(name) is not None


def _by_enumeration(kept: Mapping[str, int]) -> dict[Enumeration, list[int]]:
    held: dict[Enumeration, list[int]] = {}
    for name in sorted(kept):  # the device before its hub
        found = _NAME.fullmatch(name)
        if found is not None:
            bus_id, bus, device = found.group(2, 3, 4)
            held.setdefault(Enumeration(bus_id, int(bus), int(device)), []).append(kept[name])
    return held


def _open(directory: Path) -> int | None:
    """The usbfs node of the device in *directory*, opened for nothing but to be held."""
    bus, device = sysfs.read_number(directory / "busnum"), sysfs.read_number(directory / "devnum")
    node = DEVICE_NODES / f"{bus:03}" / f"{device:03}"
    try:
        return os.open(node, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        log.debug("%s: %s", node, error.strerror)
        return None


def _close(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
