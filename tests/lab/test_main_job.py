"""Plug it in here, use it there: devices come, work and go, on real kernels."""
from __future__ import annotations

from . import product
from .devices import Keyboard, Serial, Stick
from .pair import Pair
from .product import AGENT, SLOW, USBIPA

REPLUGS = 10
RACES = 6


def test_a_stick_from_plug_to_unplug(pair: Pair) -> None:
    node, host = pair.node, pair.host
    product.set_up(pair)
    watch = host.start_job(["usbipa", "monitor", "--json"])
    host.until("[ $(busctl list --unique --no-legend | grep -c usbipa) = 2 ]", SLOW)
    stick, keyboard = Stick(64 << 20, serial="01A7"), Keyboard()
    local = node.plug(keyboard, 2)
    busid = node.plug(stick, 1)
    product.until_state(node, busid, "connected")
    assert host.disk_hash(stick) == stick.sha256

    shown = product.devices(node)
    facts = [shown[busid][key] for key in ("vendor", "product", "serial", "rule", "host", "transport")]
    assert facts == ["46f4", "0001", "01A7", "sticks", "lab", product.TRANSPORT]
    assert shown[busid]["peer"] in (f"{host.identity.ipv4}:3240", f"[{host.identity.ipv6}]:3240")
    assert (shown[local]["state"], product.driver(node, local)) == ("ignored", "usb")
    [imported] = product.imports(host).values()
    disk = host.sh(f"readlink -f {stick.disk}")
    assert (imported["bus_id"], imported["state"], imported["hub"]) == (busid, "attached", "ss")
    assert disk in imported["device_nodes"]
    assert imported["peer"].startswith((f"{node.identity.ipv4}:", f"[{node.identity.ipv6}]:"))
    assert host.sh(f"udevadm info -q path {disk}").split("/host")[0].endswith(
        f"{imported['local_bus_id']}/{imported['local_bus_id']}:1.0")

    assert product.status_line(node, AGENT) == "1 connected, 1 ignored"
    assert product.status_line(host, USBIPA).startswith("1 imported, listening on *:3240")
    [line] = product.journal(node, f"USBIP_BUSID={busid}", "USBIP_STATE=connected")
    assert (line["USBIP_HOST"], line["USBIP_RULE"]) == ("lab", "sticks")
    assert product.journal(node, f"USBIP_BUSID={busid}", "USBIP_STATE=waiting") == []    # at once
    [line] = product.journal(host, f"USBIP_BUSID={busid}", "USBIP_STATE=attached")
    assert (line["USBIP_PORT"], line["USBIP_PEER"]) == (str(imported["port"]), imported["peer"])

    tree = "busctl tree --list org.usbip.Usbipa1 | grep import/"
    assert host.sh(tree) == f"/org/usbip/Usbipa1/import/{imported['port']}"
    node.unplug(stick)
    watch.wait_for('"change": "added"(.*\n)+.*"change": "removed"', SLOW)
    watch.kill()
    product.until_clean(pair)
    assert list(product.devices(node)) == [local]
    assert product.imports(host) == {}
    host.until(f"[ ! -e {stick.disk} ]")
    product.until_status(node, AGENT, "^1 ignored$")


def test_keyboard_serial_adapter_and_stick_at_once(pair: Pair) -> None:
    node, host = pair.node, pair.host
    product.set_up(pair, product.EVERYTHING)
    stick, keyboard, serial = Stick(), Keyboard(), Serial()
    busids = [node.plug(device, port, wait=False) or device.busid
              for device, port in ((keyboard, 2), (serial, 3), (stick, 1))]
    for busid in busids:
        product.until_state(node, busid, "connected")
    assert host.disk_hash(stick) == stick.sha256
    nodes = {busid: each["device_nodes"] for busid, each in product.imports(host).items()}

    typed = next(path for path in nodes[keyboard.busid] if path.startswith("/dev/input/event"))
    keys = host.start_job(f"head -c 24 {typed} | wc -c")
    host.until(f"ls -l /proc/$(pgrep -x head)/fd | grep -q {typed}", SLOW)
    keyboard.press(node.qmp, "a")
    keys.wait_for("^24$", SLOW)

    assert "/dev/ttyUSB0" in nodes[serial.busid]
    host.sh("stty -F /dev/ttyUSB0 raw -echo")
    with serial.line() as line:
        host.sh("echo hello > /dev/ttyUSB0")
        assert line.makefile("rb").readline().endswith(b"hello\n")
        heard = host.start_job("exec 3< /dev/ttyUSB0; echo open; head -n 1 <&3")
        heard.wait_for("open")
        line.sendall(b"world\n")
        heard.wait_for("world", SLOW)

    for device in (keyboard, serial, stick):
        node.unplug(device)
    product.until_clean(pair)


def test_replugged_again_and_again(pair: Pair) -> None:
    node, host = pair.node, pair.host
    product.set_up(pair)
    stick = Stick(1 << 20)
    for _ in range(REPLUGS):
        busid = node.plug(stick, 1)
        product.until_state(node, busid, "connected")
        assert host.disk_hash(stick) == stick.sha256
        node.unplug(stick)
        host.until(f"[ ! -e {stick.disk} ]", SLOW)
    product.until_clean(pair)

    for _ in range(RACES):                  # wherever in its course the attempt may be just then
        node.plug(stick, 1, wait=False)
        node.unplug(stick)
    product.until_clean(pair)
    assert product.devices(node) == {}

    host.freeze()                           # the attempt hangs in the middle
    busid = node.plug(stick, 1)
    product.until_state(node, busid, "connecting")
    node.unplug(stick)
    product.until_node_clean(node)
    product.until_status(node, AGENT, "^no USB devices here$")
    host.thaw()
    product.until_clean(pair)

    busid = node.plug(stick, 1)             # and all that has worn out nothing
    product.until_state(node, busid, "connected")
    assert host.disk_hash(stick) == stick.sha256
    node.unplug(stick)
    product.until_clean(pair)


def test_present_at_boot(pair: Pair) -> None:
    node, host = pair.node, pair.host
    product.set_up(pair, product.EVERYTHING)
    stick = Stick()
    busid = node.plug(stick, 1)
    product.until_state(node, busid, "connected")
    node.sh("sync")         # the configuration, which is not what is to be lost
    node.power_cut()
    node.start(cold=True)
    node.ready()
    product.until_state(node, busid, "connected")
    assert host.disk_hash(stick) == stick.sha256
    node.sh("systemctl is-active usbip-agent")
    assert list(product.imports(host)) == [busid]
    node.unplug(stick)
    product.until_clean(pair)
