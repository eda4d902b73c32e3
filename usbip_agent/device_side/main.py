"""The composition root of usbip-agent: puts the rooms together, and runs until it is told to stop."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from usbip_agent.bus.server import BusServer, serve_agent
from usbip_agent.bus.systemd import stop_is_part_of_restart
from usbip_agent.device import Device, Kind
from usbip_agent.device_side.adoption import Leftovers
from usbip_agent.device_side.agent import Agent, Outlets
from usbip_agent.device_side.devices import DeviceWatch
from usbip_agent.device_side.keeper import Surroundings
from usbip_agent.device_side.records import ExportRecord
from usbip_agent.errors import ExitStatus, Fault, UnavailableFault
from usbip_agent.kernel.exporter import Exporter
from usbip_agent.kernel.stub import Stub
from usbip_agent.kernel.vudc import Vudc
from usbip_agent.names import AGENT
from usbip_agent.policy.agent import AgentPolicy, load_agent_policy
from usbip_agent.report import DeviceReport
from usbip_agent.service.notify import Notifier, descriptors_from_systemd
from usbip_agent.service.records import RecordStore
from usbip_agent.transport.dial import dial
from usbip_agent.transport.watch import LinkWatcher

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What the command line says."""

    configuration: Path = AGENT.configuration

    @property
    def drop_ins(self) -> Path:
        return self.configuration.parent / AGENT.drop_ins.name


def run(options: RunOptions) -> ExitStatus:
    """Runs the daemon until SIGTERM or SIGINT. InvalidConfiguration, UnavailableFault (name held)."""
    policy = load_agent_policy(options.configuration, options.drop_ins)
    asyncio.run(_Daemon(options, policy).run())
    return ExitStatus.DONE


class _Daemon:
    """One run of the agent."""

    def __init__(self, options: RunOptions, policy: AgentPolicy) -> None:
        self._options = options
        self._policy = policy
        self._notifier = Notifier()
        self._stub = Stub()
        self._vudc = Vudc()
        self._bus: BusServer | None = None
        self._stop = asyncio.Event()

    async def run(self) -> None:
        stored = descriptors_from_systemd()
        runtime = Path(os.environ.get("RUNTIME_DIRECTORY") or AGENT.runtime_directory)
        records = RecordStore(runtime / "exports", ExportRecord)
        leftovers = Leftovers(records, stored, self._notifier)
        watcher = LinkWatcher()
        outlets = Outlets(self._publish, self._withdraw, self._notifier.status)
        agent = Agent(self._policy, self._load_policy,
                      lambda agent: self._surroundings(agent, watcher, records), outlets, leftovers)
        await self._join_bus(agent)
        watch = DeviceWatch(agent, self._vudc)
        await watch.start()
        leftovers.forget_the_rest()
        agent.tell_status()
        self._handle_signals(agent)
        self._warn_without_module()
        self._notifier.ready()
        await self._stop.wait()
        self._notifier.stopping()
        watch.close()
        await self._end(agent)

    async def _end(self, agent: Agent) -> None:
        restarting = await stop_is_part_of_restart(AGENT.unit, self._bus.connection if self._bus else None)
        if restarting:
            log.info("restarting: connected devices stay connected")
            agent.leave_everything()
        else:
            await agent.give_everything_back()
        if self._bus is not None:
            await self._bus.close()

    def _surroundings(self, agent: Agent, watcher: LinkWatcher,
                      records: RecordStore[ExportRecord]) -> Surroundings:
        return Surroundings(
            exporter_of=self._exporter_of, dial=dial, watcher=watcher, records=records,
            notifier=self._notifier, on_change=agent.changed, on_drop=agent.dropped)

    def _exporter_of(self, device: Device) -> Exporter:
        if device.kind is Kind.VUDC:
            return self._vudc
        return self._stub

    def _load_policy(self) -> AgentPolicy:
        return load_agent_policy(self._options.configuration, self._options.drop_ins)

    async def _join_bus(self, agent: Agent) -> None:
        """Devices matter more than those who watch: without a bus the agent goes on unseen.

        But a name that is held means that another agent runs, and two would fight over every device.
        """
        try:
            self._bus = await serve_agent(agent)
        except UnavailableFault as fault:
            if Path("/run/dbus/system_bus_socket").exists():
                raise
            log.warning("%s; going on without", fault)

    def _publish(self, report: DeviceReport) -> None:
        if self._bus is not None:
            self._bus.publisher.put(report)

    def _withdraw(self, bus_id: str) -> None:
        if self._bus is not None:
            self._bus.publisher.remove(bus_id)

    def _handle_signals(self, agent: Agent) -> None:
        loop = asyncio.get_running_loop()
        reloads: set[asyncio.Task[None]] = set()

        def reload() -> None:
            task = asyncio.create_task(self._reload(agent.reload))
            reloads.add(task)
            task.add_done_callback(reloads.discard)

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        loop.add_signal_handler(signal.SIGHUP, reload)

    async def _reload(self, reload: Callable[[], Awaitable[None]]) -> None:
        self._notifier.reloading()
        try:
            await reload()
        except Fault as fault:
            log.error("nothing was changed: %s", fault)
        finally:
            self._notifier.ready()

    def _warn_without_module(self) -> None:
        try:
            self._stub.require_module()
        except Fault as fault:
            log.error("%s", fault)
