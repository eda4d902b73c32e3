"""Devices that look alike, move, or come back as something else; clocks that jump, directories that go.

Each device keeps its own identity: what is connected is decided by what stands at a port just now.
"""
from __future__ import annotations

from typing import Any

from . import encrypted, product
from .devices import Device, Hub, Keyboard, Stick
from .guest import Guest
from .pair import Pair
from .product import AGENT, SLOW, USBIPA

SIZE = 1 << 20              # of a stick behind a slow hub
SWAPS = 2
YEAR = 366 * 24 * 3600


def test_two_sticks_with_the_same_serial(pair: Pair) -> None:
    node, host = pair.node, pair.host
    product.set_up(pair)
    sticks = {node.plug(stick, port): stick for stick, port in ((Stick(SIZE), 1), (Stick(SIZE), 2))}
    left, right = sticks
    for busid in sticks:
        product.until_state(node, busid, "connected")
    product.until_attached(host, 2)
    said = node.journal(AGENT)
    assert f"{right} says that it is the same device as {left} " in said and "by path: or busid: only" in said
    shown = product.devices(node)
    assert shown[left]["serial"] == shown[right]["serial"] and shown[left]["path"] != shown[right]["path"]
    for busid, stick in sticks.items():
        assert _hash_of_import(host, busid) == stick.sha256

    # A rule tells them apart by their ports: the one stays as it is, the other comes home.
    kept = product.imports(host)[left]
    path = shown[left]["path"]
    product.configure(node, AGENT, product.agent_yaml(
        f"{{name: left, match: {{vendor: 46f4, path: '{path}'}}, connect: lab}}"))
    product.until_state(node, right, "ignored")
    assert product.driver(node, right) == "usb"
    assert product.imports(host) == {left: kept}

    # It is the port that counts, whichever of them is there.
    for stick in sticks.values():
        node.unplug(stick)
    for busid, port in ((left, 1), (right, 2)):
        node.plug(sticks[right if busid == left else left], port)
    product.until_state(node, left, "connected")
    product.until_attached(host, 1)
    assert _hash_of_import(host, left) == sticks[right].sha256
    assert (product.devices(node)[right]["state"], product.driver(node, right)) == ("ignored", "usb")
    for stick in sticks.values():
        node.unplug(stick)
    product.until_clean(pair)


def test_a_hub_moves_to_another_port(pair: Pair) -> None:
    node, host = pair.node, pair.host
    product.set_up(pair, product.EVERYTHING)
    hub, stick, keyboard = Hub(), Stick(SIZE), Keyboard()
    for port in (3, 5):
        node.plug(hub, port)
        busids = [node.plug(stick, f"{port}.1"), node.plug(keyboard, f"{port}.2")]
        for busid in busids:
            product.until_state(node, busid, "connected")
        _until_only(pair, busids)
        assert host.disk_hash(stick) == stick.sha256
        _pull_hub(node, hub, stick, keyboard)
    product.until_clean(pair)
    assert product.devices(node) == {}


def test_a_device_comes_back_as_another(pair: Pair) -> None:
    """At once, at the same port and so under the same busid, as when new firmware starts in it."""
    node, host = pair.node, pair.host
    sticks = "{name: loader, match: {vendor: 46f4}, connect: lab}"
    product.set_up(pair, sticks, "{name: running, match: {vendor: 0627}, connect: lab}")
    stick, keyboard = Stick(SIZE), Keyboard()
    port = 9                                # where the one is as slow as the other
    busid = node.plug(stick, port)
    product.until_state(node, busid, "connected")
    _exchange(node, stick, keyboard)
    node.until(f"""[ "$({product.property_of(busid, 'Rule')})" = 's "running"' ]""", SLOW)
    product.until_state(node, busid, "connected")
    product.until_attached(host, 1)
    assert product.imports(host)[busid]["vendor"] == "0627"

    product.configure(node, AGENT, product.agent_yaml(sticks))
    product.until_state(node, busid, "ignored")
    for _ in range(SWAPS):                  # wherever in its course the attempt may be just then
        _exchange(node, keyboard, stick)
        _exchange(node, stick, keyboard)
        _until_keyboard_is_local(node, busid)
    _exchange(node, keyboard, stick)
    product.until_state(node, busid, "connected")
    _exchange(node, stick, keyboard)        # and when it was all done
    _until_keyboard_is_local(node, busid)

    host.freeze()                           # the attempt hangs in the middle
    _exchange(node, keyboard, stick)
    product.until_state(node, busid, "connecting")
    _exchange(node, stick, keyboard)
    _until_keyboard_is_local(node, busid)
    host.thaw()
    product.until_host_clean(host)
    _until_keyboard_is_local(node, busid)
    node.unplug(keyboard)
    product.until_clean(pair)


def test_clocks_jump_by_a_year(pair: Pair) -> None:
    """The node's and then both; back as far as a machine without a clock of its own begins."""
    node, host = pair.node, pair.host
    encrypted.listen(host, "plain", "tls", rules=(encrypted.ACCEPT, "{name: rest, accept: true}"))
    encrypted.enrol(pair)
    product.configure(node, AGENT, product.agent_yaml(
        encrypted.RULE, "{name: keys, match: {vendor: 0627}, connect: lab}"))
    keyboard, stick = Keyboard(), Stick(SIZE)
    lasting = node.plug(keyboard, 2)
    product.until_state(node, lasting, "connected")
    product.until_attached(host, 1)
    before = _story(product.imports(host)[lasting])
    now = int(node.sh("date +%s"))
    for guests, moment in (((node,), now + YEAR), ((node, host), now - YEAR), ((node,), 86400)):
        for guest in guests:
            guest.sh(f"date -s @{moment}")
        busid = node.plug(stick, 1)
        product.until_state(node, busid, "connected")
        assert product.devices(node)[busid]["transport"].startswith("tls")
        product.until_attached(host, 2)
        assert host.disk_hash(stick) == stick.sha256
        assert _story(product.imports(host)[lasting]) == before
        node.unplug(stick)
        product.until_attached(host, 1)
    assert product.status_line(node, AGENT) == "1 connected"
    node.unplug(keyboard)
    product.until_clean(pair)


def test_the_runtime_directories_go(pair: Pair) -> None:
    """In systemd's sandbox they are made again or done without, which each daemon says once."""
    node, host = pair.node, pair.host
    product.set_up(pair, product.EVERYTHING)
    keyboard, stick = Keyboard(), Stick(SIZE)
    lasting = node.plug(keyboard, 2)
    product.until_state(node, lasting, "connected")
    for guest, service in ((node, AGENT), (host, USBIPA)):
        guest.sh(f"rm -r /run/{service}")
    busid = node.plug(stick, 1)
    product.until_state(node, busid, "connected")
    assert host.disk_hash(stick) == stick.sha256
    assert sorted(product.imports(host)) == [lasting, busid]
    for guest, service in ((node, AGENT), (host, USBIPA)):      # what is not known any more is made anew
        assert guest.journal(service).count("a restart will not know of it") <= 1
        guest.sh(f"systemctl restart {service}", SLOW)
        for each in (lasting, busid):
            product.until_state(node, each, "connected")
        product.until_attached(host, 2)
        guest.until(f"[ $(ls {product.RECORDS[service]} | wc -l) = 2 ]", SLOW)
    assert host.disk_hash(stick) == stick.sha256
    for device in (keyboard, stick):
        node.unplug(device)
    product.until_clean(pair)


def _hash_of_import(host: Guest, busid: str) -> str:
    """Of the disk that an import became: its name in /dev/disk is its twin's as well."""
    local = product.imports(host)[busid]["local_bus_id"]
    disks = f"ls -d /sys/bus/usb/devices/{local}/{local}:1.0/host*/target*/*/block/sd?"
    host.until(disks, SLOW)
    disk = host.sh(disks).strip().rpartition("/")[2]
    host.until(f"[ -b /dev/{disk} ]")
    return host.sh(f"sha256sum /dev/{disk}", SLOW).split()[0]


def _story(imported: dict[str, Any]) -> list[Any]:
    """What is the same as long as an import lasts."""
    return [imported[key] for key in ("port", "peer", "local_bus_id", "since")]


def _until_only(pair: Pair, busids: list[str]) -> None:
    """Waits until these are all that the node exports, and leaves word of, and all that the host imports."""
    wanted, records = " ".join(busids), " ".join(f"{busid}.json" for busid in busids)
    pair.node.until(f'[ "$(xargs -n1 < {product.STUB}/match_busid | sort | xargs)" = "{wanted}" ]', SLOW)
    pair.node.until(f'[ "$(cd {product.RECORDS[AGENT]} && echo *)" = "{records}" ]')
    pair.host.until(f"[ $(ls {product.RECORDS[USBIPA]} | wc -l) = {len(busids)} ]", SLOW)
    product.until_attached(pair.host, len(busids))
    assert sorted(product.imports(pair.host)) == sorted(product.devices(pair.node)) == busids


def _pull_hub(node: Guest, hub: Hub, *behind: Device) -> None:
    """Pulls out a hub with what hangs on it."""
    hub.unplug(node.qmp)
    for device in behind:
        node.qmp.wait_event("DEVICE_DELETED", accept=lambda data: data.get("device") == device.id)
        device.disconnect(node.qmp)
    for device in (hub, *behind):
        node.devices.remove(device)


def _exchange(node: Guest, old: Device, new: Device) -> None:
    """Puts one device in the place of another, and waits for nobody."""
    port = old.port
    node.unplug(old, wait=False)
    node.plug(new, port, wait=False)


def _until_keyboard_is_local(node: Guest, busid: str) -> None:
    """Seen for what it is, with its own driver, and the stub knows nothing of its port."""
    node.until(f"""[ "$({product.property_of(busid, 'Vendor')})" = 's "0627"' ]""", SLOW)
    product.until_state(node, busid, "ignored")
    node.until(f'[ -z "$(tr -d "[:space:]" < {product.STUB}/match_busid)" ]', SLOW)
    assert product.driver(node, busid) == "usb"
