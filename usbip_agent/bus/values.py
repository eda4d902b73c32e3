"""Reports ↔ D-Bus properties. The border where text from USB devices becomes fit for every reader.

A string on the bus is UTF-8 without NUL, or the bus ends our connection; a device may call itself anything.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any, Final

from usbip_agent.bus.marshalling import plain, variant
from usbip_agent.bus.operations import Explanation, ExplanationStep
from usbip_agent.names import AGENT, Service
from usbip_agent.report import DeviceReport, ImportReport, Property, Report, properties_of
from usbip_agent.text import printable

LONGEST_TEXT: Final = 1024
"""Characters of a property or an error message: a sentence, or a device node's path."""

_MAXIMUM: Final = {"u": 0xFFFFFFFF, "t": 0xFFFFFFFFFFFFFFFF}


def shown(text: str) -> str:
    """*text* in one line, printable."""
    return printable(text, LONGEST_TEXT)


def report_type(service: Service) -> type[DeviceReport] | type[ImportReport]:
    """What *service* publishes."""
    return DeviceReport if service is AGENT else ImportReport


def properties_of_service(service: Service) -> tuple[Property, ...]:
    """The properties of *service*'s child objects."""
    return _properties(report_type(service))


def _properties(kind: Any) -> tuple[Property, ...]:
    # Any: mypy takes the class of a dataclass with slots for unhashable, and properties_of is cached.
    return properties_of(kind)


def variants_of(report: Report) -> dict[str, Any]:
    """All properties of *report*: name → variant."""
    return {entry.name: variant(entry.signature, _value(entry.signature, getattr(report, entry.field)))
            for entry in _properties(type(report))}


def _value(signature: str, value: Any) -> Any:
    if signature == "as":
        return [shown(text) for text in value]
    if signature in _MAXIMUM:
        return max(0, min(int(value), _MAXIMUM[signature]))
    return shown(str(value))


def report_of(service: Service, properties: dict[str, Any], base: Report | None = None) -> Report:
    """The report with these *properties* (name → variant or value); what is absent is as in *base*.

    A daemon of another version may have others: what is not known here is passed over.
    """
    kind = report_type(service)
    values: dict[str, Any] = {"bus_id": ""} if base is None else {
        entry.name: getattr(base, entry.name) for entry in fields(kind)}
    for entry in _properties(kind):
        if entry.name in properties:
            value = plain(properties[entry.name])
            values[entry.field] = tuple(value) if entry.signature == "as" else value
    return kind(**values)


def variants_of_explanation(explanation: Explanation) -> dict[str, Any]:
    """The answer to ``Explain``."""
    return {
        "Rule": variant("s", shown(explanation.rule)),
        "Verdict": variant("s", shown(explanation.verdict)),
        "Hosts": variant("as", [shown(host) for host in explanation.hosts]),
        "Steps": variant("aa{sv}", [{
            "Rule": variant("s", shown(step.rule)),
            "Location": variant("s", shown(step.location)),
            "Matched": variant("b", bool(step.matched)),
            "Why": variant("s", shown(step.why)),
        } for step in explanation.steps]),
    }


def explanation_of(answer: dict[str, Any]) -> Explanation:
    """The explanation in an answer to ``Explain``."""
    values = plain(answer)
    return Explanation(
        rule=values.get("Rule", ""), verdict=values.get("Verdict", ""), hosts=tuple(values.get("Hosts", ())),
        steps=tuple(
            ExplanationStep(step.get("Rule", ""), step.get("Location", ""), step.get("Matched", False),
                            step.get("Why", ""))
            for step in values.get("Steps", ())),
    )
