"""Reasons against taking a device, in operators' words."""

from __future__ import annotations

import pytest

from usbip_agent.device_side.interlock import reasons_against
from usbip_agent.kernel.block_devices import BlockUsage, Mounted
from usbip_agent.kernel.seats import Seat, Session
from usbip_agent.kernel.usage import Usage, Way

LAB = {"lab": ["10.9.0.2"], "backup": ["2001:db8::7"]}


@pytest.mark.parametrize(("usage", "expected"), [
    (Usage(), ()),
    (Usage(blocks=BlockUsage(mounted=(Mounted("/dev/sda1", "/media/x"),))),
     ("/dev/sda1 is mounted on /media/x",)),
    (Usage(blocks=BlockUsage(mounted=(Mounted("/dev/sda1", "/"), Mounted("/dev/sda1", "/srv")))),
     ("it carries the root file system", "/dev/sda1 is mounted on /srv")),
    (Usage(blocks=BlockUsage(mounted=(Mounted("/dev/sda1", "/media/\x1b[2J\n"),))),
     ("/dev/sda1 is mounted on /media/\\x1b[2J\\n",)),
    (Usage(blocks=BlockUsage(swaps=("/dev/sda2",))), ("/dev/sda2 is swap",)),
    (Usage(blocks=BlockUsage(held=("/dev/mapper/vault",))), ("/dev/mapper/vault is in use by the system",)),
    (Usage(ways=(Way("eth1", "10.9.0.2"),)), ("eth1 carries the way to lab (10.9.0.2)",)),
    (Usage(ways=(Way("eth1", "192.0.2.1"), Way("eth1", ""))), ()),
    (Usage(seats=(Seat("seat0", ("alice",)),)), ("the only keyboard of seat0, where alice is logged in",)),
    (Usage(seats=(Seat("seat0", ("alice", "bob")),)),
     ("the only keyboard of seat0, where alice and bob are logged in",)),
    (Usage(consoles=("ttyUSB0",)), ("ttyUSB0 is the system's console",)),
    (Usage(logins=(Session("alice", "", "ttyUSB0"),)), ("alice is logged in on ttyUSB0",)),
])
def test_reasons(usage: Usage, expected: tuple[str, ...]) -> None:
    assert reasons_against(usage, LAB) == expected


def test_a_host_whose_address_is_not_known() -> None:
    usage = Usage(ways=(Way("eth1", ""),))
    assert reasons_against(usage, {"lab": []}) == (
        "eth1 may carry the way to lab, whose address is not known",)
    assert reasons_against(usage, LAB) == ()
    assert reasons_against(usage, {}) == ()
