"""The kernel's own messages, in a network namespace of the test's own."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

UNSHARE = ["unshare", "--user", "--map-root-user", "--net"]

SCRIPT = """
import asyncio, socket, subprocess, time
from usbip_agent.kernel import network

def ip(*words):
    subprocess.run(["ip", *words], check=True)

async def main():
    loop = asyncio.get_running_loop()
    calls = asyncio.Queue()
    watch = network.NetworkWatch(lambda: calls.put_nowait(None))

    async def called(what):
        await asyncio.wait_for(calls.get(), 10)
        await quiet(what)

    async def quiet(what):
        try:
            await asyncio.wait_for(calls.get(), network.PAUSE + network.SETTLING + 0.3)
        except asyncio.TimeoutError:
            print(what, flush=True)

    await quiet("quiet at first")
    ip("link", "set", "lo", "up")
    await called("one call for a link with its addresses")
    ip("route", "add", "198.51.100.0/24", "dev", "lo")
    await called("a route")
    ip("route", "del", "198.51.100.0/24", "dev", "lo")
    await called("a route less")
    ip("addr", "change", "2001:db8::7/64", "dev", "lo", "valid_lft", "900", "preferred_lft", "900")
    await called("an address")
    ip("addr", "add", "192.0.2.7/32", "dev", "lo")
    await called("an IPv4 address without a route")
    ip("addr", "add", "2001:db8::9/128", "dev", "lo", "noprefixroute")
    await called("an IPv6 address without a route")
    ip("addr", "change", "2001:db8::7/64", "dev", "lo", "valid_lft", "800", "preferred_lft", "800")
    ip("link", "set", "lo", "mtu", "9000")
    ip("neigh", "add", "192.0.2.9", "lladdr", "02:00:00:00:00:01", "dev", "lo")
    await quiet("nothing for what helps nobody")
    ip("link", "set", "lo", "down")
    ip("link", "set", "lo", "up")
    await called("up again")
    watch._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    for number in range(64):
        ip("link", "set", "lo", "mtu", str(9000 + number))
    await called("messages were lost")
    watch.close()
    watch.close()
    print("closed")

asyncio.run(main())
"""


def _may_unshare() -> bool:
    try:
        return subprocess.run([*UNSHARE, "ip", "link"], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


@pytest.mark.slow
@pytest.mark.skipif(not _may_unshare(), reason="needs unprivileged network namespaces, and iproute2")
def test_one_call_for_each_change() -> None:
    said = subprocess.run(
        [*UNSHARE, sys.executable, "-c", textwrap.dedent(SCRIPT)], cwd=Path(__file__).parents[3],
        capture_output=True, text=True, timeout=120, check=False)
    assert said.stdout.splitlines() == [
        "quiet at first", "one call for a link with its addresses", "a route", "a route less", "an address",
        "an IPv4 address without a route", "an IPv6 address without a route",
        "nothing for what helps nobody", "up again", "messages were lost", "closed"], said.stderr
