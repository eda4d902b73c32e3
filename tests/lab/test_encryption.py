"""Encrypted by the kernel where it can, else by the daemon; and nothing to be read on the cable."""
from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from . import debs, encrypted, product, snapshot
from .conftest import running
from .encrypted import MarkedStick, captured, in_clear, tls_stat
from .machine import State
from .pair import Pair
from .product import AGENT, SLOW, USBIPA


@pytest.fixture(scope="module")
def mixed(packages: list[Path]) -> Mapping[str, State]:
    """Snapshots of a node on Debian 12 and a host on Debian 13, with the product."""
    return snapshot.prepare({"node": snapshot.Role("bookworm", debs=debs.pick(packages, debs.NODE)),
                             "host": snapshot.Role(debs=debs.pick(packages, debs.HOST))})


@pytest.fixture
def mixed_pair(mixed: Mapping[str, State], request: pytest.FixtureRequest) -> Iterator[Pair]:
    """A fresh pair of them, running."""
    yield from running(mixed, request)


def check_offload(pair: Pair) -> None:
    """Both kernels encrypt and decrypt one link, and have found no record that was not as it should be."""
    for guest in (pair.node, pair.host):
        counters = tls_stat(guest)
        assert (counters["TlsCurrTxSw"], counters["TlsCurrRxSw"]) == (1, 1), counters
        assert counters["TlsDecryptError"] == 0, counters


def test_two_guests_from_enrolment_to_unplug(pair: Pair) -> None:
    node, host = pair.node, pair.host
    encrypted.listen(host)
    encrypted.enrol(pair)
    stick = MarkedStick()
    with captured(host):
        busid = encrypted.connected(pair, stick, "tls")
        assert host.disk_hash(stick) == stick.sha256
    assert in_clear(host, busid, encrypted.SIZE) == []
    check_offload(pair)

    [imported] = product.imports(host).values()
    assert (imported["node"], imported["transport"], imported["rule"]) == (encrypted.NODE, "tls", "kitchen")
    when, peer = encrypted.last_seen(host)
    assert peer == imported["peer"] and abs(when / 1e6 - float(host.sh("date +%s"))) < SLOW
    [line] = product.journal(node, f"USBIP_BUSID={busid}", "USBIP_STATE=connected")
    assert "(tls, " in line["MESSAGE"]

    host.sh(f"dd if=/dev/urandom of={stick.disk} bs=1M count=1 oflag=direct conv=notrunc", SLOW)
    written = host.disk_hash(stick)
    node.sh("systemctl restart usbip-agent", SLOW)
    host.sh("systemctl restart usbipa", SLOW)
    product.until_state(node, busid, "connected")
    check_offload(pair)
    node.run(["usbip-agent", "disconnect", "-b", busid], SLOW)
    assert node.disk_hash(stick) == written
    node.unplug(stick)
    encrypted.until_clean(pair)
    assert tls_stat(host)["TlsCurrRxSw"] == 0


def test_the_capture_would_show_it(pair: Pair) -> None:
    """The same look at a plain connection finds everything: so finding nothing means something."""
    product.set_up(pair)
    stick = MarkedStick()
    with captured(pair.host):
        busid = encrypted.connected(pair, stick, product.TRANSPORT)
        assert pair.host.disk_hash(stick) == stick.sha256
    assert in_clear(pair.host, busid, encrypted.SIZE) == [
        "busid", "path", "content", "serial, as USB has it"]


def test_a_node_on_debian_12(mixed_pair: Pair) -> None:
    """Its OpenSSL offloads both directions under TLS 1.2 only."""
    encrypted.listen(mixed_pair.host)
    encrypted.enrol(mixed_pair)
    stick = MarkedStick()
    with captured(mixed_pair.host):
        busid = encrypted.connected(mixed_pair, stick, "tls")
        assert mixed_pair.host.disk_hash(stick) == stick.sha256
    assert in_clear(mixed_pair.host, busid, encrypted.SIZE) == []
    check_offload(mixed_pair)
    mixed_pair.node.unplug(stick)
    encrypted.until_clean(mixed_pair)


@pytest.mark.parametrize("side", ["node", "host"])
def test_a_kernel_without_tls(pair: Pair, side: str) -> None:
    """The daemon of that side encrypts, and says so; the other side's kernel goes on doing it itself."""
    node, host = pair.node, pair.host
    service = AGENT if side == "node" else USBIPA
    encrypted.listen(host)
    encrypted.enrol(pair)
    encrypted.without_kernel_tls(pair[side], service)
    shown = {each: "tls (relay)" if each == side else "tls" for each in ("node", "host")}
    stick = MarkedStick()
    with captured(host):
        busid = encrypted.connected(pair, stick, shown["node"])
        assert host.disk_hash(stick) == stick.sha256
    assert in_clear(host, busid, encrypted.SIZE) == []
    assert product.imports(host)[busid]["transport"] == shown["host"]
    other = host if side == "node" else node
    assert tls_stat(other)["TlsCurrTxSw"] == tls_stat(other)["TlsCurrRxSw"] == 1

    # What a daemon moves ends with it, and comes again by itself.
    devnum = f"cat /sys/bus/usb/devices/{product.imports(host)[busid]['local_bus_id']}/devnum"
    before = host.sh(devnum)
    for crash in (False, True):
        if crash:
            product.crash(pair[side], service)
        else:
            pair[side].sh(f"systemctl restart {service}", SLOW)
        host.until(f"[ $({devnum}) != {before} ] && [ -b {stick.disk} ]", SLOW)
        before = host.sh(devnum)
        product.until_state(node, busid, "connected")
        assert product.devices(node)[busid]["transport"] == shown["node"]
    assert host.disk_hash(stick) == stick.sha256
    node.unplug(stick)
    encrypted.until_clean(pair)
