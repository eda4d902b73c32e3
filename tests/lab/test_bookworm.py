"""The main job with a node on Debian 12: its kernel, systemd and Python are the oldest that are supported."""
from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from . import debs, product, snapshot
from .conftest import running
from .devices import Keyboard, Stick
from .machine import State
from .pair import Pair
from .product import SLOW


@pytest.fixture(scope="module")
def mixed(packages: list[Path]) -> Mapping[str, State]:
    """Snapshots of a node on Debian 12 and a host on Debian 13, with the product."""
    return snapshot.prepare({"node": snapshot.Role("bookworm", debs=debs.pick(packages, debs.NODE)),
                             "host": snapshot.Role(debs=debs.pick(packages, debs.HOST))})


@pytest.fixture
def mixed_pair(mixed: Mapping[str, State], request: pytest.FixtureRequest) -> Iterator[Pair]:
    """A fresh pair of them, running."""
    yield from running(mixed, request)


def test_a_node_on_debian_12(mixed_pair: Pair) -> None:
    node, host = mixed_pair.node, mixed_pair.host
    assert node.sh(". /etc/os-release; echo $VERSION_ID") == "12"
    product.set_up(mixed_pair, product.EVERYTHING)
    stick, keyboard = Stick(32 << 20), Keyboard()
    busid, second = node.plug(stick, 1), node.plug(keyboard, 2)
    for each in (busid, second):
        product.until_state(node, each, "connected")
    product.until_attached(host, 2)
    assert host.disk_hash(stick) == stick.sha256
    assert product.status_line(node, product.AGENT) == "2 connected"

    local = [each["local_bus_id"] for each in product.imports(host).values()]
    enumerated = f"cat {' '.join(f'/sys/bus/usb/devices/{each}/devnum' for each in local)}"
    before = host.sh(enumerated)
    node.sh("systemctl restart usbip-agent", SLOW)
    node.sh("systemctl reload usbip-agent", SLOW)
    product.crash(node, product.AGENT)
    for each in (busid, second):
        product.until_state(node, each, "connected")
    assert host.sh(enumerated) == before

    node.run(["usbip-agent", "disconnect", "-b", busid], SLOW)
    assert product.driver(node, busid) == "usb"
    assert node.disk_hash(stick) == stick.sha256
    product.until_attached(host, 1)
    node.run(["usbip-agent", "connect", "-b", busid, "-r", "lab"], SLOW)
    assert host.disk_hash(stick) == stick.sha256
    node.unplug(stick)
    product.until_attached(host, 1)
    node.sh("systemctl stop usbip-agent", SLOW)
    assert product.driver(node, second) == "usb"
    product.until_clean(mixed_pair)
    node.sh("systemctl start usbip-agent", SLOW)
    product.until_state(node, second, "connected")
    node.unplug(keyboard)
    product.until_clean(mixed_pair)
