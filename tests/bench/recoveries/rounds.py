"""What one kind of fault gave: how long each recovery took, its course, and what nobody could have saved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tests.bench.figures import Aim, Table, median, percentile

HEAD = ("", "rounds", "p50", "p95", "least", "most", "floor p50", "beyond p50", "beyond p95")


@dataclass(frozen=True)
class Round:
    """One fault and the recovery from it, in seconds."""

    seconds: float
    course: Mapping[str, float]
    """What happened when, since what ``seconds`` counts from."""
    waited: float
    """How long the guests waited for a processor, as a share of the time."""
    floor: float = 0.0
    """What was measured beside it, in the same guests; 0 where there is no floor."""


@dataclass(frozen=True)
class Recovery:
    """All rounds of one kind."""

    name: str
    rounds: Sequence[Round]
    aim: float | None = None
    """Seconds, for the 95th percentile."""
    beyond_floor: bool = False
    """Whether the aim is for what comes on top of the floor."""

    def row(self) -> Sequence[str]:
        """Of the table whose head is ``HEAD``."""
        seconds = self._seconds
        shown = [self.name, str(len(seconds)), *(f"{each:.2f}" for each in (
            median(seconds), percentile(seconds, 95), min(seconds), max(seconds)))]
        if not self._has_floor:
            return [*shown, "–", "–", "–"]
        return [*shown, *(f"{each:.2f}" for each in (
            median(one.floor for one in self.rounds), median(self._beyond), percentile(self._beyond, 95)))]

    def judged(self) -> list[Aim]:
        """Whether the aim is met, if there is one."""
        if self.aim is None:
            return []
        in_all = percentile(self._seconds, 95)
        if not self.beyond_floor:
            return [Aim(f"{self.name}: p95 {in_all:.2f} s (aim ≤ {self.aim:g} s)", in_all <= self.aim)]
        beyond = percentile(self._beyond, 95)
        return [Aim(f"{self.name}: p95 {beyond:.2f} s beyond the floor, {in_all:.2f} s in all "
                    f"(aim ≤ {self.aim:g} s beyond the floor)", beyond <= self.aim)]

    def course(self) -> Table:
        """The medians of its moments."""
        rows = []
        for name in dict.fromkeys(name for one in self.rounds for name in one.course):
            seen = [one.course[name] for one in self.rounds if name in one.course]
            rows.append((median(seen), (name, str(len(seen)), f"{median(seen):.2f}",
                                        f"{percentile(seen, 95):.2f}")))
        return Table(f"The course of: {self.name}", ("", "rounds", "p50", "p95"),
                     [row for _, row in sorted(rows)])

    def figures(self) -> dict[str, Any]:
        """For programs."""
        found: dict[str, Any] = {"p50": median(self._seconds), "p95": percentile(self._seconds, 95),
                                 "rounds": [asdict(one) for one in self.rounds]}
        if self._has_floor:
            found |= {"floor": median(one.floor for one in self.rounds),
                      "beyond": {"p50": median(self._beyond), "p95": percentile(self._beyond, 95)}}
        return found

    @property
    def _seconds(self) -> list[float]:
        return [one.seconds for one in self.rounds]

    @property
    def _beyond(self) -> list[float]:
        return [one.seconds - one.floor for one in self.rounds]

    @property
    def _has_floor(self) -> bool:
        return any(one.floor for one in self.rounds)
