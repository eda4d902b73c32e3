"""The state machine of one device, in single stories."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.unit.device_side.samples import (
    BACKUP, LAB, NOWHERE, STICK, TO_BACKUP, TO_LAB, Time, connected, failed,
)
from usbip_agent.device_side.actions import (
    AwaitUnlink, Connection, Drop, StartAttempt, StartCleanup, StartRelease, StartTimer, StopAttempt,
    StopTimer,
)
from usbip_agent.device_side.delays import LONGEST_DELAY
from usbip_agent.device_side.failback import LONGEST_PERIOD
from usbip_agent.device_side.export import LOCAL_FROM, Export
from usbip_agent.errors import BlockedFault, Fault, NotExportableFault, RefusedFault, UnreachableFault
from usbip_agent.policy.agent import Decision
from usbip_agent.policy.hosts import Host
from usbip_agent.report import ExportState


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
    assert delays[:6] == [1, 2, 4, 8, 16, 32] and set(delays[6:]) == {48}
    assert export.attempts == 10


def test_delays_are_spread_so_that_a_fleet_does_not_come_at_once() -> None:
    for chance, factor in ((0.0, 0.75), (0.5, 1.0), (0.9999, 1.24995)):
        time = Time()
        export = Export(STICK, TO_LAB, replace(time.clocks, chance=lambda drawn=chance: drawn))
        export.begin()
        delays = []
        for _ in range(8):
            delays.append(failed(export, UnreachableFault("away")))
            export.timer_due()
        assert delays == pytest.approx([max(1, factor * each) for each in (1, 2, 4, 8, 16, 32, 48, 48)])
        assert 1 <= min(delays) and max(delays) <= LONGEST_DELAY


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
    assert export.policy_changed(TO_BACKUP, None) == ()
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
    assert export.policy_changed(TO_LAB, None) == ()
    release, = export.policy_changed(TO_BACKUP, None)
    assert isinstance(release, StartRelease)
    assert export.release_done() == (StartAttempt(STICK, (BACKUP,)),)


def test_a_host_with_another_patience_is_the_same_host() -> None:
    """A reload that changes nothing but ``dead_after`` interrupts nobody; the next connection has it."""
    export = connected(Time())
    patient = replace(LAB, dead_after=2 * LAB.dead_after)
    assert export.policy_changed(Decision("sticks", (patient,)), None) == ()
    export.link_lost()
    export.link_ended(claimed=True)
    attempt, = export.timer_due()
    assert isinstance(attempt, StartAttempt)
    assert [host.dead_after for host in attempt.hosts] == [patient.dead_after]


def test_a_reload_tries_at_once_what_waits_or_has_failed() -> None:
    export = Export(STICK, TO_LAB, Time().clocks)
    export.begin()
    failed(export, UnreachableFault("away"))
    assert export.policy_changed(TO_LAB, None) == (StopTimer(), StartAttempt(STICK, (LAB,)))
    export.attempt_failed(NotExportableFault("no"), claimed=False)
    assert export.state is ExportState.FAILED
    assert export.policy_changed(TO_LAB, None) == (StartAttempt(STICK, (LAB,)),)


def test_a_blocked_device_is_examined_again_when_usage_changes() -> None:
    export = Export(STICK, TO_LAB, Time().clocks)
    export.begin()
    assert export.attempt_failed(BlockedFault("/dev/sda1 is mounted"), claimed=False) == (StartTimer(2.0),)
    assert (export.state, export.reason) == (ExportState.BLOCKED, "/dev/sda1 is mounted")
    assert export.usage_changed() == (StopTimer(), StartAttempt(STICK, (LAB,)))
    assert export.attempt_failed(BlockedFault("alice is logged in"), claimed=False) == (StartTimer(4.0),)
    assert export.timer_due() == (StartAttempt(STICK, (LAB,)),)


def test_a_device_that_is_blocked_is_with_its_local_driver() -> None:
    export = Export(STICK, TO_LAB, Time().clocks, claimed=True)
    export.begin()
    actions = export.attempt_failed(BlockedFault("/dev/sda1: something has begun to use it"), claimed=True)
    assert actions == (StartTimer(2.0), StartRelease(STICK, None))
    assert export.release_done() == ()
    assert export.state is ExportState.BLOCKED


def test_what_waits_is_tried_at_once_when_the_network_changes() -> None:
    export = Export(STICK, TO_LAB, Time().clocks)
    export.begin()
    failed(export, UnreachableFault("away"))
    assert export.try_now() == (StopTimer(), StartAttempt(STICK, (LAB,)))
    assert connected(Time()).try_now() == ()


def test_a_change_is_hope_and_delays_begin_anew() -> None:
    """A cable that is back may need another half minute until it carries anything."""
    export = Export(STICK, TO_LAB, Time().clocks)
    export.begin()
    for delay in (1.0, 2.0, 4.0, 8.0):
        assert failed(export, UnreachableFault("no route to host")) == delay
        export.timer_due()
    failed(export, UnreachableFault("no route to host"))
    export.try_now()
    for delay in (1.0, 2.0, 4.0):
        assert failed(export, UnreachableFault("no answer")) == delay
        export.timer_due()
    assert export.attempts == 8


def test_a_network_that_changes_during_an_attempt_gives_it_one_more() -> None:
    export = Export(STICK, TO_LAB, Time().clocks)
    export.begin()
    assert export.try_now() == ()
    assert export.attempt_failed(UnreachableFault("no route to host"), claimed=False) == (
        StartAttempt(STICK, (LAB,)),)
    assert failed(export, UnreachableFault("no route to host")) == 1.0, "one, and no more"
    export.timer_due()
    assert export.try_now() == ()
    assert failed(export, RefusedFault("no rule")) == 1.0, "a host that says no was reached"


def test_a_connection_that_cannot_be_watched_is_made_anew() -> None:
    export = connected(Time())
    release, = export.orphaned()
    assert release == StartRelease(STICK, Connection(LAB, "plain", "10.0.0.1:3240"))
    assert export.release_done() == (StartAttempt(STICK, (LAB,)),)
    assert export.orphaned() == ()


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


def returned(export: Export, host: Host) -> float | None:
    """Takes the device back, upon which *host* takes it; how long a better one must then be back."""
    [release] = export.fail_back()
    assert isinstance(release, StartRelease)
    export.release_done()
    export.attempt_succeeded(Connection(host, "plain", "peer"))
    return export.failback


def test_a_host_that_answers_and_does_not_take_it_is_returned_to_ever_less_often() -> None:
    export = connected(Time(), Decision("sticks", (BACKUP,)))
    spared = Decision("sticks", (LAB, BACKUP), failback=600.0)
    export.policy_changed(spared, None)
    assert export.failback == 600
    assert [returned(export, BACKUP) for _ in range(3)] == [1200, 2400, 4800]
    assert [returned(export, BACKUP) for _ in range(20)][-1] == LONGEST_PERIOD
    export.policy_changed(spared, None)
    assert export.failback == 600, "a reload begins anew"
    assert returned(export, BACKUP) == 1200
    assert returned(export, LAB) == 600, "it is back"
    export.policy_changed(Decision("sticks", (LAB, BACKUP), failback=2 * LONGEST_PERIOD), None)
    assert export.failback == 2 * LONGEST_PERIOD
    export.policy_changed(Decision("sticks", (LAB, BACKUP)), None)
    assert export.failback is None


def test_a_link_that_ends_by_itself_is_no_return_in_vain() -> None:
    export = connected(Time(), Decision("sticks", (LAB, BACKUP), failback=600.0))
    export.link_lost()
    export.link_ended(claimed=True)
    export.timer_due()
    export.attempt_succeeded(Connection(BACKUP, "plain", "peer"))
    assert export.failback == 600


def test_what_was_asked_by_hand_goes_where_the_configuration_says_now() -> None:
    export = Export(STICK, NOWHERE, Time().clocks)
    export.begin()
    export.connect(LAB)
    export.attempt_succeeded(Connection(LAB, "plain", "peer"))
    assert export.policy_changed(NOWHERE, LAB) == ()
    moved = replace(LAB, address="10.0.0.9")
    release, = export.policy_changed(NOWHERE, moved)
    assert isinstance(release, StartRelease)
    assert export.release_done() == (StartAttempt(STICK, (moved,)),)


def test_a_reload_reaches_what_is_about_to_begin() -> None:
    export = connected(Time())
    another = replace(STICK, device_number=9)
    export.replugged(another, TO_LAB)
    assert export.policy_changed(TO_BACKUP, None) == ()
    assert export.cleaned_up() == (StartAttempt(another, (BACKUP,)),)


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


def test_what_happens_while_the_kernel_ends_a_link_is_done_when_it_has() -> None:
    pulled_out, disconnected = connected(Time()), connected(Time())
    for export in (pulled_out, disconnected):
        assert export.link_lost() == (AwaitUnlink(STICK),)
    assert pulled_out.unplugged() == () and disconnected.disconnect() == ()
    assert pulled_out.link_ended(claimed=False) == (StartCleanup(STICK),)
    assert disconnected.link_ended(claimed=True) == (StartRelease(STICK, None),)


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


def test_a_device_that_cannot_be_given_back_yet_is_so_later() -> None:
    """A broken neighbour on the same hub keeps the kernel from it for longer than any deadline."""
    export = connected(Time())
    export.disconnect()
    assert export.release_failed(Fault("the kernel holds the link"), claimed=True) == (StartTimer(1.0),)
    assert (export.state, export.reason) == (ExportState.WAITING, "the kernel holds the link")
    assert export.timer_due() == (StartRelease(STICK, None),)
    assert export.release_failed(Fault("the kernel holds the link"), claimed=True) == (StartTimer(2.0),)
    assert export.disconnect() == (StopTimer(), StartRelease(STICK, None)), "it is asked for once more"
    assert export.release_done() == ()
    assert export.state is ExportState.HELD


def test_a_device_that_is_given_back_too_late_is_not_lost() -> None:
    export = connected(Time())
    export.link_lost()
    export.link_ended(claimed=True)
    for _ in range(2):
        export.timer_due()
        actions = export.attempt_failed(UnreachableFault("away"), claimed=True)
    assert StartRelease(STICK, None) not in actions
    export.timer_due()
    actions = export.attempt_failed(UnreachableFault("away"), claimed=True)
    assert StartRelease(STICK, None) in actions
    export.release_failed(Fault("unbind: no answer for 40 s"), claimed=False)
    assert export.try_now() == (StopTimer(), StartAttempt(STICK, (LAB,)))


def test_a_link_that_the_kernel_keeps_is_waited_for_before_the_next_attempt() -> None:
    export = connected(Time())
    assert export.link_lost() == (AwaitUnlink(STICK),)
    assert export.link_stuck(Fault("the kernel holds the link")) == (StartTimer(1.0),)
    assert (export.state, export.reason) == (ExportState.WAITING, "the kernel holds the link")
    assert export.timer_due() == (AwaitUnlink(STICK),)
    assert export.link_ended(claimed=True) == (StartTimer(2.0),)
    assert export.timer_due() == (StartAttempt(STICK, (LAB,)),)
    stopped = connected(Time())
    stopped.link_lost()
    stopped.stop()
    assert stopped.link_stuck(Fault("the kernel holds the link")) == (Drop(),)


def test_what_cannot_be_exported_is_given_back() -> None:
    export = Export(STICK, TO_LAB, Time().clocks, claimed=True)
    export.begin()
    assert export.attempt_failed(NotExportableFault("no"), claimed=True) == (StartRelease(STICK, None),)
    assert export.release_failed(Fault("busy"), claimed=True) == (StartTimer(1.0),)
    assert export.timer_due() == (StartRelease(STICK, None),)
    assert export.release_done() == ()
    assert (export.state, export.reason) == (ExportState.FAILED, "no")
