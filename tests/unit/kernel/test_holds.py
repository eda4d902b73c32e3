"""What is held of exported devices, and what the next run makes of it."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from tests.unit.kernel.stick import STICK, Store, Sysfs
from usbip_agent.errors import UnknownDeviceFault
from usbip_agent.kernel import holds
from usbip_agent.kernel.holds import Holds, is_name_of_hold
from usbip_agent.kernel.stub import Stub

NAMES = ["device-1-1.2@1.7", "hub-1-1.2@1.7"]


@pytest.fixture
def sysfs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sysfs:
    monkeypatch.setattr(holds, "DEVICE_NODES", tmp_path / "nodes")
    return Sysfs(tmp_path)


async def earlier_run(sysfs: Sysfs) -> Store:
    """It held the stick, and died."""
    sysfs.plug(7)
    (sysfs.driver / "match_busid").write_text("1-1.2 \n")
    store = Store()
    await Stub(Holds(store), sysfs.root).resume(STICK)
    assert sorted(store.kept) == NAMES and all(map(is_name_of_hold, NAMES))
    return store


async def test_a_device_that_went_meanwhile_leaves_no_entry(sysfs: Sysfs) -> None:
    store = await earlier_run(sysfs)
    sysfs.unplug()
    await Stub(Holds(store, store.handed_out()), sysfs.root).forget_the_gone()
    assert sysfs.rebound == "1-1.2" and store.kept == {}


async def test_a_device_that_is_still_there_is_left_alone(sysfs: Sysfs) -> None:
    store = await earlier_run(sysfs)
    held = Holds(store, store.handed_out())
    stub = Stub(held, sysfs.root)
    for number in (7, 0):  # 0: it is just being reset
        sysfs.plug(number)
        await stub.forget_the_gone()
    assert sysfs.rebound == "" and sorted(store.kept) == NAMES
    assert held.in_place_of("1-1.2") == (STICK.enumeration,)


async def test_another_device_in_the_same_port_keeps_its_driver(sysfs: Sysfs) -> None:
    store = await earlier_run(sysfs)
    sysfs.plug(8)
    (sysfs.root / "hub/1-1.2/driver").symlink_to(sysfs.driver)  # the kernel obeyed the entry
    held = Holds(store, store.handed_out())
    stub = Stub(held, sysfs.root)
    await stub.forget_the_gone()
    assert sysfs.rebound == "" and store.kept == {}
    await stub.resume(replace(STICK, device_number=8))
    assert sorted(store.kept) == ["device-1-1.2@1.8", "hub-1-1.2@1.8"]


async def test_without_what_was_held_no_entry_is_touched(sysfs: Sysfs) -> None:
    """rebind would follow a pointer to nowhere."""
    await earlier_run(sysfs)
    sysfs.unplug()
    stub = Stub(Holds(), sysfs.root)
    await stub.forget_the_gone()
    await stub.forget(STICK)
    assert sysfs.rebound == ""


async def test_a_device_that_is_just_being_pulled_out_gets_no_entry(
        sysfs: Sysfs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a bind nothing could clear it."""
    sysfs.plug(7)
    (sysfs.driver.parent / "usb").mkdir()
    (sysfs.driver.parent / "usb/unbind").touch()
    (sysfs.root / "hub/1-1.2/driver").symlink_to(sysfs.driver.parent / "usb")
    opened = iter([7, 2])  # the device and its hub, and then nothing any more
    monkeypatch.setattr(holds, "_open", lambda directory: (
        os.open(os.devnull, os.O_RDONLY) if next(opened, None) else None))
    store = Store()
    with pytest.raises(UnknownDeviceFault, match="unplugged"):
        await Stub(Holds(store), sysfs.root).claim(STICK)
    assert (sysfs.driver.parent / "usb/unbind").read_text() == "1-1.2"
    assert (sysfs.driver / "match_busid").read_text() == "" and store.kept == {}


@pytest.mark.parametrize("name", ["export-1-1", "device-1-1", "device-1-1@1.7:2", "listen-1", ""])
def test_what_is_no_hold(name: str) -> None:
    assert not is_name_of_hold(name)
