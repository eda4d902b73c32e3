"""A kernel and hosts for the agent that do as the test says, and write down what was asked of them."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.unit.device_side.samples import BACKUP, LAB
from usbip_agent import wire
from usbip_agent.device import Device
from usbip_agent.device_side.adoption import Leftovers
from usbip_agent.device_side.agent import Agent, Outlets
from usbip_agent.device_side.keeper import Surroundings
from usbip_agent.device_side.records import ExportRecord
from usbip_agent.errors import Fault, UnreachableFault
from usbip_agent.kernel.exporter import LinkStatus
from usbip_agent.policy.agent import AgentPolicy
from usbip_agent.policy.hosts import Host
from usbip_agent.report import DeviceReport
from usbip_agent.service.notify import Notifier
from usbip_agent.service.records import RecordStore
from usbip_agent.transport.stream import Stream
from usbip_agent.transport.watch import LinkWatcher

PATIENCE = 10.0


@dataclass
class Kernel:
    """A stub. ``done`` is what it was asked for, in order; *status* what it says of a device it has."""

    done: list[str] = field(default_factory=list)
    claimed: set[str] = field(default_factory=set)
    status: LinkStatus = LinkStatus.AVAILABLE
    linked: dict[str, socket.socket] = field(default_factory=dict)

    def require_module(self) -> None: ...

    def require_room(self, device: Device) -> None: ...

    def holds(self, device: Device) -> bool:
        return device.bus_id in self.claimed

    def is_present(self, device: Device) -> bool:
        return True

    def link_status(self, device: Device) -> LinkStatus:
        if device.bus_id in self.linked:
            return LinkStatus.USED
        return self.status if self.holds(device) else LinkStatus.ABSENT

    async def claim(self, device: Device) -> None:
        self.done.append("claim")
        self.claimed.add(device.bus_id)
        self.status = LinkStatus.AVAILABLE

    async def hand_over(self, device: Device, link: socket.socket) -> None:
        self.done.append("hand over")

    async def give_back(self, device: Device) -> None:
        self.done.append("give back")
        self.claimed.discard(device.bus_id)

    async def resume(self, device: Device) -> None: ...

    async def forget(self, device: Device) -> None:
        self.done.append("forget")


class Hosts:
    """Says OK to everything, but for those that are *away*. ``dialled`` are their names, in order."""

    def __init__(self) -> None:
        self.away: dict[str, Fault] = {}
        self.dialled: list[str] = []
        self.peers: list[socket.socket] = []
        self._answering: set[asyncio.Task[None]] = set()

    async def __call__(self, host: Host) -> Stream:
        self.dialled.append(host.name)
        if host.name in self.away:
            raise self.away[host.name]
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        theirs.setblocking(False)
        self.peers += (ours, theirs)
        task = asyncio.create_task(self._answer(theirs))
        self._answering.add(task)
        task.add_done_callback(self._answering.discard)
        return Stream(ours, f"{host.name}:3240", ipaddress.ip_address("127.0.0.1"), "plain")

    async def _answer(self, theirs: socket.socket) -> None:
        request = wire.decode_request(await asyncio.get_running_loop().sock_recv(theirs, wire.REQUEST_SIZE))
        theirs.send(wire.encode_reply(request.operation, 0, with_return_code=True))

    def close(self) -> None:
        for task in self._answering:
            task.cancel()
        for peer in self.peers:
            peer.close()


class World:
    """An agent of which nothing is replaced but kernel and hosts."""

    def __init__(self, directory: Path, policy: AgentPolicy) -> None:
        self.kernel, self.hosts, self.watcher = Kernel(), Hosts(), LinkWatcher()
        self.policy = policy
        self.reports: dict[str, DeviceReport] = {}
        self.claims: list[tuple[AgentPolicy, frozenset[str], dict[str, str]]] = []
        """What udev was told, and the state that each device had just then."""
        records = RecordStore(directory, ExportRecord)
        notifier = Notifier()
        self.agent = Agent(
            policy, lambda: self.policy,
            lambda agent: Surroundings(
                exporter_of=lambda device: self.kernel, dial=self.hosts, watcher=self.watcher,
                records=records, notifier=notifier, hosts_in_use=agent.hosts_in_use,
                on_change=agent.changed, on_drop=agent.dropped),
            Outlets(self._published, self._withdrawn, lambda line: None, lambda: None, self._claim),
            Leftovers(records, (), notifier))

    def _published(self, report: DeviceReport) -> None:
        self.reports[report.bus_id] = report

    def _withdrawn(self, bus_id: str) -> None:
        del self.reports[bus_id]

    async def _claim(self, policy: AgentPolicy, held: frozenset[str]) -> None:
        self.claims.append((policy, held, {each.bus_id: each.state for each in self.reports.values()}))

    async def until(self, state: str, bus_id: str = "1-1") -> DeviceReport:
        """Waits until a device is in *state*."""
        await until(lambda: bus_id in self.reports and self.reports[bus_id].state == state)
        return self.reports[bus_id]

    async def close(self) -> None:
        await self.agent.give_everything_back()
        self.hosts.close()
        self.watcher.close()


def policy(*hosts: Host, failback: float | None = None) -> AgentPolicy:
    """Everything to these hosts."""
    return AgentPolicy(node="n", hosts=(LAB, BACKUP), default_hosts=hosts, default_failback=failback)


def away(host: Host) -> Fault:
    return UnreachableFault(f"{host.name} is away")


async def until(holds: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not holds():
            await asyncio.sleep(0)
