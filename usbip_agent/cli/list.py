"""``usbip-agent list``: what is plugged in, and what the policy says of each. Needs no daemon."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from usbip_agent.cli.options import CONFIGURATION, JSON, Verb
from usbip_agent.cli.output import print_diagnostic, print_json, print_line
from usbip_agent.errors import ExitStatus, Fault
from usbip_agent.names import Service

if TYPE_CHECKING:
    from usbip_agent.cli.local_devices import LocalDevice
    from usbip_agent.policy.agent import AgentPolicy


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the policy says of one device; empty where there is no valid policy."""

    text: str = ""
    rule: str = ""
    location: str = ""
    hosts: tuple[str, ...] = ()


def run(service: Service, arguments: Namespace) -> int:
    from usbip_agent.cli.local_devices import exportable_devices
    from usbip_agent.cli.policies import agent_policy, configured

    status = ExitStatus.DONE
    policy: AgentPolicy | None = None
    try:
        policy = agent_policy(configured(service, arguments.config))
    except Fault as fault:
        print_diagnostic(service.command, f"what the policy says is not shown: {fault}")
        status = fault.exit_status
    listed = [(each, _verdict(policy, each)) for each in exportable_devices()]
    if arguments.json:
        print_json({"devices": [_as_json(local, verdict) for local, verdict in listed]})
    elif listed:
        for local, verdict in listed:
            _print(local, verdict)
    else:
        print_line("no USB devices but hubs and imported ones")
    return status


def _verdict(policy: AgentPolicy | None, local: LocalDevice) -> Verdict:
    if policy is None:
        return Verdict()
    decision = policy.decide(local.device)
    location = decision.trace[-1].location if decision.trace else ""
    return Verdict(decision.verdict, decision.rule, location, tuple(host.name for host in decision.hosts))


def _print(local: LocalDevice, verdict: Verdict) -> None:
    """The first two lines as ``usbip list -l`` has them."""
    device = local.device
    ids = f"{device.vendor}:{device.product}"
    print_line(f" - busid {device.bus_id} ({ids})")
    print_line(f"   {device.manufacturer or 'unknown vendor'} : {device.model or 'unknown product'} ({ids})")
    print_line(f"   {', '.join(device.class_names) or 'no class'}; {device.speed} speed; "
               f"driver: {', '.join(local.drivers) or 'none'}")
    if device.serial:
        print_line(f"   serial: {device.serial}")
    if device.path:
        print_line(f"   path:   {device.path}")
    if verdict.text:
        print_line(f"   policy: {verdict.text} ({verdict.rule}, {verdict.location})")
    print()


def _as_json(local: LocalDevice, verdict: Verdict) -> dict[str, Any]:
    device = local.device
    return {
        "bus_id": device.bus_id, "vendor": device.vendor, "product": device.product, "serial": device.serial,
        "manufacturer": device.manufacturer, "model": device.model, "classes": device.class_names,
        "path": device.path, "speed": device.speed, "kind": device.kind, "drivers": local.drivers,
        "verdict": verdict.text, "rule": verdict.rule, "location": verdict.location, "hosts": verdict.hosts,
    }


VERB: Final = Verb("list local USB devices, and what the policy says of each", run,
                   (CONFIGURATION, JSON))
