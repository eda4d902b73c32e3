"""Listening sockets: which, how they survive a reload, and what strangers can cost."""

from __future__ import annotations

import asyncio
import errno
import os
import random
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import suppress

import pytest

from usbip_agent.application_side import listener as room
from usbip_agent.application_side.listener import Listeners
from usbip_agent.application_side.listening_sockets import (
    Shelf, addresses_of, open_sockets, stored_name)
from usbip_agent.application_side.room import Room, origin_of
from usbip_agent.errors import UnavailableFault
from usbip_agent.policy.usbipa import Listener, ListenerTransport
from usbip_agent.service.notify import StoredDescriptor

PLAIN = frozenset({ListenerTransport.PLAIN})
BOTH = (4, 6)


def free_port() -> int:
    """Below those that the kernel gives away: nobody can come by it in between by chance."""
    while True:
        port = random.randrange(10_000, 32_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def listener(address: str = "127.0.0.1", port: int = 0) -> Listener:
    return Listener(address, port or free_port(), PLAIN)


class Guests:
    """Serves connections by holding them until they are let go."""

    def __init__(self) -> None:
        self.inside: list[socket.socket] = []
        self.arrived = asyncio.Event()
        self.let_go = asyncio.Event()

    async def serve(self, connection: socket.socket, _listener: Listener) -> None:
        self.inside.append(connection)
        self.arrived.set()
        try:
            await self.let_go.wait()
        finally:
            connection.close()


@pytest.fixture
def guests() -> Guests:
    return Guests()


@pytest.fixture
async def listeners(guests: Guests) -> AsyncIterator[Listeners]:
    made = Listeners(guests.serve)
    yield made
    await made.close()


async def connect(where: Listener) -> socket.socket:
    made = socket.socket()
    made.setblocking(False)
    try:
        await asyncio.get_running_loop().sock_connect(made, ("127.0.0.1", where.port))
    except BaseException:
        made.close()
        raise
    return made


async def hung_up(connection: socket.socket) -> bool:
    try:
        return await asyncio.wait_for(asyncio.get_running_loop().sock_recv(connection, 1), 5) == b""
    except ConnectionResetError:
        return True


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


class Store:
    """systemd's store: dups by name."""

    def __init__(self) -> None:
        self.kept: dict[str, int] = {}

    def store(self, name: str, descriptor: int) -> None:
        self.kept[name] = os.dup(descriptor)

    def forget(self, name: str) -> None:
        os.close(self.kept.pop(name))

    def passed_on(self) -> list[StoredDescriptor]:
        return [StoredDescriptor(name, descriptor) for name, descriptor in self.kept.items()]


async def test_who_dials_during_a_restart_is_queued_and_not_refused(guests: Guests) -> None:
    store, where = Store(), listener()
    before = Listeners(guests.serve, (4,), Shelf(store))
    before.configure([where])
    before.start()
    await before.close()
    with await connect(where):
        shelf = Shelf(Store())
        shelf.put(store.passed_on())
        after = Listeners(guests.serve, (4,), shelf)
        after.configure([where])
        after.start()
        await asyncio.wait_for(guests.arrived.wait(), 5)
        guests.let_go.set()
        await after.close()


async def test_a_socket_that_is_not_wanted_any_more_is_closed_at_the_next_start(guests: Guests) -> None:
    store, where = Store(), listener()
    before = Listeners(guests.serve, (4,), Shelf(store))
    before.configure([where])
    await before.close()
    shelf = Shelf()
    shelf.put(store.passed_on())
    after = Listeners(guests.serve, (4,), shelf)
    after.configure([])
    after.start()
    with pytest.raises(ConnectionRefusedError):
        await connect(where)
    await after.close()


@pytest.mark.parametrize("first, second", [("*", "127.0.0.1"), ("127.0.0.1", "*"), ("*", "0.0.0.0")])
async def test_an_address_that_was_changed_before_a_restart_is_listened_on(
        guests: Guests, monkeypatch: pytest.MonkeyPatch, first: str, second: str) -> None:
    """What systemd hands back excludes it, and systemd is slow to close its own copy."""
    store, before = Store(), listener(first)
    old = Listeners(guests.serve, BOTH, Shelf(store))
    old.configure([before])
    await old.close()
    shelf = Shelf(store)
    shelf.put([StoredDescriptor(each.name, os.dup(each.descriptor)) for each in store.passed_on()])
    busy, closed = store.forget, list[str]()
    monkeypatch.setattr(store, "forget", closed.append)
    new = Listeners(guests.serve, BOTH, shelf)
    new.configure([listener(second, before.port)])
    new.start()
    assert closed and new.listening
    for name in closed:
        busy(name)
    assert {stored_name(each) for sockets in new._open.values() for each in sockets} == store.kept.keys()
    with await connect(before):
        await asyncio.wait_for(guests.arrived.wait(), 5)
    guests.let_go.set()
    await new.close()
    for name in tuple(store.kept):
        busy(name)


async def test_a_link_local_address_is_listened_on_and_kept_over_a_restart(guests: Guests) -> None:
    store, where = Store(), listener("fe80::1%lo")
    before = Listeners(guests.serve, BOTH, Shelf(store))
    before.configure([where])
    [bound] = before._open[where]
    index = socket.if_nametoindex("lo")
    assert bound.getsockname() == ("fe80::1", where.port, 0, index)
    assert list(store.kept) == [f"listen-fe80__1%{index}-{where.port}"]
    await before.close()
    [kept] = store.passed_on()
    shelf = Shelf()
    shelf.put([kept])
    after = Listeners(guests.serve, BOTH, shelf)
    after.configure([where])
    assert after._open[where][0].fileno() == kept.descriptor
    await after.close()


class Network:
    """A NetworkWatch that has news when the test says so."""

    def __init__(self, on_change: Callable[[], None]) -> None:
        self.tell = on_change
        self.is_watched = True

    def close(self) -> None:
        self.is_watched = False


async def test_an_interface_may_come_later(
        guests: Guests, listeners: Listeners, monkeypatch: pytest.MonkeyPatch) -> None:
    there: dict[str, int] = {}
    networks: list[Network] = []

    def index_of(name: str) -> int:
        if name not in there:
            raise OSError("no interface with this name")
        return there[name]

    def watch(on_change: Callable[[], None]) -> Network:
        networks.append(Network(on_change))
        return networks[-1]

    monkeypatch.setattr(room, "NetworkWatch", watch)
    monkeypatch.setattr("socket.if_nametoindex", index_of)
    now, later = listener(), listener("fe80::1%eth7")
    listeners.configure([now, later])
    listeners.start()
    listeners.configure([now, later])
    [network] = networks
    network.tell()
    assert listeners.listening == (now,) and network.is_watched
    there["eth7"] = 1
    network.tell()
    [opened] = listeners._open[later]
    assert opened in listeners._accepting and not network.is_watched


async def test_an_interface_may_come_before_it_is_watched_for(
        listeners: Listeners, monkeypatch: pytest.MonkeyPatch) -> None:
    there = [OSError("no interface with this name")]

    def index_of(name: str) -> int:
        if there:
            raise there.pop()
        return 1

    monkeypatch.setattr(room, "NetworkWatch", Network)
    monkeypatch.setattr("socket.if_nametoindex", index_of)
    later = listener("fe80::1%eth7")
    monkeypatch.setattr(room, "places_of", lambda *_arguments: ())
    listeners.configure([later])
    await asyncio.sleep(0)
    assert listeners.listening == (later,)


async def test_what_a_reload_closes_is_not_kept_for_the_next_start(guests: Guests) -> None:
    store, first, second = Store(), listener(), listener()
    listeners = Listeners(guests.serve, (4,), Shelf(store))
    listeners.configure([first, second])
    listeners.start()
    assert len(store.kept) == 2
    listeners.configure([second])
    assert len(store.kept) == 1
    await listeners.close()
    shelf = Shelf()
    shelf.put(store.passed_on())
    after = Listeners(guests.serve, (4,), shelf)
    with pytest.raises(ConnectionRefusedError):
        await connect(first)
    peer = await connect(second)
    peer.close()
    shelf.drop_rest()
    await after.close()


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
