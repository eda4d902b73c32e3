"""Daemon killed → state complete again: by SIGKILL, with three devices connected, which stay it.

It counts from the signal until a client of the bus sees as much as before. The floor is what a bare Python
needs on the same machine to import what the daemon does, measured after each round.
"""

from __future__ import annotations

from tests.bench import disturbance, tracing
from tests.bench.contenders import PORTS
from tests.bench.laboratory import IN_GUEST, Laboratory, tell
from tests.bench.recoveries.ground import Ground, Impatient
from tests.bench.recoveries.rounds import Recovery, Round
from tests.bench.views import Views, now
from tests.lab import product
from tests.lab.devices import Stick
from tests.lab.guest import Guest
from tests.lab.product import AGENT, SLOW, USBIPA

AIM = 2.0
DEVICES = 3
EXECUTOR = "/proc/self/fd/"
"""systemd's helper, by which it starts everything: first what looks after the modules, then the daemon."""
MODULES = {AGENT: "usbip_agent.device_side.main", USBIPA: "usbip_agent.application_side.main"}
CONNECTED = {AGENT: "connected", USBIPA: "attached"}


def measure(laboratory: Laboratory, count: int) -> list[Recovery]:
    rounds: dict[str, list[Round]] = {AGENT: [], USBIPA: []}
    with laboratory.guests() as pair:
        for guest, probes in ((pair.node, tracing.NODE_PROBES), (pair.host, tracing.HOST_PROBES)):
            tracing.start(guest, probes, PORTS)
            tracing.also(guest, "signal/signal_generate", "sig == 9")
            tracing.also(guest, "sched/sched_process_exec",
                         f'filename ~ "/usr/bin/usbip*" || filename ~ "{EXECUTOR}*"')
        Impatient().start(pair)
        ground = Ground(pair)
        for number in range(DEVICES):
            ground.plug(Stick(serial=f"BENCH7{number}"), 1 + number)
        for number in range(count):
            for guest, service, views in ((pair.node, AGENT, ground.of_agent),
                                          (pair.host, USBIPA, ground.of_usbipa)):
                one = _kill(guest, service, views)
                rounds[service].append(one)
                tell(f"round {number + 1}: {service} {one.seconds:.2f} s, bare imports {one.floor:.2f} s "
                     f"(waited {one.waited:.0%})")
    return [Recovery(f"{service} killed → state complete", found, AIM, beyond_floor=True)
            for service, found in rounds.items()]


def _kill(guest: Guest, service: str, views: Views) -> Round:
    before = product.pid(guest, service)
    tracing.clear(guest)
    watch = disturbance.Watch()
    began = now(guest)
    guest.run(["kill", "-9", str(before)])
    gone = views.until(lambda view: not view.present, began)
    back = views.until(lambda view: view.present, gone.at)
    complete = views.until(lambda view: view.count(CONNECTED[service]) == DEVICES, back.at)
    waited = watch.share()
    found = tracing.events(guest)
    killed = tracing.first(found, "signal_generate", rf"pid={before}\b") or began
    program = rf"filename=/usr/bin/{service} "
    course = {"systemd begins to start it": tracing.first(found, "sched_process_exec", f"={EXECUTOR}"),
              "its program begins": tracing.first(found, "sched_process_exec", program),
              "its name is on the bus": back.at, "its state is complete": complete.at}
    seen = {name: at - killed for name, at in course.items() if at is not None}
    guest.until(f"systemctl is-active {service}", SLOW)
    floor = guest.run(["python3", f"{IN_GUEST}/importing.py", MODULES[service]], SLOW).json
    return Round(complete.at - killed, seen, waited, float(floor))
