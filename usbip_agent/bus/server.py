"""A daemon's presence on the bus: its connection, its name, its objects."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from usbip_agent.bus.connection import Connection, open_connection
from usbip_agent.bus.dispatch import Dispatcher
from usbip_agent.bus.methods import Method, agent_methods, usbipa_methods
from usbip_agent.bus.operations import AgentOperations, UsbipaOperations
from usbip_agent.bus.publisher import Publisher
from usbip_agent.bus.standard import CallError, Error
from usbip_agent.errors import Fault, PermissionFault, UnavailableFault
from usbip_agent.names import AGENT, USBIPA, Service
from usbip_agent.report import Report

_DO_NOT_QUEUE: Final = 4
_PRIMARY_OWNER, _ALREADY_OWNER = 1, 4
"""RequestName's flag and replies (D-Bus specification, "org.freedesktop.DBus.RequestName")."""


class NameHeldFault(UnavailableFault):
    """Another process has the daemon's name: most likely the daemon itself, running already."""


class BusServer:
    """Made by ``serve_agent`` or ``serve_usbipa``."""

    def __init__(self, connection: Connection, publisher: Publisher, dispatcher: Dispatcher) -> None:
        self.connection = connection
        """For questions to others on the same bus (``systemd``)."""
        self.publisher = publisher
        self._dispatcher = dispatcher

    async def lost(self) -> None:
        """Returns when the daemon is on the bus no more, be it that the bus went or by ``close``."""
        await self.connection.lost()

    async def close(self) -> None:
        """Leave the bus: running calls are cancelled and their callers told. May be called twice."""
        self.connection.on_call = None
        await self._dispatcher.close()
        await self.connection.close()


async def serve_agent(operations: AgentOperations, *, address: str | None = None,
                      reports: Iterable[Report] = (), privileged_uid: int = 0) -> BusServer:
    """Put the device side on the bus at *address* (None: the system bus), showing *reports* from the start.

    Raises UnavailableFault without a bus, NameHeldFault (one of these) when the name is taken, and
    PermissionFault when it may not be had.
    """
    return await _serve(AGENT, agent_methods(operations), address, reports, privileged_uid)


async def serve_usbipa(operations: UsbipaOperations, *, address: str | None = None,
                       reports: Iterable[Report] = (), privileged_uid: int = 0) -> BusServer:
    """Put the application side on the bus, as ``serve_agent`` does the device side."""
    return await _serve(USBIPA, usbipa_methods(operations), address, reports, privileged_uid)


async def _serve(service: Service, methods: Iterable[Method], address: str | None,
                 reports: Iterable[Report], privileged_uid: int) -> BusServer:
    connection = await open_connection(address)
    try:
        publisher = Publisher(service, connection.emit)
        dispatcher = Dispatcher(service, connection, publisher, methods, privileged_uid)
        for report in reports:
            publisher.put(report)
        connection.on_call = dispatcher.receive
        # Last, so that whoever waits for the name finds everything behind it.
        await _request_name(service, connection)
    except BaseException:
        await connection.close()
        raise
    return BusServer(connection, publisher, dispatcher)


async def _request_name(service: Service, connection: Connection) -> None:
    try:
        [reply] = await connection.call_bus("RequestName", "su", service.bus_name, _DO_NOT_QUEUE)
    except CallError as problem:
        if problem.dbus_name != Error.ACCESS_DENIED:
            raise UnavailableFault(f"the bus refuses {service.bus_name}: {problem.message}") from None
        raise PermissionFault(
            f"the bus does not let this user have the name {service.bus_name}",
            hint=f"run {service.command} as root; its package installs the bus policy") from None
    if reply not in (_PRIMARY_OWNER, _ALREADY_OWNER):
        holder = await _holder(service, connection)
        raise NameHeldFault(f"the D-Bus name {service.bus_name} is held by {holder}",
                            hint=f"is {service.command} running already? systemctl status {service.unit}")


async def _holder(service: Service, connection: Connection) -> str:
    try:
        [owner] = await connection.call_bus("GetNameOwner", "s", service.bus_name)
        [process] = await connection.call_bus("GetConnectionUnixProcessID", "s", owner)
    except (CallError, Fault):
        return "another process"
    return f"process {process} ({owner})"
