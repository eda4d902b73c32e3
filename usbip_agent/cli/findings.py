"""What ``doctor`` finds, one value per check, and what the findings mean together."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from usbip_agent.errors import ExitStatus


class Outcome(StrEnum):
    """How a check ended."""

    OK = "ok"
    WARNING = "warning"
    """Works, or would; but somebody should know."""
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Finding:
    """One check: its name, how it ended, what was seen, and the cure where one is needed."""

    name: str
    outcome: Outcome
    what: str
    cure: str = ""
    exit_status: ExitStatus = ExitStatus.FAILED
    """What the command ends with if this failed."""


def ok(name: str, what: str) -> Finding:
    return Finding(name, Outcome.OK, what)


def warning(name: str, what: str, cure: str) -> Finding:
    return Finding(name, Outcome.WARNING, what, cure)


def failed(name: str, what: str, cure: str, exit_status: ExitStatus = ExitStatus.FAILED) -> Finding:
    return Finding(name, Outcome.FAILED, what, cure, exit_status)


def exit_status_of(findings: Iterable[Finding]) -> ExitStatus:
    """DONE when nothing failed; UNAVAILABLE when the service or its module is missing; else FAILED."""
    statuses = {finding.exit_status for finding in findings if finding.outcome is Outcome.FAILED}
    if not statuses:
        return ExitStatus.DONE
    return ExitStatus.UNAVAILABLE if ExitStatus.UNAVAILABLE in statuses else ExitStatus.FAILED
