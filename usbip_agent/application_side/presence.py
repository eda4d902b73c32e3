"""usbipa on the system bus: joins it, shows the imports there, and comes back when the bus was restarted.

Devices matter more than those who watch: without a bus the daemon goes on unseen. But a name that is held
means that another one runs.
"""

from __future__ import annotations

import asyncio
import logging

from usbip_agent.application_side.usbipa import Showcase, Usbipa
from usbip_agent.bus.connection import Connection, open_connection
from usbip_agent.bus.server import BusServer, serve_usbipa
from usbip_agent.errors import Fault

log = logging.getLogger(__name__)

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0
"""Seconds between two attempts to come back to a bus that went."""


class Presence:
    """Our place on the bus, when there is one."""

    def __init__(self, usbipa: Usbipa, showcase: Showcase) -> None:
        self._usbipa = usbipa
        self._showcase = showcase
        self._server: BusServer | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def connection(self) -> Connection | None:
        """For questions to others on the bus."""
        return self._server.connection if self._server is not None else None

    async def join(self) -> None:
        """UnavailableFault when the name is held, PermissionFault when it is not to be had."""
        try:
            await (await open_connection()).close()
        except Fault as fault:
            log.warning("%s; going on without", fault)
        else:
            await self._serve()
        self._task = asyncio.create_task(self._stay())

    async def leave(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._showcase.publish_on(None)
        if self._server is not None:
            await self._server.close()

    async def _serve(self) -> None:
        already = self._showcase.reports
        self._server = await serve_usbipa(self._usbipa, reports=already)
        self._showcase.publish_on(self._server.publisher, already)

    async def _stay(self) -> None:
        while True:
            if self._server is not None:
                await self._server.lost()
                self._showcase.publish_on(None)
                await self._server.close()
                self._server = None
                log.warning("the system bus has gone; going on without, until it is back")
            pause = FIRST_PAUSE
            while self._server is None:
                await asyncio.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
                try:
                    await self._serve()
                except Fault as fault:
                    log.debug("%s", fault)
