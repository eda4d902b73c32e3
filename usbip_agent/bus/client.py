"""A command's view of a daemon: what it shows, what it does on request, and what changes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

from usbip_agent.bus.connection import CALL_DEADLINE, Connection, open_connection
from usbip_agent.bus.marshalling import Flag, Kind, Message, plain, variant
from usbip_agent.bus.operations import Explanation
from usbip_agent.bus.standard import BUS, BUS_PATH, OBJECT_MANAGER, PROPERTIES, CallError, Error
from usbip_agent.bus.values import explanation_of, report_of
from usbip_agent.errors import Fault, UnavailableFault, exit_status_of_dbus_name
from usbip_agent.names import Service
from usbip_agent.report import Report

OPERATION_DEADLINE: Final = 90.0
"""Seconds for a call that does something. The daemon gives up a host that does not answer long before."""

ANSWER_LIMIT: Final = 16 * 1024 * 1024
"""Bytes of an answer: several hundred objects with all their properties."""


class RemoteFault(Fault):
    """The daemon (or the bus) refused a call: its D-Bus error name, exit status, and what it said."""

    def __init__(self, dbus_name: str, message: str) -> None:
        super().__init__(message)
        self._dbus_name = dbus_name
        # A class variable of the other faults; here it is as the daemon's fault has it.
        self.exit_status = exit_status_of_dbus_name(dbus_name)  # type: ignore[misc]

    @property
    def dbus_name(self) -> str:
        return self._dbus_name


@dataclass(frozen=True, slots=True)
class Added:
    report: Report


@dataclass(frozen=True, slots=True)
class Changed:
    report: Report
    before: Report


@dataclass(frozen=True, slots=True)
class Removed:
    report: Report
    """As it was shown last."""


@dataclass(frozen=True, slots=True)
class Vanished:
    """The daemon left the bus: it was stopped, or is being restarted."""


@dataclass(frozen=True, slots=True)
class Returned:
    """It is back; what has changed meanwhile follows."""


Change = Added | Changed | Removed | Vanished | Returned


@asynccontextmanager
async def connect_to(service: Service, address: str | None = None) -> AsyncIterator[Client]:
    """A client of the running daemon on the bus at *address* (None: the system bus).

    Never starts the daemon. Raises UnavailableFault when it does not run, or when there is no bus.
    """
    connection = await open_connection(address, incoming_limit=ANSWER_LIMIT)
    try:
        client = Client(service, connection)
        await client.owner()
        yield client
    finally:
        await connection.close()


class Client:
    """Made by ``connect_to``."""

    def __init__(self, service: Service, connection: Connection) -> None:
        self._service = service
        self._connection = connection

    async def reports(self) -> tuple[Report, ...]:
        """All that the daemon shows, in its order."""
        objects, _ = await self._objects()
        return tuple(objects.values())

    async def call(self, member: str, signature: str = "", *arguments: Any,
                   deadline: float = OPERATION_DEADLINE) -> Any:
        """Call a method of the manager: its answer, or None where it has none.

        A mapping given for ``a{sv}`` takes plain bool, int (sent as ``u``) and str; None leaves an entry out.
        Raises RemoteFault with what the daemon says, DeadlineFault after *deadline* seconds, UnavailableFault
        when the daemon is gone.
        """
        body = [_options(argument) if isinstance(argument, dict) else argument for argument in arguments]
        reply, _ = await self._exchange(self._service.manager_interface, member, signature, body, deadline)
        return plain(reply.body[0]) if reply.body else None

    async def explain(self, bus_id: str) -> Explanation:
        """The device side's ``Explain``."""
        return explanation_of(await self.call("Explain", "s", bus_id, deadline=CALL_DEADLINE))

    async def owner(self) -> str:
        """The daemon's unique name on the bus. Raises UnavailableFault when it does not run."""
        name, _ = await self._owner()
        return name

    async def changes(self, *, initial: bool = False) -> AsyncGenerator[Change, None]:
        """What changes from now on (*initial*: first every object, as Added), for as long as there is a bus.

        One such iterator at a time.
        """
        signals: asyncio.Queue[tuple[Message, int] | None] = asyncio.Queue()
        self._connection.on_signal = lambda message, order: signals.put_nowait((message, order))
        self._connection.on_lost = lambda: signals.put_nowait(None)
        try:
            # Subscribed first, so that nothing falls between the snapshot and the first signal; and what
            # arrived before the snapshot is in it already.
            await self._subscribe()
            owner, owner_known = await self._owner()
            objects, snapshot_taken = await self._objects()
            if initial:
                for report in tuple(objects.values()):
                    yield Added(report)
            while (received := await signals.get()) is not None:
                message, order = received
                if message.sender == BUS and message.member == "NameOwnerChanged" and order > owner_known:
                    if message.body[0] != self._service.bus_name or message.body[2] == owner:
                        continue
                    owner, before = message.body[2], objects
                    if not owner:
                        yield Vanished()
                        continue
                    try:
                        objects, snapshot_taken = await self._objects()
                    except UnavailableFault:
                        continue  # gone again: the signal that says so is on its way
                    yield Returned()
                    for difference in _differences(before, objects):
                        yield difference
                elif message.sender == owner and order > snapshot_taken:
                    change = self._apply(objects, message)
                    if change is not None:
                        yield change
        finally:
            self._connection.on_signal = self._connection.on_lost = None

    async def _subscribe(self) -> None:
        name, path = self._service.bus_name, self._service.manager_path
        for rule in (
            f"type='signal',sender='{BUS}',interface='{BUS}',member='NameOwnerChanged',arg0='{name}'",
            f"type='signal',sender='{name}',interface='{OBJECT_MANAGER}',path='{path}'",
            f"type='signal',sender='{name}',interface='{PROPERTIES}',path_namespace='{path}'",
        ):
            await self._connection.call_bus("AddMatch", "s", rule)

    def _apply(self, objects: dict[str, Report], message: Message) -> Change | None:
        """Bring *objects* up to date with a signal, and say what it changed."""
        if message.path == self._service.manager_path:
            path = message.body[0]
            interfaces = message.body[1]
            if self._service.child_interface not in interfaces:
                return None
            if message.member == "InterfacesRemoved":
                gone = objects.pop(path, None)
                return Removed(gone) if gone is not None else None
            objects[path] = report_of(self._service, interfaces[self._service.child_interface])
            return Added(objects[path])
        before = objects.get(message.path)
        if before is None or message.body[0] != self._service.child_interface:
            return None
        objects[message.path] = report_of(self._service, message.body[1], before)
        return Changed(objects[message.path], before)

    async def _objects(self) -> tuple[dict[str, Report], int]:
        reply, order = await self._exchange(OBJECT_MANAGER, "GetManagedObjects", "", [], CALL_DEADLINE)
        return {
            path: report_of(self._service, interfaces[self._service.child_interface])
            for path, interfaces in reply.body[0].items() if self._service.child_interface in interfaces
        }, order

    async def _owner(self) -> tuple[str, int]:
        try:
            reply, order = await self._connection.exchange(Message(
                Kind.CALL, destination=BUS, path=BUS_PATH, interface=BUS, member="GetNameOwner",
                signature="s", body=[self._service.bus_name]))
        except CallError as problem:
            raise self._fault(problem) from None
        return str(reply.body[0]), order

    async def _exchange(self, interface: str, member: str, signature: str, body: list[Any],
                        deadline: float) -> tuple[Message, int]:
        try:
            return await self._connection.exchange(Message(
                Kind.CALL, destination=self._service.bus_name, path=self._service.manager_path,
                interface=interface, member=member, flags=Flag.NO_AUTO_START,
                signature=signature, body=body), deadline)
        except CallError as problem:
            raise self._fault(problem) from None

    def _fault(self, problem: CallError) -> Fault:
        command = self._service.command
        hint = f"systemctl start {command}"
        if problem.dbus_name in (Error.SERVICE_UNKNOWN, Error.NAME_HAS_NO_OWNER):
            return UnavailableFault(f"{command} is not running", hint=hint)
        if problem.dbus_name == Error.NO_REPLY:
            return UnavailableFault(f"{command} stopped without an answer", hint=f"journalctl -u {command}")
        return RemoteFault(problem.dbus_name, problem.message)


def _differences(before: dict[str, Report], after: dict[str, Report]) -> Iterator[Change]:
    """What has changed between two snapshots."""
    for path in before.keys() - after.keys():
        yield Removed(before[path])
    for path, report in after.items():
        if path not in before:
            yield Added(report)
        elif report != before[path]:
            yield Changed(report, before[path])


def _options(values: dict[str, Any]) -> dict[str, Any]:
    signatures = {bool: "b", int: "u", str: "s"}
    return {name: variant(signatures[type(value)], value)
            for name, value in values.items() if value is not None}
