"""The composition root of usbipa: puts the rooms together, and runs until it is told to stop."""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import signal
import socket
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from usbip_agent.application_side.adoption import plan
from usbip_agent.application_side.bus_operations import BusOperations
from usbip_agent.application_side.doors import Doors
from usbip_agent.application_side.imports import Imports
from usbip_agent.application_side.keeper import Keeper
from usbip_agent.application_side.life import Surroundings
from usbip_agent.application_side.listener import Listeners
from usbip_agent.application_side.listening_sockets import STORED_PREFIX, Shelf
from usbip_agent.application_side.negotiation import Negotiator
from usbip_agent.application_side.records import Records
from usbip_agent.application_side.usbipa import Overrides, Showcase, Usbipa
from usbip_agent.bus.logind import SleepWatch
from usbip_agent.bus.presence import Presence
from usbip_agent.bus.server import serve_usbipa
from usbip_agent.bus.systemd import stop_is_part_of_restart
from usbip_agent.errors import ExitStatus, Fault, ModuleFault, PermissionFault, UnavailableFault
from usbip_agent.identity.desk import EnrolmentDesk, entry_name
from usbip_agent.identity.enrolment import serve_enrolment
from usbip_agent.identity.own import Identity, own_identity, state_directory
from usbip_agent.identity.registrar import Registrar
from usbip_agent.kernel.device_nodes import DeviceNodes
from usbip_agent.kernel.vhci import PortRow, Vhci
from usbip_agent.names import USBIPA
from usbip_agent.policy.usbipa import AcceptPolicy, load_accept_policy
from usbip_agent.service.notify import Notifier, StoredDescriptor, descriptors_from_systemd
from usbip_agent.transport.stream import shut_down
from usbip_agent.transport.tls import Credentials
from usbip_agent.transport.watch import LinkWatcher

log = logging.getLogger(__name__)

LEAVE_DEADLINE = 5.0
"""Seconds that a restart waits for what the kernel is being told just then."""


DRAIN_DEADLINE = 2.0
"""Seconds that the end waits for systemd to take what it was told."""


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What the command line says."""

    configuration: Path = USBIPA.configuration
    ipv4: bool = False
    """Only IPv4; likewise ``ipv6``. Neither and both mean both."""
    ipv6: bool = False
    port: int | None = None
    """The TCP port, in place of each listener's own."""

    @property
    def drop_ins(self) -> Path:
        return self.configuration.parent / USBIPA.drop_ins.name

    @property
    def ip_versions(self) -> tuple[int, ...]:
        if self.ipv4 == self.ipv6:
            return (4, 6)
        return (4,) if self.ipv4 else (6,)

    def load_policy(self) -> AcceptPolicy:
        """InvalidConfiguration with every error."""
        return load_accept_policy(self.configuration, self.drop_ins)


def run(options: RunOptions) -> ExitStatus:
    """Runs the daemon until SIGTERM or SIGINT.

    InvalidConfiguration; UnavailableFault when another one runs, a port is taken or the bus name is held.
    """
    runtime = Path(os.environ.get("RUNTIME_DIRECTORY", "").partition(":")[0] or USBIPA.runtime_directory)
    with _only_one(runtime):
        asyncio.run(_run(options, runtime))
    return ExitStatus.DONE


async def _run(options: RunOptions, runtime: Path) -> None:
    await _Daemon(options, runtime).run()


def _only_one(runtime: Path) -> IO[bytes] | nullcontext[None]:
    """Holds the runtime directory: two daemons would adopt, and end, each other's imports.

    A disk that has no room for it is no reason not to start: a port and a name have one owner as well.
    """
    try:
        runtime.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = open(runtime / "lock", "ab")
    except OSError as error:
        if not isinstance(error, PermissionError):
            log.warning("%s cannot be used, a restart will not know of imports: %s", runtime, error.strerror)
            return nullcontext()
        raise PermissionFault(f"{runtime} cannot be used: {error.strerror}",
                              hint=f"run as root, or let systemd: systemctl start {USBIPA.unit}") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        raise UnavailableFault("another usbipa is running",
                               hint=f"systemctl status {USBIPA.unit}") from None
    return lock


def _credentials(own: Identity | None) -> Credentials | None:
    return Credentials(own.certificate, own.key) if own is not None else None


class _Daemon:
    """One run of usbipa."""

    def __init__(self, options: RunOptions, runtime: Path) -> None:
        own = own_identity(USBIPA)
        self._notifier = Notifier()
        self._vhci = Vhci()
        self._records = Records(runtime / "imports")
        self._showcase = Showcase(self._show_status, lambda: self._presence.publisher)
        self._nodes = DeviceNodes(lambda local_bus_id: self._keeper.appearance_changed(local_bus_id))
        self._watcher = LinkWatcher()
        self._keeper = Keeper(Surroundings(
            Imports(), self._vhci, self._records, self._notifier, self._nodes, self._showcase, self._watcher))
        self._shelf = Shelf(self._notifier)
        self._listeners = Listeners(
            lambda connection, listener: self._negotiator.serve(connection, listener), options.ip_versions,
            self._shelf)
        self._registrar = Registrar(
            state_directory(USBIPA), runtime, host=entry_name(), fingerprint=own.fingerprint if own else "")
        self._usbipa = Usbipa(options.load_policy, self._keeper, self._listeners,
                              lambda: self._vhci.is_loaded, self._registrar.known.name_of,
                              Overrides(options.port))
        self._negotiator = Negotiator(
            self._usbipa, Doors(_credentials(own), self._registrar.known, lambda: self._usbipa.dead_after),
            lambda stream: serve_enrolment(stream, self._registrar), self._listeners.heard)
        desk = EnrolmentDesk(self._registrar, port=lambda: self._usbipa.first_port,
                             end_imports=self._usbipa.end_imports_of)
        operations = BusOperations(self._usbipa, desk)
        self._presence = Presence(
            lambda shown: serve_usbipa(operations, reports=shown), lambda: self._showcase.reports)
        self._sleep = SleepWatch(USBIPA.command, "imported devices are given up cleanly",
                                 self._usbipa.fall_asleep, self._usbipa.wake_up)
        self._stop = asyncio.Event()
        self._reloads: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        stored = descriptors_from_systemd()
        sockets = tuple(each for each in stored if each.name.startswith(STORED_PREFIX))
        self._shelf.put(sockets)
        # First what may fail, before anything is touched that an earlier process left.
        self._usbipa.configure()
        self._handle_signals()
        await self._nodes.start()
        self._reconcile(tuple(each for each in stored if each not in sockets))
        try:
            await self._presence.join()
            await self._usbipa.end_rejected()
            self._listeners.start()
            self._sleep.start()
            self._notifier.ready()
            self._show_status()
            await self._stop.wait()
        except BaseException:
            await self._keeper.leave(LEAVE_DEADLINE)
            raise
        await self._end()

    def _reconcile(self, stored: tuple[StoredDescriptor, ...]) -> None:
        """Goes on with what an earlier process left, as far as the kernel still has it."""
        todo = plan(self._rows(), self._records.read(), stored)
        for record in todo.stale_records:
            log.info("port %d no longer carries %s", record.port, record.offer.description)
            self._records.drop(record.port)
        for stray in todo.stray_descriptors:
            with socket.socket(fileno=stray.descriptor) as link:
                shut_down(link)
            self._notifier.forget(stray.name)
        for adoption in todo.adopt:
            self._keeper.adopt(adoption)

    def _rows(self) -> tuple[PortRow, ...]:
        try:
            return tuple(self._vhci.rows())
        except ModuleFault as fault:
            log.error("%s", fault)
            return ()

    async def _end(self) -> None:
        self._notifier.stopping()
        await self._listeners.close()
        await self._sleep.close()
        if await stop_is_part_of_restart(USBIPA.unit, self._presence.connection):
            log.info("restarting: imported devices stay attached")
            await self._keeper.leave(LEAVE_DEADLINE)
        else:
            await self._keeper.end_all("usbipa stops")
        self._nodes.close()
        self._watcher.close()
        await self._presence.leave()
        self._registrar.known.flush()
        await self._notifier.drain(DRAIN_DEADLINE)

    def _show_status(self) -> None:
        if self._stop.is_set():
            return  # systemd says by itself that it stops
        self._notifier.status(self._usbipa.status)

    def _handle_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        loop.add_signal_handler(signal.SIGHUP, self._begin_reload)

    def _begin_reload(self) -> None:
        task = asyncio.create_task(self._reload())
        self._reloads.add(task)
        task.add_done_callback(self._reloads.discard)

    async def _reload(self) -> None:
        self._notifier.reloading()
        try:
            await self._usbipa.reload()
            log.info("reloaded")
        except Fault as fault:
            log.error("reload: nothing was changed: %s", fault)
        finally:
            self._notifier.ready()
            self._show_status()
