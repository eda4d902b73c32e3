"""Who comes to a listener, and who serves them."""

from __future__ import annotations

import asyncio
import random
import socket
from contextlib import suppress

from usbip_agent.policy.usbipa import Listener, ListenerTransport

PLAIN = frozenset({ListenerTransport.PLAIN})
BOTH = (4, 6)


def free_port() -> int:
    """Below those that the kernel gives away: nobody can come by it in between by chance."""
    while True:
        port = random.randrange(10_000, 32_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def listener(address: str = "127.0.0.1", port: int = 0) -> Listener:
    return Listener(address, port or free_port(), PLAIN)


class Guests:
    """Serves connections by holding them until they are let go."""

    def __init__(self) -> None:
        self.inside: list[socket.socket] = []
        self.arrived = asyncio.Event()
        self.let_go = asyncio.Event()

    async def serve(self, connection: socket.socket, _listener: Listener) -> None:
        self.inside.append(connection)
        self.arrived.set()
        try:
            await self.let_go.wait()
        finally:
            connection.close()


async def connect(where: Listener) -> socket.socket:
    made = socket.socket()
    made.setblocking(False)
    try:
        await asyncio.get_running_loop().sock_connect(made, ("127.0.0.1", where.port))
    except BaseException:
        made.close()
        raise
    return made


async def hung_up(connection: socket.socket) -> bool:
    try:
        return await asyncio.wait_for(asyncio.get_running_loop().sock_recv(connection, 1), 5) == b""
    except ConnectionResetError:
        return True
