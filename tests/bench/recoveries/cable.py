"""Cable back → attached: from the carrier in the node's kernel to the imported device in the host's.

The cable is cut until the link is dead on both ends and the agent has failed to dial at least once. It is
mended when the agent has just begun to wait for its next attempt, or while it makes one: the moments are
spread over those 3 s in which the node's kernel asks in vain where the host is. The floor is what connecting
takes without a fault, in the same guests and in turns: of the floor's plug, the part from udev's event,
which it dials upon, to the imported device.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

from tests.bench import clocks, disturbance, tracing
from tests.bench.benches import plug
from tests.bench.contenders import PORTS, Floor, Turns
from tests.bench.laboratory import Laboratory, tell
from tests.bench.recoveries.ground import Ground, Impatient
from tests.bench.recoveries.rounds import Recovery, Round
from tests.bench.views import now
from tests.lab.channel import Job
from tests.lab.devices import Stick
from tests.lab.product import SLOW

AIM = 2.0
CARRIER = "p:bench/carrier netif_carrier_on"
PORT = 2
FAILED_ALREADY = 2
"""Attempts, the one that the link had counted as the first."""
WAITS, DIALS = "waiting", "connecting"
"""In which state of the device the cable is mended."""
DIALLING = 3.0
"""Seconds after which a kernel that cannot find a neighbour says so: three questions, one in a second."""


def measure(laboratory: Laboratory, count: int) -> list[Recovery]:
    rounds: dict[str, list[Round]] = {WAITS: [], DIALS: []}
    with laboratory.guests() as pair:
        tracing.start(pair.node, (*tracing.NODE_PROBES, CARRIER), PORTS)
        tracing.start(pair.host, tracing.HOST_PROBES, PORTS)
        witness = clocks.start_witness(pair.host)
        ours, floor = Impatient(), Floor()
        turns = Turns(pair, [ours, floor])
        plugs = plug.Bench(pair, turns, witness)
        plugs.round([floor, ours])      # warms up
        ground = Ground(pair)
        for number in range(count):
            moments = plugs.round([floor])[floor.name].moments
            least = moments[tracing.ARRIVAL] - moments["udev's event"]
            turns.give(ours)
            for state, after in ((WAITS, 0.0), (DIALS, DIALLING * (number + 0.5) / count)):
                one = _cut(ground, witness, state, after, least)
                rounds[state].append(one)
                tell(f"round {number + 1}: mended {after:.2f} s after {state}: {one.seconds:.2f} s, "
                     f"floor {least:.2f} s (waited {one.waited:.0%})")
    return [Recovery("cable back → attached, while it waits", rounds[WAITS], AIM, beyond_floor=True),
            Recovery("cable back → attached, while it dials", rounds[DIALS], AIM, beyond_floor=True)]


def _cut(ground: Ground, witness: Job, state: str, after: float, floor: float) -> Round:
    node, host = ground.node, ground.host
    stick = Stick(serial="BENCH5")
    busid = ground.plug(stick, PORT)
    before = clocks.sample(node, host)
    node.cut()
    ground.until_free()
    for guest in (node, host):
        tracing.clear(guest)
    arrived = clocks.arrivals(witness)
    last = ground.of_agent.until(
        lambda view: view.state(busid) == state and view.attempts(busid) >= FAILED_ALREADY, now(node))
    threading.Event().wait(after)       # when the fault ends is what it is; nothing can be awaited instead
    watch = disturbance.Watch()
    node.mend()
    clocks.wait_arrivals(witness, arrived + 1, SLOW)
    waited = watch.share()
    ground.of_agent.until(lambda view: view.state(busid) == "connected", last.at)
    clock = clocks.Clocks(before, clocks.sample(node, host))
    course = _course(busid, tracing.events(node), tracing.events(host), clock)
    ground.unplug(stick)
    return Round(course[tracing.ARRIVAL], course, waited, floor)


def _course(busid: str, on_node: Sequence[tracing.Event], on_host: Sequence[tracing.Event],
            clock: clocks.Clocks) -> plug.Moments:
    """Since the carrier is back; what happened before, while nothing could get through, does not count."""
    [carrier] = tracing.times(on_node, "carrier", "")
    moments = plug.moments(tracing.node_moments(busid), [event for event in on_node if event.at >= carrier])
    arrivals = plug.moments(tracing.HOST_MOMENTS, on_host)
    moments = {**moments, **{name: clock.on_node(at) for name, at in arrivals.items()}}
    return {name: at - carrier for name, at in moments.items()}
