"""Suspend and resume, told by a logind that does what the test wants; its locks are real descriptors."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.component.bus.private_bus import PrivateBus, call, caller
from usbip_agent.bus import logind
from usbip_agent.bus.connection import Connection
from usbip_agent.bus.descriptor import call_for_descriptor
from usbip_agent.bus.logind import LOGIND, LOGIND_PATH, MANAGER, SleepWatch
from usbip_agent.bus.marshalling import Kind, Message
from usbip_agent.bus.standard import BUS, BUS_PATH, CallError
from usbip_agent.errors import UnavailableFault

MISSING = [each for each in ("dbus", "gi") if importlib.util.find_spec(each) is None]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"not installed: {MISSING}")

FAKE_LOGIND = """
import os, select, sys
import dbus, dbus.mainloop.glib, dbus.service
from gi.repository import GLib
MANAGER, TEST = "org.freedesktop.login1.Manager", "org.example.Test"

class Manager(dbus.service.Object):
    locks, asked, preparing = [], [], sys.argv[2] == "preparing"

    @dbus.service.method(MANAGER, "ssss", "h")
    def Inhibit(self, what, who, why, mode):
        self.asked.append(" ".join((what, who, why, mode)))
        if self.preparing:
            raise dbus.DBusException("preparing", name="org.freedesktop.login1.OperationInProgress")
        ours, theirs = os.pipe()
        self.locks.append(ours)
        passed = dbus.types.UnixFd(theirs)
        os.close(theirs)
        return passed

    @dbus.service.method(dbus.PROPERTIES_IFACE, "ss", "v")
    def Get(self, interface, name):
        return {"PreparingForSleep": dbus.Boolean(self.preparing),
                "InhibitDelayMaxUSec": dbus.UInt64(sys.argv[1])}[name]

    @dbus.service.signal(MANAGER, "b")
    def PrepareForSleep(self, start): pass

    @dbus.service.method(TEST, "b")
    def Prepare(self, start):
        self.preparing = bool(start)
        self.PrepareForSleep(start)

    @dbus.service.method(TEST, "", "as")
    def Asked(self): return self.asked

    @dbus.service.method(TEST, "", "i")
    def Held(self):
        poll = select.poll()
        for lock in self.locks: poll.register(lock, 0)
        return len(self.locks) - len(poll.poll(0))

bus = dbus.bus.BusConnection(os.environ["BUS"], mainloop=dbus.mainloop.glib.DBusGMainLoop())
manager = Manager(bus, "/org/freedesktop/login1")
bus.request_name("org.freedesktop.login1")
print("ready", flush=True)
GLib.MainLoop().run()
"""


class FakeLogind:
    """A process that is logind on the private bus."""

    def __init__(self, process: subprocess.Popen[str], connection: Connection) -> None:
        self.process = process
        self._connection = connection

    async def prepare(self, sleeping: bool) -> None:
        await call(self._connection, LOGIND, LOGIND_PATH, "org.example.Test.Prepare", "b", sleeping)

    async def held(self) -> int:
        count: int = await call(self._connection, LOGIND, LOGIND_PATH, "org.example.Test.Held")
        return count

    async def holds(self, count: int) -> None:
        async with asyncio.timeout(10):
            while await self.held() != count:
                pass

    async def asked(self) -> list[str]:
        words: list[str] = await call(self._connection, LOGIND, LOGIND_PATH, "org.example.Test.Asked")
        return words


@asynccontextmanager
async def fake_logind(bus: PrivateBus, *, delay: float = 5.0,
                      preparing: bool = False) -> AsyncIterator[FakeLogind]:
    """Runs until the block ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", FAKE_LOGIND, str(int(delay * 1e6)), "preparing" if preparing else "-"],
        env={**os.environ, "BUS": bus.address}, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        async with caller(bus) as connection:
            yield FakeLogind(process, connection)
    finally:
        process.kill()
        process.communicate()


class Told:
    """What the watch has told, in order."""

    def __init__(self) -> None:
        self.events: asyncio.Queue[str] = asyncio.Queue()
        self.work: Callable[[], Awaitable[Any]] | None = None

    async def on_sleep(self) -> None:
        self.events.put_nowait("sleep")
        if self.work is not None:
            await self.work()
        self.events.put_nowait("ready")

    def on_resume(self) -> None:
        self.events.put_nowait("resume")

    async def hears(self, *expected: str) -> None:
        for each in expected:
            assert await asyncio.wait_for(self.events.get(), 10) == each


@asynccontextmanager
async def watching(bus: PrivateBus, told: Told) -> AsyncIterator[SleepWatch]:
    watch = SleepWatch("usbip-agent", "USB devices are given back", told.on_sleep, told.on_resume,
                       address=bus.address)
    watch.start()
    try:
        yield watch
    finally:
        await watch.close()
        assert told.events.empty()


async def test_sleep_and_resume(bus: PrivateBus) -> None:
    told, descriptors = Told(), len(os.listdir("/proc/self/fd"))
    async with fake_logind(bus) as fake:
        async with watching(bus, told):
            for _ in range(3):
                await fake.holds(1)
                await fake.prepare(True)
                await told.hears("sleep", "ready")
                await fake.holds(0)
                await fake.prepare(False)
                await told.hears("resume")
            await fake.holds(1)
            assert set(await fake.asked()) == {"sleep usbip-agent USB devices are given back delay"}
        await fake.holds(0)
    assert len(os.listdir("/proc/self/fd")) == descriptors


async def test_the_lock_goes_when_all_is_ready(bus: PrivateBus) -> None:
    told, finish = Told(), asyncio.Event()
    told.work = finish.wait
    async with fake_logind(bus) as fake, watching(bus, told):
        await fake.holds(1)
        await fake.prepare(True)
        await told.hears("sleep")
        assert await fake.held() == 1
        finish.set()
        await told.hears("ready")
        await fake.holds(0)


@pytest.mark.parametrize("fails", [False, True])
async def test_sleep_is_not_held_up_for_long(bus: PrivateBus, fails: bool) -> None:
    async def work() -> None:
        if fails:
            raise OSError("broken")
        await asyncio.Event().wait()

    told = Told()
    told.work = work
    async with fake_logind(bus, delay=0.2) as fake, watching(bus, told):
        await fake.holds(1)
        await fake.prepare(True)
        await told.hears("sleep")
        await fake.holds(0)
        await fake.prepare(False)
        await told.hears("resume")


async def test_without_a_logind_until_there_is_one(bus: PrivateBus) -> None:
    told = Told()
    async with watching(bus, told):
        for _ in range(2):
            async with fake_logind(bus) as fake:
                await fake.holds(1)
                await fake.prepare(True)
                await told.hears("sleep", "ready")
                await fake.prepare(False)
                await told.hears("resume")


async def test_a_logind_that_dies_while_all_sleep(bus: PrivateBus) -> None:
    told = Told()
    async with watching(bus, told):
        async with fake_logind(bus) as fake:
            await fake.holds(1)
            await fake.prepare(True)
            await told.hears("sleep", "ready")
        async with fake_logind(bus, preparing=True) as fake:
            while not await fake.asked():
                pass
            assert told.events.empty(), "the machine is still to sleep"
            await fake.prepare(False)
            await told.hears("resume")
            await fake.prepare(True)
            await told.hears("sleep", "ready")
        async with fake_logind(bus) as fake:
            await told.hears("resume")
            await fake.holds(1)


async def test_a_logind_that_never_comes_back(bus: PrivateBus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logind, "ASLEEP_AT_MOST", 0.1)
    told = Told()
    async with watching(bus, told):
        async with fake_logind(bus) as fake:
            await fake.holds(1)
            await fake.prepare(True)
            await told.hears("sleep", "ready")
        await told.hears("resume")


async def test_a_signal_of_somebody_else_says_nothing(bus: PrivateBus) -> None:
    told = Told()
    async with fake_logind(bus) as fake, watching(bus, told) as watch, caller(bus) as stranger:
        await fake.holds(1)
        names = await call(stranger, BUS, BUS_PATH, f"{BUS}.ListNames")
        for name in names:
            if name.startswith(":"):
                stranger._send(Message(Kind.SIGNAL, destination=name, path=LOGIND_PATH, interface=MANAGER,
                                       member="PrepareForSleep", signature="b", body=[True]))
        await call(stranger, BUS, BUS_PATH, f"{BUS}.GetId")
        await fake.prepare(False)
        await fake.holds(1)
        assert not watch._asleep


async def test_the_bus_goes_and_comes(bus: PrivateBus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logind, "FIRST_DELAY", 0.01)
    told = Told()
    async with fake_logind(bus) as fake, watching(bus, told) as watch:
        await fake.holds(1)
        watch._address = "unix:path=/nowhere"
        assert watch._connection is not None
        watch._connection._hang_up()
        await watch._connection.lost()
        watch._address = bus.address
        while len(await fake.asked()) < 2:
            pass
        await fake.prepare(True)
        await told.hears("sleep", "ready")
        await fake.prepare(False)
        await told.hears("resume")


async def test_a_call_that_is_answered_with_no_descriptor(bus: PrivateBus) -> None:
    get_id = Message(Kind.CALL, BUS_PATH, BUS, "GetId", BUS)
    with pytest.raises(UnavailableFault, match="the answer is no descriptor"):
        await call_for_descriptor(get_id, bus.address)
    with pytest.raises(CallError):
        await call_for_descriptor(Message(Kind.CALL, BUS_PATH, BUS, "Nothing", BUS), bus.address)
    for address in ("unix:path=/nowhere", "tcp:host=localhost", ""):
        with pytest.raises(UnavailableFault, match="GetId"):
            await call_for_descriptor(get_id, address)


async def test_a_call_that_is_given_up(bus: PrivateBus) -> None:
    descriptors = len(os.listdir("/proc/self/fd"))
    async with caller(bus) as silent:
        called = asyncio.Event()
        silent.on_call = lambda _: called.set()
        hanging = Message(Kind.CALL, LOGIND_PATH, MANAGER, "Inhibit", silent.unique_name)
        task = asyncio.ensure_future(call_for_descriptor(hanging, bus.address, deadline=60))
        await asyncio.wait_for(called.wait(), 10)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(task, 10)
        with pytest.raises(UnavailableFault, match="no answer in time"):
            await call_for_descriptor(hanging, bus.address, deadline=0.1)
    assert len(os.listdir("/proc/self/fd")) == descriptors
