"""A daemon on the system bus: joins it, shows its objects there, and comes back when the bus was restarted.

Devices matter more than those who watch: without a bus the daemon goes on unseen. But a name that is held
means that another one runs.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from usbip_agent.bus.connection import Connection, open_connection
from usbip_agent.bus.publisher import Publisher
from usbip_agent.bus.server import BusServer
from usbip_agent.errors import Fault
from usbip_agent.report import DeviceReport, Report

log = logging.getLogger(__name__)

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0
"""Seconds between two attempts to come back to a bus that went."""

Serve = Callable[[tuple[Report, ...]], Awaitable[BusServer]]
"""Puts the daemon on the bus, with these objects from the start."""


class Presence:
    """Our place on the bus, when there is one."""

    def __init__(self, serve: Serve, reports: Callable[[], tuple[Report, ...]]) -> None:
        self._serve_on_bus = serve
        self._reports = reports
        self._server: BusServer | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def connection(self) -> Connection | None:
        """For questions to others on the bus."""
        return self._server.connection if self._server is not None else None

    @property
    def publisher(self) -> Publisher | None:
        """Where objects are shown now; None while there is no bus."""
        return self._server.publisher if self._server is not None else None

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
        """Leaves the bus for good."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._server is not None:
            server, self._server = self._server, None
            await server.close()

    async def _serve(self) -> None:
        shown = self._reports()
        server = await self._serve_on_bus(shown)
        self._server = server
        self._catch_up(server.publisher, shown)

    def _catch_up(self, publisher: Publisher, shown: tuple[Report, ...]) -> None:
        """What has changed while the bus was being joined; put() of what has not changes nothing."""
        now = self._reports()
        for gone in {_key(report) for report in shown} - {_key(report) for report in now}:
            publisher.remove(gone)
        for report in now:
            publisher.put(report)

    async def _stay(self) -> None:
        while True:
            if self._server is not None:
                await self._server.lost()
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


def _key(report: Report) -> str | int:
    return report.bus_id if isinstance(report, DeviceReport) else report.port
