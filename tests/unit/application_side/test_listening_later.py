"""Listening sockets over restarts, and where an address comes to be later than the daemon."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable

import pytest

from tests.unit.application_side.visitors import BOTH, Guests, connect, listener
from usbip_agent.application_side import listener as room
from usbip_agent.application_side.listener import Listeners
from usbip_agent.application_side.listening_sockets import Shelf, stored_name
from usbip_agent.service.notify import StoredDescriptor


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
