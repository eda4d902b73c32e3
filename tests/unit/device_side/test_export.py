"""The state machine of one device: single stories, and random ones of which certain things always hold."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test,
)

from usbip_agent.device import Device, Kind, Speed
from usbip_agent.device_side.actions import (
    Action, Actions, AwaitUnlink, Connection, Drop, StartAttempt, StartCleanup, StartRelease, StartTimer,
    StopAttempt, StopTimer,
)
from usbip_agent.device_side.export import LOCAL_FROM, LONGEST_DELAY, Clocks, Export, Work
from usbip_agent.errors import BlockedFault, Fault, NotExportableFault, RefusedFault, UnreachableFault
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


def test_what_no_rule_connects_is_ignored_and_left_alone() -> None:
    export = Export(STICK, NOWHERE, Time().clocks)
    assert export.begin() == ()
    assert export.state is ExportState.IGNORED


def test_delays_double_up_to_a_minute_and_the_reason_is_shown() -> None:
    export = Export(STICK, TO_LAB, Time().clocks)
    export.begin()
    delays = []
    for _ in range(10):
        delays.append(failed(export, UnreachableFault("lab: connection refused")))
        assert (export.state, export.reason) == (ExportState.WAITING, "lab: connection refused")
        assert export.report().next_attempt == 1_000_000_000 + int(delays[-1] * 1_000_000)
        assert export.timer_due() == (StartAttempt(STICK, (LAB,)),)
    assert delays[:6] == [1, 2, 4, 8, 16, 32] and set(delays[6:]) == {LONGEST_DELAY}
    assert export.attempts == 10


def test_a_refused_device_is_local_at_once_while_it_waits() -> None:
    export = Export(STICK, TO_LAB, Time().clocks, claimed=True)
    export.begin()
    actions = export.attempt_failed(RefusedFault("lab: no"), claimed=True)
    assert actions == (StartTimer(1.0), StartRelease(STICK, None))
    assert export.release_done() == ()
    assert (export.state, export.reason) == (ExportState.WAITING, "lab: no")
    assert export.timer_due() == (StartAttempt(STICK, (LAB,)),)


def test_a_claimed_device_stays_claimed_through_short_waits_only() -> None:
    export = Export(STICK, TO_LAB, Time().clocks)
    export.begin()
    for _ in range(10):
        actions = export.attempt_failed(UnreachableFault("away"), claimed=True)
        delay = actions[0].delay if isinstance(actions[0], StartTimer) else 0.0
        assert (StartRelease(STICK, None) in actions) is (delay >= LOCAL_FROM)
        if StartRelease(STICK, None) in actions:
            return
        export.timer_due()
    pytest.fail("it never became local")


def test_a_link_that_held_long_is_renewed_soon_and_a_flapping_one_ever_later() -> None:
    time = Time()
    export = connected(time)
    delays = []
    for held in (100.0, 1.0, 1.0, 1.0, 100.0):
        time.now += held
        assert export.link_lost() == (AwaitUnlink(STICK),)
        actions = export.link_ended(claimed=True)
        delays += [action.delay for action in actions if isinstance(action, StartTimer)]
        if any(isinstance(action, StartRelease) for action in actions):
            export.release_done()
        assert export.timer_due() == (StartAttempt(STICK, (LAB,)),)
        export.attempt_succeeded(Connection(LAB, "plain", "10.0.0.1:3240"))
    assert delays == [1, 2, 4, 8, 1]


def test_disconnect_releases_and_holds_until_connect() -> None:
    export = connected(Time())
    assert export.disconnect() == (StartRelease(STICK, Connection(LAB, "plain", "10.0.0.1:3240")),)
    assert export.release_done() == ()
    assert export.state is ExportState.HELD
    assert export.policy_changed(TO_BACKUP) == ()
    assert export.connect(LAB) == (StartAttempt(STICK, (LAB,)),)
    assert export.rule == "by hand"


def test_disconnect_while_connecting_cancels_first() -> None:
    export = Export(STICK, TO_LAB, Time().clocks)
    export.begin()
    assert export.disconnect() == (StopAttempt(),)
    assert export.disconnect() == ()
    assert export.attempt_failed(Fault("given up"), claimed=True) == (StartRelease(STICK, None),)
    export.release_done()
    assert export.state is ExportState.HELD


def test_a_connect_by_hand_that_fails_leaves_things_as_they_were() -> None:
    export = Export(STICK, NOWHERE, Time().clocks)
    export.begin()
    assert export.connect(LAB) == (StartAttempt(STICK, (LAB,)),)
    assert export.attempt_failed(UnreachableFault("lab: away"), claimed=False) == ()
    assert export.state is ExportState.IGNORED and export.rule == "default"
    held = connected(Time())
    held.disconnect()
    held.release_done()
    held.connect(BACKUP)
    held.attempt_failed(UnreachableFault("backup: away"), claimed=False)
    assert held.state is ExportState.HELD and held.reason == "backup: away"


def test_a_rule_change_moves_a_connected_device() -> None:
    export = connected(Time())
    assert export.policy_changed(TO_LAB) == ()
    release, = export.policy_changed(TO_BACKUP)
    assert isinstance(release, StartRelease)
    assert export.release_done() == (StartAttempt(STICK, (BACKUP,)),)


def test_a_reload_tries_at_once_what_waits_or_has_failed() -> None:
    export = Export(STICK, TO_LAB, Time().clocks)
    export.begin()
    failed(export, UnreachableFault("away"))
    assert export.policy_changed(TO_LAB) == (StopTimer(), StartAttempt(STICK, (LAB,)))
    export.attempt_failed(NotExportableFault("no"), claimed=False)
    assert export.state is ExportState.FAILED
    assert export.policy_changed(TO_LAB) == (StartAttempt(STICK, (LAB,)),)


def test_a_blocked_device_is_examined_again_when_usage_changes() -> None:
    export = Export(STICK, TO_LAB, Time().clocks)
    export.begin()
    assert export.attempt_failed(BlockedFault("/dev/sda1 is mounted"), claimed=False) == ()
    assert (export.state, export.reason) == (ExportState.BLOCKED, "/dev/sda1 is mounted")
    assert export.try_now() == ()
    assert export.usage_changed() == (StartAttempt(STICK, (LAB,)),)


def test_what_waits_is_tried_at_once_when_the_network_changes() -> None:
    export = Export(STICK, TO_LAB, Time().clocks)
    export.begin()
    failed(export, UnreachableFault("away"))
    assert export.try_now() == (StopTimer(), StartAttempt(STICK, (LAB,)))
    assert connected(Time()).try_now() == ()


def test_sleep_ends_the_link_and_waking_renews_it() -> None:
    export = connected(Time())
    release, = export.fall_asleep()
    assert isinstance(release, StartRelease)
    assert export.release_done() == ()
    assert (export.state, export.reason) == (ExportState.WAITING, "the machine goes to sleep")
    assert export.wake_up() == (StartAttempt(STICK, (LAB,)),)


def test_failback_leaves_a_lesser_host_for_the_preferred_one() -> None:
    both = Decision("sticks", (LAB, BACKUP))
    export = Export(STICK, both, Time().clocks)
    export.begin()
    export.attempt_succeeded(Connection(BACKUP, "plain", "peer"))
    release, = export.fail_back()
    assert isinstance(release, StartRelease)
    assert export.release_done() == (StartAttempt(STICK, (LAB, BACKUP)),)
    export.attempt_succeeded(Connection(LAB, "plain", "peer"))
    assert export.fail_back() == ()


def test_a_flapping_device_is_left_alone_for_a_while() -> None:
    export = Export(STICK, TO_LAB, Time().clocks)
    assert export.damp("plugged in 6 times within a minute", 30.0) == (StartTimer(30.0),)
    assert (export.state, export.reason) == (ExportState.WAITING, "plugged in 6 times within a minute")
    assert export.timer_due() == (StartAttempt(STICK, (LAB,)),)


def test_an_unplugged_device_is_dropped_and_nothing_is_done_to_it() -> None:
    export = connected(Time())
    assert export.unplugged() == (StartCleanup(STICK),)
    assert export.cleaned_up() == (Drop(),)
    waiting = Export(STICK, TO_LAB, Time().clocks)
    waiting.begin()
    failed(waiting, UnreachableFault("away"))
    assert waiting.unplugged() == (StopTimer(), StartCleanup(STICK))


def test_a_replug_waits_for_the_work_on_the_old_device_and_forgets_the_hold() -> None:
    export = connected(Time())
    export.disconnect()
    other = replace(STICK, device_number=3)
    assert export.replugged(other, TO_LAB) == ()
    assert export.release_done() == (StartCleanup(STICK),)
    assert export.cleaned_up() == (StartAttempt(other, (LAB,)),)
    assert not export.held


def test_stop_gives_back_and_drops() -> None:
    export = connected(Time())
    release, = export.stop()
    assert isinstance(release, StartRelease)
    assert export.release_done() == (Drop(),)
    assert Export(STICK, NOWHERE, Time().clocks).stop() == (Drop(),)


def test_a_device_that_cannot_be_given_back_is_failed_and_not_touched() -> None:
    export = connected(Time())
    export.disconnect()
    assert export.release_failed(Fault("the kernel holds the link")) == ()
    assert (export.state, export.reason) == (ExportState.FAILED, "the kernel holds the link")
    assert export.policy_changed(TO_LAB) == (StartRelease(STICK, None),), "a reload tries again"


RESTING = {ExportState.IGNORED, ExportState.HELD, ExportState.CONNECTED, ExportState.FAILED,
           ExportState.BLOCKED}
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
                    assert 0.5 <= delay <= 1.25 * LONGEST_DELAY, "a busy loop, or one that never comes back"
                    self.timer = True
                case StopTimer():
                    self.timer = False
                case Drop():
                    assert self.work is None
                    self.dropped = True

    @precondition(lambda self: self.dropped)
    @rule(decision=st.sampled_from([TO_LAB, NOWHERE]))
    def plug_anew(self, decision: Decision) -> None:
        self.plug(decision)

    def living(self) -> bool:
        return not self.dropped

    @precondition(living)
    @rule(decision=st.sampled_from([TO_LAB, TO_BACKUP, NOWHERE]))
    def reload(self, decision: Decision) -> None:
        self.take(self.export.policy_changed(decision))

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
    @rule(well=st.booleans())
    def release_ends(self, well: bool) -> None:
        self.work = None
        self.take(self.export.release_done() if well else self.export.release_failed(Fault("stuck")))

    @precondition(lambda self: isinstance(self.work, StartCleanup))
    @rule()
    def cleanup_ends(self) -> None:
        self.work = None
        self.take(self.export.cleaned_up())

    @precondition(lambda self: isinstance(self.work, AwaitUnlink))
    @rule(well=st.booleans(), claimed=st.booleans())
    def unlink_ends(self, well: bool, claimed: bool) -> None:
        self.work = None
        self.take(self.export.link_ended(claimed and not self.gone) if well
                  else self.export.link_stuck(Fault("stuck")))

    @precondition(lambda self: self.living() and self.export.connection is not None)
    @rule(later=st.sampled_from([1.0, 100.0]))
    def link_ends(self, later: float) -> None:
        self.time.now += later
        self.take(self.export.link_lost())

    @precondition(lambda self: self.living() and self.timer)
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
            waits = self.export.state is ExportState.WAITING and not self.asleep
            assert waits is self.timer
            assert (self.export.report().next_attempt > 0) is waits


def test_no_story_ends_badly() -> None:
    lives = settings(max_examples=150, stateful_step_count=40, deadline=None)
    run_state_machine_as_test(Story, settings=lives)
