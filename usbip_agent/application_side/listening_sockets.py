"""Opening listening sockets, and finding those that an earlier process left with systemd.

While usbipa is restarted its sockets go on listening: who dials then is queued, and not refused.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from typing import Protocol

from usbip_agent.errors import Fault, UnavailableFault
from usbip_agent.policy.usbipa import Listener
from usbip_agent.service.notify import StoredDescriptor
from usbip_agent.transport.stream import shut_down

BACKLOG = 1024

STORED_PREFIX = "listen-"

_IP_FREEBIND, _IPV6_FREEBIND = 15, 78
"""include/uapi/linux/in.h, in6.h. A configured address may come up after us."""

_FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}

Place = tuple[str, int, int]
"""Address, port, and the index of the interface that a link-local address is on, else 0."""


class DescriptorStore(Protocol):
    """What is needed of systemd (``service.notify.Notifier``)."""

    def store(self, name: str, descriptor: int) -> None: ...
    def forget(self, name: str) -> None: ...


class Shelf:
    """Listening sockets, each left with systemd while it is open; and those that were there before us."""

    def __init__(self, store: DescriptorStore | None = None) -> None:
        self._store = store
        self._found: dict[Place, socket.socket] = {}

    def put(self, stored: Iterable[StoredDescriptor]) -> None:
        """Takes what an earlier process left; what is no listening socket is closed."""
        for each in stored:
            found = socket.socket(fileno=each.descriptor)
            try:
                is_listening = bool(found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
                place = _place_of(found)
            except (OSError, TypeError, IndexError):
                is_listening, place = False, ("", 0, 0)
            if not is_listening or place in self._found:
                found.close()
                continue
            found.setblocking(False)
            self._found[place] = found

    def make_way(self, wanted: Collection[Place]) -> None:
        """Closes what was found beside *wanted* on their ports: one address and all exclude each other.

        The configuration was changed before the restart, and it is we who would be in our own way.
        """
        ports = {port for _, port, _ in wanted}
        beside = [place for place in self._found if place[1] in ports and place not in wanted]
        self.close([self._found.pop(place) for place in beside])

    def take(self, address: str, port: int) -> socket.socket:
        """A non-blocking socket that listens there, found or opened. OSError as ``place_at``."""
        place = place_at(address, port)
        listening = self._found.pop(place, None) or _open_socket(place)
        if self._store is not None:
            self._store.store(stored_name(listening), listening.fileno())
        return listening

    def close(self, sockets: Iterable[socket.socket]) -> None:
        """Listens there no more, after a restart neither.

        systemd has a copy, and takes its time to close it: shut down, that is in nobody's way meanwhile.
        """
        for each in sockets:
            if self._store is not None:
                self._store.forget(stored_name(each))
            shut_down(each)
            each.close()

    def drop_rest(self) -> None:
        """Closes what was found and is not wanted any more."""
        self.close(self._found.values())
        self._found.clear()


def stored_name(listening: socket.socket) -> str:
    """The name of a listening socket in systemd's store: ASCII without colons."""
    address, port, interface = _place_of(listening)
    scope = f"%{interface}" if interface else ""
    return f"{STORED_PREFIX}{address.replace(':', '_')}{scope}-{port}"


def place_at(address: str, port: int) -> Place:
    """Where to bind for an *address* as the configuration has it. OSError ENODEV without its interface."""
    bare, _, interface = address.partition("%")
    if not interface or interface.isdecimal():
        return bare, port, int(interface or 0)
    try:
        return bare, port, socket.if_nametoindex(interface)
    except OSError:
        raise OSError(errno.ENODEV, f"no interface {interface}") from None


def _place_of(bound: socket.socket) -> Place:
    name = bound.getsockname()
    return name[0], name[1], name[3] if len(name) > 2 else 0


def addresses_of(listener: Listener, versions: Iterable[int]) -> tuple[str, ...]:
    """The addresses to bind for *listener*: two for ``*``. Those of other IP *versions* are left out."""
    addresses = ("0.0.0.0", "::") if listener.address == "*" else (listener.address,)
    return tuple(each for each in addresses if _version(each) in versions)


def places_of(listener: Listener, versions: Iterable[int]) -> Iterator[Place]:
    """The places to bind for *listener*, as far as their interfaces are there."""
    for address in addresses_of(listener, versions):
        with suppress(OSError):
            yield place_at(address, listener.port)


def _version(address: str) -> int:
    return ipaddress.ip_address(address).version


def open_sockets(listener: Listener, versions: Iterable[int], shelf: Shelf) -> list[socket.socket]:
    """The listening sockets of *listener*, non-blocking. UnavailableFault that says what is in the way.

    Of ``*`` one family may be missing on this machine (ipv6.disable=1), not both. Without the interface of a
    link-local address there is none: as other addresses, it may come later.
    """
    opened: list[socket.socket] = []
    missing: OSError | None = None
    for address in addresses_of(listener, versions):
        try:
            opened.append(shelf.take(address, listener.port))
        except OSError as error:
            if listener.address == "*" and error.errno in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
                missing = error
                continue
            if error.errno == errno.ENODEV:
                continue
            shelf.close(opened)
            raise _cannot_listen(address, listener.port, error) from None
    if missing is not None and not opened:
        raise _cannot_listen(listener.address, listener.port, missing)
    return opened


def _open_socket(place: Place) -> socket.socket:
    address, port, interface = place
    version = _version(address)
    bound = socket.socket(_FAMILIES[version], socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if version == 6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            bound.setsockopt(socket.IPPROTO_IPV6, _IPV6_FREEBIND, 1)
        else:
            bound.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)
        bound.bind((address, port, 0, interface) if version == 6 else (address, port))
        bound.listen(BACKLOG)
    except BaseException:
        bound.close()
        raise
    return bound


def _cannot_listen(address: str, port: int, error: OSError) -> Fault:
    if error.errno == errno.EADDRINUSE:
        return UnavailableFault(
            f"cannot listen on {address} port {port}: something else does",
            hint=f"stop it (usbipd, another usbipa: ss -tlnp 'sport = {port}'), or configure another port")
    return UnavailableFault(f"cannot listen on {address} port {port}: {os.strerror(error.errno or 0)}")
