"""Listening sockets, and the accept loop: a task for each connection, bounds on what strangers can cost."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Iterable
from functools import partial

from usbip_agent.application_side.room import Room, origin_of
from usbip_agent.errors import Fault, UnavailableFault
from usbip_agent.policy.usbipa import Listener

log = logging.getLogger(__name__)

BACKLOG = 1024

PAUSE_WHEN_EXHAUSTED = 1.0
"""Seconds without accepting when file descriptors have run out: they come back as negotiations end."""

_IP_FREEBIND, _IPV6_FREEBIND = 15, 78
"""include/uapi/linux/in.h, in6.h. A configured address may come up after us."""

_FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}

Serve = Callable[[socket.socket, Listener], Awaitable[None]]
"""Negotiates on a connected, non-blocking socket, which is the callee's to close."""


def addresses_of(listener: Listener, versions: Iterable[int]) -> tuple[str, ...]:
    """The addresses to bind for *listener*: two for ``*``. Those of other IP *versions* are left out."""
    addresses = ("0.0.0.0", "::") if listener.address == "*" else (listener.address,)
    return tuple(each for each in addresses if _version(each) in versions)


def _version(address: str) -> int:
    return ipaddress.ip_address(address).version


def open_sockets(listener: Listener, versions: Iterable[int]) -> list[socket.socket]:
    """The listening sockets of *listener*, non-blocking. UnavailableFault that says what is in the way.

    Of ``*`` one family may be missing on this machine (ipv6.disable=1), not both.
    """
    opened: list[socket.socket] = []
    missing: OSError | None = None
    for address in addresses_of(listener, versions):
        try:
            opened.append(_open_socket(address, listener.port))
        except OSError as error:
            if listener.address == "*" and error.errno in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
                missing = error
                continue
            _close_all(opened)
            raise _cannot_listen(address, listener.port, error) from None
    if missing is not None and not opened:
        raise _cannot_listen(listener.address, listener.port, missing)
    return opened


def _open_socket(address: str, port: int) -> socket.socket:
    version = _version(address)
    bound = socket.socket(_FAMILIES[version], socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if version == 6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            bound.setsockopt(socket.IPPROTO_IPV6, _IPV6_FREEBIND, 1)
        else:
            bound.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)
        bound.bind((address, port))
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


def _place(listener: Listener) -> tuple[str, int]:
    return listener.address, listener.port


def _close_all(sockets: Iterable[socket.socket]) -> None:
    for each in sockets:
        each.close()


class Listeners:
    """All listening sockets, and the connections that are being negotiated."""

    def __init__(self, serve: Serve, versions: Iterable[int] = (4, 6)) -> None:
        self._serve = serve
        self._versions = frozenset(versions)
        self._open: dict[Listener, list[socket.socket]] = {}
        self._accepting: dict[socket.socket, asyncio.Task[None]] = {}
        self._negotiating: set[asyncio.Task[None]] = set()
        self._room: Room[asyncio.Task[None]] = Room()
        self._started = False

    @property
    def listening(self) -> tuple[Listener, ...]:
        return tuple(listener for listener, sockets in self._open.items() if sockets)

    def configure(self, wanted: Iterable[Listener]) -> None:
        """Listens where *wanted* says and nowhere else; sockets whose place stays are not touched.

        A Fault leaves everything as it was.
        """
        wanted = tuple(wanted)
        new = [each for each in wanted if each not in self._open]
        old = {_place(each): each for each in self._open if each not in wanted}
        kept = {each: self._open[old.pop(_place(each))] for each in new if _place(each) in old}
        to_open = [each for each in new if each not in kept]
        # On one port the new one (an address) and the old one (all addresses) exclude each other.
        in_the_way = [each for each in old.values() if any(each.port == other.port for other in to_open)]
        for each in in_the_way:
            self._shut(each)
        opened: dict[Listener, list[socket.socket]] = {}
        try:
            for each in to_open:
                opened[each] = open_sockets(each, self._versions)
        except BaseException:
            for sockets in opened.values():
                _close_all(sockets)
            for each in in_the_way:
                self._open[each] = open_sockets(each, self._versions)
            raise
        finally:
            if self._started:
                self.start()
        for each in tuple(self._open):
            if each not in wanted and self._open[each] not in kept.values():
                self._shut(each)
        for sockets in kept.values():
            self._stop_accepting(sockets)
        self._open = {each: (self._open.get(each) or kept.get(each) or opened[each]) for each in wanted}
        if self._started:
            self.start()

    def start(self) -> None:
        """Accepts on every socket that is listened on."""
        self._started = True
        for listener, sockets in self._open.items():
            for each in sockets:
                if each not in self._accepting:
                    self._accepting[each] = asyncio.create_task(self._accept_loop(each, listener))

    async def close(self) -> None:
        """Listens nowhere, and ends the negotiations."""
        tasks = [*self._accepting.values(), *self._negotiating]
        for each in tuple(self._open):
            self._shut(each)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _shut(self, listener: Listener) -> None:
        sockets = self._open.pop(listener)
        self._stop_accepting(sockets)
        _close_all(sockets)

    def _stop_accepting(self, sockets: Iterable[socket.socket]) -> None:
        for each in sockets:
            task = self._accepting.pop(each, None)
            if task is not None:
                task.cancel()
            # Now, and not when the task gets to it: by then the number may be another socket's.
            asyncio.get_running_loop().remove_reader(each.fileno())

    async def _accept_loop(self, listening: socket.socket, listener: Listener) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, address = await loop.sock_accept(listening)
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    log.warning("cannot accept: %s", error.strerror)
                    await asyncio.sleep(PAUSE_WHEN_EXHAUSTED)
                continue  # the rest are errors of that one connection (accept(2))
            self._begin(connection, listener, origin_of(address[0]))

    def _begin(self, connection: socket.socket, listener: Listener, origin: str) -> None:
        task = asyncio.create_task(self._negotiate(connection, listener))
        self._negotiating.add(task)
        task.add_done_callback(partial(self._finish, connection))
        silent = self._room.enter(task, origin)
        if silent is not None:
            log.warning("too many strangers, most of them from %s: one that said nothing had to go", origin)
            silent.cancel()

    def heard(self) -> None:
        """The negotiation that calls this has said what it wants: it is no stranger any more."""
        task = asyncio.current_task()
        if task is not None:
            self._room.leave(task)

    async def _negotiate(self, connection: socket.socket, listener: Listener) -> None:
        try:
            await self._serve(connection, listener)
        except Exception:
            log.exception("a negotiation failed")
            connection.close()

    def _finish(self, connection: socket.socket, task: asyncio.Task[None]) -> None:
        self._negotiating.discard(task)
        self._room.leave(task)
        if task.cancelled():
            connection.close()  # it may have been cancelled before its first step
