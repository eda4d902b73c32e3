"""The floor is never pulled away: what the node stands on stays with it, and what was written arrives."""
from __future__ import annotations

import hashlib
import subprocess

from . import product
from .devices import Keyboard, Network, Stick
from .guest import Guest
from .pair import Pair
from .product import AGENT, SLOW, USBIPA

PLACE = "/media/lab"
FORCED = "{name: forced, match: {serial: SWAP}, connect: lab, force: true}"

# Writes half a disk, into memory only, and keeps it open: a close would bring it there.
WRITE_AND_STAY = """
import hashlib, os, signal, sys
disk = open(sys.argv[1], "r+b", buffering=0)
os.pwrite(disk.fileno(), os.urandom(4 << 20), 1 << 20)
print("now", hashlib.file_digest(disk, "sha256").hexdigest(), flush=True)
signal.pause()
"""
# Else the kernel begins to write at once: a disk that was hardly used has no share of the memory for it.
NO_WRITEBACK = """
sysctl -q vm.dirty_writeback_centisecs=0 vm.dirty_expire_centisecs=360000 vm.swappiness=0
echo 90 > /sys/block/$(basename $(readlink -f %s))/bdi/min_ratio
"""
# What pam_systemd says when somebody logs in on the first console. Ends with the program.
LOG_IN = """
import asyncio, os
from dbus_next import BusType, Message
from dbus_next.aio import MessageBus
async def main():
    bus = await MessageBus(bus_type=BusType.SYSTEM, negotiate_unix_fd=True).connect()
    login = "org.freedesktop.login1"
    answer = await bus.call(Message(
        login, "/org/freedesktop/login1", login + ".Manager", "CreateSession",
        signature="uusssssussbssa(sv)", body=[
            0, os.getpid(), "login", "tty", "user", "", "seat0", 1, "tty1", "", False, "", "", []]))
    print(answer.error_name, answer.body, flush=True)
    await bus.wait_for_disconnect()
asyncio.run(main())
"""


def test_disks(pair: Pair) -> None:
    node, host = pair.node, pair.host
    product.configure(host, USBIPA, product.usbipa_yaml())
    mounted, written, swap = (Stick(8 << 20, serial) for serial in ("MOUNTED", "WRITTEN", "SWAP"))
    subprocess.run(["/sbin/mke2fs", "-q", "-F", "-t", "ext4", str(mounted.path)], check=True)
    there, busid, third = (node.plug(stick, port) for port, stick in enumerate((mounted, written, swap), 1))
    for stick in (mounted, written, swap):
        node.until(f"[ -b {stick.disk} ] && udevadm settle", SLOW)
    node.sh(NO_WRITEBACK % written.disk)
    node.sh(f"mkdir -p {PLACE} && mount {mounted.disk} {PLACE}", SLOW)
    node.sh(f"mkswap {swap.disk} && swapon {swap.disk}", SLOW)
    writer = node.start_job(["python3", "-c", WRITE_AND_STAY, written.disk])
    sum_of_disk = writer.wait_for("now ([0-9a-f]+)", SLOW)[1]
    assert _content(written) == written.sha256 != sum_of_disk

    product.configure(node, AGENT, product.agent_yaml(product.STICKS))
    product.until_state(node, busid, "connected")
    assert _content(written) == sum_of_disk == host.disk_hash(written)
    writer.kill()
    for each in (there, third):
        product.until_state(node, each, "blocked")
    shown = product.devices(node)
    for each, stick, use in ((there, mounted, f"mounted on {PLACE}"), (third, swap, "swap")):
        assert shown[each]["reason"] == node.sh(f"readlink -f {stick.disk}").strip() + f" is {use}"
        assert product.driver(node, each) == "usb"
        # It is not marked while it is used: a file manager that ignored it could not eject it.
        assert "UDISKS_IGNORE" not in node.sh(f"udevadm info -q property {stick.disk}")
    product.until_attached(host, 1)

    node.sh(f"head -c 1M /dev/urandom > {PLACE}/file")
    sum_of_file = node.sh(f"sha256sum < {PLACE}/file")
    node.sh(f"umount {PLACE}", SLOW)                    # is all that it waits for
    product.until_state(node, there, "connected")
    host.until(f"[ -b {mounted.disk} ]", SLOW)
    assert host.sh(f"mount -o ro {mounted.disk} /mnt && sha256sum < /mnt/file", SLOW) == sum_of_file
    host.sh("umount /mnt")

    product.configure(node, AGENT, product.agent_yaml(FORCED, product.STICKS))
    product.until_state(node, third, "connected")
    product.until_attached(host, 3)
    assert node.dmesg_warnings() == host.dmesg_warnings() == []


def _content(stick: Stick) -> str:
    """The hash of what is on a stick now, seen from outside of all guests."""
    return hashlib.sha256(stick.path.read_bytes()).hexdigest()


def test_the_way_and_the_keyboard(pair: Pair) -> None:
    node, host = pair.node, pair.host
    product.configure(host, USBIPA, product.usbipa_yaml())
    card, keyboard = node.plug(Network(), 1), node.plug(Keyboard(), 2)
    interface = _interface(node, card)
    node.sh(f"ip link set {interface} up && ip route add 10.77.0.2 dev {interface}")
    node.sh("echo -n serio0 > /sys/bus/serio/drivers/atkbd/unbind")        # the machine's own keyboard
    login = node.start_job(["python3", "-c", LOG_IN])
    assert login.wait_for("^.*\n", SLOW)[0].startswith("None")

    product.configure(node, AGENT, product.agent_yaml(product.EVERYTHING))
    for busid, reason in ((card, rf"{interface} carries the way to lab \(10.77.0.2\)"),
                          (keyboard, "the only keyboard of seat0, where root is logged in")):
        product.until_reason(node, busid, reason)
        product.until_state(node, busid, "blocked")
        assert product.driver(node, busid) == "usb"
    product.until_host_clean(host)

    node.sh("ip route del 10.77.0.2")
    product.until_state(node, card, "connected")
    login.kill()
    product.until_state(node, keyboard, "connected")
    product.until_attached(host, 2)
    assert node.dmesg_warnings() == host.dmesg_warnings() == []


def _interface(node: Guest, busid: str) -> str:
    """The network interface that a card has become."""
    node.until(f"ls /sys/bus/usb/devices/{busid}/{busid}:*/net/*/address", SLOW)
    return node.sh(f"basename /sys/bus/usb/devices/{busid}/{busid}:*/net/*").strip()
