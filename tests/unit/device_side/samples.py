"""A stick, two hosts, and a clock that stands until it is moved."""

from __future__ import annotations

from usbip_agent.device import Device, Kind, Speed
from usbip_agent.device_side.actions import Connection, StartAttempt, StartTimer
from usbip_agent.device_side.clocks import Clocks
from usbip_agent.device_side.export import Export
from usbip_agent.errors import Fault
from usbip_agent.policy.agent import Decision
from usbip_agent.policy.hosts import Host
from usbip_agent.policy.transports import Transport
from usbip_agent.report import ExportState

LAB = Host("lab", "10.0.0.1", transport=Transport.PLAIN)
BACKUP = Host("backup", "10.0.0.2", transport=Transport.PLAIN)
STICK = Device(Kind.USB, "1-1", 1, 2, Speed.HIGH, "10c4", "ea60")
TO_LAB = Decision("sticks", (LAB,))
TO_BACKUP = Decision("sticks", (BACKUP,))
NOWHERE = Decision("default", ())


class Time:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    @property
    def clocks(self) -> Clocks:
        return Clocks(lambda: self.now, lambda: int(self.now * 1_000_000), lambda: 0.5)


def connected(time: Time, decision: Decision = TO_LAB) -> Export:
    export = Export(STICK, decision, time.clocks)
    assert export.begin() == (StartAttempt(STICK, decision.hosts),)
    assert export.attempt_succeeded(Connection(decision.hosts[0], "plain", "10.0.0.1:3240")) == ()
    assert export.state is ExportState.CONNECTED
    return export


def failed(export: Export, fault: Fault, claimed: bool = False) -> float:
    """Lets the attempt under way fail; the delay until the next."""
    actions = export.attempt_failed(fault, claimed)
    return next(action.delay for action in actions if isinstance(action, StartTimer))
