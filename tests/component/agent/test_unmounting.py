"""A stick that is mounted: it goes as soon as it is not, and not when the next look is due."""

from __future__ import annotations

import signal
import time

import pytest

from tests.component.agent.daemon import Machine
from tests.component.agent.tree import STICK
from tests.component.kernel.test_mount_watch import Namespace

LOOKS = 5
"""After so many the next is 32 seconds away."""


async def test_an_unmounted_stick_goes_at_once(machine: Machine) -> None:
    namespace = Namespace(machine.directory)
    place = machine.directory / "place"
    place.mkdir()
    machine.tree.plug("1-1", STICK, announced=False)
    machine.tree.disk("1-1", "sda", "8:0")
    try:
        if not namespace.works:
            pytest.skip("no user namespaces here")
        namespace.do(f"mount -t tmpfs /dev/sda {place}")
        with machine.running() as process:
            assert (await machine.until_state("1-1", "blocked")).reason == f"/dev/sda is mounted on {place}"
            for looks in range(2, LOOKS + 1):
                process.send_signal(signal.SIGHUP)
                while (await machine.report("1-1")).attempts < looks:
                    pass
            namespace.do(f"umount {place}")
            unmounted = time.monotonic()
            machine.connected("1-1")
            assert time.monotonic() - unmounted < 15
    finally:
        namespace.end()
