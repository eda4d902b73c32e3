"""A host that sleeps, and one whose node dies: what reaches the kernel of what the configuration says."""

from __future__ import annotations

import asyncio
import socket

from tests.component.bus.test_bus_logind import fake_logind
from tests.component.usbipa.daemon import DEADLINE, Machine, some_device
from usbip_agent import wire
from usbip_agent.transport.stream import TCP_USER_TIMEOUT


def test_a_dead_node_is_noticed_as_the_configuration_says(machine: Machine) -> None:
    machine.configure(machine.configuration.read_text() + "dead_after: 30s\n")
    with machine.running():
        machine.export()
        machine.kernel.until_ports({0}, DEADLINE)
        link = machine.kernel.link(0)
        assert link.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert link.getsockopt(socket.IPPROTO_TCP, TCP_USER_TIMEOUT) == 30_000


async def test_before_sleep_devices_are_given_up_and_after_it_they_may_come(machine: Machine) -> None:
    async with fake_logind(machine.bus) as logind:
        with machine.running():
            await logind.holds(1)
            await asyncio.to_thread(machine.export)
            await asyncio.to_thread(machine.kernel.until_ports, {0}, DEADLINE)
            await logind.prepare(True)
            await logind.holds(0)
            assert machine.kernel.ports == set(), "the lock goes when all is ready, and not before"
            _, reply = await asyncio.to_thread(machine.ask, wire.Operation.EXPORT, some_device())
            assert wire.HEADER.unpack(reply[:8])[2] == wire.Status.NOT_AVAILABLE
            await logind.prepare(False)
            await logind.holds(1)
            await asyncio.to_thread(machine.export)
            await asyncio.to_thread(machine.kernel.until_ports, {0}, DEADLINE)
