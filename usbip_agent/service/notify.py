"""Talking to systemd: readiness, the status line, the watchdog, and the file descriptor store.

sdnotify encodes Latin-1 and swallows every error, so a READY in one datagram with a foreign character would
be lost without a word: READY goes alone, and a status is ASCII.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from array import array
from collections import deque
from dataclasses import dataclass

import sdnotify

from usbip_agent.text import ascii_only

_FIRST_DESCRIPTOR = 3
_LONGEST_STATUS = 400


@dataclass(frozen=True, slots=True)
class StoredDescriptor:
    """A file descriptor that systemd kept, or opened, for this start."""

    name: str
    descriptor: int


@dataclass(frozen=True, slots=True)
class _Message:
    """One datagram, and a descriptor of ours (-1: none) that travels with it."""

    text: str
    descriptor: int = -1

    @property
    def is_status(self) -> bool:
        return self.text.startswith("STATUS=")


class Notifier:
    """One daemon's line to systemd. Without systemd (in the foreground) every call does nothing.

    Nothing here waits: systemd's socket holds a few datagrams only, and systemd is busy at times. What it
    does not take at once is kept, in order, of statuses the last.
    """

    def __init__(self) -> None:
        self._socket: socket.socket | None = sdnotify.SystemdNotifier().socket
        self._pending: deque[_Message] = deque()
        self._drained = asyncio.Event()
        self._status = ""
        self._watchdog: asyncio.TimerHandle | None = None

    def ready(self) -> None:
        """Start (or reload) is complete; feeds the watchdog from now on."""
        self._send(_Message("READY=1"))
        self._feed_watchdog()

    def status(self, text: str) -> None:
        """The one line that ``systemctl status`` shows first; sent only when it differs from the last."""
        if text != self._status:
            self._status = text
            self._send(_Message(f"STATUS={ascii_only(text)[:_LONGEST_STATUS]}"))

    def reloading(self) -> None:
        """A reload begins; ``ready`` ends it. systemd wants the time in the same datagram."""
        self._send(_Message(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}"))

    def stopping(self) -> None:
        self._send(_Message("STOPPING=1"))
        if self._watchdog is not None:
            self._watchdog.cancel()

    def store(self, name: str, descriptor: int, *, until_it_ends: bool = True) -> None:
        """Leaves a dup of *descriptor* with systemd, to come back as *name* at the next start.

        *name* is ASCII without a colon (sd_pid_notify_with_fds(3)). What ends (EPOLLHUP: a connected socket
        whose other end goes, usbfs whose device goes) leaves the store by itself, if *until_it_ends*.
        """
        if self._socket is not None:
            text = f"FDSTORE=1\nFDNAME={name}" + ("" if until_it_ends else "\nFDPOLL=0")
            self._send(_Message(text, os.dup(descriptor)))

    def forget(self, name: str) -> None:
        """Takes every descriptor called *name* out of the store."""
        self._send(_Message(f"FDSTOREREMOVE=1\nFDNAME={name}"))

    async def drain(self, deadline: float) -> None:
        """Returns when systemd has taken everything, after *deadline* seconds at the latest."""
        try:
            async with asyncio.timeout(deadline):
                while self._pending:
                    self._drained.clear()
                    await self._drained.wait()
        except TimeoutError:
            pass

    def _send(self, message: _Message) -> None:
        if self._socket is None:
            return
        if message.is_status:
            self._pending = deque(each for each in self._pending if not each.is_status)
        self._pending.append(message)
        if not self._flush():
            asyncio.get_running_loop().add_writer(self._socket.fileno(), self._go_on)

    def _go_on(self) -> None:
        if self._flush() and self._socket is not None:
            asyncio.get_running_loop().remove_writer(self._socket.fileno())
            self._drained.set()

    def _flush(self) -> bool:
        """Sends what systemd takes without waiting; True when that is all."""
        while self._pending and self._socket is not None:
            message = self._pending[0]
            try:
                _send_datagram(self._socket, message)
            except BlockingIOError:
                return False
            except OSError:
                pass  # as sdnotify itself: what cannot be told is not worth a fault
            if message.descriptor >= 0:
                os.close(message.descriptor)
            self._pending.popleft()
        return True

    def _feed_watchdog(self) -> None:
        """Feeds at half the interval, from the event loop: a loop that hangs is a daemon that hangs."""
        interval = os.environ.get("WATCHDOG_USEC", "")
        if not interval.isdigit() or int(interval) == 0:
            return
        self._send(_Message("WATCHDOG=1"))
        if self._watchdog is not None:
            self._watchdog.cancel()
        self._watchdog = asyncio.get_running_loop().call_later(int(interval) / 2_000_000, self._feed_watchdog)


def _send_datagram(connected: socket.socket, message: _Message) -> None:
    ancillary = []
    if message.descriptor >= 0:
        ancillary.append((socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", [message.descriptor])))
    connected.sendmsg([message.text.encode("ascii")], ancillary, socket.MSG_DONTWAIT)


def descriptors_from_systemd() -> tuple[StoredDescriptor, ...]:
    """What systemd passed at this start (sd_listen_fds_with_names(3)); each is set close-on-exec."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return ()
    count = int(os.environ.get("LISTEN_FDS", "0") or "0")
    names = os.environ.get("LISTEN_FDNAMES", "").split(":")
    stored = []
    for index in range(count):
        descriptor = _FIRST_DESCRIPTOR + index
        os.set_inheritable(descriptor, False)
        stored.append(StoredDescriptor(names[index] if index < len(names) else "", descriptor))
    for variable in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):
        os.environ.pop(variable, None)
    return tuple(stored)
