"""A decision as text for people, and as a plain structure for JSON and D-Bus."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypedDict

from usbip_agent.policy.agent import Decision
from usbip_agent.policy.problems import quoted
from usbip_agent.policy.rules import Step
from usbip_agent.policy.usbipa import AcceptDecision


class PlainStep(TypedDict):
    """One step of PlainDecision."""

    rule: str
    location: str
    matched: bool
    why: str


class PlainDecision(TypedDict):
    """What ``explain --json`` prints beside ``version``, and what ``Explain`` returns."""

    rule: str
    verdict: str
    hosts: list[str]
    steps: list[PlainStep]


def lines(decision: Decision | AcceptDecision) -> tuple[str, ...]:
    """One line for each rule examined, the deciding one last, then the verdict.

    ``agent.yaml:12  zigbee stick: no, serial is "0123", not "01A*"``
    """
    width = max((len(step.location) for step in decision.trace), default=0)
    steps = (
        f"{step.location:{width}}  {step.rule}: {'yes' if step.matched else 'no'}, {step.why}"
        for step in decision.trace)
    return (*steps, f"{decision.verdict} (by {_rule(decision.rule)})")


def _rule(name: str) -> str:
    return "the default" if name == "default" else quoted(name)


def plain(decision: Decision | AcceptDecision) -> PlainDecision:
    """Texts, truth values and lists only. *hosts* are names, none on the application side."""
    hosts = [host.name for host in decision.hosts] if isinstance(decision, Decision) else []
    steps = _steps(decision.trace)
    return PlainDecision(rule=decision.rule, verdict=decision.verdict, hosts=hosts, steps=steps)


def _steps(trace: Iterable[Step]) -> list[PlainStep]:
    return [
        PlainStep(rule=step.rule, location=step.location, matched=step.matched, why=step.why)
        for step in trace]
