"""Noticing the end of a link that the kernel owns.

No uevent tells that a stub's link has died. But a dup of its socket reports RDHUP, HUP or ERR on every kind
of end, TCP and kTLS alike. All dups sit in one epoll instance that is asked for nothing else, so data costs
no wakeup, and that instance is one reader of the event loop.
"""

from __future__ import annotations

import asyncio
import os
import select
import socket
from collections.abc import Callable


class LinkWatcher:
    """Calls back once, from the event loop, when a watched link has ended."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._watched: dict[int, Callable[[], None]] = {}
        asyncio.get_running_loop().add_reader(self._epoll.fileno(), self._collect)

    def watch(self, link: socket.socket, on_end: Callable[[], None]) -> None:
        """Calls *on_end* when *link* ends, at once if it has ended. *link* stays open until ``unwatch``."""
        self._watched[link.fileno()] = on_end
        self._epoll.register(link.fileno(), select.EPOLLRDHUP)

    def unwatch(self, link: socket.socket) -> None:
        """Forgets *link*; nothing happens when it is not watched (any more)."""
        if self._watched.pop(link.fileno(), None) is not None:
            self._epoll.unregister(link.fileno())

    def close(self) -> None:
        """Watches nothing any more; the links themselves stay."""
        asyncio.get_running_loop().remove_reader(self._epoll.fileno())
        self._epoll.close()
        self._watched.clear()

    def _collect(self) -> None:
        for descriptor, _events in self._epoll.poll(0):
            on_end = self._watched.pop(descriptor, None)
            self._epoll.unregister(descriptor)
            if on_end is not None:
                on_end()


def keep(connected: socket.socket) -> socket.socket:
    """A dup of *connected* that outlives it: to notice its end, and to bring it about."""
    return socket.socket(fileno=os.dup(connected.fileno()))
