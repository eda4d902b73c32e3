"""The host's clock against a node's.

Every guest stamps events with its own monotonic clock, which starts when it boots. How far two are apart is
measured as NTP does, by datagrams between the guests themselves: with the four times of the quickest of
many exchanges the offset is known to half its round trip, whatever was delayed and on which way. This
machine cannot do better from outside: the path through QEMU to a guest is slower and less even than the one
between guests. It is measured before and after each block of plugs and interpolated between, so that a
drift does not count.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tests.bench.laboratory import IN_GUEST
from tests.lab.channel import Job
from tests.lab.guest import Guest

EXCHANGES = 60


@dataclass(frozen=True)
class Sample:
    """One measurement, made at ``at`` on the node's clock."""

    offset: float
    round_trip: float
    at: float


@dataclass(frozen=True)
class Clocks:
    """The offset between two samples, by interpolation."""

    first: Sample
    last: Sample

    @property
    def uncertainty(self) -> float:
        """Seconds by which ``on_node`` may be wrong."""
        return max(self.first.round_trip, self.last.round_trip) / 2

    @property
    def drift(self) -> float:
        """Seconds in a second."""
        return (self.last.offset - self.first.offset) / (self.last.at - self.first.at)

    def on_node(self, host_time: float) -> float:
        """The node's clock when the host's said *host_time*."""
        about = host_time - self.first.offset
        return host_time - self.first.offset - self.drift * (about - self.first.at)

    def on_host(self, node_time: float) -> float:
        """The host's clock when the node's said *node_time*."""
        return node_time + self.first.offset + self.drift * (node_time - self.first.at)


def start_witness(guest: Guest) -> Job:
    """The witness in *guest*; it writes a line for each device that arrives there, and tells the time."""
    witness = guest.start_job(["python3", f"{IN_GUEST}/witness.py", "wait"])
    witness.wait_for("ready")
    return witness


def wait_arrivals(witness: Job, count: int, deadline: float) -> None:
    """Returns when *count* devices have arrived since the witness started."""
    witness.wait_for(r"(?:arrived \S+\s+){%d}" % count, deadline)


def arrivals(witness: Job) -> int:
    """How many have arrived until now."""
    return witness.output.count("arrived ")


def sample(node: Guest, host: Guest) -> Sample:
    """Asks the witness on *host*."""
    return Sample(**node.run(["python3", f"{IN_GUEST}/witness.py", "ask", host.address, str(EXCHANGES)]).json)


def worst(all_clocks: Sequence[Clocks]) -> float:
    return max(clocks.uncertainty for clocks in all_clocks)
