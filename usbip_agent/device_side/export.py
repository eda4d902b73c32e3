"""The life of one device on the device side: events in, actions out. No I/O, no clock of its own.

The machine is level-triggered: each event changes what is known or wanted, and ``_settle`` then says what is
to be done next. At most one piece of work is under way for a device, so that its steps never cross.
"""

from __future__ import annotations

from dataclasses import dataclass

from usbip_agent.device import Device
from usbip_agent.device_side.actions import (
    Actions, AwaitUnlink, Connection, Drop, StartAttempt, StartCleanup, StartRelease, StartTimer,
    StopAttempt, StopTimer,
)
from usbip_agent.device_side.failback import Returns
from usbip_agent.device_side.standing import Standing, Work
from usbip_agent.errors import BlockedFault, Fault, NotExportableFault, RefusedFault
from usbip_agent.policy.agent import Decision, Host
from usbip_agent.report import ExportState

LOCAL_FROM = 5.0
"""Seconds. A device that waits longer than this for its next attempt is usable locally meanwhile."""

STABLE_AFTER = 30.0
"""Seconds. A link that held this long starts the delays anew when it ends; a shorter one does not."""


@dataclass(slots=True)
class Export(Standing):
    """One device, or rather what is plugged into one port: a replug goes on in the same machine."""

    # Events. Each returns the actions to be carried out, in order.

    def begin(self) -> Actions:
        """The device is known; everything starts here, also for one that was adopted as connected."""
        self.since = self.since or self.clocks.wall()
        if self.connection is not None:
            self._connected_at = self.clocks.monotonic()
            self.state = ExportState.CONNECTED
        return self._settle()

    def policy_changed(self, decision: Decision, by_hand: Host | None) -> Actions:
        """The policy was read again: *decision* is of the latest device, *by_hand* the host as it is now.

        What failed for good is tried anew, what waits is tried at once.
        """
        if self._successor is not None:
            self._successor = self._successor[0], decision
            return ()
        changed = (decision.hosts, by_hand) != (self.decision.hosts, self.by_hand)
        self.decision, self.by_hand, self._returns = decision, by_hand, Returns()
        if not (changed or self._parked or self._blocked or self._waiting):
            return self._settle()
        return self._anew()

    def try_now(self) -> Actions:
        """Something has changed (the network, a name, a module) that may help what waits, if not at once."""
        self._delays.begin_anew()
        self._once_more = self.work is Work.ATTEMPT
        return self._anew() if self._waiting or self._blocked else ()

    def usage_changed(self) -> Actions:
        """What stands on this machine's devices has changed: what is blocked is examined again."""
        return self._anew() if self._blocked else ()

    def orphaned(self) -> Actions:
        """The connection that was found cannot be watched; it is ended, and another is made."""
        return self._release() if self.connection is not None and self.work is Work.NONE else ()

    def fall_asleep(self) -> Actions:
        """The machine is about to sleep: the link is ended cleanly while there is somebody to do it."""
        self._asleep = True
        return (*self._stop_waiting(), *self._settle())

    def wake_up(self) -> Actions:
        """The machine is awake again, perhaps elsewhere and much later."""
        self._asleep = False
        self._delays.begin_anew()
        return self._anew()

    def fail_back(self) -> Actions:
        """A host that is preferred to the connected one is back for good."""
        if self.connection is None or self.work is not Work.NONE:
            return ()
        if self.connection.host in self._wanted()[:1]:
            return ()
        self._returns.begun(self.connection.host)
        return self._release()

    def damp(self, reason: str, delay: float) -> Actions:
        """In place of ``begin``: the device comes and goes, and is left alone for *delay* seconds."""
        self.since = self.clocks.wall()
        if not self._wanted():
            return self._settle()
        return self._wait_for(delay, reason)

    def connect(self, host: Host) -> Actions:
        """Somebody wants the device on *host*, whatever the policy says."""
        self._before_hand = (self.by_hand, self.held)
        self.by_hand, self.held = host, False
        self._forget_failures()
        return self._anew()

    def disconnect(self) -> Actions:
        """Somebody wants the device back; it is held until ``connect`` or a replug."""
        self.by_hand, self.held, self._before_hand, self.reason = None, True, None, ""
        return self._anew()

    def progressed(self, state: ExportState, host: Host) -> Actions:
        """The attempt has come so far with *host*."""
        self.trying = host
        self._show(state)
        return ()

    def attempt_succeeded(self, connection: Connection) -> Actions:
        """The kernel has the link."""
        self.work, self.trying, self.claimed, self.connection = Work.NONE, None, True, connection
        self._before_hand = None
        self._returns.connected(self.decision.hosts, connection.host)
        self._connected_at = self.clocks.monotonic()
        self._show(ExportState.CONNECTED)
        return self._settle()

    def attempt_failed(self, fault: Fault, claimed: bool) -> Actions:
        """The attempt ended without a link; *claimed* says whether the stub was left with the device."""
        self.work, self.trying, self.claimed = Work.NONE, None, claimed
        if self._gone or self._cancelled:
            return self._settle()
        if self._before_hand is not None:
            self.by_hand, self.held = self._before_hand
            self._before_hand = None
            if not self._wanted():
                self.reason = fault.what
                return self._settle()
        if isinstance(fault, BlockedFault):
            return self._block(str(fault))
        if isinstance(fault, NotExportableFault):
            self._parked = str(fault)
            return self._settle()
        if self._once_more and not isinstance(fault, RefusedFault):
            return self._settle()
        return self._wait(str(fault), at_once_local=isinstance(fault, RefusedFault))

    def link_lost(self) -> Actions:
        """The link ended by itself."""
        if self.work is not Work.NONE or self.connection is None:
            return ()  # a release is under way and knows
        self.work = Work.UNLINK
        self._lost_host, self.connection = self.connection.host.name, None
        return (AwaitUnlink(self.device),)

    def link_ended(self, claimed: bool) -> Actions:
        """The kernel is done with the link that was lost; *claimed* says whether the stub has the device."""
        self.work, self.claimed, self._lingering = Work.NONE, claimed, False
        if self.clocks.monotonic() - self._connected_at >= STABLE_AFTER:
            self._forget_failures()
        if self._gone or not self._wanted():
            return self._settle()
        return self._wait(f"the link to {self._lost_host} ended")

    def link_stuck(self, fault: Fault) -> Actions:
        """The link ended, but the kernel does not let go of it yet: other devices may keep it busy."""
        self.work, self._lingering = Work.NONE, True
        return self._look_later(fault)

    def release_done(self) -> Actions:
        """The device is with its local driver again."""
        self.work, self.claimed, self.connection, self._lingering = Work.NONE, False, None, False
        return self._settle()

    def release_failed(self, fault: Fault, claimed: bool) -> Actions:
        """The device could not be given back, or not yet; *claimed* says whether the stub still has it."""
        if self.connection is not None:
            self._lost_host, self.connection = self.connection.host.name, None
        self.work, self.claimed, self._lingering = Work.NONE, claimed, claimed
        return self._look_later(fault)

    def cleaned_up(self) -> Actions:
        """Nothing is left of the device that is gone; what came in its place begins."""
        self.work, self.claimed, self.connection, self._lingering = Work.NONE, False, None, False
        if self._successor is None:
            return (Drop(),)
        self.device, self.decision = self._successor
        self._gone, self._successor, self._parked, self._blocked = False, None, "", False
        self.held, self.by_hand, self._before_hand, self._returns = False, None, None, Returns()
        self._forget_failures()
        return self._settle()

    def timer_due(self) -> Actions:
        """It is time for the next attempt."""
        self._waiting = self._blocked = False
        self.next_attempt = 0
        return self._settle()

    def unplugged(self) -> Actions:
        """The device is gone; nothing is done to it any more."""
        self._gone, self._successor = True, None
        return (*self._stop_waiting(), *self._settle())

    def replugged(self, device: Device, decision: Decision) -> Actions:
        """Another enumeration stands at the same port; the old one is gone."""
        self._gone, self._successor = True, (device, decision)
        return (*self._stop_waiting(), *self._settle())

    def stop(self) -> Actions:
        """The agent stops for good: the device goes back to its local driver."""
        self._stopping = True
        return (*self._stop_waiting(), *self._settle())

    # How it decides.

    def _settle(self) -> Actions:
        if self.work is Work.ATTEMPT:
            if self._cancelled or self._wanted() == self._attempt_hosts:
                return ()
            self._cancelled = True
            return (StopAttempt(),)
        if self.work is not Work.NONE:
            return ()
        if self._gone:
            return self._clean_up()
        wanted = self._wanted()
        if not wanted:
            return self._settle_unwanted()
        if self.connection is not None:
            return () if self.connection.host in wanted else self._release()
        if self._waiting:
            return ()
        if self._parked:
            self._show(ExportState.FAILED, self._parked)
            return self._release() if self.claimed else ()
        if self._lingering:
            self.work = Work.UNLINK
            return (AwaitUnlink(self.device),)
        return self._attempt(wanted)

    def _clean_up(self) -> Actions:
        self.work, self.connection = Work.CLEANUP, None
        return (StartCleanup(self.device),)

    def _settle_unwanted(self) -> Actions:
        if self._waiting:
            return ()  # to give it back once more
        if self.claimed or self.connection is not None:
            return self._release()
        if self._stopping:
            return (Drop(),)
        self._forget_failures()
        if self._asleep and self._wanted_awake():
            self._show(ExportState.WAITING, "the machine goes to sleep")
            return ()
        self._show(ExportState.HELD if self.held else ExportState.IGNORED, self.reason if self.held else "")
        return ()

    def _attempt(self, hosts: tuple[Host, ...]) -> Actions:
        self.work, self._attempt_hosts, self._cancelled, self._once_more = Work.ATTEMPT, hosts, False, False
        self.trying = hosts[0]
        self._show(ExportState.CONNECTING)
        return (StartAttempt(self.device, hosts),)

    def _release(self) -> Actions:
        self.work = Work.RELEASE
        return (StartRelease(self.device, self.connection),)

    def _wait(self, reason: str, *, at_once_local: bool = False) -> Actions:
        delay = self._delays.after_failure(self.clocks.chance())
        self.attempts += 1
        timer = self._wait_for(delay, reason)
        if self.claimed and (at_once_local or delay >= LOCAL_FROM):
            return (*timer, *self._release())
        return timer

    def _look_later(self, fault: Fault) -> Actions:
        """The kernel has not done what it was told; nothing else is done to the device until it has."""
        if self._stopping:
            self._show(ExportState.FAILED, str(fault))
            return (*self._stop_waiting(), Drop())
        if self._gone:
            return self._settle()
        self.attempts += 1
        return self._wait_for(self._delays.after_failure(self.clocks.chance()), str(fault))

    def _block(self, reason: str) -> Actions:
        """Not everything that blocks says when it ends (a logout, a file system still being written out)."""
        self._blocked = True
        self.attempts += 1
        timer = self._wait_for(self._delays.while_blocked(), reason, ExportState.BLOCKED)
        return (*timer, *self._release()) if self.claimed else timer

    def _wait_for(self, delay: float, reason: str, state: ExportState = ExportState.WAITING) -> Actions:
        self._waiting = True
        self._show(state, reason)
        self.next_attempt = self.clocks.wall() + int(delay * 1_000_000)
        return (StartTimer(delay),)

    def _anew(self) -> Actions:
        """Nothing that failed, blocked or waited keeps it from being tried now."""
        self._parked, self._blocked = "", False
        return (*self._stop_waiting(), *self._settle())

    def _forget_failures(self) -> None:
        self.attempts = 0
        self._delays.begin_anew()

    def _stop_waiting(self) -> Actions:
        if not self._waiting:
            return ()
        self._waiting = False
        self.next_attempt = 0
        return (StopTimer(),)
