"""The cable between the guests: an Ethernet switch in a thread.

Each guest hangs on a pair of connected UDP sockets of its own, so any of them can stop, be frozen
or start anew without disturbing the others, and there are no fixed ports or paths for two runs to
fight over. (Not a UNIX socket pair: that holds ten frames, and then the sender stalls.)
"""
from __future__ import annotations

import selectors
import socket
import threading

FRAME = 65536
BUFFER = 4 << 20


class Switch:
    """Floods every frame to all other ports; what a port does not take at once is dropped."""

    def __init__(self) -> None:
        self._ports: list[socket.socket] = []
        self._guests: list[socket.socket] = []
        self._blocked: set[socket.socket] = set()
        self._selector = selectors.DefaultSelector()
        self._wake, self._wakened = socket.socketpair()
        self._selector.register(self._wakened, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._forward, name="lab switch", daemon=True)
        self._thread.start()

    def port(self) -> int:
        """A new port: the file descriptor to give to a guest, again and again if it restarts."""
        ours, guests = _datagram_pair()
        ours.setblocking(False)
        self._ports.append(ours)
        self._guests.append(guests)
        self._selector.register(ours, selectors.EVENT_READ)
        self._wake.send(b"x")
        return guests.fileno()

    def block(self, port: int, blocked: bool) -> None:
        """Loses every frame from and to a port, without a change of its carrier."""
        index = [end.fileno() for end in self._guests].index(port)
        (self._blocked.add if blocked else self._blocked.discard)(self._ports[index])

    def close(self) -> None:
        """Ends the thread and all ports."""
        self._wake.close()
        self._thread.join(5)
        for end in (*self._ports, *self._guests, self._wakened):
            end.close()
        self._selector.close()

    def _forward(self) -> None:
        while True:
            for key, _ in self._selector.select():
                source = key.fileobj
                assert isinstance(source, socket.socket)
                if source is self._wakened:
                    if not source.recv(64):
                        return
                    continue
                for _ in range(64):
                    try:
                        frame = source.recv(FRAME)
                    except OSError:
                        break
                    if source in self._blocked:
                        continue
                    for port in self._ports:
                        if port is not source and port not in self._blocked:
                            try:
                                port.send(frame, socket.MSG_DONTWAIT)
                            except OSError:
                                pass         # a frozen guest: an Ethernet drops, TCP repeats


def _datagram_pair() -> tuple[socket.socket, socket.socket]:
    pair = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2)]
    for end in pair:
        end.bind(("127.0.0.1", 0))
        try:
            end.setsockopt(socket.SOL_SOCKET, getattr(socket, "SO_RCVBUFFORCE", 33), BUFFER)
        except PermissionError:
            end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
    pair[0].connect(pair[1].getsockname())
    pair[1].connect(pair[0].getsockname())
    return pair[0], pair[1]
