"""From udev's events to the agent's devices: none is lost, and what came later wins."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Set
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.unit.device_side.samples import STICK
from tests.unit.device_side.world import until
from tests.unit.kernel.late import pass_time
from usbip_agent import blocking
from usbip_agent.device import Device
from usbip_agent.device_side import devices
from usbip_agent.device_side.devices import DeviceWatch
from usbip_agent.errors import Fault
from usbip_agent.kernel.uevents import Action, Uevent
from usbip_agent.kernel.vudc import Vudc


@dataclass
class Udev:
    """What is plugged in, and who listens; and the agent, of which nothing but ears is left."""

    here: dict[str, Device] = field(default_factory=dict)
    heard: list[str] = field(default_factory=list)
    looks: int = 0
    slow: threading.Event = field(default_factory=threading.Event)
    stuck: dict[str, threading.Event] = field(default_factory=dict)
    """Devices that the kernel does not let anybody read."""
    read: list[str] = field(default_factory=list)
    """What was begun to be read."""
    unread: list[set[str]] = field(default_factory=list)
    """What the watch has said that it does not know yet."""
    tell: Callable[[Uevent], None] = lambda event: None
    lose_some: Callable[[], None] = lambda: None

    def listen(self, on_event: Callable[[Uevent], None], on_overrun: Callable[[], None], **_: bool) -> Udev:
        self.tell, self.lose_some = on_event, on_overrun
        return self

    def start(self) -> None: ...
    def close(self) -> None: ...

    def event(self, action: Action, name: str, subsystem: str = "usb") -> Uevent:
        return Uevent(action, Path(f"/sys/{name}"), subsystem, "", SimpleNamespace(properties={}))

    def enumerate_usb_devices(self) -> Iterator[Uevent]:
        found = [self.event(Action.ADD, bus_id) for bus_id in self.here]
        self.looks += 1
        self.slow.wait(10)
        yield from found

    def device(self, event: Uevent) -> Device | None:
        self.read.append(event.name)
        if event.name in self.stuck:
            self.stuck[event.name].wait(10)
        return self.here.get(event.name)

    def add(self, bus_id: str, number: int = STICK.device_number) -> None:
        self.here[bus_id] = replace(STICK, bus_id=bus_id, device_number=number)

    def present(self, found: Iterable[Device], unsure: Set[str]) -> None:
        assert not list(found)
        self.heard.append(f"none but {' '.join(sorted(unsure))}")

    def plugged(self, device: Device) -> None:
        self.heard.append(f"plugged {device.bus_id} {device.device_number}")

    def try_now(self) -> None:
        self.heard.append("try now")

    def unplugged(self, bus_id: str, number: int = 0) -> None:
        self.heard.append(f"unplugged {bus_id}")

    def still_unread(self, names: Set[str]) -> None:
        self.unread.append(set(names))


@pytest.fixture
async def fresh(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Udev, DeviceWatch]]:
    """Before the start, with a stick plugged in."""
    made = Udev()
    made.slow.set()
    made.add("1-1")
    monkeypatch.setattr(devices, "UeventMonitor", made.listen)
    monkeypatch.setattr(devices, "device_of_event", made.device)
    watch = DeviceWatch(made, Vudc(), made.still_unread)  # type: ignore[arg-type]
    yield made, watch
    watch.close()
    for stuck in made.stuck.values():
        stuck.set()


@pytest.fixture
async def udev(fresh: tuple[Udev, DeviceWatch]) -> Udev:
    made, watch = fresh
    await watch.start()
    assert made.heard == ["none but 1-1", "plugged 1-1 2"] and made.unread == [set()]
    made.heard.clear()
    return made


async def test_events_that_were_lost_are_made_up_for(udev: Udev) -> None:
    udev.here.clear()
    udev.add("1-2")
    udev.lose_some()
    await until(lambda: len(udev.heard) == 2)
    assert udev.heard == ["none but 1-2", "plugged 1-2 2"]


async def test_what_is_told_while_all_are_looked_at_is_newer(udev: Udev) -> None:
    udev.add("1-2")
    udev.slow.clear()
    udev.lose_some()
    await until(lambda: udev.looks == 2)
    udev.tell(udev.event(Action.REMOVE, "1-1"))
    udev.slow.set()
    await until(lambda: len(udev.heard) == 3)
    assert udev.heard == ["unplugged 1-1", "none but 1-1 1-2", "plugged 1-2 2"]


async def test_a_device_that_hangs_holds_up_no_start(fresh: tuple[Udev, DeviceWatch]) -> None:
    udev, watch = fresh
    udev.add("1-2")
    udev.stuck["1-1"] = threading.Event()
    starting = asyncio.create_task(watch.start())
    await until(lambda: "plugged 1-2 2" in udev.heard)
    pass_time(devices.START_PATIENCE)
    await starting
    assert udev.heard == ["none but 1-1 1-2", "plugged 1-2 2"] and udev.unread == [{"1-1"}]
    udev.lose_some()
    await until(lambda: udev.heard.count("plugged 1-2 2") == 2)
    assert udev.read.count("1-1") == 1 and udev.unread == [{"1-1"}]
    udev.stuck["1-1"].set()
    await until(lambda: len(udev.unread) == 2)
    assert udev.heard[-1] == "plugged 1-1 2" and udev.unread[-1] == set()


async def test_what_comes_while_devices_are_found_forgets_nothing(
        fresh: tuple[Udev, DeviceWatch]) -> None:
    """Those that are found after it are not known yet."""
    udev, watch = fresh
    udev.slow.clear()
    starting = asyncio.create_task(watch.start())
    await until(lambda: udev.looks == 1)
    udev.add("1-2")
    udev.tell(udev.event(Action.ADD, "1-2"))
    await until(lambda: udev.heard)
    assert udev.heard == ["plugged 1-2 2"] and udev.unread == []
    udev.slow.set()
    await starting
    assert udev.heard[1:] == ["none but 1-1 1-2", "plugged 1-1 2"] and udev.unread == [set()]


async def test_those_that_hang_leave_room_for_others(fresh: tuple[Udev, DeviceWatch]) -> None:
    udev, watch = fresh
    names = [f"2-{number}" for number in range(2 * devices.READERS)]
    for name in names:
        udev.add(name)
        udev.stuck[name] = threading.Event()
    udev.here["1-1"] = udev.here.pop("1-1")  # the last to be found
    begun = asyncio.create_task(watch.start())
    for reading in (devices.READERS, len(names)):
        await until(lambda: len(udev.read) == reading)
        assert "plugged 1-1 2" not in udev.heard
        pass_time(devices.SOON)
    await until(lambda: "plugged 1-1 2" in udev.heard)
    for stuck in udev.stuck.values():
        stuck.set()
    await begun
    assert len(udev.heard) == 2 + len(names)


async def test_what_was_told_last_is_read_again(udev: Udev) -> None:
    udev.stuck["1-1"] = threading.Event()
    udev.tell(udev.event(Action.ADD, "1-1"))
    await until(lambda: udev.read == ["1-1", "1-1"])
    udev.tell(udev.event(Action.REMOVE, "1-1"))
    udev.add("1-1", 7)
    udev.tell(udev.event(Action.ADD, "1-1"))
    udev.stuck.pop("1-1").set()
    await until(lambda: len(udev.heard) == 2)
    assert udev.heard == ["unplugged 1-1", "plugged 1-1 7"] and len(udev.read) == 3


async def test_a_hub_is_not_read(udev: Udev, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel holds the lock of a hub with a broken device on it for more than a minute."""
    monkeypatch.setattr(devices, "is_hub", lambda directory: directory.name == "1-9")
    udev.tell(udev.event(Action.ADD, "1-9"))
    await until(lambda: udev.heard)
    assert udev.heard == ["unplugged 1-9"] and "1-9" not in udev.read


async def test_a_thread_that_cannot_be_had_is_asked_for_again(
        udev: Udev, monkeypatch: pytest.MonkeyPatch) -> None:
    refusals = iter([Fault("read 1-2: can't start new thread")] * 2)

    async def in_thread(*arguments: Any, **options: Any) -> Any:
        if (fault := next(refusals, None)) is not None:
            raise fault
        return await blocking.in_thread(*arguments, **options)
    monkeypatch.setattr(devices, "in_thread", in_thread)
    monkeypatch.setattr(devices, "PAUSE", 0.0)
    udev.add("1-2")
    udev.tell(udev.event(Action.ADD, "1-2"))
    await until(lambda: udev.heard)
    assert udev.heard == ["plugged 1-2 2"]


async def test_an_echo_is_no_news(udev: Udev) -> None:
    for action in (Action.BIND, Action.UNBIND, Action.CHANGE):
        udev.tell(udev.event(action, "1-1"))
    udev.tell(udev.event(Action.ADD, "1-1"))
    await until(lambda: udev.heard)
    assert udev.heard == ["plugged 1-1 2"]


async def test_what_has_gone_before_it_could_be_read_is_gone(udev: Udev) -> None:
    udev.here.clear()
    udev.tell(udev.event(Action.ADD, "1-1"))
    await until(lambda: udev.heard)
    assert udev.heard == ["unplugged 1-1"]


async def test_a_module_that_comes_late_is_what_was_waited_for(udev: Udev) -> None:
    udev.tell(udev.event(Action.ADD, "cdc_acm", "module"))
    udev.tell(udev.event(Action.REMOVE, "usbip_host", "module"))
    assert udev.heard == []
    udev.tell(udev.event(Action.ADD, "usbip_host", "module"))
    assert udev.heard == ["try now"]
