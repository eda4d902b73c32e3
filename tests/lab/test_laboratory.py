"""Proves the lab itself, without the product: what fails here is not the product's fault."""
from __future__ import annotations

import time
from typing import Mapping

import pytest

from .devices import Audio, Hub, Keyboard, Mouse, Serial, Stick
from .machine import State
from .pair import Pair
from .report import LabError, Timeout, say


def test_snapshot_starts_quickly(bare: Mapping[str, State]) -> None:
    begin = time.monotonic()
    with Pair(bare) as pair:
        pair.start()
        started = time.monotonic()
        assert (pair.node.sh("hostname"), pair.host.sh("hostname")) == ("node", "host")
        said = time.monotonic()
        assert abs(int(pair.host.sh("date +%s")) - time.time()) < 3
        uuid = "cat /proc/sys/kernel/random/uuid"
        assert pair.node.sh(uuid) != pair.host.sh(uuid)
        assert pair.node.sh("ss -Hlntup") == ""
    say(f"two guests in {started - begin:.1f} s, a command in {(said - started) / 2:.2f} s")
    assert started - begin < 30


def test_guests_see_each_other(bare_pair: Pair) -> None:
    bare_pair.node.sh("ping -4 -c 2 -i 0.2 -W 5 host")
    bare_pair.host.sh("ping -6 -c 2 -i 0.2 -W 5 node")
    assert bare_pair.node.dmesg_warnings() == bare_pair.host.dmesg_warnings() == []


def test_commands_and_files(bare_pair: Pair) -> None:
    node = bare_pair.node
    failed = node.run("cat; echo oops >&2; exit 3", stdin=b"fed", check=False)
    assert (failed.rc, failed.stdout, failed.stderr) == (3, "fed", "oops\n")
    with pytest.raises(Timeout, match="longer than 1 s"):
        node.run("sleep 60", timeout=1)
    with pytest.raises(Timeout, match="--- journal"):
        node.until("false", deadline=1)
    with pytest.raises(LabError, match="no-such-command"):
        node.run(["no-such-command"])
    ticks = node.start_job("for i in 1 2 3; do echo tick $i; sleep 0.2; done; sleep 60")
    node.sh("true")                      # a running command does not stand in the way of another
    ticks.wait_for("^tick 3$")
    ticks.kill()
    assert ticks.wait().rc == -15
    data = bytes(range(256)) * 1000
    node.put("/root/a/b", data, 0o600)
    assert node.get("/root/a/b") == data
    assert node.sh("stat -c %a /root/a/b") == "600"


def test_devices_come_and_go(bare_pair: Pair) -> None:
    node = bare_pair.node
    stick, serial = Stick(), Serial()
    assert node.plug(stick, 1) == "2-1"
    assert node.disk_hash(stick) == stick.sha256
    for device, port in ((Keyboard(), 2), (Mouse(), 3), (serial, 4), (Audio(), 5), (Hub(), 6)):
        assert node.plug(device, port) == f"1-{port}"
    assert node.plug(Keyboard(), "6.2") == "1-6.2"
    assert node.plug(fast := Stick(serial="HIGH"), 9) == "1-9"
    assert node.sh("cat /sys/bus/usb/devices/1-9/speed") == "480"
    node.until("[ -c /dev/ttyUSB0 ]")
    with serial.line() as line:
        node.sh("stty -F /dev/ttyUSB0 raw -echo; echo hello > /dev/ttyUSB0")
        assert line.recv(16)
    node.unplug(stick)
    node.until(f"[ ! -e {stick.disk} ]")
    assert node.plug(stick, 8) == "2-8"
    node.unplug(fast)
    assert node.dmesg_warnings() == []


def test_cut_cable(bare_pair: Pair) -> None:
    node, host = bare_pair.node, bare_pair.host
    node.cut()
    node.until("[ $(cat /sys/class/net/eth0/carrier) = 0 ]")
    assert host.run("ping -c 1 -W 1 node", check=False).rc
    node.mend()
    host.until("ping -c 1 -W 1 node")
    node.cut(silent=True)
    assert node.sh("cat /sys/class/net/eth0/carrier") == "1"
    assert host.run("ping -c 1 -W 1 node", check=False).rc
    node.mend()
    host.until("ping -c 1 -W 1 node")
    node.freeze()
    assert host.run("ping -c 1 -W 1 node", check=False).rc
    node.thaw()
    host.until("ping -c 1 -W 1 node")


def test_stock_usbip_end_to_end(bare_pair: Pair) -> None:
    node, host = bare_pair.node, bare_pair.host
    stick = Stick(64 << 20)
    busid = node.plug(stick, 1)
    node.sh("modprobe usbip-host && usbipd -D")
    node.until("ss -Hlnt | grep -q :3240")
    node.sh(f"usbip bind -b {busid}")
    host.sh(f"modprobe vhci-hcd && usbip attach -r node -b {busid}")
    begin = time.monotonic()
    assert host.disk_hash(stick) == stick.sha256
    say(f"64 MiB over USB/IP in {time.monotonic() - begin:.1f} s")
    node.unplug(stick)
    host.until("[ ! -e /dev/sda ]")


def test_cold_boot_and_restarts(bare: Mapping[str, State]) -> None:
    stick = Stick()
    with Pair({"node": bare["node"]}) as pair:
        begin = time.monotonic()
        pair.start(cold=True, devices={"node": [(stick, 1)]})
        say(f"a cold boot in {time.monotonic() - begin:.1f} s")
        node = pair.node
        node.until(f"[ -b {stick.disk} ]")
        node.sh("echo kept > /root/kept; sync")
        node.reboot()
        assert node.sh("cat /root/kept; hostname") == "kept\nnode"
        node.reboot(hard=True)
        assert node.sh("cat /root/kept") == "kept"
        node.power_cut()
        node.start(cold=True)
        node.ready()
        assert node.sh("cat /root/kept") == "kept"
        assert node.disk_hash(stick) == stick.sha256
