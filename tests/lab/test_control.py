"""What people decide: by hand, by policy, and by mistake."""
from __future__ import annotations

import pytest

from . import product
from .devices import Keyboard, Stick
from .guest import Guest
from .pair import Pair
from .product import AGENT, SLOW, USBIPA
from .report import LabError

NOBODY = "setpriv --reuid=nobody --regid=nogroup --clear-groups"
MANAGER = "org.usbip.Agent1 /org/usbip/Agent1"


def test_by_hand(pair: Pair) -> None:
    node, host = pair.node, pair.host
    product.set_up(pair)
    stick, keyboard = Stick(), Keyboard()
    busid, unmatched = node.plug(stick, 1), node.plug(keyboard, 2)
    product.until_state(node, busid, "connected")
    host.until(f"[ -b {stick.disk} ]", SLOW)

    # Disconnected: the local driver has it again, and keeps it.
    for _ in ("does it", "has done it already"):
        node.run(["usbip-agent", "disconnect", "-b", busid], SLOW)
        assert product.driver(node, busid) == "usb"
        product.until_host_clean(host)
    assert node.disk_hash(stick) == stick.sha256
    for command in ("systemctl restart usbip-agent", "systemctl reload usbip-agent",
                    "systemctl stop usbip-agent && systemctl start usbip-agent"):
        node.sh(command, SLOW)
        product.until_state(node, busid, "held")
        assert product.driver(node, busid) == "usb"
    assert product.status_line(node, AGENT) == "1 held, 1 ignored"

    # Connected again, and what no rule connects as well.
    for _ in ("does it", "has done it already"):
        node.run(["usbip-agent", "connect", "-b", busid, "-r", "lab"], SLOW)
        assert product.devices(node)[busid]["state"] == "connected"
    assert host.disk_hash(stick) == stick.sha256
    node.run(["usbip-agent", "connect", "-b", unmatched, "-r", "lab"], SLOW)
    product.until_attached(host, 2)
    node.sh("systemctl restart usbip-agent", SLOW)
    assert [device["state"] for device in product.devices(node).values()] == ["connected"] * 2
    node.run(["usbip-agent", "disconnect", "-b", unmatched], SLOW)

    # A replug is a fresh start.
    node.run(["usbip-agent", "disconnect", "-b", busid], SLOW)
    product.until_state(node, busid, "held")
    node.unplug(stick)
    node.plug(stick, 1)
    product.until_state(node, busid, "connected")

    # Detached on the host: the node notices, and by its policy connects it anew.
    product.until_attached(host, 1)
    before = product.imports(host)[busid]
    host.run(["usbipa", "detach", str(before["port"])], SLOW)
    node.until(f"journalctl -b USBIP_BUSID={busid} USBIP_STATE=waiting | grep -q 'link to lab ended'", SLOW)
    product.until_state(node, busid, "connected")
    product.until_attached(host, 1)
    assert product.imports(host)[busid]["since"] > before["since"]
    host.run(["usbipa", "detach", "7"], SLOW)         # nothing is there: it is done already
    node.unplug(stick)
    node.unplug(keyboard)
    product.until_clean(pair)


def test_policy_decides(pair: Pair) -> None:
    node, host = pair.node, pair.host
    product.set_up(pair, accept=("{name: no sticks, match: {vendor: 46f4}, reject: true}",))
    stick = Stick()
    busid = node.plug(stick, 1)

    # Rejected: it stays local, with the reason on both sides.
    product.until_reason(node, busid, "host says no")
    product.until_state(node, busid, "waiting")
    assert product.driver(node, busid) == "usb"
    assert node.disk_hash(stick) == stick.sha256
    rejected = product.journal(host, f"USBIP_BUSID={busid}", "USBIP_STATE=rejected")[0]
    assert "no sticks" in rejected["USBIP_REASON"]
    assert "no sticks" in rejected["MESSAGE"] and str(rejected["PRIORITY"]) == "4"
    waiting = product.journal(node, f"USBIP_BUSID={busid}", "USBIP_STATE=waiting")[0]
    assert "host says no" in waiting["USBIP_REASON"]
    product.until_status(node, AGENT, r"^1 waiting \(lab: ")
    explained = host.sh(f"usbipa explain --address {node.address} --vendor 46f4 --product 0001", SLOW)
    assert "no sticks" in explained

    # Accepted; rejected again, which ends it; accepted.
    product.configure(host, USBIPA, product.usbipa_yaml())
    product.reload(node, AGENT)
    product.until_state(node, busid, "connected")
    product.until_attached(host, 1)
    product.configure(host, USBIPA, product.usbipa_yaml(default="reject"))
    product.until_host_clean(host)
    product.until_reason(node, busid, "host says no")
    product.configure(host, USBIPA, product.usbipa_yaml())
    product.reload(node, AGENT)
    product.until_state(node, busid, "connected")

    # A name that nobody knows: the device comes back, and waits for better times.
    node.put(product.FILES[AGENT], product.agent_yaml(product.STICKS, address="no-such-host.invalid"))
    node.sh("systemctl reload usbip-agent", SLOW)
    product.until_reason(node, busid, "cannot resolve no-such-host.invalid")
    product.until_host_clean(host)
    node.until(f'[ "$(basename $(readlink /sys/bus/usb/devices/{busid}/driver))" = usb ]', SLOW)

    # No rule: local for good.
    product.configure(node, AGENT, product.agent_yaml())
    product.until_state(node, busid, "ignored")
    assert product.driver(node, busid) == "usb"
    product.until_status(node, AGENT, "^1 ignored$")
    product.until_clean(pair)


def test_mistakes_change_nothing(pair: Pair) -> None:
    node, host = pair.node, pair.host
    product.set_up(pair)
    stick = Stick()
    busid = node.plug(stick, 1)
    product.until_state(node, busid, "connected")
    product.until_attached(host, 1)

    for guest, service, good in ((node, AGENT, product.agent_yaml(product.STICKS)),
                                 (host, USBIPA, product.usbipa_yaml())):
        bad = good.replace("rules:\n", "rules:\n  - {name: wider, match: {vender: 46f4}, ignore: maybe}\n")
        assert bad != good
        line = bad.splitlines().index("rules:") + 2
        guest.put(product.FILES[service], bad)
        assert guest.run(["systemctl", "reload", service], SLOW, check=False).rc != 0
        checked = guest.run([service, "check"], SLOW, check=False)
        told = checked.stdout + checked.stderr
        assert checked.rc == 78 and "Traceback" not in told
        assert f"{product.FILES[service]}:{line}" in told and "vender" in told
        assert f"{product.FILES[service]}:{line}" in _error_of_reload(guest, service)
        # It works on by the configuration that it has.
        guest.run(["systemctl", "is-active", service])
        assert product.devices(node)[busid]["state"] == "connected"
        assert list(product.imports(host)) == [busid]
        guest.put(product.FILES[service], good)
        guest.run(["systemctl", "reload", service], SLOW)

    for command in ("connect -b 9-9 -r lab", "disconnect -b 9-9", "explain 9-9"):
        assert "9-9" in product.failure(node, f"usbip-agent {command}", 1)
    assert "nowhere" in product.failure(node, f"usbip-agent connect -b {busid} -r nowhere", 2)
    for command in ("usbip-agent connect", "usbip-agent frobnicate"):
        product.failure(node, command, 2)
    product.failure(host, "usbipa detach x", 2)
    product.until_state(node, busid, "connected")
    node.unplug(stick)
    product.until_clean(pair)


def _error_of_reload(guest: Guest, service: str) -> str:
    with pytest.raises(LabError) as error:
        product.reload(guest, service)
    return str(error.value)


def test_the_bus_is_open_to_read_and_closed_to_change(pair: Pair) -> None:
    node, host = pair.node, pair.host
    product.set_up(pair)
    stick = Stick()
    busid = node.plug(stick, 1)
    product.until_state(node, busid, "connected")
    product.until_attached(host, 1)
    port = product.imports(host)[busid]["port"]

    objects = "org.freedesktop.DBus.ObjectManager GetManagedObjects"
    assert '"BusId" s "2-1"' in node.sh(f"{NOBODY} busctl call {MANAGER} {objects}")
    explained = node.sh(f"{NOBODY} busctl call {MANAGER} org.usbip.Agent1.Manager Explain s {busid}")
    assert '"sticks"' in explained
    imported = f"org.usbip.Usbipa1 /org/usbip/Usbipa1/import/{port}"
    everything = host.sh(f"{NOBODY} busctl call {imported} org.freedesktop.DBus.Properties GetAll s "
                         "org.usbip.Usbipa1.Import")
    assert '"BusId" s "2-1"' in everything and '"State" s "attached"' in everything
    assert "connected" in node.sh(f"{NOBODY} usbip-agent status")
    assert busid in host.sh(f"{NOBODY} usbipa status")

    manager = f"busctl call {MANAGER} org.usbip.Agent1.Manager"
    usbipa = "busctl call org.usbip.Usbipa1 /org/usbip/Usbipa1 org.usbip.Usbipa1.Manager"
    for guest, call in ((node, f"{manager} Disconnect 'sa{{sv}}' {busid} 0"), (node, f"{manager} Reload"),
                        (node, f"{manager} Connect 'ssa{{sv}}' {busid} lab 0"),
                        (host, f"{usbipa} Detach 'ua{{sv}}' {port} 0"), (host, f"{usbipa} Reload")):
        denied = guest.run(f"{NOBODY} {call}", SLOW, check=False)
        assert denied.rc == 1 and "only root" in denied.stderr, (call, denied)
    assert "only root" in product.failure(node, f"{NOBODY} usbip-agent disconnect -b {busid}", 1)
    assert "only root" in product.failure(host, f"{NOBODY} usbipa detach {port}", 1)
    assert product.devices(node)[busid]["state"] == "connected"

    changes = host.start_job("busctl monitor --match=\"sender='org.usbip.Usbipa1'\" org.usbip.Usbipa1")
    host.until("journalctl -b | grep -q 'became a monitor'")
    node.sh(f"{manager} Disconnect 'sa{{sv}}' {busid} 0", SLOW)
    changes.wait_for("Member=InterfacesRemoved", SLOW)
    changes.kill()
    node.unplug(stick)
    product.until_clean(pair)
