"""Giving a device back: in the order that the kernel survives, whatever sysfs says meanwhile."""

from __future__ import annotations

import socket

from usbip_agent.device import Device, Kind, Speed
from usbip_agent.device_side.attempt import release
from usbip_agent.kernel.exporter import LinkStatus

STICK = Device(Kind.USB, "1-1", 1, 2, Speed.HIGH, "10c4", "ea60")


class Stub:
    """Holds a device whose link ends after some looks, and which has no number while it is being reset."""

    def __init__(self, looks: int, unplugged: bool = False) -> None:
        self.looks = looks
        self.unplugged = unplugged
        self.given_back = False

    def require_module(self) -> None: ...
    def require_room(self, device: Device) -> None: ...
    def holds(self, device: Device) -> bool: return True
    def is_present(self, device: Device) -> bool: return not self.looks and not self.unplugged
    async def claim(self, device: Device) -> None: ...
    async def hand_over(self, device: Device, link: socket.socket) -> None: ...
    async def resume(self, device: Device) -> None: ...
    async def forget(self, device: Device) -> None: ...

    def link_status(self, device: Device) -> LinkStatus:
        self.looks = max(0, self.looks - 1)
        return LinkStatus.USED if self.looks else LinkStatus.AVAILABLE

    async def give_back(self, device: Device) -> None:
        assert not self.looks
        self.given_back = True


async def test_a_device_that_is_just_being_reset_is_given_back() -> None:
    stub, (link, peer) = Stub(looks=3), socket.socketpair()
    with link, peer:
        await release(STICK, stub, link, None)
        assert peer.recv(1) == b""
    assert stub.given_back


async def test_a_device_that_is_gone_is_not() -> None:
    stub = Stub(looks=1, unplugged=True)
    await release(STICK, stub, None, None)
    assert not stub.given_back
