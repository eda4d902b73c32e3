"""Questions that many ask at once and that may hang: one is under way for each, and all share its answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Generic, TypeVar

Answer = TypeVar("Answer")


class Lookups(Generic[Answer]):
    """A resolver that hangs for minutes costs one thread or process for each name, not for each try."""

    def __init__(self) -> None:
        self._under_way: dict[object, asyncio.Task[Answer]] = {}

    async def ask(self, key: object, look_up: Callable[[], Coroutine[object, object, Answer]],
                  deadline: float) -> Answer:
        """What *look_up* returns or raises, or the one that was begun for an earlier asker for *key*.

        TimeoutError after *deadline* seconds. The lookup goes on then, as when its asker is cancelled.
        """
        task = self._under_way.get(key)
        if task is None or task.get_loop() is not asyncio.get_running_loop():
            task = asyncio.ensure_future(look_up())
            self._under_way[key] = task
            task.add_done_callback(lambda done: self._forget(key, done))
        async with asyncio.timeout(deadline):
            return await asyncio.shield(task)

    def _forget(self, key: object, task: asyncio.Task[Answer]) -> None:
        if self._under_way.get(key) is task:
            del self._under_way[key]
        if not task.cancelled():
            task.exception()  # retrieved: perhaps nobody waits for it any more
