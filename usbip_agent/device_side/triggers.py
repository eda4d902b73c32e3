"""What makes the agent look again before a timer does: the network, names, sleep, and hosts that are back."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Protocol

from usbip_agent.device_side.attempt import Dial
from usbip_agent.device_side.export import Export
from usbip_agent.device_side.failback import Steadiness, host_to_return_to, probe_interval
from usbip_agent.errors import Fault
from usbip_agent.kernel.network import NetworkWatch
from usbip_agent.policy.hosts import Host
from usbip_agent.transport.name_watch import NameWatch

log = logging.getLogger(__name__)


class Devices(Protocol):
    """What is needed of the agent."""

    def exports(self) -> Iterable[Export]:
        """Every device's state machine."""

    def try_now(self, host: Host | None = None) -> None:
        """Tries at once what waits, for *host* or for any."""

    def fail_back(self, bus_id: str) -> None:
        """Takes a device from the host it is connected to, back to one that its rule prefers."""


class Triggers:
    """Watches for the agent what might help its devices."""

    def __init__(self, devices: Devices, dial: Dial) -> None:
        self._devices = devices
        self._dial = dial
        self._network = NetworkWatch(self._network_changed)
        self._names = NameWatch()
        self._watched: dict[Host, Callable[[], None]] = {}
        self._probes: dict[Host, asyncio.Task[None]] = {}
        self._steadiness: dict[Host, Steadiness] = {}

    async def close(self) -> None:
        """Watches nothing any more."""
        self._network.close()
        await self._names.close()
        for task in self._probes.values():
            task.cancel()
        await asyncio.gather(*self._probes.values(), return_exceptions=True)

    def reconsider(self) -> None:
        """A device has changed: watches the names of hosts that are waited for, probes those to return to."""
        exports = tuple(self._devices.exports())
        self._watch_names({host for export in exports for host in export.waits_for})
        self._probe({host for export in exports for host in export.would_return_to})

    def _network_changed(self) -> None:
        log.debug("the network has changed")
        self._devices.try_now()

    def _watch_names(self, wanted: set[Host]) -> None:
        for host in self._watched.keys() - wanted:
            self._names.unwatch(host, self._watched.pop(host))
        for host in wanted - self._watched.keys():
            self._watched[host] = partial(self._devices.try_now, host)
            self._names.watch(host, self._watched[host])

    def _probe(self, wanted: set[Host]) -> None:
        for host in self._probes.keys() - wanted:
            self._probes.pop(host).cancel()
            del self._steadiness[host]
        for host in wanted - self._probes.keys():
            self._steadiness[host] = Steadiness(probe_interval(self._shortest_period(host)))
            self._probes[host] = asyncio.create_task(self._keep_probing(host))

    def _shortest_period(self, host: Host) -> float:
        return min(export.failback or 0.0
                   for export in self._devices.exports() if host in export.would_return_to)

    async def _keep_probing(self, host: Host) -> None:
        """Dials the host now and then; that it lets us in says enough."""
        steadiness = self._steadiness[host]
        while True:
            at = time.monotonic()
            steadiness.probed(await self._answers(host, steadiness.interval), at)
            for export in tuple(self._devices.exports()):
                self._return_if_steady(export, at)
            await asyncio.sleep(steadiness.interval)

    async def _answers(self, host: Host, deadline: float) -> bool:
        try:
            async with asyncio.timeout(deadline):
                await (await self._dial(host)).close()
        except (Fault, TimeoutError) as fault:
            log.debug("%s is not back: %s", host.name, fault)
            return False
        return True

    def _return_if_steady(self, export: Export, at: float) -> None:
        period, connection = export.failback, export.connection
        if not export.would_return_to or period is None or connection is None:
            return
        host = host_to_return_to(export.decision.hosts, connection.host, period, self._steadiness, at)
        if host is not None:
            log.info("%s returns to %s, which has answered for %.0f s",
                     export.device.bus_id, host.name, period)
            self._devices.fail_back(export.device.bus_id)
