"""Suspend and resume, as logind tells of them: put everything in order before, take it up again after.

A delay lock makes logind wait for us before the machine sleeps, for InhibitDelayMaxSec (5 s) at the most. The
protocol is described at https://systemd.io/INHIBITOR_LOCKS/ and in org.freedesktop.login1(5). Who is not root
gets a lock if polkit lets him, so without polkit usbipa has none: then systemd/system-sleep/usbipa makes the
machine wait. Where there is no logind nothing happens, until there is one.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable
from typing import Any, Final

from usbip_agent.bus.connection import Connection, open_connection
from usbip_agent.bus.descriptor import call_for_descriptor
from usbip_agent.bus.marshalling import Flag, Kind, Message, plain
from usbip_agent.bus.standard import BUS, PROPERTIES, CallError, Error
from usbip_agent.errors import Fault

log = logging.getLogger(__name__)

LOGIND: Final = "org.freedesktop.login1"
LOGIND_PATH: Final = "/org/freedesktop/login1"
MANAGER: Final = "org.freedesktop.login1.Manager"

DEADLINE: Final = 5.0
"""Seconds for logind to answer."""

USUAL_DELAY: Final = 5.0
"""Seconds that logind waits for us when it does not say."""

SHARE_OF_DELAY: Final = 0.9
"""How much of it we take, so that the lock goes before logind loses patience."""

LONGEST_PREPARATION: Final = 30.0
"""Seconds for *on_sleep*, however long logind would wait."""

ASLEEP_AT_MOST: Final = 120.0
"""Seconds that the machine runs on, although it was to sleep, before we take it for awake.

The clock of the event loop stands still while the machine sleeps. What runs before and after, such as the
hooks of systemd-sleep, takes its time; but a logind that died in between must not leave us waiting for ever.
"""

FIRST_DELAY, LONGEST_DELAY = 1.0, 60.0
"""Seconds between attempts to reach the bus."""


class SleepWatch:
    """Awaits *on_sleep* before the machine sleeps and calls *on_resume* after it, from the event loop.

    Each *on_sleep* is followed by an *on_resume*, also when the machine did not sleep after all.
    An *on_sleep* that takes longer than logind waits is cancelled.
    """

    def __init__(self, who: str, why: str, on_sleep: Callable[[], Awaitable[None]],
                 on_resume: Callable[[], None], *, address: str | None = None) -> None:
        self._who, self._why = who, why
        self._on_sleep, self._on_resume = on_sleep, on_resume
        self._address = address
        self._task: asyncio.Task[None] | None = None
        self._connection: Connection | None = None
        self._lock: int | None = None
        self._limit = USUAL_DELAY * SHARE_OF_DELAY
        self._asleep = False
        self._awake_by: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Watches from now on; a bus or a logind that is not there yet is waited for."""
        self._task = asyncio.ensure_future(self._watch())

    async def close(self) -> None:
        """Watches no more, and holds up nobody's sleep."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._release()
        if self._awake_by is not None:
            self._awake_by.cancel()

    async def _watch(self) -> None:
        delay = FIRST_DELAY
        while True:
            try:
                connection = await open_connection(self._address)
            except Fault as problem:
                log.debug("logind cannot be watched: %s", problem)
                await asyncio.sleep(delay)
                delay = min(2 * delay, LONGEST_DELAY)
                continue
            self._connection = connection
            try:
                await self._listen(connection)
                delay = FIRST_DELAY
            except (CallError, Fault) as problem:
                log.debug("logind is watched no more: %s", problem)
            finally:
                await connection.close()
            await asyncio.sleep(FIRST_DELAY)

    async def _listen(self, connection: Connection) -> None:
        """Returns when the connection is gone."""
        signals: asyncio.Queue[Message | None] = asyncio.Queue()
        connection.on_signal = lambda message, _order: signals.put_nowait(message)
        connection.on_lost = lambda: signals.put_nowait(None)
        for rule in (
            f"type='signal',sender='{BUS}',interface='{BUS}',member='NameOwnerChanged',arg0='{LOGIND}'",
            f"type='signal',sender='{LOGIND}',path='{LOGIND_PATH}',interface='{MANAGER}',"
            "member='PrepareForSleep'",
        ):
            await connection.call_bus("AddMatch", "s", rule)
        owner = await _owner(connection)
        if owner:
            await self._meet(connection)
        while (message := await signals.get()) is not None:
            if message.sender == BUS and message.member == "NameOwnerChanged" and message.body[0] == LOGIND:
                owner = message.body[2]
                if owner:
                    await self._meet(connection)
            # Not everything called so comes from logind: whoever is on the bus may send us a signal.
            elif message.sender == owner and message.member == "PrepareForSleep":
                await self._prepare(bool(message.body[0]))

    async def _meet(self, connection: Connection) -> None:
        """logind is there, or there again: in whichever state it is."""
        waits = await _property(connection, "InhibitDelayMaxUSec", USUAL_DELAY * 1e6) / 1e6
        self._limit = min(waits * SHARE_OF_DELAY, LONGEST_PREPARATION)
        if self._asleep and not await _property(connection, "PreparingForSleep", False):
            self._wake_up("logind has been started anew")
        await self._take_lock()

    async def _prepare(self, sleeping: bool) -> None:
        if not sleeping:
            self._wake_up("the machine is awake")
            await self._take_lock()
        elif not self._asleep:
            await self._fall_asleep()

    async def _fall_asleep(self) -> None:
        log.info("the machine is about to sleep")
        self._asleep = True
        self._awake_by = asyncio.get_running_loop().call_later(
            ASLEEP_AT_MOST, self._wake_up, f"it has run on for {ASLEEP_AT_MOST:.0f} s")
        try:
            async with asyncio.timeout(self._limit):
                await self._on_sleep()
        except TimeoutError:
            log.warning("not ready to sleep within %.1f s", self._limit)
        except Exception:
            log.exception("not ready to sleep")
        finally:
            self._release()

    def _wake_up(self, why: str) -> None:
        if self._awake_by is not None:
            self._awake_by.cancel()
            self._awake_by = None
        if self._asleep:
            log.info("resuming: %s", why)
            self._asleep = False
            self._on_resume()

    async def _take_lock(self) -> None:
        """Takes a lock in place of the one we may have: logind may have forgotten that."""
        inhibit = Message(
            Kind.CALL, destination=LOGIND, path=LOGIND_PATH, interface=MANAGER, member="Inhibit",
            flags=Flag.NO_AUTO_START, signature="ssss", body=["sleep", self._who, self._why, "delay"])
        try:
            lock = await call_for_descriptor(inhibit, self._address, deadline=DEADLINE)
        except (CallError, Fault) as problem:
            # While it prepares for sleep it gives none; afterwards we ask again.
            log.debug("logind gives no lock: %s", problem)
            return
        self._release()
        self._lock = lock

    def _release(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


async def _owner(connection: Connection) -> str:
    """logind's unique name; empty without a logind."""
    try:
        [name] = await connection.call_bus("GetNameOwner", "s", LOGIND)
    except CallError as problem:
        if problem.dbus_name != Error.NAME_HAS_NO_OWNER:
            raise
        return ""
    return str(name)


async def _property(connection: Connection, name: str, otherwise: Any) -> Any:
    try:
        reply, _ = await connection.exchange(Message(
            Kind.CALL, destination=LOGIND, path=LOGIND_PATH, interface=PROPERTIES, member="Get",
            flags=Flag.NO_AUTO_START, signature="ss", body=[MANAGER, name]), DEADLINE)
        return plain(reply.body[0])
    except (CallError, Fault, IndexError) as problem:
        log.debug("logind does not say %s: %s", name, problem)
        return otherwise
