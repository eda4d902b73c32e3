"""Beside others: the stock tools on the same machines, gadgets on a vUDC."""
from __future__ import annotations

from . import product
from .devices import Stick
from .pair import Pair
from .product import SLOW

STOCK_PORT = 3241
GADGET = "/sys/kernel/config/usb_gadget/line"
MAKE_GADGET = f"""
set -e
modprobe -a libcomposite usbip-vudc
mountpoint -q /sys/kernel/config || mount -t configfs none /sys/kernel/config
mkdir -p {GADGET}/strings/0x409 {GADGET}/configs/c.1 {GADGET}/functions/acm.usb0
cd {GADGET}
echo 0x1d6b > idVendor; echo 0x0104 > idProduct; echo line > strings/0x409/product
ln -s functions/acm.usb0 configs/c.1/
echo usbip-vudc.0 > UDC
"""


def test_stock_tools_are_undisturbed(pair: Pair) -> None:
    node, host = pair.node, pair.host
    ours, theirs = Stick(serial="OURS"), Stick(serial="THEIRS")
    product.set_up(pair, "{name: ours, match: {serial: OURS}, connect: lab}")
    taken = node.plug(theirs, 2)
    node.sh(f"usbipd -D --tcp-port {STOCK_PORT} && usbip bind -b {taken}", SLOW)
    node.until(f"ss -Hlnt | grep -q :{STOCK_PORT}")
    host.sh(f"usbip --tcp-port {STOCK_PORT} attach -r node -b {taken}", SLOW)
    busid = node.plug(ours, 1)
    product.until_state(node, busid, "connected")
    product.until_attached(host, 2)
    assert host.disk_hash(theirs) == theirs.sha256
    assert host.disk_hash(ours) == ours.sha256
    assert list(product.imports(host)) == [busid]
    enumerated = "cat /sys/bus/usb/devices/4-1/devnum"
    before = host.sh(enumerated)
    assert host.sh("usbip port 2>/dev/null | grep -c '^Port'") == "2"

    # What is in use by others is not ours to take; what is theirs survives whatever becomes of ours.
    assert taken in product.failure(node, f"usbip-agent connect -b {taken} -r lab", 1)
    node.run(["usbip-agent", "disconnect", "-b", busid], SLOW)
    node.run(["usbip-agent", "connect", "-b", busid, "-r", "lab"], SLOW)
    for guest, service in ((node, product.AGENT), (host, product.USBIPA)):
        guest.run(["systemctl", "restart", service], SLOW)
        guest.run(["systemctl", "stop", service], SLOW)
    host.until(f"[ ! -e {ours.disk} ]", SLOW)
    assert product.driver(node, busid) == "usb"
    host.sh("echo 3 > /proc/sys/vm/drop_caches")
    assert host.disk_hash(theirs) == theirs.sha256
    assert host.sh(enumerated) == before
    assert product.driver(node, taken) == "usbip-host"
    host.sh("systemctl start usbipa", SLOW)
    node.sh("systemctl start usbip-agent", SLOW)
    product.until_state(node, busid, "connected")
    product.until_attached(host, 2)

    # And theirs ends as it always did, beside ours.
    place = "awk '/^Port/ {port = $2 + 0} /:3241/ {print port}'"
    host.sh(f"usbip detach -p $(usbip port 2>/dev/null | {place})", SLOW)
    node.until(f'[ "$(cat /sys/bus/usb/devices/{taken}/usbip_status)" = 1 ]', SLOW)
    node.sh(f"usbip unbind -b {taken}", SLOW)
    assert product.driver(node, taken) == "usb"
    assert host.disk_hash(ours) == ours.sha256
    product.until_state(node, busid, "connected")
    for device in (ours, theirs):
        node.unplug(device)
    product.until_clean(pair)


def test_a_gadget_on_a_vudc(pair: Pair) -> None:
    node, host = pair.node, pair.host
    product.set_up(pair)
    vudc = "usbip-vudc.0"
    node.sh(MAKE_GADGET, SLOW)
    product.until_state(node, vudc, "ignored")
    shown = product.devices(node)[vudc]
    assert (shown["kind"], shown["vendor"], shown["product"]) == ("vudc", "1d6b", "0104")

    # By hand.
    node.run(["usbip-agent", "connect", "-d", "-b", vudc, "-r", "lab"], SLOW)
    host.until("[ -c /dev/ttyACM0 ]", SLOW)
    node.sh("systemctl restart usbip-agent", SLOW)
    product.until_state(node, vudc, "connected")
    for here, there, local, remote in ((node, host, "ttyGS0", "ttyACM0"), (host, node, "ttyACM0", "ttyGS0")):
        here.sh(f"stty -F /dev/{local} raw -echo")
        there.sh(f"stty -F /dev/{remote} raw -echo")
        heard = there.start_job(f"exec 3< /dev/{remote}; echo open; head -n 1 <&3")
        heard.wait_for("open")
        here.sh(f"echo from {here.name} > /dev/{local}")
        heard.wait_for(f"from {here.name}", SLOW)
        heard.wait(SLOW)
    [imported] = product.imports(host).values()
    assert imported["bus_id"] == vudc and "/dev/ttyACM0" in imported["device_nodes"]
    node.run(["usbip-agent", "disconnect", "-d", "-b", vudc], SLOW)
    product.until_state(node, vudc, "held")
    product.until_host_clean(host)

    # By a rule, and by what is the plugging of a gadget.
    gadgets = "{name: gadgets, match: {kind: vudc}, connect: lab}"
    product.configure(node, product.AGENT, product.agent_yaml(gadgets))
    product.until_state(node, vudc, "held")
    for _ in range(2):
        node.sh(f"echo '' > {GADGET}/UDC", SLOW)
        node.until(f"! {product.property_of(vudc, 'State')}", SLOW)
        product.until_clean(pair)
        node.sh(f"echo {vudc} > {GADGET}/UDC", SLOW)
        product.until_state(node, vudc, "connected")
        host.until("[ -c /dev/ttyACM0 ]", SLOW)
    node.sh("systemctl stop usbip-agent", SLOW)
    product.until_clean(pair)
