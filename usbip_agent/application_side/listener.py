"""Listening sockets, and the accept loop: a task for each connection, bounds on what strangers can cost."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import Awaitable, Callable, Iterable
from functools import partial

from usbip_agent.application_side.listening_sockets import (
    Shelf, addresses_of, open_sockets, places_of)
from usbip_agent.application_side.room import Room, origin_of
from usbip_agent.errors import Fault
from usbip_agent.kernel.network import NetworkWatch
from usbip_agent.policy.usbipa import Listener

log = logging.getLogger(__name__)

PAUSE_WHEN_EXHAUSTED = 1.0
"""Seconds without accepting when file descriptors have run out: they come back as negotiations end."""

FLOOD_INTERVAL = 10.0
"""Seconds between two lines about strangers who had to go."""

Serve = Callable[[socket.socket, Listener], Awaitable[None]]
"""Negotiates on a connected, non-blocking socket, which is the callee's to close."""


def _place(listener: Listener) -> tuple[str, int]:
    return listener.address, listener.port


class Listeners:
    """All listening sockets, and the connections that are being negotiated."""

    def __init__(self, serve: Serve, versions: Iterable[int] = (4, 6), shelf: Shelf | None = None) -> None:
        self._serve = serve
        self._versions = frozenset(versions)
        self._shelf = shelf or Shelf()
        self._open: dict[Listener, list[socket.socket]] = {}
        self._accepting: dict[socket.socket, asyncio.Task[None]] = {}
        self._negotiating: set[asyncio.Task[None]] = set()
        self._room: Room[asyncio.Task[None]] = Room()
        self._sent_away = 0
        self._next_line = 0.0
        self._started = False
        self._network: NetworkWatch | None = None

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
        self._shelf.make_way({place for each in wanted for place in places_of(each, self._versions)})
        opened: dict[Listener, list[socket.socket]] = {}
        try:
            for each in to_open:
                opened[each] = open_sockets(each, self._versions, self._shelf)
        except BaseException:
            for sockets in opened.values():
                self._shelf.close(sockets)
            for each in in_the_way:
                self._open[each] = open_sockets(each, self._versions, self._shelf)
            raise
        finally:
            if self._started:
                self.start()
        for each in tuple(self._open):
            if each not in wanted and self._open[each] not in kept.values():
                self._shut(each)
        for sockets in kept.values():
            self._stop_accepting(sockets)
        everything = {**self._open, **kept, **opened}
        self._open = {each: everything[each] for each in wanted}
        for each in self._waiting:
            log.warning("nothing listens on %s port %d yet: there is no such interface",
                        each.address, each.port)
        self._watch_network()
        if self._started:
            self.start()

    def start(self) -> None:
        """Accepts on every socket that is listened on."""
        self._started = True
        self._shelf.drop_rest()
        for listener, sockets in self._open.items():
            for each in sockets:
                if each not in self._accepting:
                    self._accepting[each] = asyncio.create_task(self._accept_loop(each, listener))

    async def close(self) -> None:
        """Accepts nothing any more, and ends the negotiations.

        What systemd keeps of the sockets stays there: who dials while we start again waits.
        """
        self._unwatch_network()
        tasks = [*self._accepting.values(), *self._negotiating]
        for sockets in self._open.values():
            self._stop_accepting(sockets)
            for each in sockets:
                each.close()
        self._open.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    @property
    def _waiting(self) -> list[Listener]:
        """Those whose address names an interface that is not there yet."""
        return [each for each, sockets in self._open.items()
                if not sockets and addresses_of(each, self._versions)]

    def _watch_network(self) -> None:
        """While somebody waits for an interface."""
        if not self._waiting:
            self._unwatch_network()
        elif self._network is None:
            self._network = NetworkWatch(self._open_waiting)
            asyncio.get_running_loop().call_soon(self._open_waiting)  # it may have come meanwhile

    def _unwatch_network(self) -> None:
        if self._network is not None:
            self._network.close()
            self._network = None

    def _open_waiting(self) -> None:
        for each in self._waiting:
            try:
                self._open[each] = open_sockets(each, self._versions, self._shelf)
            except Fault as fault:
                log.debug("%s", fault)
        self._watch_network()
        if self._started:
            self.start()

    def _shut(self, listener: Listener) -> None:
        sockets = self._open.pop(listener)
        self._stop_accepting(sockets)
        self._shelf.close(sockets)

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
            self._tell_of_flood(origin)
            silent.cancel()

    def _tell_of_flood(self, origin: str) -> None:
        """One line for many: a flood is not to fill the journal either."""
        self._sent_away += 1
        now = asyncio.get_running_loop().time()
        if now < self._next_line:
            return
        log.warning("too many strangers, the last of them from %s: %d that said nothing had to go",
                    origin, self._sent_away)
        self._sent_away, self._next_line = 0, now + FLOOD_INTERVAL

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
