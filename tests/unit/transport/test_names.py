"""Names and their addresses."""

from __future__ import annotations

import socket
import threading
from typing import Any

import pytest

from usbip_agent.errors import UnreachableFault
from usbip_agent.policy.hosts import Host
from usbip_agent.policy.proxy import Proxy
from usbip_agent.policy.transports import Transport
from usbip_agent.transport import names
from usbip_agent.transport.names import Endpoint, dialled, endpoints_of, endpoints_of_name
from usbip_agent.transport.services import ServiceRecord

PLAIN = Transport.PLAIN


@pytest.mark.parametrize("host, place", [
    (Host("a", "lab.example.net", 3241), ("lab.example.net", 3241)),
    (Host("a", url="wss://lab.example.net/usbip", transport=Transport.WSS), ("lab.example.net", 443)),
    (Host("a", url="wss://[2001:db8::7]:8443/", transport=Transport.WSS), ("2001:db8::7", 8443)),
    (Host("a", "lab.example.net", proxy=Proxy("proxy.example.net", 3128)), ("proxy.example.net", 3128)),
])
def test_what_is_dialled(host: Host, place: tuple[str, int]) -> None:
    assert dialled(host) == place


async def test_an_address_is_its_own_endpoint() -> None:
    assert await endpoints_of(Host("a", "127.0.0.1", 3240)) == (
        Endpoint("127.0.0.1", 3240, socket.AF_INET, ("127.0.0.1", 3240), "127.0.0.1"),)
    (six,) = await endpoints_of(Host("a", "fe80::1%lo", 3240))
    assert (six.family, six.sockaddr[1], six.sockaddr[3]) == (socket.AF_INET6, 3240, 1)


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[Any]]:
    """What getaddrinfo knows: a name's addresses, or what it raises."""
    known: dict[str, list[Any]] = {}

    def getaddrinfo(name: str, port: int, **wanted: int) -> list[Any]:
        assert wanted == {"type": socket.SOCK_STREAM, "proto": socket.IPPROTO_TCP}
        found = known.get(name, [socket.gaierror(-2, "Name or service not known")])
        if isinstance(found[0], Exception):
            raise found[0]
        return [(socket.AF_INET6 if ":" in each else socket.AF_INET, socket.SOCK_STREAM, 6, "",
                 (each, port, 0, 0) if ":" in each else (each, port)) for each in found]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return known


async def test_every_address_in_the_resolvers_order(answers: dict[str, list[Any]]) -> None:
    answers["lab"] = ["2001:db8::7", "192.0.2.7", "2001:db8::7"]
    found = await endpoints_of(Host("a", "lab", 3240))
    assert [(each.address, each.port, each.name) for each in found] == [
        ("2001:db8::7", 3240, "lab"), ("192.0.2.7", 3240, "lab")]


@pytest.mark.parametrize("raised, why", [
    (socket.gaierror(-2, "Name or service not known"), "cannot resolve lab: Name or service not known"),
    (UnicodeError("label too long"), "cannot resolve lab: label too long"),
    (OSError(24, "Too many open files"), "Too many open files"),
])
async def test_a_name_that_is_not_resolved(
        answers: dict[str, list[Any]], raised: Exception, why: str) -> None:
    answers["lab"] = [raised]
    with pytest.raises(UnreachableFault, match=why):
        await endpoints_of(Host("a", "lab"))


async def test_a_resolver_that_hangs_costs_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, released = [], threading.Event()

    def getaddrinfo(name: str, *_: object, **__: object) -> list[Any]:
        asked.append(name)
        released.wait(10)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    monkeypatch.setattr(names, "RESOLVE_DEADLINE", 0.05)
    for _ in range(3):
        with pytest.raises(UnreachableFault, match="cannot resolve lab: no answer"):
            await endpoints_of_name("lab", 3240)
    assert asked == ["lab"]
    released.set()


async def test_targets_of_a_service(answers: dict[str, list[Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    async def service_records(name: str) -> frozenset[ServiceRecord]:
        assert name == "_usbipa._tcp.example.net"
        return frozenset({ServiceRecord(10, 0, 3240, "a"), ServiceRecord(20, 0, 3241, "b")})

    monkeypatch.setattr(names, "service_records", service_records)
    host = Host("a", "srv:_usbipa._tcp.example.net", transport=PLAIN)
    with pytest.raises(UnreachableFault, match="cannot resolve a: .*; cannot resolve b: "):
        await endpoints_of(host)
    answers["b"] = ["192.0.2.8"]
    assert [(each.name, each.address, each.port) for each in await endpoints_of(host)] == [
        ("b", "192.0.2.8", 3241)]
    answers["a"] = ["2001:db8::7", "192.0.2.7"]
    assert [(each.name, each.port) for each in await endpoints_of(host)] == [
        ("a", 3240), ("a", 3240), ("b", 3241)]
