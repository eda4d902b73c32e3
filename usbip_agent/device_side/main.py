"""The composition root of usbip-agent: puts the rooms together, and runs until it is told to stop."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from usbip_agent.bus.logind import SleepWatch
from usbip_agent.bus.presence import Presence
from usbip_agent.bus.server import serve_agent
from usbip_agent.bus.systemd import stop_is_part_of_restart
from usbip_agent.device import Device, Kind
from usbip_agent.device_side.adoption import Leftovers
from usbip_agent.device_side.agent import Agent, Outlets
from usbip_agent.device_side.claims import Claims
from usbip_agent.device_side.devices import DeviceWatch
from usbip_agent.device_side.keeper import Surroundings
from usbip_agent.device_side.records import ExportRecord
from usbip_agent.device_side.triggers import Triggers
from usbip_agent.errors import ExitStatus, Fault
from usbip_agent.identity.own import own_identity
from usbip_agent.kernel.exporter import Exporter
from usbip_agent.kernel.holds import Holds, is_name_of_hold
from usbip_agent.kernel.mounts import MountWatch
from usbip_agent.kernel.stub import Stub
from usbip_agent.kernel.udev_rules import UdevRules
from usbip_agent.kernel.vudc import Vudc
from usbip_agent.names import AGENT
from usbip_agent.policy.agent import AgentPolicy, load_agent_policy
from usbip_agent.report import DeviceReport
from usbip_agent.service.notify import Notifier, descriptors_from_systemd
from usbip_agent.service.records import RecordStore
from usbip_agent.transport.dial import Dialler
from usbip_agent.transport.tls import Credentials
from usbip_agent.transport.watch import LinkWatcher

log = logging.getLogger(__name__)

DRAIN_DEADLINE = 2.0
"""Seconds that the end waits for systemd to take what it was told."""


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


def _sleep_watch(agent: Agent) -> SleepWatch:
    return SleepWatch(AGENT.command, "exported devices are given back", agent.fall_asleep, agent.wake_up)


class _Daemon:
    """One run of the agent."""

    def __init__(self, options: RunOptions, policy: AgentPolicy) -> None:
        self._options = options
        self._policy = policy
        self._notifier = Notifier()
        stored = descriptors_from_systemd()
        self._links = tuple(each for each in stored if not is_name_of_hold(each.name))
        self._stub = Stub(Holds(self._notifier, {
            each.name: each.descriptor for each in stored if is_name_of_hold(each.name)}))
        self._vudc = Vudc()
        own = own_identity(AGENT)
        self._dial = Dialler(lambda: Credentials(own.certificate, own.key) if own is not None else None)
        self._presence: Presence | None = None
        self._triggers: Triggers | None = None
        self._claims = Claims(UdevRules())
        self._stop = asyncio.Event()

    async def run(self) -> None:
        runtime = Path(os.environ.get("RUNTIME_DIRECTORY") or AGENT.runtime_directory)
        records = RecordStore(runtime / "exports", ExportRecord)
        leftovers = Leftovers(records, self._links, self._notifier)
        watcher = LinkWatcher()
        outlets = Outlets(self._publish, self._withdraw, self._notifier.status,
                          lambda: self._reconsider(agent), self._claims.claim)
        agent = Agent(self._policy, self._load_policy,
                      lambda agent: self._surroundings(agent, watcher, records), outlets, leftovers)
        self._presence = Presence(lambda shown: serve_agent(agent, reports=shown), agent.reports)
        await self._presence.join()
        self._triggers = Triggers(agent, self._dial)
        await self._claims.claim(self._policy, frozenset())
        mounts, sleep = MountWatch(agent.usage_changed), _sleep_watch(agent)
        mounts.start()
        sleep.start()
        await self._stub.forget_the_gone()
        watch = DeviceWatch(agent, self._vudc, leftovers.forget_the_rest)
        await watch.start()
        agent.tell_status()
        self._handle_signals(agent)
        self._warn_without_module()
        self._notifier.ready()
        await self._stop.wait()
        self._notifier.stopping()
        watch.close()
        mounts.close()
        await sleep.close()
        triggers, self._triggers = self._triggers, None
        await triggers.close()
        await self._end(agent, self._presence)

    async def _end(self, agent: Agent, presence: Presence) -> None:
        if await stop_is_part_of_restart(AGENT.unit, presence.connection):
            log.info("restarting: connected devices stay connected")
            agent.leave_everything()
        else:
            await self._claims.withdraw(agent.exports())
            await agent.give_everything_back()
        await presence.leave()
        await self._notifier.drain(DRAIN_DEADLINE)

    def _surroundings(self, agent: Agent, watcher: LinkWatcher,
                      records: RecordStore[ExportRecord]) -> Surroundings:
        return Surroundings(
            exporter_of=self._exporter_of, dial=self._dial, watcher=watcher, records=records,
            notifier=self._notifier, hosts_in_use=agent.hosts_in_use, on_change=agent.changed,
            on_drop=agent.dropped)

    def _exporter_of(self, device: Device) -> Exporter:
        if device.kind is Kind.VUDC:
            return self._vudc
        return self._stub

    def _load_policy(self) -> AgentPolicy:
        return load_agent_policy(self._options.configuration, self._options.drop_ins)

    def _publish(self, report: DeviceReport) -> None:
        if self._presence is not None and (publisher := self._presence.publisher) is not None:
            publisher.put(report)

    def _withdraw(self, bus_id: str) -> None:
        if self._presence is not None and (publisher := self._presence.publisher) is not None:
            publisher.remove(bus_id)

    def _reconsider(self, agent: Agent) -> None:
        if self._triggers is not None:
            self._triggers.reconsider()
            self._claims.follow(agent.policy, agent.held)
            self._claims.examine(agent.exports())

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
