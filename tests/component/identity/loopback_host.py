"""A host with its registrar, listening on the loopback."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.unit.identity.samples import FINGERPRINT, NOON

from usbip_agent.identity.codes import Moment
from usbip_agent.identity.enrolment import DEADLINE, request_enrolment, serve_enrolment
from usbip_agent.identity.join_code import JoinCode
from usbip_agent.identity.registrar import Registrar, check_certificate
from usbip_agent.transport.stream import Stream, plain_stream


@dataclass
class LoopbackHost:
    """Serves enrolments, one task each, as a listener would, and by a clock that the test sets."""

    state: Path
    registrar: Registrar
    now: Moment = NOON
    deadline: float = DEADLINE
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    port: int = 0
    answers: Callable[[Stream], Awaitable[None]] | None = None
    """In place of the real thing."""

    def invite(self, node: str = "pi-kitchen") -> JoinCode:
        return self.registrar.enroll(node, "127.0.0.1", self.port, self.now)

    def restart(self) -> None:
        """Another daemon on the same files."""
        self.registrar = registrar_in(self.state)

    async def dial(self) -> Stream:
        ours = socket.socket()
        ours.setblocking(False)
        await asyncio.get_running_loop().sock_connect(ours, ("127.0.0.1", self.port))
        return plain_stream(ours)

    async def join(self, code: JoinCode, pem: str) -> None:
        """As a node does it."""
        stream = await self.dial()
        try:
            await request_enrolment(stream, code, pem)
        finally:
            await stream.close()

    async def serve(self, listening: socket.socket) -> None:
        while True:
            accepted, _ = await asyncio.get_running_loop().sock_accept(listening)
            task = asyncio.create_task(self._answer(plain_stream(accepted)))
            self._tasks.add(task)

    async def settled(self) -> None:
        """Returns when every connection until now has ended."""
        await asyncio.wait_for(asyncio.gather(*self._tasks), 20)

    async def _answer(self, stream: Stream) -> None:
        try:
            if self.answers is not None:
                await self.answers(stream)
            else:
                await serve_enrolment(stream, self.registrar, lambda: self.now, deadline=self.deadline)
        finally:
            await stream.close()


def registrar_in(state: Path) -> Registrar:
    return Registrar(state, state / "run", host="lab", fingerprint=FINGERPRINT, check=check_certificate)


@asynccontextmanager
async def loopback_host(state: Path) -> AsyncIterator[LoopbackHost]:
    with socket.create_server(("127.0.0.1", 0), backlog=600) as listening:
        listening.setblocking(False)
        host = LoopbackHost(state, registrar_in(state), port=listening.getsockname()[1])
        task = asyncio.create_task(host.serve(listening))
        try:
            yield host
            await host.settled()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
