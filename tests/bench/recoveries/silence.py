"""Peer's power cut → noticed: a machine stops between two instructions, and says nothing any more.

Which the other one finds out by its kernel, as the link's options tell it, and then the daemon there by the
kernel. It counts from just before the cut, so what the bench itself needs for cutting is in it. The link is
idle, as most links are most of the time.
"""

from __future__ import annotations

from collections.abc import Callable

from tests.bench import disturbance, tracing
from tests.bench.contenders import PORTS
from tests.bench.laboratory import Laboratory, tell
from tests.bench.recoveries.ground import DEAD_AFTER, Ground, Impatient
from tests.bench.recoveries.rounds import Recovery, Round
from tests.bench.views import View, Views, now
from tests.lab.devices import Stick
from tests.lab.guest import Guest

BEYOND = 1.0
PORT = 1
LETS_GO = {"node": "r:bench/lets_go stub_device_reset", "host": "r:bench/lets_go vhci_device_reset"}
"""The last that the drivers do about a link that is over."""


def measure(laboratory: Laboratory, count: int) -> list[Recovery]:
    on_node: list[Round] = []
    on_host: list[Round] = []
    with laboratory.guests() as pair:
        tracing.start(pair.node, (*tracing.NODE_PROBES, LETS_GO["node"]), PORTS)
        tracing.start(pair.host, (*tracing.HOST_PROBES, LETS_GO["host"]), PORTS)
        Impatient().start(pair)
        ground = Ground(pair)
        for number in range(count):
            stick = Stick(serial="BENCH6")
            busid = ground.plug(stick, PORT)
            on_node.append(_silence(pair.node, pair.host, ground.of_agent,
                                    lambda view: view.state(busid) != "connected"))
            ground.unplug(stick)
            busid = ground.plug(stick, PORT)
            on_host.append(_silence(pair.host, pair.node, ground.of_usbipa, lambda view: not view.shown))
            ground.unplug(stick)
            tell(f"round {number + 1}: the agent noticed after {on_node[-1].seconds:.2f} s, "
                 f"usbipa after {on_host[-1].seconds:.2f} s")
    return [Recovery("host silent → agent says so", on_node, DEAD_AFTER + BEYOND),
            Recovery("node silent → usbipa has freed the port", on_host, DEAD_AFTER + BEYOND)]


def _silence(watching: Guest, silent: Guest, views: Views, notices: Callable[[View], bool]) -> Round:
    tracing.clear(watching)
    watch = disturbance.Watch()
    began = now(watching)
    silent.freeze()
    noticed = views.until(notices, began).at - began
    waited = watch.share()
    silent.thaw()
    found = tracing.events(watching)
    course = {"the kernel's TCP gives up": tracing.first(found, "inet_sock_set_state",
                                                         "oldstate=TCP_ESTABLISHED newstate=TCP_CLOSE"),
              "the kernel's driver lets go": tracing.first(found, "lets_go")}
    seen = {name: at - began for name, at in course.items() if at is not None}
    return Round(noticed, {**seen, "the daemon says so": noticed}, waited)
