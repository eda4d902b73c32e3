"""The first address that answers: of a name, and of a service's targets."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from usbip_agent.errors import UnreachableFault
from usbip_agent.policy.hosts import Host
from usbip_agent.transport import connecting
from usbip_agent.transport.connecting import connect_to, connect_to_name
from usbip_agent.transport.names import Endpoint
from usbip_agent.transport.services import ServiceRecord

SetTimes = Callable[..., None]
"""Sets ``connecting``'s times, in seconds."""


@pytest.fixture(autouse=True)
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The names that were resolved: lists of places, or ``unresolvable``, or ``hanging`` for ever.

    A service's name lists its targets, with a slash between.
    """
    with ExitStack() as stack:
        listening = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        silent = stack.enter_context(socket.create_server(("127.0.0.2", 0), backlog=0))
        waiting = stack.enter_context(socket.socket())  # it fills the queue; all other SYNs are dropped
        waiting.connect(silent.getsockname())
        with socket.create_server(("127.0.0.3", 0)) as shut:
            refusing = shut.getsockname()
        places = {"open": listening.getsockname(), "silent": silent.getsockname(), "shut": refusing}
        names: list[str] = []

        async def endpoints_of_name(name: str, port: int) -> tuple[Endpoint, ...]:
            names.append(name)
            if name == "hanging":
                await asyncio.Event().wait()
            if name == "unresolvable":
                raise UnreachableFault("cannot resolve it")
            return tuple(Endpoint("", port, 99 if each == "odd" else 2, places.get(each, ("", 0)), name)
                         for each in name.split())

        async def targets_of(service: str) -> list[ServiceRecord]:
            return [ServiceRecord(0, 0, 3240, target) for target in service.split("/")]

        monkeypatch.setattr(connecting, "endpoints_of_name", endpoints_of_name)
        monkeypatch.setattr(connecting, "targets_of", targets_of)
        yield names


@pytest.fixture
def set_times(monkeypatch: pytest.MonkeyPatch) -> SetTimes:
    def set_them(**times: float) -> None:
        for name, seconds in times.items():
            monkeypatch.setattr(connecting, name, seconds)

    return set_them


def service(*targets: str) -> Host:
    return Host("a", "srv:" + "/".join(targets))


async def seconds_until(answers: Any) -> float:
    """How long it takes until the place that is open has answered."""
    loop = asyncio.get_running_loop()
    before = loop.time()
    async with asyncio.timeout(10):
        with await answers as connected:
            assert not connected.getblocking()
            assert connected.getpeername()[0] == "127.0.0.1"
    return loop.time() - before


@pytest.mark.parametrize("name", ["open silent", "shut open", "shut shut open"])
async def test_the_first_address_that_answers(set_times: SetTimes, name: str) -> None:
    set_times(HEAD_START=60.0)
    await seconds_until(connect_to_name(name, 3240))


async def test_a_silent_address_has_a_short_head_start(set_times: SetTimes) -> None:
    set_times(TARGET_HEAD_START=60.0)
    assert connecting.HEAD_START <= await seconds_until(connect_to(Host("a", "silent open"))) < 5


async def test_a_silent_target_has_a_longer_one(set_times: SetTimes) -> None:
    set_times(HEAD_START=0.01, TARGET_HEAD_START=0.6)
    assert await seconds_until(connect_to(service("silent silent", "open"))) >= 0.6


@pytest.mark.parametrize("first", ["shut", "shut shut", "unresolvable"])
async def test_another_target_is_tried_at_once_when_the_one_before_has_failed(
        set_times: SetTimes, first: str) -> None:
    set_times(TARGET_HEAD_START=60.0)
    await seconds_until(connect_to(service(first, "open")))


async def test_each_has_its_own_time_however_many_are_silent_before_it(set_times: SetTimes) -> None:
    set_times(HEAD_START=0.03, TARGET_HEAD_START=0.03, CONNECT_DEADLINE=0.1)
    await seconds_until(connect_to_name(" ".join(["silent"] * 8 + ["open"]), 3240))
    await seconds_until(connect_to(service(*["silent"] * 8, "open")))


async def test_a_name_that_hangs_holds_up_the_targets_after_it_no_longer_than_a_silent_one(
        set_times: SetTimes, asked: list[str]) -> None:
    set_times(TARGET_HEAD_START=0.05)
    await seconds_until(connect_to(service("hanging", "open", "hanging")))
    assert asked == ["hanging", "open"], "nobody asks for a target before its turn"


async def test_each_kind_of_failure_is_named_once(set_times: SetTimes) -> None:
    set_times(CONNECT_DEADLINE=0.1)
    for names, why in (
            ("shut shut", "connection refused"), ("shut silent", "connection refused, no answer for 0.1 s"),
            ("odd", "address family not supported by protocol"), ("", "no address to connect to")):
        with pytest.raises(UnreachableFault, match=f"^{why}$"):
            await connect_to_name(names, 3240)
    with pytest.raises(UnreachableFault, match="^connection refused, cannot resolve it$"):
        await connect_to(service("shut", "unresolvable", "shut"))


async def test_no_more_addresses_of_a_name_than_are_worth_it(set_times: SetTimes) -> None:
    with pytest.raises(UnreachableFault, match="^connection refused$"):
        await connect_to_name("shut " * connecting.MAXIMUM_ADDRESSES + "open", 3240)


async def test_no_socket_stays_open(monkeypatch: pytest.MonkeyPatch, set_times: SetTimes) -> None:
    opened: list[socket.socket] = []

    class Noted(socket.socket):
        def __init__(self, *arguments: Any, **named: Any) -> None:
            super().__init__(*arguments, **named)
            opened.append(self)

    set_times(HEAD_START=0.0, TARGET_HEAD_START=0.0)
    monkeypatch.setattr(socket, "socket", Noted)
    await seconds_until(connect_to(service("silent silent", "silent open open")))
    under_way = len(opened)
    task = asyncio.ensure_future(connect_to(service("silent", "silent silent")))
    while len(opened) < under_way + 3:
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.sleep(0)
    assert [each.fileno() for each in opened] == [-1] * len(opened)
    assert asyncio.all_tasks() == {asyncio.current_task()}
