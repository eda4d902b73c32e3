"""The standard interfaces, as GLib and everybody else expects them."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import sys
import xml.etree.ElementTree as ElementTree
from typing import Any

import pytest
from tests.component.bus.private_bus import REPOSITORY, PrivateBus, call, caller, serving

from usbip_agent.bus.marshalling import Message, variant
from usbip_agent.bus.standard import CallError
from usbip_agent.bus.values import properties_of_service
from usbip_agent.names import AGENT, USBIPA, Service
from usbip_agent.report import DeviceReport, ImportReport, Report

STICK = DeviceReport("1-1.4", vendor="10c4", product="ea60", serial="01A", classes=("vendor", "hid"),
                     state="connected", since=1_700_000_000_000_000, attempts=3)
STICK_PATH = "/org/usbip/Agent1/device/_31_2d1_2e4"
IMPORT = ImportReport(7, bus_id="1-1", device_nodes=("/dev/ttyUSB0",))
IMPORT_PATH = "/org/usbip/Usbipa1/import/7"
SERVICES = [(AGENT, STICK, STICK_PATH), (USBIPA, IMPORT, IMPORT_PATH)]

INTROSPECT = "org.freedesktop.DBus.Introspectable.Introspect"
PROPERTIES, OBJECT_MANAGER = "org.freedesktop.DBus.Properties", "org.freedesktop.DBus.ObjectManager"
ERROR = "org.freedesktop.DBus.Error."


def members_of(interface: ElementTree.Element) -> list[tuple[Any, ...]]:
    return [
        (member.tag, member.get("name"), member.get("type"), member.get("access"),
         *((argument.get("name"), argument.get("type"), argument.get("direction")) for argument in member))
        for member in interface
    ]


def interfaces_of(xml: str) -> dict[str, list[tuple[Any, ...]]]:
    return {str(interface.get("name")): members_of(interface)
            for interface in ElementTree.fromstring(xml).findall("interface")}


@pytest.mark.parametrize("service, report, path", SERVICES)
async def test_introspection_is_the_shipped_xml(bus: PrivateBus, service: Service, report: Report,
                                                path: str) -> None:
    shipped = interfaces_of((REPOSITORY / "dbus" / f"{service.bus_name}.xml").read_text())
    async with serving(bus, usbipa=service is USBIPA, reports=[report]), caller(bus) as connection:
        manager = interfaces_of(await call(
            connection, service.bus_name, service.manager_path, INTROSPECT))
        child = interfaces_of(await call(
            connection, service.bus_name, path, INTROSPECT))
    assert set(shipped) == {service.manager_interface, service.child_interface}
    assert manager[service.manager_interface] == shipped[service.manager_interface]
    assert child[service.child_interface] == shipped[service.child_interface]
    standard = {"org.freedesktop.DBus.Peer", "org.freedesktop.DBus.Introspectable", PROPERTIES}
    assert set(manager) == standard | {OBJECT_MANAGER, service.manager_interface}
    assert set(child) == standard | {service.child_interface}


@pytest.mark.parametrize("service, _report, _path", SERVICES)
def test_shipped_xml_is_the_report(service: Service, _report: Report, _path: str) -> None:
    shipped = interfaces_of((REPOSITORY / "dbus" / f"{service.bus_name}.xml").read_text())
    assert shipped[service.child_interface] == [
        ("property", entry.name, entry.signature, "read") for entry in properties_of_service(service)]


async def test_the_tree_leads_from_the_root_to_the_objects(bus: PrivateBus) -> None:
    async with serving(bus, reports=[STICK]), caller(bus) as connection:
        found, todo = [], ["/"]
        while todo:
            path = todo.pop()
            found.append(path)
            xml = await call(connection, AGENT.bus_name, path, INTROSPECT)
            nodes = ElementTree.fromstring(xml).findall("node")
            todo += [f"{path.rstrip('/')}/{node.get('name')}" for node in nodes]
    assert found == ["/", "/org", "/org/usbip", "/org/usbip/Agent1", "/org/usbip/Agent1/device", STICK_PATH]


async def test_get_and_get_all(bus: PrivateBus) -> None:
    async with serving(bus, reports=[STICK]), caller(bus) as connection:
        everything = await call(connection, AGENT.bus_name, STICK_PATH, f"{PROPERTIES}.GetAll", "s",
                                AGENT.child_interface)
        any_interface = await call(connection, AGENT.bus_name, STICK_PATH, f"{PROPERTIES}.GetAll", "s", "")
        since = await call(connection, AGENT.bus_name, STICK_PATH, f"{PROPERTIES}.Get", "ss",
                           AGENT.child_interface, "Since")
        of_the_manager = await call(connection, AGENT.bus_name, AGENT.manager_path, f"{PROPERTIES}.GetAll",
                                    "s", AGENT.manager_interface)
    assert everything == any_interface
    assert list(everything) == [entry.name for entry in properties_of_service(AGENT)]
    assert [everything[name] for name in ("BusId", "Classes", "Attempts")] == ["1-1.4", ["vendor", "hid"], 3]
    assert since == STICK.since
    assert of_the_manager == {}


async def test_managed_objects(bus: PrivateBus) -> None:
    async with serving(bus, usbipa=True, reports=[IMPORT]), caller(bus) as connection:
        objects = await call(connection, USBIPA.bus_name, USBIPA.manager_path,
                             f"{OBJECT_MANAGER}.GetManagedObjects")
    assert list(objects) == [IMPORT_PATH]
    assert objects[IMPORT_PATH][USBIPA.child_interface]["DeviceNodes"] == ["/dev/ttyUSB0"]


async def test_peer_answers_everywhere(bus: PrivateBus) -> None:
    async with serving(bus), caller(bus) as connection:
        ping = "org.freedesktop.DBus.Peer.Ping"
        assert await call(connection, AGENT.bus_name, "/no/such/thing", ping) == []


async def test_an_interface_may_be_left_out(bus: PrivateBus) -> None:
    async with serving(bus), caller(bus) as connection:
        assert await call(connection, AGENT.bus_name, AGENT.manager_path, "GetManagedObjects") == {}


MANAGER, DEVICE = AGENT.manager_interface, AGENT.child_interface


@pytest.mark.parametrize("path, member, signature, body, error", [
    ("/org/usbip/Agent1/device/_39", f"{PROPERTIES}.GetAll", "s", [DEVICE], "UnknownObject"),
    ("/elsewhere", f"{MANAGER}.Reload", "", [], "UnknownObject"),
    ("/elsewhere", INTROSPECT, "", [], "UnknownObject"),
    ("/org", f"{MANAGER}.Reload", "", [], "UnknownInterface"),
    (STICK_PATH, f"{MANAGER}.Reload", "", [], "UnknownInterface"),
    (STICK_PATH, f"{OBJECT_MANAGER}.GetManagedObjects", "", [], "UnknownInterface"),
    (STICK_PATH, f"{DEVICE}.Connect", "", [], "UnknownMethod"),
    (STICK_PATH, "Reload", "", [], "UnknownMethod"),
    (AGENT.manager_path, f"{MANAGER}.Format", "", [], "UnknownMethod"),
    (AGENT.manager_path, f"{MANAGER}.Connect", "s", ["1-1"], "InvalidArgs"),
    (AGENT.manager_path, f"{MANAGER}.Explain", "u", [1], "InvalidArgs"),
    (STICK_PATH, f"{PROPERTIES}.Get", "ss", [DEVICE, "Colour"], "UnknownProperty"),
    (STICK_PATH, f"{PROPERTIES}.Get", "ss", [MANAGER, "BusId"], "UnknownInterface"),
    (STICK_PATH, f"{PROPERTIES}.GetAll", "s", ["org.example.Other"], "UnknownInterface"),
    (AGENT.manager_path, f"{PROPERTIES}.Get", "ss", [MANAGER, "Version"], "UnknownProperty"),
    (STICK_PATH, f"{PROPERTIES}.Set", "ssv", [DEVICE, "State", variant("s", "held")], "PropertyReadOnly"),
    (STICK_PATH, f"{PROPERTIES}.Set", "ssv", [DEVICE, "Colour", variant("s", "red")], "UnknownProperty"),
])
async def test_what_is_not_there_has_its_standard_error(bus: PrivateBus, path: str, member: str,
                                                        signature: str, body: list[Any], error: str) -> None:
    async with serving(bus, reports=[STICK]), caller(bus) as connection:
        with pytest.raises(CallError) as caught:
            await call(connection, AGENT.bus_name, path, member, signature, *body)
    assert caught.value.dbus_name == ERROR + error
    assert "Traceback" not in caught.value.message


async def test_signals_come_from_where_they_are_listened_for(bus: PrivateBus) -> None:
    heard: asyncio.Queue[Message] = asyncio.Queue()
    async with serving(bus) as server, caller(bus) as connection:
        # The bus itself has things to say as well, of names.
        connection.on_signal = lambda message, order: (
            heard.put_nowait(message) if message.path.startswith(AGENT.manager_path) else None)
        await connection.call_bus("AddMatch", "s", f"type='signal',sender='{AGENT.bus_name}'")
        server.publisher.put(STICK)
        server.publisher.put(STICK)
        server.publisher.put(DeviceReport("1-1.4", vendor="10c4", product="ea60", serial="01A",
                                          classes=("vendor",), state="waiting", reason="connection refused",
                                          since=STICK.since, attempts=3))
        server.publisher.remove("9-9")
        server.publisher.remove("1-1.4")
        added, changed, removed = [await heard.get() for _ in range(3)]
    assert (added.path, added.interface) == (AGENT.manager_path, OBJECT_MANAGER)
    assert added.member == "InterfacesAdded"
    assert added.body[0] == STICK_PATH
    assert added.body[1][DEVICE]["BusId"] == variant("s", "1-1.4")
    assert (changed.path, changed.interface, changed.member) == (STICK_PATH, PROPERTIES, "PropertiesChanged")
    assert changed.body == [DEVICE, {
        "Classes": variant("as", ["vendor"]), "State": variant("s", "waiting"),
        "Reason": variant("s", "connection refused")}, []]
    assert (removed.path, removed.member) == (AGENT.manager_path, "InterfacesRemoved")
    assert removed.body == [STICK_PATH, [DEVICE]]
    assert heard.empty()


HOSTILE = "\0\x1b[2J\ud800\u202e" + "\N{GREEK CAPITAL LETTER OMEGA}" * 5000


async def test_a_device_may_call_itself_anything(bus: PrivateBus) -> None:
    device = DeviceReport("../\0\ud800", serial=HOSTILE, classes=(HOSTILE,), reason="one\ntwo", attempts=-1,
                          since=1 << 70)
    async with serving(bus) as server, caller(bus) as connection:
        server.publisher.put(device)
        objects = await call(connection, AGENT.bus_name, AGENT.manager_path,
                             f"{OBJECT_MANAGER}.GetManagedObjects")
        assert server.connection.alive
    [(path, interfaces)] = objects.items()
    properties = interfaces[DEVICE]
    assert path.startswith("/org/usbip/Agent1/device/_2e_2e_2f_00")
    assert properties["Serial"].startswith("\\x00\\x1b[2J\\ud800\\u202e\N{GREEK CAPITAL LETTER OMEGA}")
    assert len(properties["Serial"]) <= 1024
    assert properties["Reason"] == "one\\ntwo"
    assert (properties["Attempts"], properties["Since"]) == (0, (1 << 64) - 1)


GLIB_CLIENT = """
import json, sys
from gi.repository import Gio, GLib

def say(*what):
    print(json.dumps(what), flush=True)

connection = Gio.DBusConnection.new_for_address_sync(
    sys.argv[1], Gio.DBusConnectionFlags.AUTHENTICATION_CLIENT
    | Gio.DBusConnectionFlags.MESSAGE_BUS_CONNECTION, None, None)
manager = Gio.DBusObjectManagerClient.new_sync(
    connection, Gio.DBusObjectManagerClientFlags.DO_NOT_AUTO_START, sys.argv[2], sys.argv[3],
    None, None, None)
child = sys.argv[4]

def state(thing):
    return thing.get_interface(child).get_cached_property("State").unpack()

manager.connect("object-added", lambda m, o: say("added", o.get_object_path(), state(o)))
manager.connect("object-removed", lambda m, o: say("removed", o.get_object_path()))
manager.connect("interface-proxy-properties-changed",
                lambda m, o, i, changed, gone: say("changed", o.get_object_path(), changed.unpack()))
say("found", [(o.get_object_path(), state(o)) for o in manager.get_objects()])
GLib.MainLoop().run()
"""


@pytest.mark.skipif(importlib.util.find_spec("gi") is None, reason="python3-gi is not installed")
async def test_a_stock_glib_client_sees_it_all(bus: PrivateBus) -> None:
    async with serving(bus, reports=[STICK]) as server:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", GLIB_CLIENT, bus.address, AGENT.bus_name, AGENT.manager_path, DEVICE,
            stdout=asyncio.subprocess.PIPE)
        assert process.stdout is not None

        async def said() -> Any:
            assert process.stdout is not None
            return json.loads(await asyncio.wait_for(process.stdout.readline(), 20))

        try:
            assert await said() == ["found", [[STICK_PATH, "connected"]]]
            server.publisher.put(DeviceReport("2-1", state="binding"))
            assert await said() == ["added", "/org/usbip/Agent1/device/_32_2d1", "binding"]
            server.publisher.put(DeviceReport("2-1", state="failed", reason="no such host"))
            assert await said() == ["changed", "/org/usbip/Agent1/device/_32_2d1",
                                    {"State": "failed", "Reason": "no such host"}]
            server.publisher.remove("1-1.4")
            assert await said() == ["removed", STICK_PATH]
        finally:
            process.kill()
            await process.wait()
