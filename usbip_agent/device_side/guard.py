"""Stands between an attempt and a device that the system needs, or whose last writes have not arrived."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from usbip_agent.blocking import in_thread, in_turn
from usbip_agent.device import Device, Kind
from usbip_agent.device_side.interlock import reasons_against
from usbip_agent.errors import BlockedFault, BusyFault, UnreachableFault
from usbip_agent.kernel.block_devices import flush, keep_still
from usbip_agent.kernel.usage import has_network_interface, read_usage
from usbip_agent.policy.hosts import Host
from usbip_agent.transport.names import endpoints_of

RESOLVE_DEADLINE = 3.0
"""Seconds to learn where a host is; after that, the way to everywhere is taken for the way to it."""


@dataclass(frozen=True, slots=True)
class Guard:
    """What is asked before a device is taken. *forced*: its rule says that it is taken all the same."""

    forced: bool = False
    hosts_in_use: Callable[[], tuple[Host, ...]] = tuple
    """Those that other devices are connected to, or should be. Asked for a network card only."""

    async def examine(self, device: Device, hosts: tuple[Host, ...]) -> None:
        """BlockedFault with every reason against taking *device* for a connection to *hosts*."""
        if self.forced or device.kind is Kind.VUDC:
            return
        directory = Path(device.sys_path)
        addresses: dict[str, tuple[str, ...]] = {}
        if has_network_interface(directory):
            needed = tuple({host.name: host for host in (*hosts, *self.hosts_in_use())}.values())
            found = await asyncio.gather(*(_addresses_of(host) for host in needed))
            addresses = {host.name: each for host, each in zip(needed, found)}
        every = [address for each in addresses.values() for address in each]
        usage = await in_turn("examine", device.bus_id, lambda turn: in_thread(
            f"examine {device.bus_id}", lambda: read_usage(directory, every), deadline=None))
        reasons = reasons_against(usage, addresses)
        if reasons:
            raise BlockedFault("; ".join(reasons))

    @asynccontextmanager
    async def keeping_still(self, device: Device) -> AsyncIterator[None]:
        """What was written to the device has arrived, and nobody can begin to use it meanwhile."""
        if device.kind is Kind.VUDC:
            yield
            return
        if self.forced:
            await flush(Path(device.sys_path))
            yield
            return
        try:
            stillness = await keep_still(Path(device.sys_path))
        except BusyFault as fault:
            raise BlockedFault(fault.what) from None
        try:
            yield
        finally:
            await stillness.end()


async def _addresses_of(host: Host) -> tuple[str, ...]:
    try:
        async with asyncio.timeout(RESOLVE_DEADLINE):
            return tuple(endpoint.address for endpoint in await endpoints_of(host))
    except (UnreachableFault, TimeoutError):
        return ()
