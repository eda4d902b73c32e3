"""A call's way to its answer: found in the table, signature checked, caller authorized, run, answered."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Iterable
from typing import Any, Final, cast

from usbip_agent.bus.connection import Connection
from usbip_agent.bus.introspection import node_xml
from usbip_agent.bus.marshalling import Message
from usbip_agent.bus.methods import Access, Method, Place
from usbip_agent.bus.publisher import Publisher
from usbip_agent.bus.standard import CallError, Error
from usbip_agent.bus.standard_methods import standard_methods
from usbip_agent.bus.values import shown
from usbip_agent.errors import Fault, PermissionFault, UnavailableFault
from usbip_agent.names import Service

log = logging.getLogger(__name__)

OUTSTANDING_CALLS: Final = 16
"""Calls of one caller that may be unanswered at the same time."""


class Dispatcher:
    """Answers the calls on *connection*. Only *privileged_uid* may call what changes something."""

    def __init__(self, service: Service, connection: Connection, publisher: Publisher,
                 methods: Iterable[Method], privileged_uid: int) -> None:
        self._service = service
        self._connection = connection
        self._publisher = publisher
        self._privileged_uid = privileged_uid
        self._table = (*standard_methods(service, publisher, self._introspect), *methods)
        self._outstanding: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()

    def receive(self, call: Message) -> None:
        """Answer *call*: at once when it only reads, else from a task of its own."""
        try:
            method = self._find(call)
            if call.signature != method.signature:
                raise CallError(Error.INVALID_ARGS, f"{method.name} takes ({method.signature}), "
                                                    f"not ({call.signature})")
            if method.access is Access.ANYONE:
                self._connection.answer(call, method.answer_signature, cast(list[Any], method.run(call)))
                return
            if self._outstanding[call.sender] >= OUTSTANDING_CALLS:
                raise CallError(Error.LIMITS_EXCEEDED, f"{OUTSTANDING_CALLS} calls are not answered yet")
        except Exception as problem:
            self._refuse(call, problem)
            return
        self._outstanding[call.sender] += 1
        task = asyncio.get_running_loop().create_task(self._answer(call, method), name=f"D-Bus {method.name}")
        self._tasks.add(task)
        task.add_done_callback(lambda done: self._forget(call, done))

    async def close(self) -> None:
        """Cancel what is running; its callers are told."""
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _answer(self, call: Message, method: Method) -> None:
        try:
            await self._authorize(call, method)
            body = await cast(Any, method.run(call))
            self._connection.answer(call, method.answer_signature, body)
        except asyncio.CancelledError:
            self._refuse(call, UnavailableFault(f"{self._service.command} is stopping"))
            raise
        except Exception as problem:
            self._refuse(call, problem)

    async def _authorize(self, call: Message, method: Method) -> None:
        try:
            [uid] = await self._connection.call_bus("GetConnectionUnixUser", "s", call.sender)
        except CallError:  # the caller is gone already
            uid = None
        if uid != self._privileged_uid:
            raise PermissionFault(f"only root may call {method.name}", hint="use sudo")

    def _forget(self, call: Message, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._outstanding[call.sender] -= 1
        if not self._outstanding[call.sender]:
            del self._outstanding[call.sender]

    def _refuse(self, call: Message, problem: Exception) -> None:
        if isinstance(problem, CallError):
            error = CallError(problem.dbus_name, shown(problem.message))
        elif isinstance(problem, Fault):
            error = CallError(problem.dbus_name, shown(str(problem)))
        else:
            log.error("%s failed", call.member, exc_info=problem)
            error = CallError(Fault("").dbus_name,
                              f"internal error (see: journalctl -u {self._service.unit})")
        self._connection.refuse(call, error)

    def _find(self, call: Message) -> Method:
        place = self._place(call.path)
        here = [method for method in self._table if place in method.places]
        for method in here:
            # A call may leave its interface out (D-Bus specification, "Method Calls").
            if method.name == call.member and call.interface in ("", method.interface):
                return method
        if place is Place.NOWHERE:
            raise CallError(Error.UNKNOWN_OBJECT, f"there is no object at {call.path}")
        interfaces = {method.interface for method in here}
        if place is Place.CHILD:
            interfaces.add(self._service.child_interface)
        if call.interface and call.interface not in interfaces:
            raise CallError(Error.UNKNOWN_INTERFACE, f"there is no interface {call.interface} at {call.path}")
        raise CallError(Error.UNKNOWN_METHOD, f"there is no method {call.member} at {call.path}")

    def _place(self, path: str) -> Place:
        if path == self._service.manager_path:
            return Place.MANAGER
        if self._publisher.at(path) is not None:
            return Place.CHILD
        if path == "/" or self._service.child_path.startswith(f"{path}/") or path == self._service.child_path:
            return Place.FOLDER
        return Place.NOWHERE

    def _introspect(self, path: str) -> str:
        prefix = path.rstrip("/") + "/"
        below = (self._service.child_path, *(child for child, _ in self._publisher))
        children = dict.fromkeys(
            child.removeprefix(prefix).partition("/")[0] for child in below if child.startswith(prefix))
        return node_xml(self._service, self._table, self._place(path), children)
