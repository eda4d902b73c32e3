"""What a rule connects is marked from its first event on, so that automounters and ModemManager let it be."""
from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from . import product
from .devices import Serial, Stick
from .pair import Pair
from .product import AGENT, SLOW, USBIPA

Event = dict[str, str]
FIRST_RULES = ("{name: sticks, match: {serial: [EARLY, CLAIMED]}, connect: lab}",
               "{name: adapters, match: {vendor: 0403}, connect: lab}")
OTHER_RULES = ("{name: others, match: {serial: FREE}, connect: lab}",)


def test_marks(pair: Pair) -> None:
    node, host = pair.node, pair.host
    product.configure(host, USBIPA, product.usbipa_yaml(default="reject"))     # so all of them stay here
    early, claimed, free = (Stick(serial=serial) for serial in ("EARLY", "CLAIMED", "FREE"))
    there = node.plug(early, 3)
    node.until(f"[ -b {early.disk} ] && udevadm settle", SLOW)
    monitor = node.start_job(["udevadm", "monitor", "--udev", "--property"])
    monitor.wait_for("after rule processing")

    # From the first event on; and what was there before its rule, by an event of its own.
    product.configure(node, AGENT, product.agent_yaml(*FIRST_RULES))
    node.until(_is(early.disk, "UDISKS_IGNORE"), SLOW)
    first, second, third = node.plug(claimed, 1), node.plug(free, 2), node.plug(Serial(), 4)
    node.until(f"[ -b {claimed.disk} ] && [ -b {free.disk} ] && [ -c /dev/ttyUSB0 ]", SLOW)
    for busid in (there, first, third):
        product.until_state(node, busid, "waiting")
    node.sh("udevadm settle", SLOW)
    heard = list(_events(monitor.output))
    [disk, *_], [free_disk, *_] = (_of(heard, busid, "block") for busid in (first, second))
    [line, *_] = _of(heard, third, "tty")
    assert (disk["ACTION"], disk["UDISKS_IGNORE"], disk["UDISKS_AUTO"]) == ("add", "1", "0")
    assert (line["ACTION"], line["ID_MM_DEVICE_IGNORE"]) == ("add", "1")
    assert "UDISKS_IGNORE" not in free_disk
    for busid, mark in ((first, "1"), (second, None), (third, "1")):
        assert {event.get("ID_MM_DEVICE_IGNORE") for event in _of(heard, busid)} == {mark}

    # Another policy, another mark.
    product.configure(node, AGENT, product.agent_yaml(*OTHER_RULES))
    node.until(_is(free.disk, "UDISKS_IGNORE"), SLOW)
    for path, mark in ((early.disk, "UDISKS_IGNORE"), (claimed.disk, "UDISKS_IGNORE"),
                       ("/dev/ttyUSB0", "ID_MM_DEVICE_IGNORE")):
        node.until(f"! {_is(path, mark)}", SLOW)

    # No agent, no marks. And each of these changes was one event, not a storm; disks have some of udev's own.
    node.run(["systemctl", "stop", AGENT], SLOW)
    node.until(f"! {_is(free.disk, 'UDISKS_IGNORE')} && [ ! -e /run/udev/rules.d/61-usbip-agent* ]", SLOW)
    node.sh("udevadm settle", SLOW)
    monitor.kill()
    asked = Counter(event["DEVPATH"].rpartition("/")[2] for event in _events(monitor.output)
                    if event["SUBSYSTEM"] == "usb" and "SYNTH_UUID" in event)
    assert asked == {f"{busid}{part}": times for part in ("", ":1.0")
                     for busid, times in ((there, 2), (first, 1), (second, 2), (third, 1))}


def _is(path: str, mark: str) -> str:
    """A shell condition: udev has *mark* of the device whose node is *path*."""
    return f"udevadm info -q property {path} | grep -qx {mark}=1"


def _events(output: str) -> Iterator[Event]:
    """What ``udevadm monitor --property`` has told, as far as it is complete."""
    for block in output.split("\n\n")[:-1]:
        event = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
        if "DEVPATH" in event:
            yield event


def _of(heard: list[Event], busid: str, subsystem: str = "") -> list[Event]:
    """The events of a USB device and of what hangs on it."""
    return [event for event in heard if f"/{busid}/" in f"{event['DEVPATH']}/"
            and subsystem in ("", event["SUBSYSTEM"])]
