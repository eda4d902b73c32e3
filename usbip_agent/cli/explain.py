"""``usbip-agent explain``: which rule decides about a device, and why the earlier ones did not.

Answers by the configuration as it stands in the files, and says so when the running daemon goes by another.
"""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING, Final

from usbip_agent.cli.hypothetical import OPTIONS, device_described, is_described
from usbip_agent.cli.options import CONFIGURATION, JSON, Verb, bus_id, option
from usbip_agent.cli.output import print_diagnostic, print_json, print_line
from usbip_agent.errors import ExitStatus, Fault, PermissionFault, UnknownDeviceFault, UsageFault
from usbip_agent.names import Service

if TYPE_CHECKING:
    from usbip_agent.device import Device
    from usbip_agent.policy.explain import PlainDecision


def run(service: Service, arguments: Namespace) -> int:
    from usbip_agent.cli.policies import configured

    service = configured(service, arguments.config)
    if arguments.device is None:
        _explain_by_files(service, device_described(arguments), arguments.json)
        return ExitStatus.DONE
    if is_described(arguments):
        raise UsageFault("give a BUSID or describe a device, not both")
    try:
        decision = _explain_by_files(service, _plugged(arguments.device), arguments.json)
    except PermissionFault:
        if arguments.config is not None:
            raise
        _explain_by_daemon(service, arguments.device, arguments.json)
        return ExitStatus.DONE
    if arguments.config is None:
        _compare_with_daemon(service, arguments.device, decision)
    return ExitStatus.DONE


def _plugged(name: str) -> Device:
    from usbip_agent.cli.local_devices import local_device

    device = local_device(name)
    if device is None:
        raise UnknownDeviceFault(f"there is no device {name} here",
                                 hint="usbip-agent list shows what there is")
    return device


def _explain_by_files(service: Service, device: Device, as_json: bool) -> PlainDecision:
    from usbip_agent.cli.policies import agent_policy
    from usbip_agent.policy.explain import lines, plain

    decision = agent_policy(service).explain(device)
    forbidden = ("a hub is never exported" if device.is_hub else
                 "it is itself imported, and never exported" if device.is_imported else "")
    if as_json:
        print_json({**plain(decision), "bus_id": device.bus_id, "vendor": device.vendor,
                    "product": device.product, "forbidden": forbidden})
    else:
        for line in ([f"{device.bus_id} {device.description}".lstrip(), *lines(decision)]
                     + ([f"but {forbidden}"] if forbidden else [])):
            print_line(line)
    return plain(decision)


def _explain_by_daemon(service: Service, name: str, as_json: bool) -> None:
    """For a user who may not read the configuration: ``Explain`` is open to everybody."""
    from dataclasses import asdict

    from usbip_agent.cli.daemon import ask

    answer = ask(service, lambda client: client.explain(name))
    if as_json:
        print_json({**asdict(answer), "bus_id": name})
        return
    print_line(f"{name} (as the running daemon has it)")
    for step in answer.steps:
        print_line(f"{step.location}  {step.rule}: {'yes' if step.matched else 'no'}, {step.why}")
    print_line(f"{answer.verdict} (by the rule {answer.rule})")


def _compare_with_daemon(service: Service, name: str, decision: PlainDecision) -> None:
    from usbip_agent.cli.daemon import ask

    try:
        answer = ask(service, lambda client: client.explain(name))
    except Fault:
        return  # it does not run, or sees no such device: nothing to compare
    if (answer.rule, list(answer.hosts)) != (decision["rule"], decision["hosts"]):
        print_diagnostic(service.command, "the running daemon goes by another configuration: "
                         f"{answer.verdict} (by {answer.rule}): systemctl reload {service.unit}")


VERB: Final = Verb("show which rule decides about a device, and why the earlier ones did not", run, (
    option("device", nargs="?", type=bus_id, metavar="BUSID", help="a device that is plugged in"),
    *OPTIONS, CONFIGURATION, JSON),
    "Without BUSID the options describe the device; --vendor and --product are needed then.")
