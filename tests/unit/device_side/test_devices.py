"""From udev's events to the agent's devices: none is lost, and what came later wins."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.unit.device_side.samples import STICK
from tests.unit.device_side.world import until
from usbip_agent.device import Device
from usbip_agent.device_side import devices
from usbip_agent.device_side.devices import DeviceWatch
from usbip_agent.kernel.uevents import Action, Uevent
from usbip_agent.kernel.vudc import Vudc


@dataclass
class Udev:
    """What is plugged in, and who listens; and the agent, of which nothing but ears is left."""

    here: dict[str, Device] = field(default_factory=dict)
    heard: list[str] = field(default_factory=list)
    looks: int = 0
    slow: threading.Event = field(default_factory=threading.Event)
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

    def read(self, event: Uevent) -> Device | None:
        return self.here.get(event.name)

    def present(self, found: list[Device], unsure: set[str]) -> None:
        self.heard.append(f"present {' '.join(each.bus_id for each in found)} but {' '.join(unsure)}")

    def plugged(self, device: Device) -> None:
        self.heard.append(f"plugged {device.bus_id} {device.device_number}")

    def try_now(self) -> None:
        self.heard.append("try now")

    def unplugged(self, bus_id: str, number: int = 0) -> None:
        self.heard.append(f"unplugged {bus_id}")


@pytest.fixture
async def udev(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Udev]:
    made = Udev()
    made.slow.set()
    monkeypatch.setattr(devices, "UeventMonitor", made.listen)
    monkeypatch.setattr(devices, "device_of_event", made.read)
    watch = DeviceWatch(made, Vudc())  # type: ignore[arg-type]
    made.here["1-1"] = STICK
    await watch.start()
    assert made.heard == ["present 1-1 but "]
    made.heard.clear()
    yield made
    watch.close()


async def test_events_that_were_lost_are_made_up_for(udev: Udev) -> None:
    udev.here = {"1-2": replace(STICK, bus_id="1-2")}
    udev.lose_some()
    await until(lambda: udev.heard)
    assert udev.heard == ["present 1-2 but "]


async def test_what_is_told_while_all_are_looked_at_is_newer(udev: Udev) -> None:
    udev.here["1-2"] = replace(STICK, bus_id="1-2")
    udev.slow.clear()
    udev.lose_some()
    await until(lambda: udev.looks == 2)
    udev.tell(udev.event(Action.REMOVE, "1-1"))
    udev.slow.set()
    await until(lambda: len(udev.heard) == 2)
    assert udev.heard == ["unplugged 1-1", "present 1-2 but 1-1"]


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
