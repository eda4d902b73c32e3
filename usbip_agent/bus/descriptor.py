"""One call whose answer is a file descriptor, on a connection of its own.

The daemon's own connection takes no descriptors: any local user could send it some, and each would have to be
found and closed. This one is known to nobody, and lives for one call.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from dataclasses import replace
from typing import Final

from usbip_agent.blocking import in_thread
from usbip_agent.bus.connection import SYSTEM_BUS, socket_paths
from usbip_agent.bus.marshalling import Framer, Kind, Message, encode
from usbip_agent.bus.standard import BUS, BUS_PATH, CallError
from usbip_agent.errors import UnavailableFault

_LIMIT: Final = 64 * 1024
"""Bytes of a message that may come instead of or before the answer."""

_MAXIMUM_DESCRIPTORS: Final = 16


async def call_for_descriptor(call: Message, address: str | None = None, *, deadline: float = 5.0) -> int:
    """The descriptor that *call* is answered with; the caller closes it.

    Raises CallError for an error reply, UnavailableFault when there is no bus or no answer.
    """
    where = os.environ.get("DBUS_SYSTEM_BUS_ADDRESS", SYSTEM_BUS) if address is None else address
    problem = "no unix socket in its address"
    for path in socket_paths(where):
        try:
            return await _call_at(path, call, deadline)
        except (OSError, ValueError) as error:
            problem = str(error)
    raise UnavailableFault(f"the bus at {where} does not hand over what {call.member} answers: {problem}")


async def _call_at(path: str, call: Message, deadline: float) -> int:
    caller = _Caller(time.monotonic() + deadline)
    # The thread ends by itself before in_thread would give it up: no descriptor gets lost in it.
    asked = asyncio.ensure_future(in_thread(
        f"call {call.member}", lambda: caller.call(path, call), deadline=2 * deadline))
    try:
        return await asyncio.shield(asked)
    except asyncio.CancelledError:
        caller.abort()
        await asyncio.wait({asked})
        if asked.exception() is None:
            os.close(asked.result())
        raise


class _Caller:
    """The few steps of the D-Bus specification up to an answer, each waited for until *end* (monotonic)."""

    def __init__(self, end: float) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        self._end = end
        self._aborted = False
        self._descriptors: list[int] = []

    def abort(self) -> None:
        """From another thread: the call is to end now."""
        self._aborted = True
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # not connected yet, or no more

    def call(self, path: str, call: Message) -> int:
        """The descriptor. CallError, OSError or ValueError."""
        try:
            with self._socket:
                self._set_timeout()
                self._socket.connect(path)
                identity = str(os.geteuid()).encode().hex()
                self._socket.sendall(b"\0AUTH EXTERNAL " + identity.encode() + b"\r\n")
                self._expect(b"OK ")
                self._socket.sendall(b"NEGOTIATE_UNIX_FD\r\n")
                self._expect(b"AGREE_UNIX_FD")
                hello = Message(Kind.CALL, BUS_PATH, BUS, "Hello", BUS, serial=1)
                self._socket.sendall(b"BEGIN\r\n" + encode(hello) + encode(replace(call, serial=2)))
                [index] = self._reply_to(2).body
            return self._descriptors.pop(index)
        except IndexError:
            raise ValueError("no descriptor came with it") from None
        except TimeoutError:  # in_thread would take it for its own
            raise ValueError("no answer in time") from None
        finally:
            for descriptor in self._descriptors:
                os.close(descriptor)

    def _expect(self, words: bytes) -> None:
        line = b""
        while not line.endswith(b"\r\n"):
            if len(line) > 1024:
                raise ValueError("no line from the bus")
            line += self._receive()
        if not line.startswith(words):
            raise ValueError("the bus refuses")

    def _reply_to(self, serial: int) -> Message:
        framer = Framer(_LIMIT)
        while True:
            for message in framer.feed(self._receive()):
                if message.reply_serial != serial:
                    continue
                if message.kind is Kind.ERROR:
                    text = message.body[0] if message.signature.startswith("s") else message.error_name
                    raise CallError(message.error_name, text)
                if message.signature != "h":
                    raise ValueError("the answer is no descriptor")
                return message

    def _receive(self) -> bytes:
        self._set_timeout()
        data, descriptors, _, _ = socket.recv_fds(
            self._socket, 4096, _MAXIMUM_DESCRIPTORS, socket.MSG_CMSG_CLOEXEC)
        self._descriptors += descriptors
        if not data:
            raise ValueError("it hung up")
        return data

    def _set_timeout(self) -> None:
        left = self._end - time.monotonic()
        if self._aborted or left <= 0:
            raise TimeoutError
        self._socket.settimeout(left)
