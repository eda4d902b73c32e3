"""The standard interfaces: Peer, Introspectable, Properties, ObjectManager. All of them only read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from usbip_agent.bus.marshalling import Message
from usbip_agent.bus.methods import Access, Argument, Method, Place
from usbip_agent.bus.publisher import Publisher
from usbip_agent.bus.standard import INTROSPECTABLE, OBJECT_MANAGER, PEER, PROPERTIES, CallError, Error
from usbip_agent.bus.values import variants_of
from usbip_agent.names import Service
from usbip_agent.report import Report

MACHINE_ID: Final = Path("/etc/machine-id")

_EVERYWHERE: Final = Place.NOWHERE | Place.FOLDER | Place.MANAGER | Place.CHILD
_OBJECTS: Final = Place.MANAGER | Place.CHILD
_INTERFACE: Final = Argument("interface_name", "s")
_PROPERTY: Final = Argument("property_name", "s")


def standard_methods(service: Service, publisher: Publisher,
                     introspect: Callable[[str], str]) -> tuple[Method, ...]:
    """The rows of the standard interfaces. *introspect* gives the XML of an object path."""
    properties = _Properties(service, publisher)

    def managed_objects(call: Message) -> list[Any]:
        return [{path: {service.child_interface: variants_of(report)} for path, report in publisher}]

    return (
        Method(PEER, "Ping", _EVERYWHERE, Access.ANYONE, (), (), lambda call: []),
        Method(PEER, "GetMachineId", _EVERYWHERE, Access.ANYONE,
               (), (Argument("machine_uuid", "s"),), _machine_id),
        Method(INTROSPECTABLE, "Introspect", Place.FOLDER | _OBJECTS, Access.ANYONE,
               (), (Argument("xml_data", "s"),), lambda call: [introspect(call.path)]),
        Method(PROPERTIES, "Get", _OBJECTS, Access.ANYONE,
               (_INTERFACE, _PROPERTY), (Argument("value", "v"),), properties.get),
        Method(PROPERTIES, "GetAll", _OBJECTS, Access.ANYONE,
               (_INTERFACE,), (Argument("properties", "a{sv}"),), properties.get_all),
        # Nothing can be set, by nobody: what is open to all here is the refusal.
        Method(PROPERTIES, "Set", _OBJECTS, Access.ANYONE,
               (_INTERFACE, _PROPERTY, Argument("value", "v")), (), properties.refuse_to_set),
        Method(OBJECT_MANAGER, "GetManagedObjects", Place.MANAGER, Access.ANYONE,
               (), (Argument("objects", "a{oa{sa{sv}}}"),), managed_objects),
    )


def _machine_id(call: Message) -> list[Any]:
    try:
        return [MACHINE_ID.read_text("ascii").strip()]
    except (OSError, ValueError) as problem:
        raise CallError("org.freedesktop.DBus.Error.Failed", f"{MACHINE_ID} cannot be read") from problem


class _Properties:
    """``org.freedesktop.DBus.Properties``. Only the children have properties."""

    def __init__(self, service: Service, publisher: Publisher) -> None:
        self._service = service
        self._publisher = publisher

    def get(self, call: Message) -> list[Any]:
        return [self._property(call)]

    def get_all(self, call: Message) -> list[Any]:
        report = self._owner(call)
        return [variants_of(report) if report is not None else {}]

    def refuse_to_set(self, call: Message) -> list[Any]:
        self._property(call)
        raise CallError(Error.PROPERTY_READ_ONLY, f"{call.body[1]} is read-only")

    def _property(self, call: Message) -> Any:
        interface, name = call.body[:2]
        report = self._owner(call)
        values = variants_of(report) if report is not None else {}
        if name not in values:
            raise CallError(Error.UNKNOWN_PROPERTY, f"{interface} has no property {name}")
        return values[name]

    def _owner(self, call: Message) -> Report | None:
        """The report behind the interface that *call* names (empty: any); None for one without properties."""
        interface = call.body[0]
        report = self._publisher.at(call.path)
        if report is not None and interface in ("", self._service.child_interface):
            return report
        others = {PEER, INTROSPECTABLE, PROPERTIES, ""}
        if report is None:
            others |= {self._service.manager_interface, OBJECT_MANAGER}
        if interface not in others:
            raise CallError(Error.UNKNOWN_INTERFACE, f"there is no interface {interface} at {call.path}")
        return None
