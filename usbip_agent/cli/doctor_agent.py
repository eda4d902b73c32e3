"""``usbip-agent doctor``: configuration, hosts, the stub's table, devices that are not connected."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Final
from urllib.parse import urlsplit

from usbip_agent.cli.doctor_machine import ask_daemon, check_clock, check_module, check_user, check_versions
from usbip_agent.cli.findings import Finding, failed, ok, warning
from usbip_agent.cli.output import counted
from usbip_agent.cli.policies import agent_policy
from usbip_agent.errors import Fault, PermissionFault
from usbip_agent.kernel.stub import Stub
from usbip_agent.names import Service
from usbip_agent.policy.agent import AgentPolicy, Host
from usbip_agent.report import DeviceReport, ExportState, Report

DIAL_DEADLINE: Final = 3.0
"""Seconds for one address to answer."""

ANSWER_DEADLINE: Final = 10.0
"""Seconds for all hosts together: a resolver without its servers takes longer, and is not waited for."""

TABLE_SIZE: Final = 16
"""Entries of ``match_busid`` (drivers/usb/usbip/stub_main.c, MAX_BUSID)."""


def examine(service: Service) -> list[Finding]:
    """All checks, in the order in which one would look."""
    daemon, reports = ask_daemon(service)
    return [check_module(service), *_check_configuration(service), daemon, *judge_devices(reports),
            *judge_table(len(Stub().claimed_bus_ids())), check_user(service), check_clock(),
            check_versions(service)]


def _check_configuration(service: Service) -> Iterator[Finding]:
    try:
        policy = agent_policy(service)
    except PermissionFault as fault:
        yield warning("configuration", fault.what, fault.hint)
        return
    except Fault as fault:
        yield failed("configuration", fault.what, fault.hint)
        return
    yield judge_policy(service, policy)
    for host, error in dial_all(policy.hosts):
        yield judge_host(host, error)


def judge_policy(service: Service, policy: AgentPolicy) -> Finding:
    """A valid policy may still export nothing, as the shipped one does."""
    if not policy.default_hosts and not any(rule.hosts for rule in policy.rules):
        return warning("configuration", "valid, but no rule connects anything",
                       f"add a rule to {service.configuration}, see man {service.command}.yaml")
    return ok("configuration",
              f"valid: {counted(len(policy.hosts), 'host')}, {counted(len(policy.rules), 'rule')}")


def destination(host: Host) -> tuple[str, int]:
    """Name or address, and TCP port."""
    if host.url:
        url = urlsplit(host.url)
        return url.hostname or "", url.port or 443
    return host.address, host.port


def dial_all(hosts: Sequence[Host]) -> list[tuple[Host, OSError | None]]:
    """Each host with the error of ``dial``, all at once. The threads are daemons: none holds up the end."""
    errors: list[OSError | None] = [TimeoutError()] * len(hosts)

    def note(index: int) -> None:
        errors[index] = dial(hosts[index])

    threads = [threading.Thread(target=note, args=(index,), daemon=True) for index in range(len(hosts))]
    for thread in threads:
        thread.start()
    end = time.monotonic() + ANSWER_DEADLINE
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))
    return list(zip(hosts, errors))


def dial(host: Host) -> OSError | None:
    """None when the host takes a connection, else why not."""
    try:
        with socket.create_connection(destination(host), timeout=DIAL_DEADLINE):
            return None
    except OSError as error:
        return error
    except UnicodeError:
        return socket.gaierror(socket.EAI_NONAME, "this is no host name")


def judge_host(host: Host, error: OSError | None) -> Finding:
    """Tells apart what has different cures: name, refusal, silence, route."""
    address, port = destination(host)
    name, where = f"host {host.name}", f"{address} port {port}"
    if error is None:
        return ok(name, f"{where} takes connections")
    if isinstance(error, socket.gaierror):
        return failed(name, f"the name {address} cannot be looked up: {error.strerror}",
                      f"getent hosts {address}; correct the address in the configuration, or the resolver")
    if isinstance(error, ConnectionRefusedError):
        return failed(name, f"{where}: connection refused",
                      "start usbipa there (usbipa doctor), or correct the port")
    if isinstance(error, TimeoutError):
        return failed(name, f"{where}: no answer",
                      "is the host up? does a firewall drop the packets? does its name server answer?")
    return failed(name, f"{where}: {error.strerror or error}", "ip route; ping")


def judge_table(count: int) -> Iterable[Finding]:
    """The stub's table of busids is small, and stock ``usbip bind`` fills it too."""
    if count >= TABLE_SIZE:
        yield failed("table", f"match_busid of usbip-host is full ({TABLE_SIZE} entries)",
                     "usbip unbind what is exported by hand")
    elif count > TABLE_SIZE * 3 // 4:
        yield warning("table", f"match_busid of usbip-host has {count} of {TABLE_SIZE} entries",
                      "usbip unbind what is exported by hand")


def judge_devices(reports: Sequence[Report]) -> Iterator[Finding]:
    """Devices that are not where the policy wants them."""
    for report in reports:
        if isinstance(report, DeviceReport):
            name, what = f"device {report.bus_id}", f"{report.state}: {report.reason}"
            if report.state == ExportState.FAILED:
                yield failed(name, what, "replug it, or: usbip-agent connect")
            elif report.state in (ExportState.WAITING, ExportState.BLOCKED):
                yield warning(name, what, f"usbip-agent explain {report.bus_id}")
