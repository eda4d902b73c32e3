"""The main job, shown: two virtual machines, a stick plugged into one, used on the other, and pulled.

Run by ``tests/demo``. Every command is shown as it is run, with what it printed.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.lab import cache, debs, snapshot
from tests.lab.devices import Stick
from tests.lab.guest import Guest
from tests.lab.pair import Pair
from tests.lab.product import (
    AGENT, FILES, STICKS, USBIPA, agent_yaml, configure, imports, until_attached, until_clean,
    until_state, usbipa_yaml)
from tests.lab.report import LabError

SIZE = 64 << 20
SERIAL = "DEMO0001"


class Failure(Exception):
    """Something was not as it should be; the text says what."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests/demo", description="Plug a stick in here, use it there.")
    parser.add_argument("--debs", metavar="DIRECTORY", help="use these packages instead of building them")
    arguments = parser.parse_args()
    try:
        title("Two virtual machines: node has the USB port, host uses the device")
        note("The first run makes them from Debian's packages: some minutes. Later ones take seconds.")
        packages = debs.find(arguments.debs) if arguments.debs else built()
        states = snapshot.prepare({"node": snapshot.Role(debs=debs.pick(packages, debs.NODE)),
                                   "host": snapshot.Role(debs=debs.pick(packages, debs.HOST))})
        with Pair(states).start() as pair:
            demonstrate(pair)
    except (Failure, LabError) as failure:
        print(f"\nThe demonstration failed: {failure}", file=sys.stderr)
        return 1
    title("All of it is as it should be.")
    return 0


def built() -> list[Path]:
    """The packages of this tree as it stands, in the lab's cache."""
    directory = cache.root() / "demo-debs"
    done = subprocess.run([Path(__file__).parent / "package/build-debs", directory], check=False)
    if done.returncode != 0:
        raise Failure("the packages could not be built")
    return sorted(directory.glob("*.deb"))


def demonstrate(pair: Pair) -> None:
    """The whole of it, on two fresh guests."""
    node, host = pair.node, pair.host
    title("What was installed: usbip-agent on the node, usbipa on the host, by apt")
    for guest, package in ((node, AGENT), (host, USBIPA)):
        show(guest, f"dpkg-query --show {package} python3-usbip-agent")
    title("What is to happen is configuration: five lines on each side")
    configure(host, USBIPA, usbipa_yaml())
    configure(node, AGENT, agent_yaml(STICKS))
    show(host, f"cat {FILES[USBIPA]}")
    show(node, f"cat {FILES[AGENT]}")
    stick = Stick(SIZE, serial=SERIAL)
    plug(pair, stick)
    look(pair)
    compare(host, stick)
    pull(pair, stick)


def plug(pair: Pair, stick: Stick) -> None:
    title("A stick is plugged into the node; nobody logs in")
    started = time.monotonic()
    busid = pair.node.plug(stick, 1)
    until_attached(pair.host)
    note(f"It is on the host after {time.monotonic() - started:.1f} s (on emulated processors).")
    until_state(pair.node, busid, "connected")
    pair.host.until(f"[ -b {stick.disk} ]", 60)


def look(pair: Pair) -> None:
    title("It has arrived")
    show(pair.host, "usbipa status")
    show(pair.host, "systemctl status --no-pager --lines=3 usbipa")
    show(pair.node, "usbip-agent status")
    show(pair.node, "systemctl status --no-pager --lines=3 usbip-agent")
    [imported] = imports(pair.host).values()
    title("Every program can ask on D-Bus")
    show(pair.host, f"busctl introspect org.usbip.Usbipa1 /org/usbip/Usbipa1/import/{imported['port']} "
                    "org.usbip.Usbipa1.Import")
    show(pair.node, "busctl tree org.usbip.Agent1")


def compare(host: Guest, stick: Stick) -> None:
    title(f"Its content, read on the host: {SIZE >> 20} MiB")
    read = show(host, f"sha256sum {stick.disk}", 300).split()[0]
    note(f"On the stick itself:\n  {stick.sha256}")
    expect(read == stick.sha256, "what the host read is not what is on the stick")
    note("They are equal.")


def pull(pair: Pair, stick: Stick) -> None:
    title("It is pulled out of the node")
    pair.node.unplug(stick)
    step(lambda: until_clean(pair), "something was left behind")
    for guest, command in ((pair.host, "usbipa status"), (pair.node, "usbip-agent status")):
        show(guest, command)
    show(pair.host, "usbip port 2>/dev/null; ls /dev/sd* 2>&1 || true")
    show(pair.node, "cat /sys/bus/usb/drivers/usbip-host/match_busid; ls /sys/bus/usb/drivers/usbip-host")
    expect(imports(pair.host) == {}, "the host still shows an import")
    note("Both sides are clean: no import, every port free, nothing bound, no complaint of either kernel.")


def step(action: Callable[[], None], what: str) -> None:
    """Does it, or says what it means that it could not be done."""
    try:
        action()
    except AssertionError as failure:
        raise Failure(f"{what}: {failure}") from None


def expect(condition: bool, otherwise: str) -> None:
    if not condition:
        raise Failure(otherwise)


def show(guest: Guest, command: str, timeout: float = 60.0) -> str:
    """Runs a command in a guest, with prompt and output as on its terminal; returns the output."""
    print(f"\n{bold(f'{guest.name}#')} {command}", flush=True)
    output = guest.run(command, timeout).stdout
    print(output.rstrip("\n"), flush=True)
    return output


def title(text: str) -> None:
    print(f"\n{bold(f'== {text}')}", flush=True)


def bold(text: str) -> str:
    """On a terminal; a log is spared the escapes."""
    return f"\033[1m{text}\033[0m" if sys.stdout.isatty() else text


def note(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
