"""What of rtnetlink's messages is news."""

from __future__ import annotations

import socket
import struct

from hypothesis import given, strategies

from usbip_agent.kernel.network import REMEMBERED, News

NEW_LINK, DELETE_LINK, NEW_ADDRESS, DELETE_ADDRESS = 16, 17, 20, 21
NEW_ROUTE, DELETE_ROUTE, NEW_NEIGHBOUR = 24, 25, 28
UP, RUNNING, TENTATIVE, DEPRECATED, PERMANENT = 0x1, 0x40, 0x40, 0x20, 0x80
UNICAST, LOCAL, MULTICAST, CLONED = 1, 2, 5, 0x200


def message(kind: int, body: bytes) -> bytes:
    return struct.pack("=IHHII", 16 + len(body), kind, 0, 0, 0) + body + b"\0" * (-len(body) % 4)


def attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + b"\0" * (-len(value) % 4)


def link(flags: int, *, kind: int = NEW_LINK, index: int = 2, counters: bytes = b"",
         family: int = 0) -> bytes:
    return message(kind, struct.pack("=BxHiII", family, 1, index, flags, 0) + attribute(23, counters))


def address(text: str, flags: int = PERMANENT, *, kind: int = NEW_ADDRESS, lifetime: int = 600) -> bytes:
    packed = socket.inet_pton(socket.AF_INET6, text)
    return message(kind, struct.pack("=BBBBI", socket.AF_INET6, 64, flags & 0xFF, 0, 2)
                   + attribute(1, packed) + attribute(6, struct.pack("=IIII", lifetime, lifetime, 0, 0))
                   + attribute(8, struct.pack("=I", flags)))


def route(gateway: str, *, kind: int = NEW_ROUTE, sort: int = UNICAST, flags: int = 0,
          expires: int = 0) -> bytes:
    return message(kind, struct.pack("=BBBBBBBBI", socket.AF_INET6, 0, 0, 0, 254, 9, 0, sort, flags)
                   + attribute(5, socket.inet_pton(socket.AF_INET6, gateway))
                   + attribute(12, struct.pack("=I", expires)) + attribute(23, struct.pack("=I", expires)))


def test_a_link_that_comes_up_is_news_once() -> None:
    news = News()
    assert not news.holds(link(UP))
    assert news.holds(link(UP | RUNNING))
    assert not news.holds(link(UP | RUNNING, counters=b"4711"))
    assert not news.holds(link(UP))
    assert news.holds(link(UP | RUNNING | 0x1000))
    assert not news.holds(link(UP | RUNNING, kind=DELETE_LINK))
    assert news.holds(link(UP | RUNNING, index=3))


def test_another_view_of_a_link_is_no_news() -> None:
    assert not News().holds(link(UP | RUNNING, family=socket.AF_BRIDGE))
    assert not News().holds(link(UP | RUNNING, family=socket.AF_INET6))


def test_an_address_is_news_when_it_can_be_used() -> None:
    news = News()
    assert not news.holds(address("2001:db8::7", TENTATIVE))
    assert news.holds(address("2001:db8::7"))
    assert not news.holds(address("2001:db8::7", lifetime=1200))
    assert not news.holds(address("2001:db8::7", DEPRECATED))
    assert not news.holds(address("2001:db8::7", kind=DELETE_ADDRESS))
    assert news.holds(address("2001:db8::7"))
    assert news.holds(address("2001:db8::8", TENTATIVE | 0x04)), "an optimistic one can be used at once"
    assert not news.holds(address("2001:db8::9", 0x08)), "somebody else has it"


def test_a_route_is_news_when_it_comes_and_when_it_goes() -> None:
    news = News()
    assert news.holds(route("fe80::1", expires=1800))
    assert not news.holds(route("fe80::1", expires=1790))
    assert news.holds(route("fe80::2"))
    assert news.holds(route("fe80::1", kind=DELETE_ROUTE))
    assert news.holds(route("fe80::1"))


def test_routes_that_lead_nowhere_else_are_no_news() -> None:
    news = News()
    assert not news.holds(route("fe80::1", sort=LOCAL))
    assert not news.holds(route("ff02::1", sort=MULTICAST))
    assert not news.holds(route("fe80::1", flags=CLONED))


def test_neighbours_are_no_news() -> None:
    assert not News().holds(message(NEW_NEIGHBOUR, bytes(64)))


def test_all_messages_of_a_datagram_are_learned() -> None:
    news = News()
    assert news.holds(link(UP) + link(UP | RUNNING, index=3) + address("2001:db8::7"))
    assert not news.holds(link(UP | RUNNING, index=3) + address("2001:db8::7"))


def test_after_a_loss_everything_is_news_again() -> None:
    news = News()
    assert news.holds(link(UP | RUNNING))
    news.forget()
    assert news.holds(link(UP | RUNNING))


def test_what_is_cut_off_may_be_news() -> None:
    assert News().holds(link(UP)[:20])
    assert News().holds(link(UP) + b"\0\0")
    assert News().holds(struct.pack("=IHHII", 0, NEW_LINK, 0, 0, 0))


def test_memory_is_bounded() -> None:
    news = News()
    for index in range(3 * REMEMBERED):
        assert news.holds(link(UP | RUNNING, index=index))
    assert len(news._known) == REMEMBERED


@given(strategies.binary(max_size=200), strategies.sampled_from(range(16, 32)))
def test_any_bytes_are_taken(noise: bytes, kind: int) -> None:
    news = News()
    news.holds(noise)
    news.holds(message(kind, noise))


def test_attributes_of_any_number_are_told_apart() -> None:
    news = News()
    head = struct.pack("=BBBBBBBBI", socket.AF_INET6, 0, 0, 0, 254, 9, 0, UNICAST, 0)
    first, second = (message(NEW_ROUTE, head + attribute(kind, b"same")) for kind in (44, 300))
    assert news.holds(first) and news.holds(second)
