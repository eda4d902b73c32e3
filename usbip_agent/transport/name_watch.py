"""Noticing that a host's name resolves differently than before.

Nothing tells: DNS has no event that reaches a resolver's client, and an answer's time to live says how long
it may be kept, not when it changes. So the name is resolved again and again, but only while somebody waits
for the host, and at a modest interval: the answer mostly comes from a cache nearby. What /etc/hosts says is
noticed in the same way.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from usbip_agent.errors import UnreachableFault
from usbip_agent.policy.hosts import Host
from usbip_agent.transport.names import dialled, endpoints_of, is_literal
from usbip_agent.transport.services import service_records

log = logging.getLogger(__name__)

INTERVAL = 10.0
"""Seconds from one answer to the next question."""

Answers = frozenset[object]


class NameWatch:
    """Calls back when the name of a watched host resolves to something else, or again after it did not."""

    def __init__(self, interval: float = INTERVAL) -> None:
        self._interval = interval
        self._callbacks: dict[Host, list[Callable[[], None]]] = {}
        self._tasks: dict[Host, asyncio.Task[None]] = {}
        self._last: dict[Host, Answers] = {}
        """Kept for the next watch: what changes in an attempt, which ends a watch, has changed as well."""

    def watch(self, host: Host, callback: Callable[[], None]) -> None:
        """Calls *callback* from now on, from the event loop, until it is unwatched as often as watched."""
        if not host.service and is_literal(dialled(host)[0]):
            return  # an address stays what it is
        self._callbacks.setdefault(host, []).append(callback)
        if host not in self._tasks:
            self._tasks[host] = asyncio.ensure_future(self._look_again(host))

    def unwatch(self, host: Host, callback: Callable[[], None]) -> None:
        """Undoes one ``watch``; nothing happens when there was none. The last one ends the questions."""
        callbacks = self._callbacks.get(host, [])
        if callback in callbacks:
            callbacks.remove(callback)
        if not callbacks and host in self._tasks:
            del self._callbacks[host]
            self._tasks.pop(host).cancel()

    async def close(self) -> None:
        """Watches nothing any more."""
        tasks = list(self._tasks.values())
        self._tasks.clear()
        self._callbacks.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _look_again(self, host: Host) -> None:
        if host not in self._last:
            self._last[host] = await _answers(host)
        while True:
            await asyncio.sleep(self._interval)
            answers = await _answers(host)
            before, self._last[host] = self._last[host], answers
            if answers and answers != before:
                log.info("%s resolves differently", host.name)
                for callback in tuple(self._callbacks[host]):
                    callback()


async def _answers(host: Host) -> Answers:
    """All that the name stands for, in no order; empty = it does not resolve."""
    try:
        found: Answers = frozenset(await endpoints_of(host))
        # Where nothing but the priorities has changed, the host that is to be tried first has.
        return found | await service_records(host.service) if host.service else found
    except UnreachableFault:
        return frozenset()
