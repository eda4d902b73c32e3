"""What stands in the way: no module, no port, somebody else's name or socket. Said plainly, and got over."""
from __future__ import annotations

from . import product
from .devices import Stick
from .guest import Guest
from .pair import Pair
from .product import AGENT, SLOW, USBIPA

# Takes every SuperSpeed port of vhci-hcd by devices that never answer, until it is killed.
TAKE_ALL_PORTS = """
import signal, socket
vhci = "/sys/devices/platform/vhci_hcd.0/"
ends = []
for table in range(8):
    with open(f"{vhci}status.{table}" if table else f"{vhci}status") as rows:
        ports = [int(row.split()[1]) for row in rows if row.startswith("ss") and row.split()[2] == "004"]
    for port in ports:
        ours, kernels = socket.socketpair()
        with open(vhci + "attach", "w") as attach:
            attach.write(f"{port} {kernels.fileno()} {0x70000 + port} 5")
        kernels.close()
        ends.append(ours)
print(f"took {len(ends)}", flush=True)
signal.pause()
"""
HOLD_NAME = """
import asyncio, sys
from dbus_next import BusType
from dbus_next.aio import MessageBus
async def main():
    bus = await MessageBus(bus_type=BusType.SYSTEM).connect()
    await bus.request_name(sys.argv[1])
    print("held", flush=True)
    await bus.wait_for_disconnect()
asyncio.run(main())
"""


def test_no_free_port(pair: Pair) -> None:
    node, host = pair.node, pair.host
    product.set_up(pair)
    taker = host.start_job(["python3", "-c", TAKE_ALL_PORTS])
    taker.wait_for("took 120", SLOW)
    stick = Stick()
    busid = node.plug(stick, 1)
    product.until_reason(node, busid, "no free port")
    assert product.driver(node, busid) == "usb"
    assert node.disk_hash(stick) == stick.sha256
    [line, *_] = product.journal(host, f"USBIP_BUSID={busid}", "USBIP_CODE=NoFreePort")
    assert "all SuperSpeed ports of vhci-hcd are taken" in line["MESSAGE"]
    examined = host.run(["usbipa", "doctor"], SLOW, check=False)
    assert examined.rc == 1 and "0 of 120 free" in examined.stdout
    assert product.imports(host) == {}
    taker.kill()  # the device takes the first port that is free, while the kernel still clears the others
    product.until_state(node, busid, "connected", 2 * SLOW)
    assert host.disk_hash(stick) == stick.sha256
    node.unplug(stick)
    product.until_clean(pair, 2 * SLOW)


def test_module_missing(pair: Pair) -> None:
    node, host = pair.node, pair.host
    product.set_up(pair)
    stick = Stick()
    busid = "2-1"

    _forbid(host, "vhci-hcd")
    _says_module_is_missing(host, USBIPA, "vhci-hcd")
    node.plug(stick, 1)
    product.until_reason(node, busid, "host says no")
    assert node.disk_hash(stick) == stick.sha256
    assert product.journal(host, f"USBIP_BUSID={busid}", "USBIP_CODE=ModuleMissing")
    host.sh("rm /etc/modprobe.d/forbidden.conf; modprobe vhci-hcd", SLOW)
    product.until_state(node, busid, "connected")
    assert host.disk_hash(stick) == stick.sha256
    assert host.run(["usbipa", "doctor"], SLOW, check=False).rc == 0
    node.unplug(stick)
    product.until_clean(pair)

    _forbid(node, "usbip-host")
    _says_module_is_missing(node, AGENT, "usbip-host")
    node.plug(stick, 1)
    product.until_reason(node, busid, "module usbip-host is not loaded")
    assert node.disk_hash(stick) == stick.sha256
    product.failure(node, f"usbip-agent connect -b {busid} -r lab", 69)
    node.sh("rm /etc/modprobe.d/forbidden.conf; modprobe usbip-host", SLOW)
    product.until_state(node, busid, "connected")
    assert host.disk_hash(stick) == stick.sha256
    node.unplug(stick)
    product.until_clean(pair)


def _forbid(guest: Guest, module: str) -> None:
    """As a kernel without the module; the daemon starts without it."""
    guest.put("/etc/modprobe.d/forbidden.conf", f"install {module} /bin/false\n")
    guest.sh(f"modprobe -r {module}", SLOW)
    service = USBIPA if module == "vhci-hcd" else AGENT
    guest.sh(f"systemctl restart {service}", SLOW)


def _says_module_is_missing(guest: Guest, service: str, module: str) -> None:
    examined = guest.run([service, "doctor"], SLOW, check=False)
    assert examined.rc == 69
    assert f"the kernel module {module} is not loaded" in examined.stdout and "modprobe" in examined.stdout
    shown = product.failure(guest, f"{service} status", 69)
    assert f"the kernel module {module} is not loaded" in shown and "modprobe" in shown
    if service == USBIPA:
        assert "vhci-hcd is not loaded" in product.status_line(guest, service)
    else:
        assert "usbip-host is not loaded" in guest.journal(AGENT)


def test_name_on_the_bus_is_held(pair: Pair) -> None:
    node, host = pair.node, pair.host
    product.set_up(pair)
    # A second one, by hand, beside the one that runs: it disturbs nothing.
    for guest, service in ((node, AGENT), (host, USBIPA)):
        before = product.pid(guest, service)
        product.failure(guest, f"{service} run", 69)
        assert product.pid(guest, service) == before
    stick = Stick()
    busid = node.plug(stick, 1)
    product.until_state(node, busid, "connected")
    product.until_attached(host, 1)
    node.unplug(stick)
    product.until_clean(pair)

    for guest, service in ((node, AGENT), (host, USBIPA)):
        guest.sh(f"systemctl stop {service}", SLOW)
        name = product.BUS[service][0]
        holder = guest.start_job(["python3", "-c", HOLD_NAME, name])
        holder.wait_for("held", SLOW)
        _fails_to_start(guest, service, name)
        said = product.failure(guest, f"{service} run", 69)
        # Between its attempts systemd keeps usbipa's listening sockets for it.
        assert name in said or (service == USBIPA and "cannot listen" in said)
        holder.kill()
        guest.until(f"systemctl is-active {service}", SLOW)     # it has tried again by itself
    node.plug(stick, 1)
    product.until_state(node, busid, "connected")
    node.unplug(stick)
    product.until_clean(pair)


def test_port_that_something_else_listens_on(pair: Pair) -> None:
    node, host = pair.node, pair.host
    product.set_up(pair)
    host.sh("systemctl stop usbipa && usbipd -D", SLOW)
    host.until("ss -Hlnt | grep -q :3240")
    _fails_to_start(host, USBIPA, "cannot listen on 0.0.0.0 port 3240: something else does")
    examined = host.run(["usbipa", "doctor"], SLOW, check=False)
    assert examined.rc == 69 and "usbipd listens there" in examined.stdout
    host.sh("kill $(pidof usbipd)")
    host.until("systemctl is-active usbipa", SLOW)              # it has tried again by itself
    stick = Stick()
    busid = node.plug(stick, 1)
    product.until_state(node, busid, "connected", 2 * SLOW)
    product.until_attached(host, 1)

    # On a reload, all stays as it was.
    host.sh("usbipd -D --tcp-port 3242", SLOW)
    host.until("ss -Hlnt | grep -q :3242")
    host.put(product.FILES[USBIPA], product.usbipa_yaml(port=3242))
    refused = host.run("busctl call org.usbip.Usbipa1 /org/usbip/Usbipa1 org.usbip.Usbipa1.Manager Reload",
                       SLOW, check=False)
    assert refused.rc and "port 3242" in refused.stderr
    assert list(product.imports(host)) == [busid]
    assert "listening on *:3240" in product.status_line(host, USBIPA)
    node.unplug(stick)
    node.plug(stick, 1)
    product.until_state(node, busid, "connected")
    node.unplug(stick)
    product.until_clean(pair)


def _fails_to_start(guest: Guest, service: str, reason: str) -> None:
    since = guest.sh("journalctl -n 0 --show-cursor | sed -n 's/^-- cursor: //p'")
    assert guest.run(["systemctl", "start", service], SLOW, check=False).rc != 0
    said = guest.sh(f"journalctl -u {service} --after-cursor '{since}' -o cat")
    assert reason in said and "status=69" in said and "Traceback" not in said
