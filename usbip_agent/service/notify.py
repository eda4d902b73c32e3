"""Talking to systemd: readiness, the status line, the watchdog, and the file descriptor store.

sdnotify encodes Latin-1 and swallows every error, so a READY in one datagram with a foreign character would
be lost without a word: READY goes alone, and a status is ASCII.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
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


class Notifier:
    """One daemon's line to systemd. Without systemd (in the foreground) every call does nothing."""

    def __init__(self) -> None:
        self._notifier = sdnotify.SystemdNotifier()
        self._status = ""
        self._watchdog: asyncio.TimerHandle | None = None

    def ready(self) -> None:
        """Start (or reload) is complete; feeds the watchdog from now on."""
        self._notifier.notify("READY=1")
        self._feed_watchdog()

    def status(self, text: str) -> None:
        """The one line that ``systemctl status`` shows first; sent only when it differs from the last."""
        if text != self._status:
            self._status = text
            self._notifier.notify(f"STATUS={ascii_only(text)[:_LONGEST_STATUS]}")

    def reloading(self) -> None:
        """A reload begins; ``ready`` ends it. systemd wants the time in the same datagram."""
        self._notifier.notify(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        self._notifier.notify("STOPPING=1")
        if self._watchdog is not None:
            self._watchdog.cancel()

    def store(self, name: str, descriptor: int) -> None:
        """Leaves a dup of *descriptor* with systemd, to come back as *name* at the next start.

        *name* is ASCII without a colon (sd_pid_notify_with_fds(3)). Connected sockets leave the store by
        themselves when their other end goes (EPOLLHUP).
        """
        notify_socket = self._notifier.socket
        if notify_socket is not None:
            try:
                socket.send_fds(notify_socket, [f"FDSTORE=1\nFDNAME={name}".encode("ascii")], [descriptor])
            except OSError:
                pass  # as sdnotify itself: what cannot be told is not worth a fault

    def forget(self, name: str) -> None:
        """Takes every descriptor called *name* out of the store."""
        self._notifier.notify(f"FDSTOREREMOVE=1\nFDNAME={name}")

    def _feed_watchdog(self) -> None:
        """Feeds at half the interval, from the event loop: a loop that hangs is a daemon that hangs."""
        interval = os.environ.get("WATCHDOG_USEC", "")
        if not interval.isdigit() or int(interval) == 0:
            return
        self._notifier.notify("WATCHDOG=1")
        if self._watchdog is not None:
            self._watchdog.cancel()
        self._watchdog = asyncio.get_running_loop().call_later(int(interval) / 2_000_000, self._feed_watchdog)


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
