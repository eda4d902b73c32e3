"""Listening sockets: which, how they survive a reload, and what strangers can cost."""

from __future__ import annotations

import asyncio
import errno
import socket

import pytest

from tests.unit.application_side.visitors import BOTH, Guests, connect, hung_up, listener
from usbip_agent.application_side import listener as room
from usbip_agent.application_side.listener import Listeners
from usbip_agent.application_side.listening_sockets import Shelf, addresses_of, open_sockets
from usbip_agent.application_side.room import Room, origin_of
from usbip_agent.errors import UnavailableFault
from usbip_agent.policy.usbipa import Listener, ListenerTransport


@pytest.mark.parametrize("address, versions, bound", [
    ("*", (4, 6), ("0.0.0.0", "::")), ("*", (4,), ("0.0.0.0",)), ("*", (6,), ("::",)),
    ("10.9.0.1", (4, 6), ("10.9.0.1",)), ("10.9.0.1", (6,), ()), ("2001:db8::7", (6,), ("2001:db8::7",))])
def test_the_star_is_both_families(address: str, versions: tuple[int, ...], bound: tuple[str, ...]) -> None:
    assert addresses_of(listener(address), versions) == bound


def test_the_star_listens_on_both_without_a_clash() -> None:
    sockets = open_sockets(listener("*"), BOTH, Shelf())
    families = {each.family for each in sockets}
    for each in sockets:
        each.close()
    assert socket.AF_INET in families and len(families) == len(sockets)


def test_an_address_that_comes_up_later_can_be_listened_on() -> None:
    [bound] = open_sockets(listener("192.0.2.77"), BOTH, Shelf())
    bound.close()


def test_a_machine_without_ipv6_listens_on_ipv4() -> None:
    class OnlyIpv4(Shelf):
        def take(self, address: str, port: int) -> socket.socket:
            if ":" in address:
                raise OSError(errno.EAFNOSUPPORT, "no IPv6")
            return super().take(address, port)

    [bound] = open_sockets(listener("*"), BOTH, OnlyIpv4())
    bound.close()
    with pytest.raises(UnavailableFault):
        open_sockets(listener("*"), (6,), OnlyIpv4())


def test_a_taken_port_is_said_with_a_cure() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(UnavailableFault, match="something else does.*usbipd.*another port"):
            open_sockets(listener(port=other.getsockname()[1]), BOTH, Shelf())


async def test_a_connection_is_served(listeners: Listeners, guests: Guests) -> None:
    where = listener()
    listeners.configure([where])
    listeners.start()
    with await connect(where):
        await asyncio.wait_for(guests.arrived.wait(), 5)
    assert listeners.listening == (where,)


async def test_before_the_start_connections_wait(listeners: Listeners, guests: Guests) -> None:
    where = listener()
    listeners.configure([where])
    with await connect(where):
        await asyncio.sleep(0)
        assert not guests.inside
        listeners.start()
        await asyncio.wait_for(guests.arrived.wait(), 5)


async def test_a_reload_keeps_sockets_and_connections(listeners: Listeners, guests: Guests) -> None:
    stays, goes, comes = listener(), listener(), listener()
    listeners.configure([stays, goes])
    listeners.start()
    sockets = listeners._open[stays]
    with await connect(stays):
        await asyncio.wait_for(guests.arrived.wait(), 5)
        listeners.configure([stays, comes])
        assert listeners._open[stays] is sockets and listeners.listening == (stays, comes)
        assert guests.inside[0].fileno() >= 0
        with pytest.raises(ConnectionRefusedError):
            await connect(goes)
        (await connect(comes)).close()


async def test_other_transports_on_a_place_keep_its_socket(listeners: Listeners, guests: Guests) -> None:
    before = listener()
    after = Listener(before.address, before.port, frozenset({ListenerTransport.TLS}))
    listeners.configure([before])
    listeners.start()
    sockets = listeners._open[before]
    listeners.configure([after])
    assert listeners._open == {after: sockets}
    with await connect(after):
        await asyncio.wait_for(guests.arrived.wait(), 5)


async def test_all_addresses_can_become_one(listeners: Listeners) -> None:
    before = listener("*")
    after = listener("127.0.0.1", before.port)
    listeners.configure([before])
    listeners.configure([after])
    assert listeners.listening == (after,)


async def test_a_failed_reload_changes_nothing(listeners: Listeners, guests: Guests) -> None:
    before = listener("*")
    listeners.configure([before])
    listeners.start()
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(UnavailableFault):
            listeners.configure([listener("127.0.0.1", before.port), listener(port=other.getsockname()[1])])
    assert listeners.listening == (before,)
    with await connect(before):
        await asyncio.wait_for(guests.arrived.wait(), 5)


async def test_a_stranger_who_is_silent_longest_leaves_for_the_next(
        listeners: Listeners, guests: Guests, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listeners, "_room", Room(maximum_per_origin=2))
    where = listener()
    listeners.configure([where])
    listeners.start()
    first, second, third = [await connect(where) for _ in range(3)]
    assert await hung_up(first)
    guests.let_go.set()
    for each in (first, second, third):
        assert await hung_up(each)
        each.close()
    guests.arrived.clear()
    with await connect(where):
        await asyncio.wait_for(guests.arrived.wait(), 5)


async def test_without_descriptors_it_pauses(
        listeners: Listeners, guests: Guests, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "PAUSE_WHEN_EXHAUSTED", 0.001)
    loop = asyncio.get_running_loop()
    real, failures = loop.sock_accept, [errno.EMFILE, errno.ECONNABORTED, errno.ENFILE]

    async def accept(listening: socket.socket) -> tuple[socket.socket, object]:
        if failures:
            raise OSError(failures.pop(), "no")
        return await real(listening)

    monkeypatch.setattr(loop, "sock_accept", accept)
    where = listener()
    listeners.configure([where])
    listeners.start()
    with await connect(where):
        await asyncio.wait_for(guests.arrived.wait(), 5)


def test_a_stranger_is_an_address_or_a_network() -> None:
    assert origin_of("10.9.0.7") == "10.9.0.7"
    assert origin_of("2001:db8::7") == origin_of("2001:db8::ffff:8") == "2001:db8::/64"
    assert origin_of("fe80::1%eth0") == "fe80::/64"


async def test_a_flood_is_one_line_and_not_one_for_each(
        listeners: Listeners, guests: Guests, monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(listeners, "_room", Room(maximum_per_origin=1))
    where = listener()
    listeners.configure([where])
    listeners.start()
    peers = [await connect(where) for _ in range(8)]
    for each in peers[:-1]:
        assert await hung_up(each)
    assert len([line for line in caplog.messages if "too many strangers" in line]) == 1
    for each in peers:
        each.close()
