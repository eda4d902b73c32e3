"""Carries out what one device's state machine says, and tells it how that went."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from functools import partial

from usbip_agent.device import Device
from usbip_agent.device_side.actions import (
    Action, Actions, AwaitUnlink, Connection, Drop, StartAttempt, StartCleanup, StartRelease, StartTimer,
    StopAttempt, StopTimer,
)
from usbip_agent.device_side.attempt import Attempt, Dial, release
from usbip_agent.device_side.export import Export
from usbip_agent.device_side.guard import Guard
from usbip_agent.device_side.records import ExportRecord
from usbip_agent.device_side.standing import NO_WILL
from usbip_agent.errors import DeadlineFault, Fault
from usbip_agent.kernel.exporter import Exporter, wait_until_unlinked
from usbip_agent.names import Journal
from usbip_agent.policy.hosts import Host
from usbip_agent.report import DeviceReport, ExportState
from usbip_agent.service.journal import transition
from usbip_agent.service.notify import Notifier
from usbip_agent.service.records import RecordStore
from usbip_agent.transport.stream import Stream, shut_down
from usbip_agent.transport.watch import LinkWatcher, keep

log = logging.getLogger(__name__)


Outcome = Callable[[], Actions]
"""Tells the state machine how a piece of work went."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What all keepers share."""

    exporter_of: Callable[[Device], Exporter]
    dial: Dial
    watcher: LinkWatcher
    records: RecordStore[ExportRecord]
    notifier: Notifier
    hosts_in_use: Callable[[], tuple[Host, ...]]
    on_change: Callable[[DeviceReport], None]
    on_drop: Callable[[str], None]


class Keeper:
    """One device, its link, and the one piece of work that is under way for it."""

    def __init__(self, export: Export, surroundings: Surroundings, link: socket.socket | None = None) -> None:
        self.export = export
        self._around = surroundings
        self._link = link
        self._stream: Stream | None = None
        self._task: asyncio.Task[Outcome] | None = None
        self._aside: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._shown: DeviceReport | None = None
        self._will = NO_WILL
        self._watchers: set[asyncio.Future[Fault | None]] = set()

    # What the agent calls.

    def begin(self) -> None:
        if self._link is not None:
            self._around.watcher.watch(self._link, self._link_ended)
        if self.export.claimed:
            self._aside = asyncio.create_task(self._resume(self.export.device))
        self.apply(self.export.begin())
        if self._link is None and self.export.connection is not None:
            self.apply(self.export.orphaned())

    def apply(self, actions: Actions) -> None:
        """Carries out *actions*, then shows what has changed."""
        for action in actions:
            self._carry_out(action)
        self._show()

    async def connect(self, host: Host) -> None:
        """Connects to *host*, as somebody asked; the Fault of the attempt when it fails."""
        outcome: asyncio.Future[Fault | None] = asyncio.get_running_loop().create_future()
        self._watchers.add(outcome)
        try:
            self.apply(self.export.connect(host))
            self._settle_watchers(None)
            fault = await outcome
        finally:
            self._watchers.discard(outcome)
        if fault is not None:
            raise fault

    async def disconnect(self) -> None:
        """Gives the device back and holds it, as somebody asked; the Fault when that cannot be done."""
        self.apply(self.export.disconnect())
        self._settle_watchers(DeadlineFault("disconnected by hand meanwhile"))
        await self.settle()
        if self.export.held and self.export.state is not ExportState.HELD:
            raise Fault(self.export.reason)

    async def settle(self) -> None:
        """Returns when no work is under way."""
        while self._task is not None:
            await asyncio.wait({self._task})

    def abandon(self) -> None:
        """The daemon ends and leaves everything as it is: whoever comes next finds it."""
        self._stop_timer()
        if self._link is not None:
            self._around.watcher.unwatch(self._link)

    def report(self) -> DeviceReport:
        """As it was shown last: whoever sums up a thousand devices does not make a thousand reports."""
        return self._shown or self.export.report()

    # Carrying out.

    def _carry_out(self, action: Action) -> None:
        match action:
            case StartAttempt(device, hosts):
                self._start(self._attempt(device, hosts))
            case StopAttempt():
                if self._task is not None:
                    self._task.cancel()
            case StartRelease(device, connection):
                self._start(self._release(device, connection))
            case AwaitUnlink(device):
                self._start(self._await_unlink(device))
            case StartCleanup(device):
                self._start(self._clean_up(device))
            case StartTimer(delay):
                self._stop_timer()
                self._timer = asyncio.get_running_loop().call_later(delay, self._timer_due)
            case StopTimer():
                self._stop_timer()
            case Drop():
                self._settle_watchers(DeadlineFault(f"{self.export.device.bus_id} is gone"))
                self._around.on_drop(self.export.device.bus_id)

    def _start(self, work: Coroutine[object, object, Outcome]) -> None:
        self._task = asyncio.create_task(work)
        self._task.add_done_callback(self._work_done)

    def _work_done(self, task: asyncio.Task[Outcome]) -> None:
        """Tells the machine, which hears of it here and not from within the work.

        Else something could come in between, start the next work, and have this one's end taken for its own.
        """
        self._task = None
        if task.cancelled():  # before its first step: only attempts are cancelled
            self.apply(self._attempt_failed(DeadlineFault("given up")))
        else:
            self.apply(task.result()())

    async def _resume(self, device: Device) -> None:
        try:
            await self._around.exporter_of(device).resume(device)
        except Fault as fault:
            log.warning("%s", fault)

    async def _attempt(self, device: Device, hosts: tuple[Host, ...]) -> Outcome:
        exporter = self._around.exporter_of(device)
        guard = Guard(self.export.decision.force, self._around.hosts_in_use)
        attempt = Attempt(exporter, guard, self._around.dial, self._progressed, self._leave_word)
        try:
            host, stream = await attempt.connect(device, hosts)
        except asyncio.CancelledError:
            return partial(self._attempt_failed, DeadlineFault("given up"))
        except Fault as fault:
            return partial(self._attempt_failed, fault)
        except Exception:
            log.exception("%s: an attempt failed in an unforeseen way", device.bus_id)
            return partial(self._attempt_failed, Fault("internal error, see the journal"))
        stream.socket.close()
        return partial(self._attempt_succeeded, host, stream)

    def _attempt_succeeded(self, host: Host, stream: Stream) -> Actions:
        self._stream = stream
        if self._link is not None:
            self._around.watcher.watch(self._link, self._link_ended)
        actions = self.export.attempt_succeeded(Connection(host, stream.transport, stream.peer))
        self._settle_watchers(None)
        return actions

    def _attempt_failed(self, fault: Fault) -> Actions:
        self._close_link()
        device = self.export.device
        claimed = self._around.exporter_of(device).holds(device)
        if not claimed:
            self._forget()
        if not self.export.attempt_was_cancelled:
            self._settle_watchers(fault)
        return self.export.attempt_failed(fault, claimed)

    async def _leave_word(self, host: Host, stream: Stream) -> None:
        """Before the hand-over: whoever starts after us finds the link, and notices its end."""
        self._link = keep(stream.socket)
        device = self.export.device
        record = ExportRecord.of(device, host, by_hand=self.export.by_hand is not None)
        self._around.records.put(device.bus_id, replace(
            record, shown_transport=stream.transport, peer=stream.peer, since=self.export.clocks.wall()))
        self._around.notifier.store(descriptor_name(device.bus_id), self._link.fileno())

    async def _release(self, device: Device, connection: Connection | None) -> Outcome:
        link = self._link
        if link is not None:
            self._around.watcher.unwatch(link)

        async def dial_back() -> Stream:
            assert connection is not None
            return await self._around.dial(connection.host)

        try:
            await release(device, self._around.exporter_of(device), link,
                          dial_back if connection is not None else None)
        except Fault as fault:
            self._close_link()
            return partial(self._release_failed, fault)
        except Exception:
            log.exception("%s: a release failed in an unforeseen way", device.bus_id)
            self._close_link()
            return partial(self._release_failed, Fault("internal error, see the journal"))
        self._close_link()
        self._forget()
        return self.export.release_done

    def _release_failed(self, fault: Fault) -> Actions:
        device = self.export.device
        self._settle_watchers(fault)
        return self.export.release_failed(fault, self._around.exporter_of(device).holds(device))

    async def _clean_up(self, device: Device) -> Outcome:
        if self._link is not None:
            shut_down(self._link)
        self._close_link()
        try:
            await self._around.exporter_of(device).forget(device)
        except Fault as fault:
            log.warning("%s", fault)
        except Exception:
            log.exception("%s: clearing up failed in an unforeseen way", device.bus_id)
        self._around.notifier.forget(descriptor_name(device.bus_id))
        self._around.records.remove(device.bus_id)
        return self.export.cleaned_up

    # What comes by itself.

    def _progressed(self, state: ExportState, host: Host) -> None:
        self.apply(self.export.progressed(state, host))

    def _timer_due(self) -> None:
        self._timer = None
        self.apply(self.export.timer_due())

    def _link_ended(self) -> None:
        self.apply(self.export.link_lost())

    async def _await_unlink(self, device: Device) -> Outcome:
        exporter = self._around.exporter_of(device)
        self._close_link()
        try:
            await wait_until_unlinked(exporter, device)
        except Fault as fault:
            return partial(self._link_stuck, fault)
        return partial(self.export.link_ended, exporter.holds(device) and exporter.is_present(device))

    def _link_stuck(self, fault: Fault) -> Actions:
        self._settle_watchers(fault)
        return self.export.link_stuck(fault)

    # Keeping house.

    def _close_link(self) -> None:
        if self._link is not None:
            self._around.watcher.unwatch(self._link)
            self._link.close()
            self._link = None
        if self._stream is not None:
            ended, self._stream = self._stream, None
            asyncio.ensure_future(ended.end_relay())

    def _forget(self) -> None:
        """The link is no more; what somebody wants of the device is still to be known after a restart."""
        self._around.notifier.forget(descriptor_name(self.export.device.bus_id))
        self._write_will()

    def _write_will(self) -> None:
        """While there is a link, its record says more."""
        export, records = self.export, self._around.records
        self._will = will = export.will
        if will == NO_WILL:
            records.remove(export.device.bus_id)
        else:
            held, host = will
            records.put(export.device.bus_id, ExportRecord.of(
                export.device, host, held=held, by_hand=host is not None))

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _settle_watchers(self, fault: Fault | None) -> None:
        """Tells those who asked for a connection: of a fault, or of the connection once it is there."""
        if fault is None and not self.export.is_as_asked:
            return
        for outcome in self._watchers:
            if not outcome.done():
                outcome.set_result(fault)

    def _show(self) -> None:
        if self.export.will != self._will and self._link is None:
            self._write_will()
        report, before = self.export.report(), self._shown
        if report == before:
            return
        self._shown = report
        if before is None or (report.state, report.reason) != (before.state, before.reason):
            _tell(report)
        self._around.on_change(report)


def descriptor_name(bus_id: str) -> str:
    """The name of a link in systemd's store."""
    return f"export-{bus_id}"


_LEVELS = {ExportState.WAITING: logging.WARNING, ExportState.FAILED: logging.ERROR,
           ExportState.BLOCKED: logging.WARNING, ExportState.CONNECTING: logging.DEBUG,
           ExportState.BINDING: logging.DEBUG}


def _tell(report: DeviceReport) -> None:
    """The journal line of a transition."""
    where = f" to {report.host} ({report.transport}, {report.peer})" if report.peer else ""
    why = f": {report.reason}" if report.reason else ""
    transition(
        log, _LEVELS.get(ExportState(report.state), logging.INFO),
        f"{report.bus_id} ({report.vendor}:{report.product} {report.model}) {report.state}{where}{why}",
        {Journal.BUS_ID: report.bus_id, Journal.HOST: report.host, Journal.STATE: report.state,
         Journal.REASON: report.reason, Journal.RULE: report.rule, Journal.PEER: report.peer})
