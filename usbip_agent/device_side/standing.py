"""All that is known, wanted and shown of one device on the device side. What follows from it: ``export``."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from usbip_agent.device import Device
from usbip_agent.device_side.actions import Connection
from usbip_agent.device_side.clocks import Clocks
from usbip_agent.device_side.delays import Delays
from usbip_agent.device_side.failback import Returns, preferred
from usbip_agent.policy.agent import Decision, Host
from usbip_agent.report import DeviceReport, ExportState

BY_HAND = "by hand"

Will = tuple[bool, Host | None]
"""What somebody wants by hand: whether the device is held, or else on which host it should be."""

NO_WILL: Will = (False, None)


class Work(StrEnum):
    """What is under way."""

    NONE = "none"
    ATTEMPT = "attempt"
    UNLINK = "unlink"
    CLEANUP = "cleanup"
    RELEASE = "release"


@dataclass(slots=True)
class Standing:
    """How it stands with what is plugged into one port. The machine alone changes it."""

    device: Device
    decision: Decision
    clocks: Clocks
    held: bool = False
    by_hand: Host | None = None
    claimed: bool = False
    """The stub holds the device, linked or not."""
    connection: Connection | None = None
    state: ExportState = ExportState.IGNORED
    reason: str = ""
    since: int = 0
    attempts: int = 0
    next_attempt: int = 0
    work: Work = Work.NONE
    trying: Host | None = None
    _parked: str = ""
    """Why it cannot be exported, whatever is tried; empty when nothing of the kind is known."""
    _blocked: bool = False
    _waiting: bool = False
    _lingering: bool = False
    """The kernel still held the link that ended when it was looked last: nothing else is possible before."""
    _stopping: bool = False
    _asleep: bool = False
    _gone: bool = False
    _successor: tuple[Device, Decision] | None = None
    _attempt_hosts: tuple[Host, ...] = ()
    _cancelled: bool = False
    _once_more: bool = False
    """Something has changed during the attempt: when it fails, it may have failed of what is over now."""
    _delays: Delays = field(default_factory=Delays)
    _returns: Returns = field(default_factory=Returns)
    _connected_at: float = 0.0
    _lost_host: str = ""
    _before_hand: tuple[Host | None, bool] | None = None

    @property
    def waits_for(self) -> tuple[Host, ...]:
        """The hosts that would be tried if something helped; none unless the device waits."""
        return self._wanted() if self._waiting and not self._blocked else ()

    @property
    def would_return_to(self) -> tuple[Host, ...]:
        """The hosts that are preferred to the connected one, where the rule says ``failback``."""
        if self.connection is None or self.decision.failback is None or self.by_hand is not None:
            return ()
        return preferred(self._wanted(), self.connection.host)

    @property
    def failback(self) -> float | None:
        """Seconds for which a preferred host must have been back before the device returns; None = never."""
        return None if self.decision.failback is None else self._returns.period(self.decision.failback)

    @property
    def is_as_asked(self) -> bool:
        """Whether the device is connected to where somebody wanted it by hand."""
        return self.connection is not None and self.by_hand in (None, self.connection.host)

    @property
    def will(self) -> Will:
        return self.held, self.by_hand

    @property
    def latest(self) -> Device:
        """The device that is there now, or was last."""
        return self._successor[0] if self._successor is not None else self.device

    @property
    def is_gone(self) -> bool:
        """Whether what the machine works on was unplugged; something else may have come in its place."""
        return self._gone

    @property
    def attempt_was_cancelled(self) -> bool:
        return self._cancelled

    @property
    def rule(self) -> str:
        return BY_HAND if self.by_hand is not None else self.decision.rule

    def report(self) -> DeviceReport:
        """All of it, as D-Bus and ``status`` show it."""
        device, connection = self.device, self.connection
        host = connection.host if connection else self.trying or next(iter(self._wanted()), None)
        return DeviceReport(
            bus_id=device.bus_id, vendor=device.vendor, product=device.product, serial=device.serial,
            manufacturer=device.manufacturer, model=device.model, classes=device.class_names,
            path=device.path, speed=device.speed, kind=device.kind, rule=self.rule, state=self.state,
            reason=self.reason, host=host.name if host else "",
            transport=connection.transport if connection else host.transport if host else "",
            peer=connection.peer if connection else "", since=self.since, attempts=self.attempts,
            next_attempt=self.next_attempt)

    def _wanted(self) -> tuple[Host, ...]:
        if self._stopping or self._gone or self._asleep:
            return ()
        return self._wanted_awake()

    def _wanted_awake(self) -> tuple[Host, ...]:
        if self.held:
            return ()
        return (self.by_hand,) if self.by_hand is not None else self.decision.hosts

    def _show(self, state: ExportState, reason: str = "") -> None:
        if state is not self.state:
            self.since = self.clocks.wall()
        self.state, self.reason = state, reason
        if state not in (ExportState.WAITING, ExportState.BLOCKED):
            self.next_attempt = 0
