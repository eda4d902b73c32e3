"""The agent: which devices there are, what the policy says of each, and a keeper for every one of them."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Iterable, Set
from dataclasses import dataclass, replace

from usbip_agent.blocking import LOAD_DEADLINE, in_thread
from usbip_agent.bus.operations import ConnectOptions, DisconnectOptions, Explanation, ExplanationStep
from usbip_agent.device import BUS_ID, Device, VUDC_PREFIX
from usbip_agent.device_side.adoption import Adopted, Leftovers
from usbip_agent.device_side.clocks import Clocks
from usbip_agent.device_side.export import Export
from usbip_agent.device_side.flapping import FlapHistory
from usbip_agent.device_side.keeper import Keeper, Surroundings
from usbip_agent.device_side.summary import summary
from usbip_agent.device_side.twins import Twins
from usbip_agent.errors import UnknownDeviceFault, UsageFault
from usbip_agent.policy.agent import AgentPolicy
from usbip_agent.policy.hosts import Host
from usbip_agent.report import DeviceReport
from usbip_agent.service.clock import now_for_people

log = logging.getLogger(__name__)

STOP_DEADLINE = 45.0
"""Seconds for all devices together to go back to their local drivers; systemd gives the unit 60."""

SUMMING_DELAY = 0.05
"""Seconds that the status line waits for more to say."""

CLOCKS = Clocks(time.monotonic, now_for_people, random.random)


@dataclass(frozen=True, slots=True)
class Outlets:
    """Whom the agent tells of changes."""

    published: Callable[[DeviceReport], None]
    withdrawn: Callable[[str], None]
    status_line: Callable[[str], None]
    reconsider: Callable[[], None]
    """Something is waited for, or no longer."""
    claim: Callable[[AgentPolicy, frozenset[str]], Awaitable[None]]
    """Has udev mark what the policy connects, but for busids that are held; returns when it knows."""


class Agent:
    """Owns the keepers; everything here runs on the event loop."""

    def __init__(self, policy: AgentPolicy, load_policy: Callable[[], AgentPolicy],
                 make_surroundings: Callable[[Agent], Surroundings], outlets: Outlets,
                 leftovers: Leftovers) -> None:
        self._policy = policy
        self._load_policy = load_policy
        self._surroundings = make_surroundings(self)
        self._outlets = outlets
        self._leftovers = leftovers
        self._keepers: dict[str, Keeper] = {}
        self._flaps = FlapHistory()
        self._twins = Twins()
        self._summing: asyncio.TimerHandle | None = None
        self._empty = asyncio.Event()
        self._stopping = False
        self._reloading = asyncio.Lock()

    # What udev says.

    def plugged(self, device: Device) -> None:
        """A device is there: new, known already, or another one in the place of a known one."""
        if device.is_hub or device.is_imported or self._stopping:
            return
        keeper = self._keepers.get(device.bus_id)
        if keeper is None:
            self._adopt_or_begin(device)
        elif keeper.export.is_gone or not keeper.export.device.same_device_as(device):
            self._note(device)
            keeper.apply(keeper.export.replugged(device, self._policy.decide(device)))

    def unplugged(self, bus_id: str, number: int = 0) -> None:
        """A device is gone; *number* says which of those that came at that port, 0 = whatever is there."""
        keeper = self._keepers.get(bus_id)
        if keeper is not None and number and self._is_another(keeper.export.latest, number):
            return  # udev is late: what has come in its place is known already
        self._twins.unplugged(bus_id)
        if keeper is not None:
            keeper.apply(keeper.export.unplugged())

    def _is_another(self, known: Device, number: int) -> bool:
        return known.device_number != number and self._surroundings.exporter_of(known).is_present(known)

    def present(self, devices: Iterable[Device], unsure: Set[str] = frozenset()) -> None:
        """All devices that are there, after a start or after events were lost; *unsure* is left alone."""
        found = {device.bus_id: device for device in devices}
        for bus_id in self._keepers.keys() - found.keys() - unsure:
            self.unplugged(bus_id)
        for device in found.values():
            self.plugged(device)

    def _adopt_or_begin(self, device: Device) -> None:
        decision = self._policy.decide(device)
        export = Export(device, decision, CLOCKS)
        adopted = self._leftovers.adopt(device, self._policy, self._surroundings.exporter_of(device))
        _resume(export, adopted)
        keeper = Keeper(export, self._surroundings, adopted.link)
        self._note(device)
        self._keepers[device.bus_id] = keeper
        delay, reason = self._flaps.plugged(device.bus_id, time.monotonic())
        if delay and not export.claimed:
            keeper.apply(export.damp(reason, delay))
        else:
            keeper.begin()

    def _note(self, device: Device) -> None:
        mistakable = self._twins.plugged(device)
        if mistakable:
            log.warning("%s", mistakable)

    def exports(self) -> tuple[Export, ...]:
        """Every device's state machine."""
        return tuple(keeper.export for keeper in self._keepers.values())

    def try_now(self, host: Host | None = None) -> None:
        """Tries at once what waits, for *host* or for any: something has changed that may help."""
        for keeper in list(self._keepers.values()):
            if host is None or host in keeper.export.waits_for:
                keeper.apply(keeper.export.try_now())

    def usage_changed(self) -> None:
        """Examines again what is blocked."""
        for keeper in list(self._keepers.values()):
            keeper.apply(keeper.export.usage_changed())

    def fail_back(self, bus_id: str) -> None:
        """Takes a device back to a host that its rule prefers."""
        keeper = self._keepers.get(bus_id)
        if keeper is not None:
            keeper.apply(keeper.export.fail_back())

    async def fall_asleep(self) -> None:
        """Ends every link cleanly before the machine sleeps; cancelled when the time for it is over."""
        for keeper in list(self._keepers.values()):
            keeper.apply(keeper.export.fall_asleep())
        await asyncio.gather(*(keeper.settle() for keeper in list(self._keepers.values())))

    def wake_up(self) -> None:
        """Takes everything up again."""
        for keeper in list(self._keepers.values()):
            keeper.apply(keeper.export.wake_up())

    def hosts_in_use(self) -> tuple[Host, ...]:
        """The hosts that devices are connected to, or should be."""
        hosts: dict[Host, None] = {}
        for export in self.exports():
            hosts |= dict.fromkeys(export.decision.hosts)
            if export.connection is not None:
                hosts[export.connection.host] = None
        return tuple(hosts)

    @property
    def policy(self) -> AgentPolicy:
        """The configuration as it was applied last."""
        return self._policy

    @property
    def held(self) -> frozenset[str]:
        """The busids that somebody has disconnected by hand."""
        return frozenset(bus_id for bus_id, keeper in self._keepers.items() if keeper.export.held)

    # What keepers say.

    def changed(self, report: DeviceReport) -> None:
        """A device's report has changed."""
        self._outlets.published(report)
        self._sum_up_soon()

    def dropped(self, bus_id: str) -> None:
        """A keeper has nothing left to do."""
        self._twins.unplugged(bus_id)
        if self._keepers.pop(bus_id, None) is not None:
            self._outlets.withdrawn(bus_id)
            self._sum_up_soon()
        if not self._keepers:
            self._empty.set()

    def reports(self) -> tuple[DeviceReport, ...]:
        """Every device, in the order of busids."""
        return tuple(self._keepers[bus_id].report() for bus_id in sorted(self._keepers))

    def _sum_up_soon(self) -> None:
        """A hub that is plugged in changes a hundred things at once; they are summed up once."""
        if self._summing is None:
            self._summing = asyncio.get_running_loop().call_later(SUMMING_DELAY, self._sum_up)

    def _sum_up(self) -> None:
        self._summing = None
        self._outlets.reconsider()
        self.tell_status()

    def tell_status(self) -> None:
        """Sends the status line."""
        self._outlets.status_line(summary(self.reports(), now_for_people()))

    # What people say (``bus.operations.AgentOperations``).

    async def connect(self, bus_id: str, host: str, options: ConnectOptions) -> str:
        """Exports a device as somebody asked; any Fault of the attempt, once, and the rule goes on."""
        keeper = self._keeper(bus_id, options.vudc)
        await keeper.connect(self._host(host, options.port))
        return bus_id

    async def disconnect(self, bus_id: str, options: DisconnectOptions) -> None:
        """Gives a device back and holds it."""
        keeper = self._keeper(bus_id, options.vudc)
        await self._outlets.claim(self._policy, self.held | {bus_id})
        await keeper.disconnect()

    async def reload(self) -> None:
        """Applies the configuration as it stands now; InvalidConfiguration leaves everything as it was."""
        async with self._reloading:
            policy = await in_thread("reload", self._load_policy, deadline=LOAD_DEADLINE)
            await self._apply(policy)

    async def _apply(self, policy: AgentPolicy) -> None:
        await self._outlets.claim(policy, self.held)
        before, self._policy = self._policy, policy
        log.info("configuration loaded: %d rules, %d hosts", len(self._policy.rules), len(self._policy.hosts))
        for keeper in list(self._keepers.values()):
            export = keeper.export
            keeper.apply(export.policy_changed(
                policy.decide(export.latest), _as_it_is_now(export.by_hand, before, policy)))
        self._sum_up_soon()

    def explain(self, bus_id: str) -> Explanation:
        """What the policy says of a device, rule by rule."""
        decision = self._policy.explain(self._keeper(bus_id, False).export.device)
        steps = (ExplanationStep(step.rule, step.location, step.matched, step.why) for step in decision.trace)
        return Explanation(
            decision.rule, decision.verdict, tuple(host.name for host in decision.hosts), tuple(steps))

    def _keeper(self, bus_id: str, vudc: bool) -> Keeper:
        if not BUS_ID.fullmatch(bus_id):
            raise UsageFault(f"{bus_id!r} is no busid", hint="usbip-agent list shows them")
        if vudc and not bus_id.startswith(VUDC_PREFIX):
            raise UsageFault(f"{bus_id} is no vUDC", hint=f"{VUDC_PREFIX}0 would be one")
        keeper = self._keepers.get(bus_id)
        if keeper is None:
            raise UnknownDeviceFault(
                f"no device {bus_id} here that could be exported", hint="usbip-agent list shows them")
        return keeper

    def _host(self, name: str, port: int | None) -> Host:
        known = self._policy.host(name) or next(
            (host for host in self._policy.hosts if host.address == name), None)
        if known is None:
            raise UsageFault(
                f"{name!r} is neither the name nor the address of a configured host",
                hint="add it under hosts: in the configuration; how it is reached is never guessed")
        return known if port is None else replace(known, port=port)

    # The end.

    async def give_everything_back(self) -> None:
        """The agent stops for good: every device returns to its local driver, all at the same time."""
        self._stopping = True
        self._empty.clear()  # it is set since the last time that nothing was plugged in
        for keeper in list(self._keepers.values()):
            keeper.apply(keeper.export.stop())
        if not self._keepers:
            return
        try:
            async with asyncio.timeout(STOP_DEADLINE):
                await self._empty.wait()
        except TimeoutError:
            log.error("%s: not given back in time", ", ".join(sorted(self._keepers)))

    def leave_everything(self) -> None:
        """The agent is about to be started again: links stay as they are."""
        for keeper in self._keepers.values():
            keeper.abandon()


def _resume(export: Export, adopted: Adopted) -> None:
    """Puts what an earlier run left into the new machine."""
    export.held, export.by_hand = adopted.held, adopted.by_hand
    export.claimed, export.connection = adopted.claimed, adopted.connection
    export.since = adopted.since


def _as_it_is_now(asked: Host | None, before: AgentPolicy, now: AgentPolicy) -> Host | None:
    """What somebody *asked* for by hand, as the configuration says it now; a port of their own stays."""
    if asked is None or (host := now.host(asked.name)) is None:
        return asked
    old = before.host(asked.name)
    return host if old is None or asked.port == old.port else replace(host, port=asked.port)
