"""A name that resolves differently is noticed, as long as somebody wants to know."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from usbip_agent.errors import UnreachableFault
from usbip_agent.policy.hosts import Host
from usbip_agent.transport import name_watch
from usbip_agent.transport.name_watch import NameWatch
from usbip_agent.transport.names import Endpoint
from usbip_agent.transport.services import ServiceRecord

LAB, BACKUP = Host("lab", "lab.example.net"), Host("backup", "backup.example.net")


class Dns:
    """What names resolve to; none = they do not. Counts the questions."""

    def __init__(self) -> None:
        self.addresses: dict[str, list[str]] = {}
        self.records: frozenset[ServiceRecord] = frozenset()
        self.questions = 0

    async def endpoints_of(self, host: Host) -> tuple[Endpoint, ...]:
        self.questions += 1
        found = self.addresses.get(host.address, [])
        if not found:
            raise UnreachableFault("cannot resolve")
        return tuple(Endpoint(each, 3240, 2, (each, 3240), host.address) for each in found)

    async def service_records(self, _name: str) -> frozenset[ServiceRecord]:
        return self.records

    async def asked_twice(self) -> None:
        """Returns when a question was begun after now, and its answer dealt with."""
        await _until(lambda wanted=self.questions + 2: self.questions >= wanted)  # type: ignore[misc]


async def _until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not holds():
            await asyncio.sleep(0)


@pytest.fixture
def dns(monkeypatch: pytest.MonkeyPatch) -> Dns:
    dns = Dns()
    monkeypatch.setattr(name_watch, "endpoints_of", dns.endpoints_of)
    monkeypatch.setattr(name_watch, "service_records", dns.service_records)
    return dns


@pytest.fixture
async def watch() -> AsyncIterator[NameWatch]:
    watch = NameWatch(interval=0.001)
    yield watch
    await watch.close()
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_another_address(dns: Dns, watch: NameWatch) -> None:
    calls: list[str] = []
    dns.addresses = {LAB.address: ["192.0.2.7", "192.0.2.8"], BACKUP.address: ["192.0.2.9"]}
    watch.watch(LAB, lambda: calls.append("lab"))
    watch.watch(BACKUP, lambda: calls.append("backup"))
    await dns.asked_twice()
    dns.addresses[LAB.address].reverse()
    await dns.asked_twice()
    await dns.asked_twice()
    assert not calls, "their order does not matter"
    dns.addresses[LAB.address] = ["192.0.2.7", "192.0.2.10"]
    await _until(lambda: bool(calls))
    await dns.asked_twice()
    assert calls == ["lab"]


async def test_a_name_that_resolves_again(dns: Dns, watch: NameWatch) -> None:
    calls: list[None] = []
    watch.watch(LAB, lambda: calls.append(None))
    await dns.asked_twice()
    assert not calls
    for expected in (1, 2):
        dns.addresses = {LAB.address: ["192.0.2.7"]}
        await _until(lambda: len(calls) == expected)
        dns.addresses = {}
        await dns.asked_twice()
        await dns.asked_twice()
    assert len(calls) == 2, "a name that resolves no more helps nobody"


async def test_priorities_of_a_service(dns: Dns, watch: NameWatch) -> None:
    calls: list[None] = []
    service = Host("fleet", "srv:_usbipa._tcp.example.net")
    dns.addresses = {service.address: ["192.0.2.7", "192.0.2.8"]}
    dns.records = frozenset({ServiceRecord(1, 0, 3240, "a"), ServiceRecord(2, 0, 3240, "b")})
    watch.watch(service, lambda: calls.append(None))
    await dns.asked_twice()
    dns.records = frozenset({ServiceRecord(2, 0, 3240, "a"), ServiceRecord(1, 0, 3240, "b")})
    await _until(lambda: len(calls) == 1)


async def test_all_who_wait_share_the_questions(dns: Dns, watch: NameWatch) -> None:
    first: list[None] = []
    second: list[None] = []

    def one() -> None:
        first.append(None)

    def other() -> None:
        second.append(None)
        watch.unwatch(LAB, other)

    watch.watch(LAB, one)
    watch.watch(LAB, one)
    watch.watch(LAB, other)
    assert len(asyncio.all_tasks()) == 2
    await dns.asked_twice()
    dns.addresses = {LAB.address: ["192.0.2.7"]}
    await _until(lambda: len(first) == 2 and len(second) == 1)
    watch.unwatch(LAB, one)
    dns.addresses = {LAB.address: ["192.0.2.8"]}
    await _until(lambda: len(first) == 3)
    assert len(second) == 1
    watch.unwatch(LAB, one)
    watch.unwatch(LAB, one)
    watch.unwatch(BACKUP, one)
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == {asyncio.current_task()}, "nobody waits, nobody asks"


async def test_the_last_may_leave_from_its_callback(dns: Dns, watch: NameWatch) -> None:
    calls: list[None] = []

    def leave() -> None:
        calls.append(None)
        watch.unwatch(LAB, leave)

    watch.watch(LAB, leave)
    await dns.asked_twice()
    dns.addresses = {LAB.address: ["192.0.2.7"]}
    await _until(lambda: len(asyncio.all_tasks()) == 1)
    assert len(calls) == 1
    watch.watch(LAB, leave)
    await dns.asked_twice()
    assert len(calls) == 1


async def test_an_address_is_not_asked_for(dns: Dns, watch: NameWatch) -> None:
    watch.watch(Host("a", "192.0.2.7"), lambda: None)
    watch.watch(Host("b", "2001:db8::7"), lambda: None)
    watch.unwatch(Host("a", "192.0.2.7"), lambda: None)
    await asyncio.sleep(0)
    assert not dns.questions and asyncio.all_tasks() == {asyncio.current_task()}


async def test_what_changes_between_two_watches(dns: Dns, watch: NameWatch) -> None:
    """An attempt ends the watch; the change that came meanwhile is not to be taken for how it always was."""
    calls: list[None] = []

    def call() -> None:
        calls.append(None)

    dns.addresses = {LAB.address: ["192.0.2.7"]}
    watch.watch(LAB, call)
    await dns.asked_twice()
    watch.unwatch(LAB, call)
    dns.addresses = {LAB.address: ["192.0.2.8"]}
    watch.watch(LAB, call)
    await _until(lambda: len(calls) == 1)
