"""Stamps from the kernel's own tracer: what happened when, whoever did it.

Probes on a few functions of the kernel say when each step was made, of the product and of the floor alike,
without a line in either, and without a program that has to run at that moment. The buffer is read afterwards.
Times are those of CLOCK_MONOTONIC, so that the clocks of two guests can be brought together. The texts of
uevents are found through the kernel's type information, which Debian 13's kernel can and Debian 12's cannot.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tests.lab.guest import Guest

TRACING = "/sys/kernel/tracing"
# udev's message: a header of 40 bytes, UDEV_DATABASE_VERSION=1, ACTION=add, DEVPATH=…
UEVENT = "netlink_broadcast_filtered kernel=+0(skb->data):string udev=+75(skb->data):string"
NODE_PROBES = (f"p:bench/uevent {UEVENT}", "p:bench/match match_busid_store", "p:bench/probe stub_probe",
               "r:bench/bound stub_probe",
               "p:bench/hand usbip_sockfd_store", "r:bench/handed usbip_sockfd_store")
HOST_PROBES = (f"p:bench/uevent {UEVENT}", "p:bench/attach attach_store", "r:bench/attached attach_store")
LINE = re.compile(r"^.{16}-\d+ .*? (\d+\.\d+): (\w+): (.*)$")

START = """
set -e
cd {tracing}
echo 0 > tracing_on
echo mono > trace_clock
echo 4096 > buffer_size_kb
{probes}
echo 'kernel ~ "add@*" || kernel == "libudev"' > events/bench/uevent/filter
echo '{ports}' > events/sock/inet_sock_set_state/filter
echo 1 > events/bench/enable
echo 1 > events/sock/inet_sock_set_state/enable
echo 1 > tracing_on
"""


@dataclass(frozen=True)
class Event:
    """One line of the trace; ``at`` in seconds on the guest's clock."""

    at: float
    name: str
    text: str


def start(guest: Guest, probes: Sequence[str], ports: Sequence[int]) -> None:
    """Sets the probes; *ports* are those that connections to are looked at."""
    filters = (f"dport == {port} || sport == {port}" for port in ports)
    guest.sh(START.format(tracing=TRACING, ports=" || ".join(filters),
                          probes="\n".join(f"echo '{probe}' >> kprobe_events" for probe in probes)))


def also(guest: Guest, event: str, condition: str) -> None:
    """Has an *event* of the kernel's own stamped as well, where *condition* holds; after ``start``."""
    guest.sh(f"cd {TRACING}/events/{event} && echo '{condition}' > filter && echo 1 > enable")


def clear(guest: Guest) -> None:
    """Forgets what was stamped until now."""
    guest.sh(f"echo > {TRACING}/trace")


def events(guest: Guest) -> list[Event]:
    """What was stamped since ``clear``, in order."""
    found = map(LINE.match, guest.sh(f"cat {TRACING}/trace").splitlines())
    return [Event(float(match[1]), match[2], match[3]) for match in found if match]


def first(found: Sequence[Event], name: str, text: str = "") -> float | None:
    """When the first event called *name* with *text* (a pattern) in it happened."""
    return next((event.at for event in found if event.name == name and re.search(text, event.text)), None)


def times(found: Sequence[Event], name: str, text: str) -> list[float]:
    """When each of them happened."""
    return [event.at for event in found if event.name == name and re.search(text, event.text)]


def plugged(bus_id: str) -> str:
    """The pattern of the kernel's uevent of a local device."""
    return rf'kernel="add@\S*/{re.escape(bus_id)}"'


def told(bus_id: str) -> str:
    """The pattern of udev's event of it, which comes after the rules."""
    return rf'kernel="libudev" udev="DEVPATH=\S*/{re.escape(bus_id)}"'


ARRIVED = r'kernel="add@/devices/platform/vhci_hcd\.\d+/usb\d+/[\d.-]+"'

Moment = Callable[[Sequence[Event]], float | None]


def node_moments(bus_id: str) -> dict[str, Moment]:
    """What happens on the node for one device, by what it is called in the tables."""
    return {
        "plugged (kernel's uevent)": lambda found: first(found, "uevent", plugged(bus_id)),
        "udev's event": lambda found: first(found, "uevent", told(bus_id)),
        "node dials": lambda found: first(found, "inet_sock_set_state", "newstate=TCP_SYN_SENT"),
        "node writes match_busid": lambda found: first(found, "match"),
        "stub probes": lambda found: first(found, "probe"),
        "stub has the device": lambda found: first(found, "bound"),
        "node writes usbip_sockfd": lambda found: first(found, "hand"),
        "stub has the socket": lambda found: first(found, "handed"),
    }


HOST_MOMENTS: dict[str, Moment] = {
    "host's kernel accepts": lambda found: first(found, "inet_sock_set_state", "newstate=TCP_ESTABLISHED"),
    "host writes attach": lambda found: first(found, "attach"),
    "vhci has the socket": lambda found: first(found, "attached"),
    "arrived (kernel's uevent)": lambda found: first(found, "uevent", ARRIVED),
}
PLUGGED, ARRIVAL = "plugged (kernel's uevent)", "arrived (kernel's uevent)"
