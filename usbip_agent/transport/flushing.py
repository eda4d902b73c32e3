"""What a protocol itself has to say (TLS records, answers to pings), in turn with what is sent over it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from usbip_agent.errors import Fault


class Flusher:
    """*write* sends what is to be said; it is called by one at a time, who has the *turn*."""

    def __init__(self, write: Callable[[], Awaitable[None]]) -> None:
        self.turn = asyncio.Lock()
        self._write = write
        self._task: asyncio.Task[None] | None = None

    async def flush(self) -> None:
        async with self.turn:
            await self._write()

    async def flush_quietly(self) -> None:
        try:
            await self.flush()
        except Fault:
            pass  # who receives is told as well

    def flush_soon(self) -> None:
        """Whoever receives must not wait for room to send: two who both do would wait for ever.

        Who has the turn writes everything, also what is added meanwhile.
        """
        if not self.turn.locked() and (self._task is None or self._task.done()):
            self._task = asyncio.create_task(self.flush_quietly())

    def cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()
