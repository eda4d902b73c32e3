"""Is a stop the first half of a restart? Asked of a systemd that says what the test wants."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.component.bus.private_bus import PrivateBus, caller
from usbip_agent.bus.connection import Connection
from usbip_agent.bus.marshalling import Message, variant
from usbip_agent.bus.standard import CallError
from usbip_agent.bus.systemd import stop_is_part_of_restart

UNIT, UNIT_PATH = "usbip-agent.service", "/org/freedesktop/systemd1/unit/usbip_2dagent_2eservice"
JOB_PATH = "/org/freedesktop/systemd1/job/17"


@asynccontextmanager
async def fake_systemd(bus: PrivateBus, job_type: str | None) -> AsyncIterator[Connection]:
    """org.freedesktop.systemd1 with one unit that has a job of this type, or none."""
    async with caller(bus) as systemd:
        def answer(call: Message) -> None:
            match (call.path, call.member, *call.body):
                case ("/org/freedesktop/systemd1", "GetUnit", "usbip-agent.service"):
                    systemd.answer(call, "o", [UNIT_PATH])
                case (path, "Get", "org.freedesktop.systemd1.Unit", "Job") if path == UNIT_PATH:
                    job = [17, JOB_PATH] if job_type is not None else [0, "/"]
                    systemd.answer(call, "v", [variant("(uo)", job)])
                case (path, "Get", "org.freedesktop.systemd1.Job", "JobType") if path == JOB_PATH:
                    systemd.answer(call, "v", [variant("s", job_type)])
                case _:
                    systemd.refuse(call, CallError("org.freedesktop.systemd1.NoSuchUnit", "not loaded"))

        systemd.on_call = answer
        await systemd.call_bus("RequestName", "su", "org.freedesktop.systemd1", 4)
        yield systemd


@pytest.mark.parametrize("job_type, restarts", [
    ("restart", True), ("try-restart", True), ("stop", False), ("start", False), (None, False)])
async def test_the_job_tells(bus: PrivateBus, job_type: str | None, restarts: bool) -> None:
    async with fake_systemd(bus, job_type), caller(bus) as connection:
        assert await stop_is_part_of_restart(UNIT, connection) is restarts


async def test_a_connection_of_its_own(bus: PrivateBus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", bus.address)
    async with fake_systemd(bus, "restart"):
        assert await stop_is_part_of_restart(UNIT) is True


async def test_a_systemd_that_cannot_be_asked(bus: PrivateBus) -> None:
    async with caller(bus) as connection:
        assert await stop_is_part_of_restart(UNIT, connection) is False
        async with fake_systemd(bus, "restart"):
            assert await stop_is_part_of_restart("other.service", connection) is False
