"""The kernel's own routing tables, as every machine has them."""

from __future__ import annotations

import pytest

from usbip_agent.kernel.ways import KernelRoutes, carriers


def test_the_way_to_oneself() -> None:
    assert KernelRoutes().interface_to("127.0.0.1") == "lo"
    assert KernelRoutes().interface_to("::1") in ("lo", "")
    assert carriers("lo", KernelRoutes()) == {"lo"}


def test_a_link_local_address_says_itself_by_which_interface() -> None:
    assert KernelRoutes().interface_to("fe80::1%eth7") == "eth7"


@pytest.mark.parametrize("address", ["0.0.0.0", "255.255.255.255", "240.0.0.1", "::", "ff02::1", "100::1"])
def test_odd_addresses_have_a_way_or_none(address: str) -> None:
    assert isinstance(KernelRoutes().interface_to(address), str)


def test_uplinks_are_interfaces() -> None:
    assert all(name and name != "lo" for name in KernelRoutes().uplinks())
