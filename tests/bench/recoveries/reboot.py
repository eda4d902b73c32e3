"""Host rebooted → attached: the reset button is pressed, and the device comes back by itself.

It counts from the reset, on this machine's clock; how long it takes from the moment that usbipa is ready,
which is what the product can shorten, is in the course. The floor is the boot up to that moment.
"""

from __future__ import annotations

import re
import time

from tests.bench import disturbance
from tests.bench.laboratory import Laboratory, tell
from tests.bench.recoveries.ground import Impatient
from tests.bench.recoveries.rounds import Recovery, Round
from tests.bench.views import Views, now
from tests.lab.devices import Stick
from tests.lab.guest import Guest
from tests.lab.pair import Pair
from tests.lab.product import AGENT, SLOW, USBIPA, until_attached
from tests.lab.report import LabError

PORT = 1
FOUND = re.compile(r"^\[ *(\d+\.\d+)\] usb \S+: New USB device found, idVendor=46f4", re.M)
"""Said by the host's kernel just before it tells of an imported stick; it has no others."""


def measure(laboratory: Laboratory, count: int) -> list[Recovery]:
    rounds: list[Round] = []
    for number in range(count):
        with laboratory.guests() as pair:       # a boot of its own disk for each: no round inherits another's
            rounds.append(_reboot(pair))
        tell(f"round {number + 1}: {rounds[-1].seconds:.1f} s, of which the boot {rounds[-1].floor:.1f} s")
    return [Recovery("host rebooted → attached", rounds)]


def _reboot(pair: Pair) -> Round:
    Impatient().start(pair)
    stick = Stick(serial="BENCH8")
    views = Views(pair.node, AGENT)
    began = now(pair.node)
    busid = pair.node.plug(stick, PORT)
    views.until(lambda view: view.state(busid) == "connected", began)
    until_attached(pair.host)
    pair.host.sh("sync")
    watch = disturbance.Watch()
    began, reset = now(pair.node), time.monotonic()
    pair.host.reboot(hard=True)
    lost = views.until(lambda view: view.state(busid) != "connected", began)
    back = views.until(lambda view: view.state(busid) == "connected", lost.at, 4 * SLOW)
    until_attached(pair.host)
    waited = watch.share()
    booted = time.monotonic() - now(pair.host) - reset      # when the host's clock began, since the reset
    ready, attached = _ready(pair.host) + booted, _attached(pair.host) + booted
    course = {"agent notices": lost.at - began, "usbipa ready": ready,
              "agent says connected": back.at - began, "attached": attached,
              "attached, since usbipa was ready": attached - ready}
    return Round(attached, course, waited, ready)


def _ready(host: Guest) -> float:
    """On the host's clock."""
    return int(host.sh(f"systemctl show -p ActiveEnterTimestampMonotonic --value {USBIPA}")) / 1e6


def _attached(host: Guest) -> float:
    """On the host's clock, as its kernel's log has it."""
    found = FOUND.findall(host.sh("dmesg"))
    if len(found) != 1:
        raise LabError(f"the stick was imported {len(found)} times")
    return float(found[0])
