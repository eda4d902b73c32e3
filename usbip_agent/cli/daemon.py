"""Asking the daemon over the bus. The only file here that has an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from usbip_agent.bus.client import Client, RemoteFault, connect_to
from usbip_agent.bus.standard import Error
from usbip_agent.errors import Fault, PermissionFault
from usbip_agent.names import Service

Answer = TypeVar("Answer")


def ask(service: Service, question: Callable[[Client], Awaitable[Answer]]) -> Answer:
    """What *question* gets from the running daemon; UnavailableFault when it does not run."""
    async def run() -> Answer:
        async with connect_to(service) as client:
            return await question(client)
    try:
        return asyncio.run(run())
    except RemoteFault as fault:
        raise _told(service, fault) from None


def code_of(fault: Fault) -> str:
    """The last part of its D-Bus name, which tells faults of the daemon apart as their classes do here."""
    return fault.dbus_name.rpartition(".")[2]


def _told(service: Service, fault: RemoteFault) -> Fault:
    if fault.dbus_name == Error.ACCESS_DENIED:
        return PermissionFault("only root may do this", hint=f"sudo {service.command} …")
    return fault
