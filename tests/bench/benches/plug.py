"""From the plug to the device on the host, of the product and of the floor, and where the time goes.

A stick is plugged into the node, and it counts from the kernel's uevent there to the kernel's uevent of the
imported device on the host. Both contenders run in the same guests and take turns plug by plug, and who is
first alternates: drift and load hit both alike. The ratio is the median of those of the two plugs of each
round, which were made within seconds of each other. Each contender's first plug warms up and does not count.
While others use this machine, rounds in which the guests had to wait for a processor are made again.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tests.bench import clocks, disturbance, tracing
from tests.bench.contenders import PORTS, Contender, Floor, Product, Turns, processor_time
from tests.bench.figures import Aim, Report, Table, median, ms, percentile
from tests.bench.laboratory import Laboratory, tell
from tests.lab.channel import Job
from tests.lab.devices import Stick
from tests.lab.pair import Pair
from tests.lab.product import SLOW, STUB, TAKEN_PORTS

ORDER = 1
AIM = 1.25
FAIR = 0.1
"""Of the time of a plug, all guests together may have waited so much for a processor of this machine."""
Moments = Mapping[str, float]


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--plugs", type=int, default=20, metavar="N", help="plugs of each contender (20)")
    parser.add_argument("--patience", type=int, default=3, metavar="N",
                        help="times so many are made at most to have that many undisturbed ones (3)")
    parser.add_argument("--bind-first", action="store_true", help="let the floor bind before it dials")


@dataclass(frozen=True)
class Plug:
    """One plug of one contender."""

    moments: Moments
    """Seconds since the plug."""
    processor: Mapping[str, float]
    """Seconds that the contender computed for the plug and the unplug, by guest."""
    waited: float

    @property
    def duration(self) -> float:
        return self.moments[tracing.ARRIVAL]


Round = Mapping[str, Plug]      # by contender


def measure(laboratory: Laboratory, options: argparse.Namespace) -> Report:
    contenders: list[Contender] = [Product(), Floor(options.bind_first)]
    rounds: list[Round] = []
    with laboratory.guests() as pair:
        tracing.start(pair.node, tracing.NODE_PROBES, PORTS)
        tracing.start(pair.host, tracing.HOST_PROBES, PORTS)
        bench = Bench(pair, Turns(pair, contenders), clocks.start_witness(pair.host))
        first = bench.round(contenders)
        while (sum(_waited(each) <= FAIR for each in rounds) < options.plugs
               and len(rounds) < options.plugs * options.patience):
            rounds.append(bench.round(contenders[::-1 if len(rounds) % 2 else 1]))
            tell(f"round {len(rounds)}: " + ", ".join(
                f"{name} {ms(plug.duration)} ms" for name, plug in sorted(rounds[-1].items()))
                + f" (waited {_waited(rounds[-1]):.0%})")
    kept = sorted(rounds, key=_waited)[:options.plugs]
    return _report({each.name: [one[each.name] for one in kept] for each in contenders}, first, len(rounds),
                   bench.uncertainty)


class Bench:
    """Plugs a stick of its own, for one contender after the other."""

    def __init__(self, pair: Pair, turns: Turns, witness: Job) -> None:
        self.uncertainty = 0.0
        self._pair = pair
        self._turns = turns
        self._witness = witness
        self._stick = Stick(serial="BENCH1")

    def round(self, contenders: Sequence[Contender]) -> Round:
        """A plug of each, in this order."""
        return {contender.name: self._plug(contender) for contender in contenders}

    def _plug(self, contender: Contender) -> Plug:
        guests = node, host = self._pair.node, self._pair.host
        self._turns.give(contender)
        before = clocks.sample(node, host)
        for guest in guests:
            tracing.clear(guest)
        spent = {guest.name: processor_time(guest, contender) for guest in guests}
        watch = disturbance.Watch()
        arrived = clocks.arrivals(self._witness)
        busid = node.plug(self._stick, 1, wait=False)
        clocks.wait_arrivals(self._witness, arrived + 1, SLOW)
        waited = watch.share()
        host.until(f"[ -b {self._stick.disk} ]", SLOW)
        on_node = moments(tracing.node_moments(busid), tracing.events(node))
        on_host = moments(tracing.HOST_MOMENTS, tracing.events(host))
        self._unplug()
        contender.catch_up(self._pair)
        spent = {guest.name: processor_time(guest, contender) - spent[guest.name] for guest in guests}
        clock = clocks.Clocks(before, clocks.sample(node, host))
        self.uncertainty = max(self.uncertainty, clock.uncertainty)
        return Plug(_since_plug(on_node, on_host, clock), spent, waited)

    def _unplug(self) -> None:
        node, host = self._pair.node, self._pair.host
        node.unplug(self._stick)
        node.until(f'[ -z "$(tr -d "[:space:]" < {STUB}/match_busid)" ]', SLOW)
        host.until(f"! {TAKEN_PORTS}", SLOW)
        for guest in (node, host):
            guest.sh("udevadm settle", SLOW)


def _waited(one: Round) -> float:
    return max(plug.waited for plug in one.values())


def moments(wanted: Mapping[str, tracing.Moment], found: Sequence[tracing.Event]) -> Moments:
    """When each of those that happened did."""
    seen = {name: moment(found) for name, moment in wanted.items()}
    return {name: at for name, at in seen.items() if at is not None}


def _since_plug(on_node: Moments, on_host: Moments, clock: clocks.Clocks) -> Moments:
    """All moments on one clock, from the plug on."""
    plugged = on_node[tracing.PLUGGED]
    together = {**on_node, **{name: clock.on_node(at) for name, at in on_host.items()}}
    return {name: at - plugged for name, at in together.items()}


def _report(plugs: Mapping[str, Sequence[Plug]], first: Round, made: int, uncertainty: float) -> Report:
    durations = {name: [plug.duration for plug in seen] for name, seen in plugs.items()}
    ratios = [ours / theirs for ours, theirs in zip(durations["product"], durations["floor"])]
    ratio, low, high = (percentile(ratios, percent) for percent in (50, 25, 75))
    waited = max(plug.waited for seen in plugs.values() for plug in seen)
    moments = {name: _by_moment(seen) for name, seen in plugs.items()}
    spent = {name: {guest: median(plug.processor[guest] for plug in seen) for guest in ("node", "host")}
             for name, seen in plugs.items()}
    head = Table("From plug to arrival, ms", ("", "p50", "p95", "least", "most", "first"), [
        (name, ms(median(seen)), ms(percentile(seen, 95)), ms(min(seen)), ms(max(seen)),
         ms(first[name].duration)) for name, seen in durations.items()])
    cost = Table("Processor time for one plug and unplug, ms", ("", "node", "host"), [
        (name, ms(seen["node"]), ms(seen["host"])) for name, seen in spent.items()])
    figures = {name: {
        "p50": median(seen), "p95": percentile(seen, 95), "first": first[name].duration, "durations": seen,
        "processor": spent[name], "moments": moments[name]} for name, seen in durations.items()}
    return Report(
        "Plug on the node to device on the host",
        {**figures, "ratio": ratio, "ratios": ratios, "clock_uncertainty": uncertainty, "waited": waited},
        (head, _course(moments), cost),
        [Aim(f"{ratio:.2f} × the floor, half of the rounds {low:.2f} to {high:.2f} (aim ≤ {AIM})",
             ratio <= AIM)],
        [f"{len(ratios)} plugs each, the least disturbed of {made}. For {waited:.0%} of a plug at most the "
         f"guests waited for a processor of this machine (fair: {FAIR:.0%}).",
         f"The guests' clocks are together to ± {uncertainty * 1000:.1f} ms.",
         "\"First\" is the first plug after a start; it is not in the other figures."])


def _course(moments: Mapping[str, Moments]) -> Table:
    rows = [(name, ms(at), ms(moments["floor"][name]) if name in moments["floor"] else "–")
            for name, at in sorted(moments["product"].items(), key=lambda item: item[1])]
    return Table("Its course, ms since the plug, medians", ("", "product", "floor"), rows)


def _by_moment(plugs: Sequence[Plug]) -> Moments:
    """The median of each moment."""
    names = dict.fromkeys(name for plug in plugs for name in plug.moments)
    return {name: median(plug.moments[name] for plug in plugs if name in plug.moments) for name in names}
