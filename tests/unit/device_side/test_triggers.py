"""What helps those who wait: a network, a name, and hosts that are back for good. The clock is the test's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace

import pytest

from tests.unit.device_side.samples import BACKUP, LAB, STICK, Time
from tests.unit.device_side.world import until
from usbip_agent.device_side import triggers
from usbip_agent.device_side.actions import Connection
from usbip_agent.device_side.export import Export
from usbip_agent.device_side.triggers import Triggers
from usbip_agent.errors import UnreachableFault
from usbip_agent.policy.agent import Decision
from usbip_agent.policy.hosts import Host
from usbip_agent.transport.stream import Stream

PERIOD = 100.0
"""Seconds of failback: a probe each 10."""


class Surroundings:
    """A network, names, a clock and the agent, all played by the test."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self.answers: Callable[[float], bool] = lambda now: True
        self.exports: list[Export] = []
        self.tried: list[Host | None] = []
        self.returned: list[float] = []
        self.probes = 0
        self.named: dict[Host, Callable[[], None]] = {}
        self.network_changed: Callable[[], None] = lambda: None

        async def pass_time(seconds: float) -> None:
            self.now += seconds
            await asyncio.sleep(0)

        def note(on_change: Callable[[], None]) -> Surroundings:
            self.network_changed = on_change
            return self

        # Names of that module alone: the event loop keeps its own time.
        monkeypatch.setattr(triggers, "time", SimpleNamespace(monotonic=lambda: self.now))
        monkeypatch.setattr(triggers, "asyncio", SimpleNamespace(**{**vars(asyncio), "sleep": pass_time}))
        monkeypatch.setattr(triggers, "NetworkWatch", note)
        monkeypatch.setattr(triggers, "NameWatch", lambda: Names(self))
        self.triggers = Triggers(Agent(self), self.dial)

    def close(self) -> None: ...

    async def dial(self, host: Host) -> Stream:
        self.probes += 1
        if not self.answers(self.now):
            raise UnreachableFault(f"{host.name} is away")
        return Open()  # type: ignore[return-value]


class Open:
    async def close(self) -> None: ...


class Names:
    def __init__(self, around: Surroundings) -> None:
        self._around = around

    def watch(self, host: Host, callback: Callable[[], None]) -> None:
        self._around.named[host] = callback

    def unwatch(self, host: Host, callback: Callable[[], None]) -> None:
        assert self._around.named.pop(host) is callback

    async def close(self) -> None: ...


class Agent:
    def __init__(self, around: Surroundings) -> None:
        self._around = around

    def exports(self) -> list[Export]:
        return self._around.exports

    def try_now(self, host: Host | None = None) -> None:
        self._around.tried.append(host)

    def fail_back(self, bus_id: str) -> None:
        self._around.returned.append(self._around.now)


@pytest.fixture
async def around(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Surroundings]:
    with monkeypatch.context() as patch:
        made = Surroundings(patch)
        yield made
        await made.triggers.close()


def waiting(*hosts: Host) -> Export:
    export = Export(STICK, Decision("sticks", hosts), Time().clocks)
    export.begin()
    export.attempt_failed(UnreachableFault("away"), claimed=False)
    return export


def on_the_spare_host(failback: float | None = PERIOD) -> Export:
    export = Export(STICK, Decision("sticks", (LAB, BACKUP), failback=failback), Time().clocks)
    export.begin()
    export.attempt_succeeded(Connection(BACKUP, "plain", "10.0.0.2:3240"))
    return export


async def test_the_network_helps_all(around: Surroundings) -> None:
    around.network_changed()
    assert around.tried == [None]


async def test_the_names_of_hosts_that_are_waited_for(around: Surroundings) -> None:
    around.exports = [waiting(LAB, BACKUP), waiting(BACKUP)]
    around.triggers.reconsider()
    assert around.named.keys() == {LAB, BACKUP}
    around.named[BACKUP]()
    assert around.tried == [BACKUP]
    around.exports = around.exports[1:]
    around.triggers.reconsider()
    assert around.named.keys() == {BACKUP}
    around.exports = []
    around.triggers.reconsider()
    assert not around.named


async def test_back_to_the_preferred_host_after_a_whole_period_of_answers(around: Surroundings) -> None:
    around.answers = lambda now: now >= 50
    around.exports = [on_the_spare_host()]
    around.triggers.reconsider()
    await until(lambda: around.returned)
    assert 50 + PERIOD <= around.returned[0] <= 50 + PERIOD + 20
    assert around.probes <= 20
    around.exports = []
    around.triggers.reconsider()
    before = around.probes
    await until(lambda: len(asyncio.all_tasks()) == 1)
    assert around.probes <= before + 1


async def test_never_while_it_flaps(around: Surroundings) -> None:
    around.answers = lambda now: now % 90 < 80
    around.exports = [on_the_spare_host()]
    around.triggers.reconsider()
    await until(lambda: around.now > 20 * PERIOD)
    assert not around.returned and around.probes > 100


async def test_nobody_returns_who_was_not_asked_to(around: Surroundings) -> None:
    by_hand, connected = on_the_spare_host(), on_the_spare_host(None)
    by_hand.by_hand = BACKUP
    around.exports = [by_hand, connected]
    around.triggers.reconsider()
    assert len(asyncio.all_tasks()) == 1
