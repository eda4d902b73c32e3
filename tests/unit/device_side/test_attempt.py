"""One attempt, step by step: what is asked of whom, in which order, and what it finds when it begins."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from tests.unit.device_side.samples import BACKUP, LAB, STICK
from tests.unit.device_side.world import Hosts, Kernel, away
from usbip_agent.device import Device
from usbip_agent.device_side.attempt import Attempt
from usbip_agent.device_side.guard import Guard
from usbip_agent.errors import (
    BlockedFault, BusyFault, DeadlineFault, Fault, IdentityFault, KernelFault, ProtocolFault, RefusedFault,
)
from usbip_agent.kernel.exporter import LinkStatus
from usbip_agent.policy.hosts import Host
from usbip_agent.report import ExportState
from usbip_agent.transport.stream import Stream


@dataclass
class Steps:
    """An attempt whose every step is written down in ``kernel.done``."""

    kernel: Kernel = field(default_factory=Kernel)
    hosts: Hosts = field(default_factory=Hosts)
    blocked: str = ""

    async def run(self, *hosts: Host) -> tuple[Host, Stream]:
        done = self.kernel.done
        blocked = self.blocked

        class Watched(Guard):
            async def examine(self, device: Device, hosts: tuple[Host, ...]) -> None:
                done.append("examine")
                if blocked:
                    raise BlockedFault(blocked)

            @asynccontextmanager
            async def keeping_still(self, device: Device) -> AsyncIterator[None]:
                done.append("still")
                yield
                done.append("no longer still")

        async def leave_word(host: Host, stream: Stream) -> None:
            done.append("leave word")

        def progressed(state: ExportState, host: Host) -> None:
            done.append(f"{state} {host.name}")

        return await Attempt(self.kernel, Watched(), self.hosts, progressed, leave_word).connect(STICK, hosts)


@pytest.fixture
async def steps() -> AsyncIterator[Steps]:
    made = Steps()
    yield made
    made.hosts.close()


async def test_the_order_of_things(steps: Steps) -> None:
    host, _stream = await steps.run(LAB)
    assert host is LAB
    # What was written arrives before the bind, and whoever starts after a crash knows of every link.
    assert steps.kernel.done == [
        "examine", "connecting lab", "binding lab", "still", "claim", "no longer still", "leave word",
        "hand over"]


async def test_hosts_are_tried_in_their_order_and_all_are_named(steps: Steps) -> None:
    steps.hosts.away = {"lab": away(LAB), "backup": RefusedFault("no rule accepts it")}
    with pytest.raises(RefusedFault) as caught:
        await steps.run(LAB, BACKUP)
    assert caught.value.what == "lab: lab is away; backup: no rule accepts it"
    assert steps.hosts.dialled == ["lab", "backup"]
    assert steps.kernel.done == ["examine", "connecting lab", "connecting backup"], "it stays local meanwhile"


@pytest.mark.parametrize("fault", [
    away(LAB), RefusedFault("no rule accepts it"), ProtocolFault("it speaks HTTP"), DeadlineFault("silence"),
    IdentityFault("/etc/ssl/lab.pem is missing")])
async def test_what_is_wrong_with_one_host_is_no_reason_not_to_try_the_next(
        steps: Steps, fault: Fault) -> None:
    steps.hosts.away = {"lab": fault}
    host, _stream = await steps.run(LAB, BACKUP)
    assert host is BACKUP


async def test_what_is_blocked_costs_no_host_a_call(steps: Steps) -> None:
    steps.blocked = "/dev/sda1 is mounted on /srv"
    with pytest.raises(BlockedFault, match="mounted"):
        await steps.run(LAB)
    assert steps.hosts.dialled == [] and steps.kernel.done == ["examine"]


async def test_what_the_stub_has_no_room_for_costs_no_host_a_port(steps: Steps) -> None:
    def full(device: Device) -> None:
        raise BusyFault("usbip-host holds 16 devices")

    steps.kernel.require_room = full  # type: ignore[assignment]
    with pytest.raises(BusyFault, match="16"):
        await steps.run(LAB)
    assert steps.hosts.dialled == []


async def test_a_half_done_bind_is_finished(steps: Steps) -> None:
    """The daemon died between the bind and the hand-over: the device is nobody's who could be asked."""
    steps.kernel.claimed = {STICK.bus_id}
    await steps.run(LAB)
    assert steps.kernel.done == ["connecting lab", "binding lab", "leave word", "hand over"]


async def test_a_stub_in_error_is_bound_afresh(steps: Steps) -> None:
    steps.kernel.claimed, steps.kernel.status = {STICK.bus_id}, LinkStatus.ERROR
    await steps.run(LAB)
    assert [step for step in steps.kernel.done if " lab" not in step] == [
        "give back", "still", "claim", "no longer still", "leave word", "hand over"]


async def test_what_something_else_exports_is_left_alone(steps: Steps) -> None:
    steps.kernel.claimed, steps.kernel.status = {STICK.bus_id}, LinkStatus.USED
    with pytest.raises(BusyFault, match="exported by something else"):
        await steps.run(LAB)
    assert steps.kernel.done == [] and steps.hosts.dialled == []


@pytest.mark.parametrize(("says", "becomes"), [
    (KernelFault("writing: no", errno=22), KernelFault),
    (DeadlineFault("bind 1-1: the kernel has not answered for 40 s"), BusyFault)])
async def test_a_kernel_that_says_no_is_no_reason_to_try_the_next_host(
        steps: Steps, says: Fault, becomes: type[Fault]) -> None:
    async def refuse(device: Device) -> None:
        raise says

    steps.kernel.claim = refuse  # type: ignore[assignment]
    with pytest.raises(becomes):
        await steps.run(LAB, BACKUP)
    assert steps.hosts.dialled == ["lab"]
