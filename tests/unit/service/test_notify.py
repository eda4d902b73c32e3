"""Talking to a systemd that is busy."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from usbip_agent.service.notify import Notifier

MANY = 1000
"""More datagrams than net.unix.max_dgram_qlen lets wait anywhere."""


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        yield listening


async def hear(systemd: socket.socket, until: str) -> list[str]:
    """Everything that is told, until one message is *until*."""
    said: list[str] = []
    async with asyncio.timeout(10):
        while until not in said:
            data = await asyncio.get_running_loop().sock_recv(systemd, 4096)
            said.append(data.decode())
    return said


async def test_a_busy_systemd_holds_up_nothing_and_misses_nothing(systemd: socket.socket) -> None:
    notifier = Notifier()
    for number in range(MANY):
        notifier.store(f"link-{number}", systemd.fileno())
        notifier.status(f"{number} of them")
    descriptors = len(os.listdir("/proc/self/fd"))
    notifier.ready()
    said = await hear(systemd, "READY=1")
    assert [line for line in said if line.startswith("FDSTORE=1")] == [
        f"FDSTORE=1\nFDNAME=link-{number}" for number in range(MANY)]
    assert said[-2] == f"STATUS={MANY - 1} of them"
    assert sum(line.startswith("STATUS") for line in said) < MANY
    await notifier.drain(10)
    assert len(os.listdir("/proc/self/fd")) < descriptors - MANY / 2


async def test_the_end_waits_for_systemd_no_longer_than_it_may(systemd: socket.socket) -> None:
    notifier = Notifier()
    for number in range(MANY):
        notifier.forget(f"link-{number}")
    await notifier.drain(0.01)
    notifier.ready()
    await hear(systemd, "READY=1")


async def test_without_systemd_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notifier = Notifier()
    notifier.ready()
    notifier.status("Ω")
    notifier.store("link", 0)
    notifier.stopping()
    await notifier.drain(10)


async def test_a_status_is_ascii_and_said_once(systemd: socket.socket) -> None:
    notifier = Notifier()
    notifier.status("10 Ω")
    notifier.status("10 Ω")
    notifier.ready()
    assert await hear(systemd, "READY=1") == ["STATUS=10 \\u03a9", "READY=1"]
