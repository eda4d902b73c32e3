"""QEMU's machine protocol over a socket: commands with deadlines, and events kept until wanted.

Nothing reads in the background: a reply or an event is read by whoever waits for one.
"""
from __future__ import annotations

import json
import socket
import threading
from typing import Any, Callable

from .report import Deadline, LabError, Timeout

Message = dict[str, Any]


class Qmp:
    """One QMP session. Safe to call from several threads; each call holds the session."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._buffer = b""
        self._events: list[Message] = []
        self._lock = threading.RLock()
        self._receive(Deadline(20))          # the greeting
        self.command("qmp_capabilities")

    def close(self) -> None:
        """Closes the session; QEMU goes on."""
        self._sock.close()

    def command(self, name: str, /, deadline: float = 20.0, **arguments: Any) -> Any:
        """Runs one command and returns its value. An underscore in an argument stands for ``-``."""
        request = {"execute": name,
                   "arguments": {key.replace("_", "-"): value for key, value in arguments.items()}}
        with self._lock:
            limit = Deadline(deadline)
            self._sock.settimeout(deadline)
            try:
                self._sock.sendall(json.dumps(request).encode() + b"\n")
            except OSError as error:
                raise LabError(f"QEMU is gone ({name}: {error})") from error
            while True:
                reply = self._receive(limit)
                if "return" in reply:
                    return reply["return"]
                if "error" in reply:
                    raise LabError(f"QMP {name} {arguments}: {reply['error']['desc']}")

    def wait_event(self, name: str, deadline: float = 20.0,
                   accept: Callable[[Message], bool] = lambda data: True) -> Message:
        """The data of the first event called ``name``, past or to come, that ``accept`` takes."""
        with self._lock:
            limit = Deadline(deadline)
            while True:
                for event in self._events:
                    data: Message = event.get("data", {})
                    if event["event"] == name and accept(data):
                        self._events.remove(event)
                        return data
                self._receive(limit)

    def forget_events(self, name: str) -> None:
        """Drops past events, so that the next wait is for a new one."""
        with self._lock:
            self._events = [event for event in self._events if event["event"] != name]

    def _receive(self, limit: Deadline) -> Message:
        while b"\n" not in self._buffer:
            self._sock.settimeout(limit.left() or 0.001)
            try:
                data = self._sock.recv(65536)
            except socket.timeout:
                raise Timeout(f"QEMU gave no answer within {limit.seconds:g} s") from None
            except OSError as error:
                raise LabError(f"QEMU is gone ({error})") from error
            if not data:
                raise LabError("QEMU has ended")
            self._buffer += data
        line, self._buffer = self._buffer.split(b"\n", 1)
        message: Message = json.loads(line)
        if "event" in message:
            self._events.append(message)
        return message
