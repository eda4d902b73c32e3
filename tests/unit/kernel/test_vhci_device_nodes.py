"""Which device nodes belong to which import."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from usbip_agent.kernel import device_nodes as room
from usbip_agent.kernel.device_nodes import NOTHING, DeviceNodes, local_bus_id_of
from usbip_agent.kernel.uevents import Action, Uevent

ROOT = "/sys/devices/platform/vhci_hcd.0/usb3"


class FakeMonitor:
    """The listing is what a test puts into it."""

    listing: list[Uevent] = []
    may_list = threading.Event()

    def __init__(self, *_callbacks: object, tag: str) -> None:
        assert tag == "usbipa"

    def start(self) -> None: ...
    def close(self) -> None: ...

    def enumerate_tagged(self, tag: str) -> list[Uevent]:
        listing = self.listing
        self.may_list.wait(10)
        return listing


def event(path: str, node: str = "", subsystem: str = "block", action: Action = Action.ADD,
          **properties: str) -> Uevent:
    device: Any = SimpleNamespace(properties=properties)
    return Uevent(action, Path(path), subsystem, node, device)


@pytest.fixture
def changes() -> list[str]:
    return []


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch, changes: list[str]) -> DeviceNodes:
    monkeypatch.setattr(room, "UeventMonitor", FakeMonitor)
    FakeMonitor.listing = []
    FakeMonitor.may_list.set()
    return DeviceNodes(changes.append)


@pytest.mark.parametrize("path, local", [
    (f"{ROOT}/3-1", "3-1"),
    (f"{ROOT}/3-12/3-12:1.0/host6/target6:0:0/6:0:0:0/block/sda/sda1", "3-12"),
    (f"{ROOT}", ""),
    (f"{ROOT}/3-0:1.0", ""),
    ("/sys/devices/pci0000:00/0000:00:05.0/usb1/1-9", ""),
])
def test_the_path_names_the_import(path: str, local: str) -> None:
    assert local_bus_id_of(Path(path)) == local


def test_a_device_becomes_its_nodes(nodes: DeviceNodes, changes: list[str]) -> None:
    take = nodes._take
    take(event(f"{ROOT}/3-1", "/dev/bus/usb/003/002", "usb", ID_MODEL_FROM_DATABASE="CP2102"))
    take(event(f"{ROOT}/3-1/3-1:1.0", "", "usb"))
    take(event(f"{ROOT}/3-1/3-1:1.0/block/sda", "/dev/sda"))
    for number in (10, 2):
        take(event(f"{ROOT}/3-1/3-1:1.0/block/sda/sda{number}", f"/dev/sda{number}"))
    take(event(f"{ROOT}/3-1/3-1:1.0/bsg/6:0:0:0", "/dev/bsg/6:0:0:0", "bsg"))
    seen = nodes.of("3-1")
    assert seen.present and seen.model == "CP2102"
    assert seen.device_nodes == ("/dev/sda", "/dev/sda2", "/dev/sda10")
    assert changes == ["3-1"] * 4
    take(event(f"{ROOT}/3-1/3-1:1.0/block/sda", "/dev/sda", action=Action.CHANGE))
    assert len(changes) == 4  # nothing new, so nobody is bothered


def test_what_is_removed_is_forgotten(nodes: DeviceNodes, changes: list[str]) -> None:
    nodes._take(event(f"{ROOT}/3-1", "", "usb"))
    nodes._take(event(f"{ROOT}/3-1/tty/ttyUSB0", "/dev/ttyUSB0", "tty"))
    nodes._take(event(f"{ROOT}/3-1/tty/ttyUSB0", "/dev/ttyUSB0", "tty", Action.REMOVE))
    assert nodes.of("3-1").device_nodes == ()
    nodes._take(event(f"{ROOT}/3-1", "", "usb", Action.REMOVE))
    assert nodes.of("3-1") == NOTHING
    assert changes == ["3-1"] * 4


@pytest.mark.parametrize("properties, model", [
    ({"ID_MODEL_ENC": r"CP2102\x20USB\x20to\x20UART", "ID_MODEL_ID": "ea60"}, "CP2102 USB to UART"),
    ({"ID_MODEL_ENC": r"Ger\xc3\xa4t", "ID_MODEL_ID": "ea60"}, "Gerät"),
    ({"ID_MODEL_ENC": "Gerät\\x20\\x20", "ID_MODEL_ID": "ea60"}, "Gerät"),
    ({"ID_MODEL_ENC": r"\x5cx41\x1b\xff", "ID_MODEL_ID": "ea60"}, r"\x41\x1b" + "\ufffd"),
    ({"ID_MODEL_ENC": "ea60", "ID_MODEL_ID": "ea60", "ID_VENDOR_ENC": r"Silicon\x20Labs",
      "ID_VENDOR_ID": "10c4", "ID_MODEL_FROM_DATABASE": "CP210x"}, "Silicon Labs"),
    ({"ID_MODEL_ENC": "ea60", "ID_MODEL_ID": "ea60", "ID_VENDOR_ENC": "10c4", "ID_VENDOR_ID": "10c4",
      "ID_MODEL_FROM_DATABASE": "CP210x"}, "CP210x"),
    ({}, ""),
    ({"ID_MODEL_ENC": "x" * 1000}, "x" * 255 + "…")])
def test_the_model_is_what_udev_has_read(
        nodes: DeviceNodes, monkeypatch: pytest.MonkeyPatch, properties: dict[str, str], model: str) -> None:
    """sysfs may take a minute to say what a device that is being reset is called."""
    opened: list[object] = []
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", lambda path, *_: opened.append(path))
        nodes._take(event(f"{ROOT}/3-1", "", "usb", **cast(Any, properties)))
    assert nodes.of("3-1").model == model and not opened


def test_the_end_of_a_device_that_was_forgotten_is_told(nodes: DeviceNodes, changes: list[str]) -> None:
    """The next import has its port by then, and may have taken it for its own."""
    nodes._take(event(f"{ROOT}/3-1", "", "usb"))
    nodes.forget("3-1")
    nodes._take(event(f"{ROOT}/3-1", "", "usb", Action.REMOVE))
    assert changes == ["3-1"] * 2


async def listed(nodes: DeviceNodes) -> None:
    assert nodes._listing is not None
    await asyncio.wait_for(nodes._listing, 10)


async def test_lost_events_are_made_up_for_by_looking(nodes: DeviceNodes, changes: list[str]) -> None:
    nodes._take(event(f"{ROOT}/3-1", "", "usb"))
    FakeMonitor.listing = [event(f"{ROOT}/3-2", "", "usb"), event(f"{ROOT}", "", "usb")]
    changes.clear()
    nodes._look_again()
    await listed(nodes)
    assert sorted(changes) == ["3-1", "3-2"]
    assert not nodes.of("3-1").present and nodes.of("3-2").present


async def test_what_is_there_is_known_after_the_start(nodes: DeviceNodes) -> None:
    FakeMonitor.listing = [event(f"{ROOT}/3-1", "", "usb", ID_MODEL_ENC="Stick")]
    await nodes.start()
    assert nodes.of("3-1").model == "Stick"


async def test_the_start_does_not_wait_for_a_device_that_hangs(
        nodes: DeviceNodes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "LISTING_PATIENCE", 0.01)
    FakeMonitor.may_list.clear()
    FakeMonitor.listing = [event(f"{ROOT}/3-1", "", "usb")]
    await nodes.start()
    assert nodes.of("3-1") == NOTHING
    FakeMonitor.may_list.set()
    await listed(nodes)
    assert nodes.of("3-1").present


async def test_what_events_tell_during_a_listing_is_newer(nodes: DeviceNodes) -> None:
    FakeMonitor.may_list.clear()
    FakeMonitor.listing = [event(f"{ROOT}/3-1", "", "usb")]
    nodes._look_again()
    await asyncio.sleep(0)
    nodes._take(event(f"{ROOT}/3-1", "", "usb", Action.REMOVE))
    nodes._take(event(f"{ROOT}/3-2", "", "usb"))
    assert nodes.of("3-2").present, "it is not kept waiting"
    FakeMonitor.may_list.set()
    await listed(nodes)
    assert not nodes.of("3-1").present and nodes.of("3-2").present


@pytest.mark.parametrize("how", ["an overrun", "more than is kept"])
async def test_what_is_lost_during_a_listing_is_listed_again(
        nodes: DeviceNodes, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    monkeypatch.setattr(room, "MAXIMUM_MEANWHILE", 0)
    FakeMonitor.may_list.clear()
    nodes._look_again()
    await asyncio.sleep(0)
    FakeMonitor.listing = [event(f"{ROOT}/3-1", "", "usb")]
    if how == "an overrun":
        nodes._look_again()
    else:
        nodes._take(event(f"{ROOT}/3-2", "", "usb"))
    FakeMonitor.may_list.set()
    await listed(nodes)
    assert nodes.of("3-1").present and not nodes.of("3-2").present


def test_a_device_cannot_fill_the_memory(nodes: DeviceNodes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "MAXIMUM_NODES", 3)
    for number in range(9):
        nodes._take(event(f"{ROOT}/3-1/x/{number}", f"/dev/x{number}"))
    assert len(nodes.of("3-1").device_nodes) == 3
    assert cast(Any, nodes)._found.keys() == {"3-1"}
