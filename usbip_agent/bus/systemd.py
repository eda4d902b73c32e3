"""The one question to systemd: is this stop the first half of a restart?

A daemon that stops gives its devices back; one that restarts (an upgrade) leaves them connected. SIGTERM does
not tell the two apart, but while ``systemctl restart`` stops a unit, systemd's job for it is a "restart".
"""

from __future__ import annotations

import logging
from typing import Any, Final

from usbip_agent.bus.connection import Connection, open_connection
from usbip_agent.bus.marshalling import Flag, Kind, Message, plain
from usbip_agent.bus.standard import PROPERTIES, CallError
from usbip_agent.errors import Fault

log = logging.getLogger(__name__)

SYSTEMD: Final = "org.freedesktop.systemd1"
SYSTEMD_PATH: Final = "/org/freedesktop/systemd1"

DEADLINE: Final = 2.0
"""Seconds for each of three calls. The unit is being stopped, and systemd counts."""


async def stop_is_part_of_restart(unit: str, connection: Connection | None = None) -> bool:
    """True when systemd is about to start *unit* again after this stop.

    *connection* is that of a running ``BusServer``; without one, a connection of its own to the system bus is
    made. False also when systemd cannot be asked: then a stop is a stop.
    """
    try:
        if connection is None or not connection.alive:
            own = await open_connection()
            try:
                return await _job_is_restart(unit, own)
            finally:
                await own.close()
        return await _job_is_restart(unit, connection)
    except (CallError, Fault, TypeError, ValueError) as problem:
        log.info("systemd does not say why %s stops: %s", unit, problem)
        return False


async def _job_is_restart(unit: str, connection: Connection) -> bool:
    [path] = await _call(connection, SYSTEMD_PATH, f"{SYSTEMD}.Manager", "GetUnit", "s", unit)
    number, job = await _property(connection, path, f"{SYSTEMD}.Unit", "Job")
    if number == 0:
        return False
    job_type = await _property(connection, job, f"{SYSTEMD}.Job", "JobType")
    # restart, try-restart; and reload-or-restart, should a systemd ever queue it unresolved.
    return str(job_type).endswith("restart")


async def _property(connection: Connection, path: str, interface: str, name: str) -> Any:
    [value] = await _call(connection, path, PROPERTIES, "Get", "ss", interface, name)
    return plain(value)


async def _call(connection: Connection, path: str, interface: str, member: str, signature: str,
                *body: Any) -> list[Any]:
    reply, _ = await connection.exchange(Message(
        Kind.CALL, destination=SYSTEMD, path=path, interface=interface, member=member,
        flags=Flag.NO_AUTO_START, signature=signature, body=list(body)), DEADLINE)
    return reply.body
