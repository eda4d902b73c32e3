"""The two sequences that touch the world: connecting a device, and taking it back.

EXPORT comes before the bind: the kernel's devid does not change by it, and so a host that cannot be reached
or says no costs the local user of the device nothing. vhci's first URB waits in the socket until the stub
takes it, which is well within the 5 s that the USB core gives it.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from usbip_agent import wire
from usbip_agent.device import Device
from usbip_agent.device_side.guard import Guard
from usbip_agent.device_side.request import request, settle_reply
from usbip_agent.errors import (
    BusyFault, DeadlineFault, Fault, IdentityFault, ProtocolFault, RefusedFault, UnknownDeviceFault,
    UnreachableFault,
)
from usbip_agent.blocking import uninterrupted
from usbip_agent.kernel.exporter import Exporter, LinkStatus, wait_until_unlinked
from usbip_agent.policy.hosts import Host
from usbip_agent.report import ExportState
from usbip_agent.transport.stream import Stream, shut_down

log = logging.getLogger(__name__)

NEXT_HOST_HELPS = (UnreachableFault, RefusedFault, ProtocolFault, DeadlineFault, IdentityFault)
"""The faults that concern one host, IdentityFault by the certificates that are its own."""

UNEXPORT_DEADLINE = 4.0
"""Seconds for the courtesy of an UNEXPORT; the end of the link says the same, so it is not worth more."""

Dial = Callable[[Host], Awaitable[Stream]]


@dataclass(frozen=True, slots=True)
class Attempt:
    """Everything that one attempt needs of its surroundings."""

    exporter: Exporter
    guard: Guard
    dial: Dial
    on_progress: Callable[[ExportState, Host], None]
    before_hand_over: Callable[[Host, Stream], Coroutine[object, object, None]]
    """Leaves word of the link for whoever comes after us, should we die right after the hand-over."""

    async def connect(self, device: Device, hosts: tuple[Host, ...]) -> tuple[Host, Stream]:
        """The first of *hosts* that takes *device*, and the stream that the kernel has now.

        Any Fault: the last host's, with the words of all. Cancelled or failed, no stream is left open; the
        stub may be left with the device, which the caller sees from ``exporter.holds``.
        """
        self.exporter.require_module()
        if self.exporter.link_status(device) is LinkStatus.USED:
            raise BusyFault(f"{device.bus_id} is exported by something else on this machine")
        if not self.exporter.holds(device):
            self.exporter.require_room(device)  # before a host gives it a port
            await self.guard.examine(device, hosts)
        faults: list[tuple[Host, Fault]] = []
        for host in hosts:
            try:
                return host, await self._connect_to(device, host)
            except NEXT_HOST_HELPS as fault:
                faults.append((host, fault))
        raise _sum_of(faults)

    async def _connect_to(self, device: Device, host: Host) -> Stream:
        self.on_progress(ExportState.CONNECTING, host)
        stream = await self.dial(host)
        try:
            await request(stream, wire.Operation.EXPORT, device)
            self.on_progress(ExportState.BINDING, host)
            with _no_host_helps():
                await uninterrupted(self._claim(device))
            if not self.exporter.is_present(device):
                raise UnknownDeviceFault(f"{device.bus_id} was unplugged")
            await settle_reply(stream)
            await uninterrupted(self.before_hand_over(host, stream))
            with _no_host_helps():
                await uninterrupted(self.exporter.hand_over(device, stream.socket))
        except BaseException:
            await stream.close()
            raise
        return stream

    async def _claim(self, device: Device) -> None:
        if self.exporter.link_status(device) is LinkStatus.ERROR:
            await self.exporter.give_back(device)  # a fresh bind is what a stub in ERROR needs
        if self.exporter.holds(device):
            return
        async with self.guard.keeping_still(device):
            await self.exporter.claim(device)


@contextmanager
def _no_host_helps() -> Iterator[None]:
    """What the kernel here does not answer, it answers for no other host either."""
    try:
        yield
    except DeadlineFault as fault:
        raise BusyFault(fault.what) from None


def _sum_of(faults: list[tuple[Host, Fault]]) -> Fault:
    """One fault for the attempt: of the last host's kind, with every host's reason."""
    words = "; ".join(f"{host.name}: {fault.what}" for host, fault in faults)
    return type(faults[-1][1])(words)


async def release(device: Device, exporter: Exporter, link: socket.socket | None,
                  dial_back: Callable[[], Awaitable[Stream]] | None) -> None:
    """Ends the link of *device*, if it has one, and gives the device back to its local driver.

    The order is a matter of the kernel's life: end the link, wait until the stub let go of it, unbind. When
    the stub does not let go (DeadlineFault) the device stays bound.
    """
    if dial_back is not None:
        await _say_unexport(device, dial_back)
    if link is not None:
        shut_down(link)
    await wait_until_unlinked(exporter, device)
    # Not asked before: the kernel resets the device at the end of its link, and meanwhile it has no number.
    if exporter.is_present(device):
        await exporter.give_back(device)


async def _say_unexport(device: Device, dial_back: Callable[[], Awaitable[Stream]]) -> None:
    """Tells the application side first, so that it detaches instead of losing a link.

    A host that is dead or disagrees changes nothing: the device is given back all the same.
    """
    try:
        async with asyncio.timeout(UNEXPORT_DEADLINE):
            stream = await dial_back()
            try:
                await request(stream, wire.Operation.UNEXPORT, device)
            finally:
                await stream.close()
    except (Fault, TimeoutError) as fault:
        log.debug("UNEXPORT of %s: %s", device.bus_id, fault)
