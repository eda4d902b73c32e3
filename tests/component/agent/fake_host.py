"""The other end of a connection, played by the test itself: it answers when, and as, the test says."""

from __future__ import annotations

import select
import socket
from dataclasses import dataclass

from usbip_agent import wire

DEADLINE = 40.0
"""Seconds for whatever is awaited here; a busy machine may need some of them to start Python."""

FIRST_URB = wire.FIRST_URB + bytes(44)


@dataclass
class Visit:
    """One connection with its request."""

    peer: socket.socket
    data: bytes

    @property
    def request(self) -> wire.Request:
        return wire.decode_request(self.data)

    @property
    def bus_id(self) -> str:
        return self.request.device.bus_id

    def accept(self, *, with_return_code: bool = True) -> None:
        """OK, and what vhci sends soon after."""
        reply = wire.encode_reply(self.request.operation, 0, with_return_code=with_return_code)
        self.peer.sendall(reply + (FIRST_URB if self.request.operation is wire.Operation.EXPORT else b""))

    def reject(self, status: int = wire.Status.NOT_AVAILABLE) -> None:
        self.peer.sendall(wire.encode_reply(self.request.operation, status, with_return_code=True))

    def close(self) -> None:
        self.peer.close()

    def until_closed(self) -> None:
        """Waits until the other end has hung up."""
        try:
            while self.peer.recv(4096):
                pass
        except ConnectionResetError:
            pass


class FakeHost:
    """Listens on the loopback interface."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port = self._listener.getsockname()[1]
        self._visits: list[Visit] = []

    def next(self, operation: wire.Operation = wire.Operation.EXPORT) -> Visit:
        """The next who comes; it must want *operation*."""
        visit = self._welcome()
        assert visit.request.operation is operation, visit.request
        return visit

    def accept_any(self) -> Visit:
        """The next who comes, whatever it wants: it gets it."""
        visit = self._welcome()
        visit.accept()
        return visit

    def visited(self) -> bytes:
        """What the next who comes says, up to a request."""
        return self._welcome().data

    def nobody_waits(self) -> bool:
        """Whether nobody has come who was not welcomed yet."""
        return not select.select([self._listener], [], [], 0)[0]

    def _welcome(self) -> Visit:
        self._listener.settimeout(DEADLINE)
        peer, _address = self._listener.accept()
        peer.settimeout(DEADLINE)
        visit = Visit(peer, peer.recv(wire.REQUEST_SIZE, socket.MSG_WAITALL))
        self._visits.append(visit)
        return visit

    def nobody_comes(self, seconds: float) -> bool:
        """Whether it stays quiet here for so long."""
        self._listener.settimeout(seconds)
        try:
            self._visits.append(Visit(self._listener.accept()[0], b""))
        except TimeoutError:
            return True
        return False

    def go(self) -> None:
        """Nobody listens any more."""
        self._listener.close()

    def come_back(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", self.port), backlog=256)

    def close(self) -> None:
        self._listener.close()
        for visit in self._visits:
            visit.close()
