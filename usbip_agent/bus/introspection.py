"""Introspection data, made from the table that calls are checked against. Tests hold it to ``dbus/*.xml``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from usbip_agent.bus.methods import Argument, Method, Place
from usbip_agent.bus.standard import OBJECT_MANAGER, PROPERTIES
from usbip_agent.bus.values import properties_of_service
from usbip_agent.names import Service

_DOCTYPE: Final = (
    '<!DOCTYPE node PUBLIC "-//freedesktop//DTD D-BUS Object Introspection 1.0//EN"\n'
    ' "http://www.freedesktop.org/standards/dbus/1.0/introspect.dtd">\n'
)

_SIGNALS: Final[dict[str, dict[str, tuple[Argument, ...]]]] = {
    PROPERTIES: {
        "PropertiesChanged": (Argument("interface_name", "s"), Argument("changed_properties", "a{sv}"),
                              Argument("invalidated_properties", "as")),
    },
    OBJECT_MANAGER: {
        "InterfacesAdded": (Argument("object_path", "o"), Argument("interfaces_and_properties", "a{sa{sv}}")),
        "InterfacesRemoved": (Argument("object_path", "o"), Argument("interfaces", "as")),
    },
}


def node_xml(service: Service, methods: Iterable[Method], place: Place, children: Iterable[str]) -> str:
    """The XML of an object at *place*; *children* are the next elements of the paths below it.

    Names come from our tables and paths are escaped: nothing in it needs XML's own escaping.
    """
    interfaces: dict[str, list[str]] = {}
    for method in methods:
        if place in method.places:
            interfaces.setdefault(method.interface, []).extend(_method(method))
    if place is Place.CHILD:
        interfaces[service.child_interface] = [
            f'    <property name="{entry.name}" type="{entry.signature}" access="read"/>'
            for entry in properties_of_service(service)]
    lines = []
    for name, members in interfaces.items():
        lines += [f'  <interface name="{name}">', *members]
        for signal, arguments in _SIGNALS.get(name, {}).items():
            lines += [f'    <signal name="{signal}">', *_arguments(arguments, ""), "    </signal>"]
        lines.append("  </interface>")
    lines += [f'  <node name="{child}"/>' for child in children]
    return _DOCTYPE + "\n".join(["<node>", *lines, "</node>", ""])


def _method(method: Method) -> list[str]:
    if not method.takes and not method.gives:
        return [f'    <method name="{method.name}"/>']
    return [
        f'    <method name="{method.name}">',
        *_arguments(method.takes, ' direction="in"'), *_arguments(method.gives, ' direction="out"'),
        "    </method>",
    ]


def _arguments(arguments: Iterable[Argument], direction: str) -> list[str]:
    return [f'      <arg name="{argument.name}" type="{argument.signature}"{direction}/>'
            for argument in arguments]
