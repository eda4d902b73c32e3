"""``doctor``: what stands in the way on this machine, each with its cure."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from dataclasses import asdict
from typing import Final

from usbip_agent.cli.findings import Finding, Outcome, exit_status_of
from usbip_agent.cli.options import JSON, Verb
from usbip_agent.cli.output import counted, print_diagnostic, print_json, print_line
from usbip_agent.names import Service


def run_agent(service: Service, arguments: Namespace) -> int:
    from usbip_agent.cli.doctor_agent import examine
    return _show(service, arguments.json, examine(service))


def run_usbipa(service: Service, arguments: Namespace) -> int:
    from usbip_agent.cli.doctor_usbipa import examine
    return _show(service, arguments.json, examine(service))


def _show(service: Service, as_json: bool, findings: Sequence[Finding]) -> int:
    if as_json:
        print_json({"checks": [_as_json(finding) for finding in findings]})
    else:
        width = max(len(finding.name) for finding in findings)
        for finding in findings:
            print_line(f"{finding.outcome:<7}  {finding.name:<{width}}  {finding.what}")
            if finding.cure:
                print_line(f"{'':<7}  {'':<{width}}  → {finding.cure}")
    wrong = [finding.name for finding in findings if finding.outcome is Outcome.FAILED]
    if wrong:
        print_diagnostic(service.command, f"{counted(len(wrong), 'check')} failed: {', '.join(wrong)}")
    return exit_status_of(findings)


def _as_json(finding: Finding) -> dict[str, str]:
    return {key: value for key, value in asdict(finding).items() if key != "exit_status"}


AGENT_VERB: Final = Verb("show what stands in the way on this machine, and what helps", run_agent, (JSON,))
USBIPA_VERB: Final = Verb("show what stands in the way on this machine, and what helps", run_usbipa, (JSON,))
