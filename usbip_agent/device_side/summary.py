"""The status line: what an operator wants to know first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from usbip_agent.device_side.delays import LONGEST_DELAY
from usbip_agent.report import DeviceReport, ExportState

_ORDER = (ExportState.CONNECTED, ExportState.CONNECTING, ExportState.BINDING, ExportState.FAILED,
          ExportState.BLOCKED, ExportState.WAITING, ExportState.HELD, ExportState.IGNORED)

_EXPLAINED = (ExportState.FAILED, ExportState.BLOCKED, ExportState.WAITING)


def summary(reports: Sequence[DeviceReport], now: int) -> str:
    """``3 connected, 1 waiting (lab: connection refused, next try in 8 s), 5 ignored``; *now* in µs."""
    counts = Counter(ExportState(report.state) for report in reports)
    parts = []
    for state in _ORDER:
        if counts[state]:
            detail = _first_reason(reports, state, now) if state in _EXPLAINED else ""
            parts.append(f"{counts[state]} {state}{detail}")
    return ", ".join(parts) or "no USB devices here"


def _first_reason(reports: Sequence[DeviceReport], state: ExportState, now: int) -> str:
    report = next(report for report in reports if report.state == state)
    words = [report.reason] if report.reason else []
    seconds = (report.next_attempt - now) / 1_000_000
    if 0 < seconds <= LONGEST_DELAY + 1:  # else the clock was set, for which no attempt cares
        words.append(f"next try in {max(1, round(seconds))} s")
    return f" ({', '.join(words)})" if words else ""
