"""A node that sleeps, and one whose host dies: what logind, the host and the kernel see of it."""

from __future__ import annotations

import asyncio
import socket

from tests.component.agent.daemon import Machine
from tests.component.agent.fake_host import DEADLINE
from tests.component.agent.tree import STICK
from tests.component.bus.test_bus_logind import fake_logind
from usbip_agent import wire
from usbip_agent.transport.stream import TCP_USER_TIMEOUT


def test_a_dead_host_is_noticed_as_its_entry_says(machine: Machine) -> None:
    text = machine.configuration.read_text().replace("transport: plain", "transport: plain, dead_after: 30s")
    machine.configure(text)
    machine.tree.plug("1-1", STICK, announced=False)
    with machine.running():
        machine.connected("1-1")
        machine.kernel.until_linked({"1-1"}, DEADLINE)
        link = machine.kernel.link("1-1")
        assert link.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert link.getsockopt(socket.IPPROTO_TCP, TCP_USER_TIMEOUT) == 30_000


async def test_before_sleep_devices_are_given_back_and_after_it_they_go_again(machine: Machine) -> None:
    machine.tree.plug("1-1", STICK, announced=False)
    async with fake_logind(machine.bus) as logind:
        with machine.running():
            await asyncio.to_thread(machine.connected, "1-1")
            await logind.holds(1)
            await logind.prepare(True)
            (await asyncio.to_thread(machine.host.next, wire.Operation.UNEXPORT)).accept()
            await logind.holds(0)
            assert machine.tree.driver("1-1") == "usb", "the lock goes when all is ready, and not before"
            assert (await machine.report("1-1")).reason == "the machine goes to sleep"
            await logind.prepare(False)
            (await asyncio.to_thread(machine.host.next)).accept()
            await asyncio.to_thread(machine.kernel.until_linked, {"1-1"}, DEADLINE)
            await logind.holds(1)
