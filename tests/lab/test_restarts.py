"""Daemons come and go, devices stay: restart, kill -9; and stop, which gives them back."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from . import product
from .devices import Keyboard, Stick
from .guest import Guest
from .pair import Pair
from .product import AGENT, USBIPA


def restart(guest: Guest, service: str) -> None:
    guest.run(["systemctl", "restart", service], product.SLOW)


@pytest.mark.parametrize("end", [restart, product.crash])
def test_devices_stay(pair: Pair, end: Callable[[Guest, str], None]) -> None:
    node, host = pair.node, pair.host
    product.set_up(pair, product.EVERYTHING)
    stick = Stick(serial="STAYS")
    busid, second = node.plug(stick, 1), node.plug(Keyboard(), 2)
    for each in (busid, second):
        product.until_state(node, each, "connected")
    product.until_attached(host, 2)
    assert host.disk_hash(stick) == stick.sha256
    before = product.imports(host)
    enumerated, since = _enumerations(host, before), product.devices(node)[busid]["since"]

    for guest, service in ((host, USBIPA), (node, AGENT), (host, USBIPA)):
        end(guest, service)
        for each in (busid, second):
            product.until_state(node, each, "connected")
        product.until_attached(host, 2)
        host.until("[ $(busctl tree --list org.usbip.Usbipa1 | grep -c import/) = 2 ]", product.SLOW)
        # The very same enumerations, under the same names and with the same story.
        assert _enumerations(host, before) == enumerated
        assert _told(product.imports(host)) == _told(before)
        assert abs(product.devices(node)[busid]["since"] - since) < 5_000_000
        host.sh("echo 3 > /proc/sys/vm/drop_caches")
        assert host.disk_hash(stick) == stick.sha256

    node.unplug(stick)                      # who came later looks after what was there before
    host.until(f"[ ! -e {stick.disk} ]", product.SLOW)
    node.run(["usbip-agent", "disconnect", "-b", second], product.SLOW)
    assert product.driver(node, second) == "usb"
    node.until(f"! ls -d {product.STUB}/[0-9]*-*", product.SLOW)
    product.until_host_clean(host)
    assert node.dmesg_warnings() == host.dmesg_warnings() == []


def _enumerations(host: Guest, imported: dict[str, dict[str, Any]]) -> list[str]:
    """Which devices udev has seen in the imports' places: numbers that change with each enumeration."""
    paths = " ".join(f"/sys/bus/usb/devices/{each['local_bus_id']}/devnum" for each in imported.values())
    return host.sh(f"cat {paths}").split()


def _told(imported: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Without the order of device nodes."""
    return {busid: {**each, "device_nodes": sorted(each["device_nodes"])} for busid, each in imported.items()}


def test_what_ends_while_a_daemon_is_down(pair: Pair) -> None:
    node, host = pair.node, pair.host
    product.set_up(pair, product.EVERYTHING)
    stick, keyboard = Stick(), Keyboard()
    for device, port in ((stick, 1), (keyboard, 2)):
        product.until_state(node, node.plug(device, port), "connected")
    product.until_attached(host, 2)
    for guest, service in ((node, AGENT), (host, USBIPA)):      # systemd would start it in a moment
        guest.put(f"/run/systemd/system/{service}.service.d/down.conf", "[Service]\nRestartSec=1h\n")
        guest.sh("systemctl daemon-reload")
        guest.sh(f"systemctl kill -s KILL {service}")
        guest.until(f"systemctl show -p SubState --value {service} | grep -q auto-restart")
    node.unplug(stick)
    host.until(f"[ ! -e {stick.disk} ]", product.SLOW)
    host.sh("systemctl start usbipa", product.SLOW)
    assert list(product.imports(host)) == [keyboard.busid]
    node.sh("systemctl start usbip-agent", product.SLOW)
    assert list(product.devices(node)) == [keyboard.busid]
    product.until_state(node, keyboard.busid, "connected")
    product.until_attached(host, 1)
    product.until_state(node, node.plug(stick, 1), "connected")     # and it can come back
    assert host.disk_hash(stick) == stick.sha256
    for device in (stick, keyboard):
        node.unplug(device)
    product.until_clean(pair)


def test_stop_gives_devices_back(pair: Pair) -> None:
    node, host = pair.node, pair.host
    product.set_up(pair, product.EVERYTHING)
    stick, keyboard = Stick(), Keyboard()
    busids = [node.plug(stick, 1), node.plug(keyboard, 2)]
    for busid in busids:
        product.until_state(node, busid, "connected")
    product.until_attached(host, 2)

    node.sh("systemctl stop usbip-agent", product.SLOW)
    assert [product.driver(node, busid) for busid in busids] == ["usb", "usb"]
    assert node.disk_hash(stick) == stick.sha256
    product.until_clean(pair)
    assert "usbip-agent is not running" in product.failure(node, "usbip-agent status", 69)
    node.sh("systemctl start usbip-agent", product.SLOW)
    for busid in busids:
        product.until_state(node, busid, "connected")
    product.until_attached(host, 2)

    host.sh("systemctl stop usbipa", product.SLOW)
    product.until_host_clean(host)
    for busid in busids:
        product.until_reason(node, busid, "connection refused")
    product.until_status(node, AGENT, r"^2 waiting \(lab: connection refused, next try in [0-9]+ s\)$")
    assert "usbipa is not running" in product.failure(host, "usbipa status", 69)
    host.sh("systemctl start usbipa", product.SLOW)
    for busid in busids:
        product.until_state(node, busid, "connected", 2 * product.SLOW)
    assert host.disk_hash(stick) == stick.sha256
    assert node.dmesg_warnings() == host.dmesg_warnings() == []
