"""From the plug to the device on the host, of the product and of the floor, and where the time goes.

A stick is plugged into the node, and it counts from the kernel's uevent there to the kernel's uevent of the
imported device on the host. Both contenders run in turn in the same guests, in blocks of a few plugs, and the
order within a round alternates: drift and load hit both alike. The first plug of each block warms up and does
not count.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tests.bench import clocks, tracing
from tests.bench.contenders import PORT, Contender, Floor, Product, processor_time
from tests.bench.figures import Aim, Report, Table, median, ms, percentile
from tests.bench.laboratory import Laboratory, tell
from tests.lab.channel import Job
from tests.lab.devices import Stick
from tests.lab.pair import Pair
from tests.lab.product import SLOW, STUB, TAKEN_PORTS

ORDER = 1
BLOCK = 5
AIM = 1.25
Moments = Mapping[str, float]


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--plugs", type=int, default=20, metavar="N", help="plugs of each contender (20)")
    parser.add_argument("--bind-first", action="store_true", help="let the floor bind before it dials")


@dataclass
class Run:
    """What was seen of one contender, in seconds."""

    plugs: list[Moments] = field(default_factory=list)
    blocks: list[float] = field(default_factory=list)       # each block's median
    first: list[float] = field(default_factory=list)        # the first plug after a start
    processor: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    clocks: list[clocks.Clocks] = field(default_factory=list)

    @property
    def durations(self) -> list[float]:
        return [moments[tracing.ARRIVAL] for moments in self.plugs]


def measure(laboratory: Laboratory, options: argparse.Namespace) -> Report:
    product, floor = Product(), Floor(options.bind_first)
    runs: dict[str, Run] = {product.name: Run(), floor.name: Run()}
    with laboratory.guests() as pair:
        product.configure(pair)
        product.stop(pair)
        tracing.start(pair.node, tracing.NODE_PROBES, PORT)
        tracing.start(pair.host, tracing.HOST_PROBES, PORT)
        bench = _Bench(pair, clocks.start_witness(pair.host))
        rounds = max(1, round(options.plugs / BLOCK))
        sizes = [options.plugs * (number + 1) // rounds - options.plugs * number // rounds
                 for number in range(rounds)]
        for number, size in enumerate(sizes):
            turns: list[Contender] = [product, floor]
            for contender in turns[::1 if number % 2 == 0 else -1]:
                bench.block(contender, runs[contender.name], size)
                tell(f"round {number + 1} of {rounds}: {contender.name} "
                     f"{ms(runs[contender.name].blocks[-1])} ms")
    return _report(runs[product.name], runs[floor.name])


class _Bench:
    def __init__(self, pair: Pair, witness: Job) -> None:
        self._pair = pair
        self._witness = witness
        self._arrivals = 0
        self._stick = Stick(serial="BENCH1")

    def block(self, contender: Contender, run: Run, size: int) -> None:
        """Starts *contender*, plugs once to warm up and *size* times to measure, and stops it."""
        node, host = self._pair.node, self._pair.host
        contender.start(self._pair)
        before = clocks.sample(node, host)
        seen = [self._plug()]
        spent = {guest.name: processor_time(guest, contender) for guest in (node, host)}
        seen += [self._plug() for _ in range(size)]
        for guest in (node, host):
            run.processor[guest.name].append((processor_time(guest, contender) - spent[guest.name]) / size)
        clock = clocks.Clocks(before, clocks.sample(node, host))
        run.clocks.append(clock)
        warm_up, *plugs = [_since_plug(on_node, on_host, clock) for on_node, on_host in seen]
        run.first.append(warm_up[tracing.ARRIVAL])
        run.plugs += plugs
        run.blocks.append(median(moments[tracing.ARRIVAL] for moments in plugs))
        contender.stop(self._pair)

    def _plug(self) -> tuple[Moments, Moments]:
        """One plug and unplug; what happened on the node and on the host, each on its own clock."""
        node, host, stick = self._pair.node, self._pair.host, self._stick
        tracing.clear(node)
        tracing.clear(host)
        busid = node.plug(stick, 1, wait=False)
        self._arrivals += 1
        clocks.wait_arrivals(self._witness, self._arrivals, SLOW)
        host.until(f"[ -b {stick.disk} ]", SLOW)
        on_node, on_host = tracing.events(node), tracing.events(host)
        node.unplug(stick)
        node.until(f'[ -z "$(tr -d "[:space:]" < {STUB}/match_busid)" ]', SLOW)
        host.until(f"! {TAKEN_PORTS}", SLOW)
        for guest in (node, host):
            guest.sh("udevadm settle", SLOW)
        return _moments(tracing.node_moments(busid), on_node), _moments(tracing.HOST_MOMENTS, on_host)


def _moments(wanted: Mapping[str, tracing.Moment], found: Sequence[tracing.Event]) -> Moments:
    moments = {name: moment(found) for name, moment in wanted.items()}
    return {name: at for name, at in moments.items() if at is not None}


def _since_plug(on_node: Moments, on_host: Moments, clock: clocks.Clocks) -> Moments:
    """All moments on one clock, from the plug on."""
    plugged = on_node[tracing.PLUGGED]
    together = {**on_node, **{name: clock.on_node(at) for name, at in on_host.items()}}
    return {name: at - plugged for name, at in together.items()}


def _report(product: Run, floor: Run) -> Report:
    ratio = median(product.durations) / median(floor.durations)
    rounds = [ours / theirs for ours, theirs in zip(product.blocks, floor.blocks)]
    uncertainty = clocks.worst([*product.clocks, *floor.clocks])
    head = Table("From plug to arrival, ms", ("", "p50", "p95", "least", "most", "first"), [
        (name, ms(median(run.durations)), ms(percentile(run.durations, 95)), ms(min(run.durations)),
         ms(max(run.durations)), ms(median(run.first))) for name, run in _both(product, floor)])
    spent = Table("Processor time for one plug and unplug, ms", ("", "node", "host"), [
        (name, ms(median(run.processor["node"])), ms(median(run.processor["host"])))
        for name, run in _both(product, floor)])
    figures = {name: {
        "p50": median(run.durations), "p95": percentile(run.durations, 95), "durations": run.durations,
        "first_after_start": run.first, "blocks": run.blocks, "processor": dict(run.processor),
        "moments": {moment: median(values) for moment, values in _by_moment(run).items()},
    } for name, run in _both(product, floor)}
    return Report(
        "Plug on the node to device on the host",
        {**figures, "ratio": ratio, "ratio_by_round": rounds, "clock_uncertainty": uncertainty},
        (head, _course(product, floor), spent),
        [Aim(f"p50 is {ratio:.2f} × the floor (aim ≤ {AIM}); by round {min(rounds):.2f} to {max(rounds):.2f}",
             ratio <= AIM)],
        [f"{len(product.plugs)} plugs each. The guests' clocks are together to ± {uncertainty * 1000:.1f} ms. "
         "\"first\" is the first plug after a start, which is not in the other figures."])


def _course(product: Run, floor: Run) -> Table:
    ours, theirs = _by_moment(product), _by_moment(floor)
    rows = [(name, ms(median(values)), ms(median(theirs[name])) if name in theirs else "–")
            for name, values in sorted(ours.items(), key=lambda item: median(item[1]))]
    return Table("Its course, ms since the plug, medians", ("", "product", "floor"), rows)


def _by_moment(run: Run) -> dict[str, list[float]]:
    found: dict[str, list[float]] = defaultdict(list)
    for moments in run.plugs:
        for name, since in moments.items():
            found[name].append(since)
    return found


def _both(product: Run, floor: Run) -> tuple[tuple[str, Run], tuple[str, Run]]:
    return ("product", product), ("floor", floor)
