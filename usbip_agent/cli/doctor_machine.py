"""The checks that both commands have in common: module, user, daemon, clock, versions."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from collections.abc import Sequence
from typing import Final

from usbip_agent import __version__
from usbip_agent.cli.daemon import ask
from usbip_agent.cli.findings import Finding, failed, ok, warning
from usbip_agent.cli.modules import module_fault
from usbip_agent.errors import ExitStatus, Fault, UnavailableFault
from usbip_agent.names import Service
from usbip_agent.report import Report

BUILT_IN_YEAR: Final = 2026
"""No clock is right that stands before this program was written."""

TOOL_DEADLINE: Final = 5.0
"""Seconds for a tool of the system to answer."""


def check_module(service: Service) -> Finding:
    fault = module_fault(service)
    if fault is None:
        return ok("module", f"{service.module} is loaded")
    return failed("module", fault.what, fault.hint, fault.exit_status)


def check_user(service: Service) -> Finding:
    return judge_user(service, os.geteuid())


def judge_user(service: Service, user_id: int) -> Finding:
    """Only root reads the configuration and gives orders to the daemon."""
    if user_id == 0:
        return ok("user", "root")
    return warning("user", f"user {user_id}, not root: some checks see less",
                   f"sudo {service.command} doctor")


def ask_daemon(service: Service) -> tuple[Finding, Sequence[Report]]:
    """Whether the daemon runs, and what it shows."""
    unit = _output_of("systemctl", "show", "--property=ActiveState,Result,StatusText", service.unit)
    state = dict(line.split("=", 1) for line in unit.splitlines() if "=" in line)
    try:
        reports = ask(service, lambda client: client.reports())
    except Fault as fault:
        return judge_fault(service, fault, state.get("ActiveState", "")), ()
    return ok("service", state.get("StatusText") or "running"), reports


def judge_fault(service: Service, fault: Fault, active_state: str) -> Finding:
    """Why the daemon does not answer; *active_state* is systemd's, empty without systemd."""
    status = ExitStatus.UNAVAILABLE if isinstance(fault, UnavailableFault) else ExitStatus.FAILED
    if active_state == "failed":
        return failed("service", f"{service.unit} has failed", f"journalctl -u {service.unit}", status)
    return failed("service", fault.what, fault.hint or f"journalctl -u {service.unit}", status)


def check_clock() -> Finding:
    synchronized = _output_of("timedatectl", "show", "--property=NTPSynchronized", "--value")
    return judge_clock(time.gmtime().tm_year, synchronized.strip())


def judge_clock(year: int, synchronized: str) -> Finding:
    """*synchronized* is timedatectl's yes or no; empty = nobody knows. Certificates need a sane clock."""
    if year < BUILT_IN_YEAR:
        return failed("clock", f"the clock says {year}",
                      "timedatectl set-ntp true, or timedatectl set-time …")
    if synchronized == "no":
        return warning("clock", "not synchronised with a time server", "timedatectl set-ntp true")
    return ok("clock", "synchronised" if synchronized == "yes" else "plausible")


def check_versions(service: Service) -> Finding:
    tools = _output_of("usbip", "version").strip()
    return ok("versions", f"{service.command} {__version__}, Linux {os.uname().release}, "
                          f"Python {platform.python_version()}, " + (tools or "no usbip tools (not needed)"))


def _output_of(*command: str) -> str:
    """What a tool of the system prints; nothing when it is missing, fails or does not answer."""
    try:
        run = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                             errors="replace", timeout=TOOL_DEADLINE)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return run.stdout if run.returncode == 0 else ""
