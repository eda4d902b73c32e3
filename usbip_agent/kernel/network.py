"""Noticing that the machine's network has changed in a way that may make a host reachable.

rtnetlink tells everybody of links, addresses and routes. It also repeats itself: each advertisement of a
router renews lifetimes, a driver's counters make link messages. What was said before is remembered, and only
news count. Shapes and numbers are those of include/uapi/linux/{netlink,rtnetlink,if_link,if_addr}.h.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import struct
from collections import OrderedDict
from collections.abc import Callable, Iterator

log = logging.getLogger(__name__)

SETTLING = 0.3
"""Seconds from the first news to the call: a cable that is plugged in makes a dozen messages."""

PAUSE = 1.0
"""Seconds from one call to the next, at the least: routers and container hosts have news all the time."""

REMEMBERED = 1024
"""Links, addresses and routes that are remembered. A forgotten one is news when it is repeated."""

_RTMGRP_LINK, _RTMGRP_IPV4_IFADDR, _RTMGRP_IPV4_ROUTE = 0x1, 0x10, 0x40
_RTMGRP_IPV6_IFADDR, _RTMGRP_IPV6_ROUTE = 0x100, 0x400
GROUPS = (_RTMGRP_LINK | _RTMGRP_IPV4_IFADDR | _RTMGRP_IPV6_IFADDR | _RTMGRP_IPV4_ROUTE | _RTMGRP_IPV6_ROUTE)

_HEADER = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
_TYPE = struct.Struct("=H")
_ATTRIBUTE = struct.Struct("=HH")  # rtattr: length, type
_LINK = struct.Struct("=BxHiII")  # ifinfomsg: family, type, index, flags, change
_ADDRESS = struct.Struct("=BBBBI")  # ifaddrmsg: family, prefix length, flags, scope, index
_ROUTE = struct.Struct("=BBBBBBBBI")  # rtmsg: family, 2 lengths, tos, table, protocol, scope, type, flags

_NEW_LINK, _DELETE_LINK, _NEW_ADDRESS, _DELETE_ADDRESS, _NEW_ROUTE, _DELETE_ROUTE = 16, 17, 20, 21, 24, 25

_UP_AND_RUNNING = 0x1 | 0x40  # IFF_UP | IFF_RUNNING
_IFA_ADDRESS, _IFA_LOCAL, _IFA_FLAGS = 1, 2, 8
_TENTATIVE, _OPTIMISTIC, _DAD_FAILED = 0x40, 0x04, 0x08
_RTN_OF_OUR_OWN = {2, 3, 4, 5}  # local, broadcast, anycast, multicast: they come and go with the addresses
_RTM_F_CLONED = 0x200  # an entry of the routing cache
_RTA_CACHEINFO, _RTA_EXPIRES = 12, 23

Attributes = dict[int, bytes]


class NetworkWatch:
    """Calls *on_change*, from the event loop, soon after the network has changed: once for a burst.

    Also after messages were lost. It needs no privilege. A quiet network costs nothing.
    """

    def __init__(self, on_change: Callable[[], None]) -> None:
        self._on_change = on_change
        self._news = News()
        self._due: asyncio.TimerHandle | None = None
        self._not_before = 0.0
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC,
            socket.NETLINK_ROUTE)
        try:
            self._socket.bind((0, GROUPS))
        except OSError:
            self._socket.close()
            raise
        asyncio.get_running_loop().add_reader(self._socket.fileno(), self._drain)

    def close(self) -> None:
        """Calls back no more. May be called twice."""
        if self._socket.fileno() < 0:
            return
        asyncio.get_running_loop().remove_reader(self._socket.fileno())
        self._socket.close()
        if self._due is not None:
            self._due.cancel()

    def _drain(self) -> None:
        while True:
            try:
                datagram, (sender, _) = self._socket.recvfrom(1 << 16)
            except BlockingIOError:
                return
            except OSError as error:
                # ENOBUFS; the socket has no other errors that would come again.
                log.debug("network messages were lost: %s", errno.errorcode.get(error.errno or 0, error))
                self._news.forget()
                self._call_soon()
                return
            if sender == 0 and self._news.holds(datagram):
                self._call_soon()

    def _call_soon(self) -> None:
        if self._due is None:
            loop = asyncio.get_running_loop()
            self._due = loop.call_at(max(loop.time() + SETTLING, self._not_before), self._call)

    def _call(self) -> None:
        self._due = None
        self._not_before = asyncio.get_running_loop().time() + PAUSE
        self._on_change()


class News:
    """Tells what is new from what was said before. Pure."""

    def __init__(self) -> None:
        self._known: OrderedDict[bytes, bytes] = OrderedDict()

    def forget(self) -> None:
        """Messages were lost: whatever is said next is new."""
        self._known.clear()

    def holds(self, datagram: bytes) -> bool:
        """Whether *datagram* tells of anything that may make a host reachable. What is cut off may."""
        try:
            return any([self._is_news(kind, body) for kind, body in _messages(datagram)])
        except struct.error:
            return True

    def _is_news(self, kind: int, body: bytes) -> bool:
        if kind in (_NEW_LINK, _DELETE_LINK):
            return self._is_link_news(kind, body)
        if kind in (_NEW_ADDRESS, _DELETE_ADDRESS):
            return self._is_address_news(kind, body)
        return kind in (_NEW_ROUTE, _DELETE_ROUTE) and self._is_route_news(kind, body)

    def _is_link_news(self, kind: int, body: bytes) -> bool:
        family, _, index, flags, _ = _LINK.unpack_from(body)
        if family:
            return False  # a bridge's or IPv6's view of the link
        usable = kind == _NEW_LINK and flags & _UP_AND_RUNNING == _UP_AND_RUNNING
        return self._learn(b"link %d" % index, b"usable" if usable else b"") and usable

    def _is_address_news(self, kind: int, body: bytes) -> bool:
        family, length, flags, _, index = _ADDRESS.unpack_from(body)
        attributes = _attributes(body[_ADDRESS.size:])
        if _IFA_FLAGS in attributes:
            [flags] = struct.unpack_from("=I", attributes[_IFA_FLAGS])
        address = attributes.get(_IFA_LOCAL) or attributes.get(_IFA_ADDRESS) or b""
        # Nothing can be sent from a tentative address. That it is one no longer is told by another message.
        unfinished = flags & _DAD_FAILED or flags & (_TENTATIVE | _OPTIMISTIC) == _TENTATIVE
        usable = kind == _NEW_ADDRESS and not unfinished
        what = b"address %d %d %d " % (index, family, length) + address
        return self._learn(what, b"usable" if usable else b"") and usable

    def _is_route_news(self, kind: int, body: bytes) -> bool:
        *head, kind_of_route, flags = _ROUTE.unpack_from(body)
        if kind_of_route in _RTN_OF_OUR_OWN or flags & _RTM_F_CLONED:
            return False
        attributes = _attributes(body[_ROUTE.size:])
        told = b"".join(_TYPE.pack(number) + value for number, value in sorted(attributes.items())
                        if number not in (_RTA_CACHEINFO, _RTA_EXPIRES))
        # A way less may mean another way: a removed route is as good as a new one.
        return self._learn(b"route " + bytes(head) + told, b"usable" if kind == _NEW_ROUTE else b"")

    def _learn(self, what: bytes, state: bytes) -> bool:
        """Whether the *state* (empty: not there) of *what* has changed, as far as is known."""
        before = self._known.pop(what, None)
        if state:
            self._known[what] = state
            if len(self._known) > REMEMBERED:
                self._known.popitem(last=False)
        return before != state


def _messages(datagram: bytes) -> Iterator[tuple[int, bytes]]:
    offset = 0
    while offset < len(datagram):
        length, kind, *_ = _HEADER.unpack_from(datagram, offset)
        if not _HEADER.size <= length <= len(datagram) - offset:
            raise struct.error("cut off")
        yield kind, datagram[offset + _HEADER.size:offset + length]
        offset += length + 3 & ~3


def _attributes(data: bytes) -> Attributes:
    found: Attributes = {}
    offset = 0
    while offset + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, offset)
        if length < _ATTRIBUTE.size:
            break
        found[kind & 0x3FFF] = data[offset + _ATTRIBUTE.size:offset + length]
        offset += length + 3 & ~3
    return found
