"""What a client of a daemon's D-Bus objects sees, and when. Runs in a guest.

``bus_witness.py NAME PATH``: a line of JSON on stdout for each change: ``at`` (CLOCK_MONOTONIC), ``present``
(whether the name has an owner) and ``shown``: the properties of every child object, by BusId. It keeps its
picture as any client of an ObjectManager does: asks for all objects when the name gets an owner, and follows
the signals from then on. It sleeps meanwhile, and waking up is all that it costs what is measured.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

from dbus_next.aio.message_bus import MessageBus
from dbus_next.constants import BusType, MessageFlag, MessageType
from dbus_next.message import Message

BUS = "org.freedesktop.DBus"
KEPT = ("State", "Attempts")


class Witness:
    """The picture, and how it changes."""

    def __init__(self, bus: Any, name: str, path: str) -> None:
        self._bus = bus
        self._name = name
        self._path = path
        self._owner = ""
        self._asked = 0
        self._objects: dict[str, dict[str, Any]] = {}
        self._told: object = None

    async def start(self) -> None:
        self._bus.add_message_handler(self.heard)
        for rule in (f"type='signal',sender='{BUS}',member='NameOwnerChanged',arg0='{self._name}'",
                     f"type='signal',sender='{self._name}'"):
            await self._bus.call(Message(BUS, "/org/freedesktop/DBus", BUS, "AddMatch", signature="s",
                                         body=[rule]))
        answer = await self._bus.call(Message(BUS, "/org/freedesktop/DBus", BUS, "GetNameOwner",
                                              signature="s", body=[self._name]))
        if answer.message_type is MessageType.METHOD_RETURN:
            self._owned_by(answer.body[0])

    def heard(self, message: Any) -> None:
        """In order, and at once: an answer must not overtake, or be overtaken by, what was said after it."""
        if message.message_type is MessageType.METHOD_RETURN and message.reply_serial == self._asked:
            self._objects = {path: found for path, interfaces in message.body[0].items()
                             if (found := _kept(interfaces))}
        elif message.message_type is not MessageType.SIGNAL:
            return
        elif message.member == "NameOwnerChanged":
            self._owned_by(message.body[2])
        elif message.sender == self._owner:
            self._signalled(message)
        self._tell()

    def _owned_by(self, owner: str) -> None:
        self._owner, self._objects = owner, {}
        if owner:
            self._asked = self._bus.next_serial()
            self._bus.send(Message(self._name, self._path, f"{BUS}.ObjectManager", "GetManagedObjects",
                                   serial=self._asked, flags=MessageFlag.NO_AUTOSTART))

    def _signalled(self, message: Any) -> None:
        if message.member == "InterfacesAdded":
            if found := _kept(message.body[1]):
                self._objects[message.body[0]] = found
        elif message.member == "InterfacesRemoved":
            self._objects.pop(message.body[0], None)
        elif message.member == "PropertiesChanged" and message.path in self._objects:
            self._objects[message.path].update(_kept({"": message.body[1]}))

    def _tell(self) -> None:
        shown = {each["BusId"]: {key: each.get(key) for key in KEPT} for each in self._objects.values()}
        if self._told != (bool(self._owner), shown):
            self._told = (bool(self._owner), shown)
            print(json.dumps({"at": time.monotonic(), "present": bool(self._owner), "shown": shown}),
                  flush=True)


def _kept(interfaces: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return {key: value.value for properties in interfaces.values() for key, value in properties.items()
            if key in ("BusId", *KEPT)}


async def main() -> None:
    bus: Any = await MessageBus(bus_type=BusType.SYSTEM).connect()
    await Witness(bus, sys.argv[1], sys.argv[2]).start()
    print("ready", flush=True)
    await bus.wait_for_disconnect()


if __name__ == "__main__":
    asyncio.run(main())
