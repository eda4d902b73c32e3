"""The state machine of one device, in random stories of which certain things always hold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test,
)

from tests.unit.device_side.samples import BACKUP, LAB, NOWHERE, STICK, TO_BACKUP, TO_LAB, Time
from usbip_agent.device_side.actions import (
    Action, Actions, AwaitUnlink, Connection, Drop, StartAttempt, StartCleanup, StartRelease, StartTimer,
    StopAttempt, StopTimer,
)
from usbip_agent.device_side.delays import LONGEST_DELAY
from usbip_agent.device_side.export import Export
from usbip_agent.device_side.standing import Work
from usbip_agent.errors import BlockedFault, Fault, NotExportableFault, RefusedFault, UnreachableFault
from usbip_agent.policy.agent import Decision
from usbip_agent.policy.hosts import Host
from usbip_agent.report import ExportState

STUCK = "the kernel still holds the dead link"
RESTING = {ExportState.IGNORED, ExportState.HELD, ExportState.CONNECTED, ExportState.FAILED}
"""The states that only an event from outside leaves."""


class Story(RuleBasedStateMachine):
    """Random events in any order that the world allows; after each, what must never be wrong is checked."""

    @initialize(decision=st.sampled_from([TO_LAB, TO_BACKUP, NOWHERE]))
    def begin(self, decision: Decision) -> None:
        self.plug(decision)

    def plug(self, decision: Decision) -> None:
        self.time = Time()
        self.export = Export(STICK, decision, self.time.clocks)
        self.work: Action | None = None
        self.timer = False
        self.dropped = False
        self.present = STICK
        self.gone = False
        self.stopping = self.asleep = False
        self.take(self.export.begin())

    def take(self, actions: Actions) -> None:
        for action in actions:
            assert not self.dropped, f"{action} after Drop"
            match action:
                case StartAttempt(device) | StartRelease(device) | AwaitUnlink(device):
                    assert self.work is None, f"{action} beside {self.work}"
                    assert not self.gone and device == self.present, f"{action} on a device that is gone"
                    self.work = action
                case StartCleanup(device):
                    assert self.work is None and (self.gone or device != self.present)
                    self.work = action
                case StopAttempt():
                    assert isinstance(self.work, StartAttempt)
                case StartTimer(delay):
                    assert 1.0 <= delay <= LONGEST_DELAY, "a busy loop, or one that never comes back"
                    self.timer = True
                case StopTimer():
                    self.timer = False
                case Drop():
                    assert self.work is None
                    self.dropped = True

    @precondition(lambda self: bool(self.dropped))
    @rule(decision=st.sampled_from([TO_LAB, NOWHERE]))
    def plug_anew(self, decision: Decision) -> None:
        self.plug(decision)

    def living(self) -> bool:
        return not self.dropped

    @precondition(living)
    @rule(decision=st.sampled_from([TO_LAB, TO_BACKUP, NOWHERE]))
    def reload(self, decision: Decision) -> None:
        self.take(self.export.policy_changed(decision, self.export.by_hand))

    @precondition(lambda self: self.living() and not self.gone)
    @rule(host=st.sampled_from([LAB, BACKUP]))
    def connect(self, host: Host) -> None:
        self.take(self.export.connect(host))

    @precondition(lambda self: self.living() and not self.gone)
    @rule()
    def disconnect(self) -> None:
        self.take(self.export.disconnect())

    @precondition(lambda self: isinstance(self.work, StartAttempt))
    @rule(claimed=st.booleans(), fault=st.sampled_from(
        [UnreachableFault("away"), RefusedFault("no"), NotExportableFault("never"), BlockedFault("in use")]))
    def attempt_fails(self, claimed: bool, fault: Fault) -> None:
        self.work = None
        self.take(self.export.attempt_failed(fault, claimed and not self.gone))

    @precondition(living)
    @rule(what=st.sampled_from(["try_now", "usage_changed", "fail_back", "fall_asleep", "wake_up"]))
    def something_changes(self, what: str) -> None:
        self.asleep = {"fall_asleep": True, "wake_up": False}.get(what, self.asleep)
        self.take(getattr(self.export, what)())

    @precondition(lambda self: isinstance(self.work, StartAttempt))
    @rule()
    def attempt_succeeds(self) -> None:
        assert isinstance(self.work, StartAttempt)
        host = self.work.hosts[0]
        self.work = None
        self.take(self.export.attempt_succeeded(Connection(host, "plain", "peer")))

    @precondition(lambda self: isinstance(self.work, StartRelease))
    @rule(well=st.booleans(), claimed=st.booleans())
    def release_ends(self, well: bool, claimed: bool) -> None:
        self.work = None
        self.take(self.export.release_done() if well
                  else self.export.release_failed(Fault(STUCK), claimed and not self.gone))

    @precondition(lambda self: isinstance(self.work, StartCleanup))
    @rule()
    def cleanup_ends(self) -> None:
        self.work = None
        self.take(self.export.cleaned_up())

    @precondition(lambda self: isinstance(self.work, AwaitUnlink))
    @rule(well=st.booleans(), claimed=st.booleans())
    def unlink_ends(self, well: bool, claimed: bool) -> None:
        self.work = None
        actions = (self.export.link_ended(claimed and not self.gone) if well
                   else self.export.link_stuck(Fault(STUCK)))
        assert not any(isinstance(each, StartAttempt) for each in actions), "a busy loop of short links"
        self.take(actions)

    @precondition(lambda self: self.living() and self.export.connection is not None)
    @rule(later=st.sampled_from([1.0, 100.0]))
    def link_ends(self, later: float) -> None:
        self.time.now += later
        self.take(self.export.link_lost())

    @precondition(lambda self: self.living() and bool(self.timer))
    @rule()
    def timer_fires(self) -> None:
        self.timer = False
        self.take(self.export.timer_due())

    @precondition(lambda self: self.living() and not self.gone)
    @rule()
    def unplug(self) -> None:
        self.gone = True
        self.take(self.export.unplugged())

    @precondition(living)
    @rule(decision=st.sampled_from([TO_LAB, NOWHERE]))
    def replug(self, decision: Decision) -> None:
        self.present = replace(self.present, device_number=self.present.device_number + 1)
        self.gone = False
        self.take(self.export.replugged(self.present, decision))

    @precondition(lambda self: self.living() and not self.stopping)
    @rule()
    def stop(self) -> None:
        self.stopping = True
        self.take(self.export.stop())

    @invariant()
    def there_is_always_a_way_on(self) -> None:
        """Nothing under way and no timer: then the state is one that only an event from outside leaves."""
        if not hasattr(self, "export") or self.dropped:
            return
        assert (self.work is None) is (self.export.work is Work.NONE)
        if self.work is None and not self.timer:
            assert not self.stopping, "a stop that never ends"
            assert self.asleep or self.export.state in RESTING, self.export.state
        if self.export.state is ExportState.CONNECTED and self.work is None:
            assert self.export.connection is not None

    @invariant()
    def waiting_says_until_when(self) -> None:
        if hasattr(self, "export") and not self.dropped and self.work is None:
            waits = self.export.state in (ExportState.WAITING, ExportState.BLOCKED)
            waits = waits and (self.export.reason == STUCK or not self.asleep)
            assert waits is self.timer
            if self.export.state is ExportState.WAITING and waits:
                assert self.export.waits_for or self.export.reason == STUCK, "nothing is waited for"
            assert (self.export.report().next_attempt > 0) is waits


def test_no_story_ends_badly() -> None:
    lives = settings(max_examples=150, stateful_step_count=40, deadline=None)
    run: Callable[..., None] = run_state_machine_as_test
    run(Story, settings=lives)
