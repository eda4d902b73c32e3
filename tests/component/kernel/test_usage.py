"""What stands on a device, read from a machine's file systems, and the operators' words for it."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from tests.component.kernel.tree import KEYBOARD, POWER_BUTTON, FakeRoutes, Machine
from tests.unit.device_side.samples import STICK
from tests.unit.device_side.world import PATIENCE, until
from tests.unit.kernel.late import pass_time
from usbip_agent import blocking
from usbip_agent.device_side.guard import Guard
from usbip_agent.device_side.interlock import reasons_against
from usbip_agent.errors import BusyFault, DeadlineFault, KernelFault
from usbip_agent.kernel import block_devices
from usbip_agent.kernel.block_devices import flush, keep_still
from usbip_agent.kernel.usage import Usage, read_usage


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    made = Machine(tmp_path)
    made.prepare()
    return made


def reasons(machine: Machine, device: Path, routes: FakeRoutes | None = None,
            **addresses: list[str]) -> tuple[str, ...]:
    every = [address for known in addresses.values() for address in known]
    usage = read_usage(device, every, machine.places, routes or FakeRoutes("eth0"))
    return reasons_against(usage, addresses)


def hold(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Lets opening these nodes alone fail as it does when the kernel has given them to something else."""
    really = os.open

    def refuse(path: str | Path, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_EXCL and Path(path).name in names:
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
        return really(path, flags, mode)
    monkeypatch.setattr(os, "open", refuse)


def test_nothing_stands_on_a_free_device(machine: Machine) -> None:
    device = machine.device("1-1")
    machine.disk(device, "sda", "8:0", ("sda1", "8:1"))
    machine.member(device, "net", "eth1")
    machine.member(device, "tty", "ttyUSB0")
    assert read_usage(device, ["10.9.0.2"], machine.places, FakeRoutes("eth0")) == Usage()
    assert read_usage(machine.root / "gone", [], machine.places, FakeRoutes()) == Usage()


def test_mounted_swap_and_root(machine: Machine) -> None:
    device, other = machine.device("1-1"), machine.device("1-2")
    machine.disk(device, "sda", "8:0", ("sda1", "8:1"), ("sda2", "8:2"))
    machine.disk(other, "sdb", "8:16")
    machine.mount(r"90 22 8:1 / /media/my\040stick rw shared:9 - vfat /dev/sda1 rw")
    machine.mount("91 22 8:1 /sub /srv rw shared:9 master:1 - vfat /dev/sda1 rw")
    machine.write("proc/swaps", "Filename Type Size\n/dev/sda2  partition 1\n/swap file 1\n")
    assert reasons(machine, device) == (
        "/dev/sda1 is mounted on /media/my stick, /srv", "/dev/sda2 is swap")
    assert reasons(machine, other) == ()
    machine.mount("92 22 8:16 / / rw - ext4 /dev/root rw")
    assert reasons(machine, other) == ("it carries the root file system",)


def test_many_places_are_counted(machine: Machine) -> None:
    device = machine.device("1-1")
    machine.disk(device, "sda", "8:0")
    for number in range(8):
        machine.mount(f"9{number} 22 8:0 / /m/{number} rw - ext4 /dev/sda rw")
    assert reasons(machine, device) == ("/dev/sda is mounted on /m/0, /m/1, /m/2 and 5 more places",)


def test_through_encryption_volumes_and_links(machine: Machine) -> None:
    device = machine.device("1-1")
    disk = machine.disk(device, "sda", "8:0", ("sda1", "8:1"))
    vault = machine.virtual_block("dm-0", "253:0", disk / "sda1", "vault")
    machine.virtual_block("dm-1", "253:1", vault, "group-home")
    (machine.root / "dev/mapper").mkdir()
    (machine.root / "dev/dm-1").touch()
    (machine.root / "dev/mapper/by-another-name").symlink_to(machine.root / "dev/dm-1")
    assert reasons(machine, device) == (
        "/dev/mapper/vault is in use by the system", "/dev/mapper/group-home is in use by the system")
    machine.mount("90 22 0:77 / /home rw - btrfs /dev/mapper/by-another-name rw")
    assert reasons(machine, device) == ("/dev/mapper/group-home is mounted on /home",)


def test_a_file_system_of_several_disks(machine: Machine) -> None:
    device = machine.device("1-1")
    machine.disk(device, "sda", "8:0")
    for member in ("sda", "vdb"):
        machine.write(f"sys/fs/btrfs/uuid/devices/{member}/size", "1\n")
    machine.mount("90 22 0:77 / /data rw - btrfs /dev/vdb rw")
    assert reasons(machine, device) == ("/dev/sda is mounted on /data",)


def test_a_loop_device_that_reads_the_disk(machine: Machine) -> None:
    device = machine.device("1-1")
    machine.disk(device, "sda", "8:0")
    machine.member(machine.root / "sys/devices/virtual", "block", "loop0", dev="7:0",
                   loop__backing_file="/dev/sda")
    assert reasons(machine, device) == ("/dev/loop0 is in use by the system",)


@pytest.mark.parametrize(("held", "expected"), [
    (("sda1", "sda"), ("/dev/sda1 is in use by the system",)),
    (("sda",), ("/dev/sda is in use by the system",)),
])
def test_what_is_held_for_a_reason_that_cannot_be_seen(
        machine: Machine, monkeypatch: pytest.MonkeyPatch, held: tuple[str, ...],
        expected: tuple[str, ...]) -> None:
    device = machine.device("1-1")
    machine.disk(device, "sda", "8:0", ("sda1", "8:1"))
    hold(monkeypatch, *held)
    assert reasons(machine, device) == expected


def test_the_way_to_the_host(machine: Machine) -> None:
    device = machine.device("1-1")
    machine.member(device, "net", "eth1")
    routes = FakeRoutes("eth0", **{"10.9.0.2": "eth1", "2001:db8::7": "eth0"})
    assert reasons(machine, device, routes, lab=["2001:db8::7", "10.9.0.2"], backup=["2001:db8::7"]) == (
        "eth1 carries the way to lab (10.9.0.2)",)
    assert reasons(machine, device, routes, lab=[]) == ()
    assert reasons(machine, device, FakeRoutes("eth1"), lab=[]) == (
        "eth1 may carry the way to lab, whose address is not known",)
    assert reasons(machine, device, FakeRoutes("eth1", **{"10.9.0.2": "eth0"}), lab=["10.9.0.2"]) == ()


@pytest.mark.parametrize(("interface", "is_carried"), [
    ("br0", True), ("br0.5", True), ("wg0", True), ("br9", False)])
def test_a_way_through_bridges_and_tunnels(machine: Machine, interface: str, is_carried: bool) -> None:
    device, virtual = machine.device("1-1"), machine.root / "sys/devices/virtual"
    machine.member(device, "net", "eth1")
    bridge = machine.member(virtual, "net", "br0")
    (bridge / "lower_eth1").symlink_to(machine.root / "sys/class/net/eth1")
    vlan = machine.member(virtual, "net", "br0.5")
    (vlan / "lower_br0").symlink_to(bridge)
    machine.member(virtual, "net", "wg0")
    other = machine.member(virtual, "net", "br9")
    (other / "lower_eth0").symlink_to(virtual)
    routes = FakeRoutes("eth1", **{"10.9.0.2": interface})
    expected = ("eth1 carries the way to lab (10.9.0.2)",) if is_carried else ()
    assert reasons(machine, device, routes, lab=["10.9.0.2"]) == expected


def test_the_only_keyboard_of_somebody(machine: Machine) -> None:
    device, other = machine.device("1-1"), machine.device("1-2")
    machine.member(device, "input", "input7", capabilities__key=KEYBOARD)
    elsewhere = machine.root / "sys/devices"
    machine.member(elsewhere / "LNXPWRBN:00", "input", "input0", capabilities__key=POWER_BUTTON)
    machine.member(elsewhere / "virtual", "input", "input1", capabilities__key=KEYBOARD)
    assert reasons(machine, device) == ()
    machine.session("1", CLASS="user", STATE="active", USER="alice", SEAT="seat0", TTY="tty2")
    machine.session("c1", CLASS="greeter", STATE="active", USER="gdm", SEAT="seat0")
    machine.session("3", CLASS="user", STATE="closing", USER="carol", SEAT="seat0")
    machine.session("4", CLASS="user", STATE="active", USER="dave")
    assert reasons(machine, device) == ("the only keyboard of seat0, where alice is logged in",)
    machine.session("2", CLASS="user", STATE="online", USER="bob", SEAT="seat0", TTY="tty3")
    assert reasons(machine, device) == ("the only keyboard of seat0, where alice and bob are logged in",)
    machine.member(other, "input", "input8", capabilities__key=KEYBOARD)
    assert reasons(machine, device) == ()
    machine.write("run/udev/data/+input:input8", "E:ID_INPUT=1\nE:ID_SEAT=seat-left\n")
    assert reasons(machine, device) == ("the only keyboard of seat0, where alice and bob are logged in",)
    assert reasons(machine, other) == ()


def test_consoles_and_logins_on_its_terminals(machine: Machine) -> None:
    device = machine.device("1-1")
    machine.member(device, "tty", "ttyUSB0")
    machine.write("sys/class/tty/console/active", "tty0 ttyUSB0\n")
    machine.session("1", CLASS="user", STATE="active", USER="root", TTY="ttyUSB0")
    assert reasons(machine, device) == ("ttyUSB0 is the system's console", "root is logged in on ttyUSB0")


async def test_kept_still_the_device_stays_as_it_was_seen(machine: Machine) -> None:
    device = machine.device("1-1")
    machine.disk(device, "sda", "8:0", ("sda1", "8:1"), ("sda2", "8:2"))
    machine.disk(device, "sr0", "11:0")
    (machine.root / "dev/sr0").unlink()
    before = len(os.listdir("/proc/self/fd"))
    stillness = await keep_still(device, machine.places)
    assert len(os.listdir("/proc/self/fd")) == before + 3
    await stillness.end()
    await stillness.end()
    assert len(os.listdir("/proc/self/fd")) == before


async def test_what_is_still_too_late_is_let_go(
        machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the device would be in use for ever: by us."""
    device = machine.device("1-1")
    machine.disk(device, "sda", "8:0", ("sda1", "8:1"))
    before = len(os.listdir("/proc/self/fd"))
    inside, answers = threading.Event(), threading.Event()

    def hang(descriptor: int) -> None:
        inside.set()
        answers.wait(PATIENCE)
    monkeypatch.setattr(os, "fsync", hang)
    flushing = asyncio.create_task(keep_still(device, machine.places))
    await until(inside.is_set)
    pass_time(block_devices.FLUSH_DEADLINE)
    with pytest.raises(DeadlineFault, match="^flush 1-1: the kernel has not answered since"):
        await flushing
    assert len(os.listdir("/proc/self/fd")) == before + 2
    with pytest.raises(DeadlineFault, match="^flush 1-1: the kernel has not answered since"):
        await Guard().examine(replace(STICK, sys_path=str(device)), ())
    answers.set()
    await until(lambda: not blocking._turns)
    assert len(os.listdir("/proc/self/fd")) == before


async def test_a_close_that_waits_for_the_device_holds_nothing_up(
        machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    device = machine.device("1-1")
    machine.disk(device, "sda", "8:0")
    stillness = await keep_still(device, machine.places)
    really, closed_by = os.close, []

    def close(descriptor: int) -> None:
        closed_by.append(threading.current_thread())
        really(descriptor)
    monkeypatch.setattr(os, "close", close)
    await stillness.end()
    assert closed_by and threading.current_thread() not in closed_by


@pytest.mark.parametrize(("fails", "fault", "words"), [
    (errno.EBUSY, BusyFault, "/dev/sda, /dev/sda1: something has just begun to use it"),
    (errno.EIO, KernelFault, "what was written does not arrive: Input/output error"),
])
async def test_what_cannot_be_kept_still(machine: Machine, monkeypatch: pytest.MonkeyPatch, fails: int,
                                         fault: type[Exception], words: str) -> None:
    device = machine.device("1-1")
    machine.disk(device, "sda", "8:0", ("sda1", "8:1"))
    before = len(os.listdir("/proc/self/fd"))
    if fails == errno.EBUSY:
        hold(monkeypatch, "sda1")
    else:
        def fail(_: int) -> None:
            raise OSError(fails, os.strerror(fails))
        monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(fault, match=words):
        await keep_still(device, machine.places)
    assert len(os.listdir("/proc/self/fd")) == before


async def test_nodes_that_may_not_be_opened_are_flushed_with_all_others(
        machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    device = machine.device("1-1")
    machine.disk(device, "sda", "8:0")
    really, synced = os.open, []

    def refuse(path: str | Path, flags: int, mode: int = 0o777) -> int:
        if Path(path).name == "sda":
            raise PermissionError(errno.EPERM, "no")
        return really(path, flags, mode)
    monkeypatch.setattr(os, "open", refuse)
    monkeypatch.setattr(os, "sync", lambda: synced.append(True))
    assert reasons(machine, device) == ()
    await (await keep_still(device, machine.places)).end()
    assert synced


async def test_what_is_in_use_is_flushed_as_well_as_it_goes(
        machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    device = machine.device("1-1")
    machine.disk(device, "sda", "8:0", ("sda1", "8:1"))
    machine.disk(device, "sr0", "11:0")
    (machine.root / "dev/sr0").unlink()
    hold(monkeypatch, "sda", "sda1")
    done: list[str] = []
    monkeypatch.setattr(os, "sync", lambda: done.append("sync"))
    monkeypatch.setattr(os, "fsync", lambda descriptor: done.append("fsync"))
    await flush(device, machine.places)
    assert done == ["sync", "fsync", "fsync"]
    await flush(machine.device("1-2"), machine.places)
    assert len(done) == 3
