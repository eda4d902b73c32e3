"""What of the running system stands on a USB device."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from usbip_agent.kernel import sysfs
from usbip_agent.kernel.block_devices import BlockUsage, Places, block_usage
from usbip_agent.kernel.seats import (
    Seat, Session, console_terminals, seats_without, sessions, terminals_below)
from usbip_agent.kernel.ways import KernelRoutes, Routes, carriers


@dataclass(frozen=True, slots=True)
class Way:
    """A network interface of the device, and whither it leads."""

    interface: str
    address: str
    """IPv4 or IPv6; empty = the rest of the world."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What would lose the ground under its feet, were the device taken away. Empty = nothing would."""

    blocks: BlockUsage = BlockUsage()
    ways: tuple[Way, ...] = ()
    seats: tuple[Seat, ...] = ()
    """Those that have no other keyboard."""
    consoles: tuple[str, ...] = ()
    """Terminals of the device that are the system's console."""
    logins: tuple[Session, ...] = ()
    """Who is logged in on one of the device's terminals."""


def has_network_interface(directory: Path) -> bool:
    """Whether the USB device in *directory* is a network card, among other things perhaps."""
    return any(sysfs.entries(interface / "net") for interface in sysfs.entries(directory)
               if interface.name.startswith(directory.name))


def read_usage(directory: Path, addresses: Iterable[str], places: Places = Places(),
               routes: Routes = KernelRoutes()) -> Usage:
    """What stands on the USB device in *directory*, and which of *addresses* are reached through it.

    Blocking: a look at a slow disk takes its time. KernelFault when the routing tables cannot be read.
    """
    terminals = terminals_below(directory, places)
    return Usage(
        blocks=block_usage(directory, places),
        ways=tuple(_ways(directory, addresses, places, routes)),
        seats=seats_without(directory, places),
        consoles=tuple(sorted(terminals & console_terminals(places))) if terminals else (),
        logins=tuple(each for each in sessions(places) if each.terminal in terminals) if terminals else ())


def _ways(directory: Path, addresses: Iterable[str], places: Places, routes: Routes) -> list[Way]:
    net = places.sys / "class/net"
    own = {entry.name for entry in sysfs.class_members(net, directory)}
    if not own:
        return []
    found = [Way(interface, "") for interface in sorted(own & routes.uplinks())]
    for address in addresses:
        interface = routes.interface_to(address)
        if interface:
            found += [Way(each, address) for each in sorted(own & carriers(interface, routes, net))]
    return found
