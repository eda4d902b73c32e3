"""``check``: validates the configuration and shows every error."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from usbip_agent.cli.options import CONFIGURATION, JSON, Verb, option
from usbip_agent.cli.output import counted, print_json, print_line
from usbip_agent.errors import ConfigurationFault, UsageFault
from usbip_agent.names import Service

if TYPE_CHECKING:
    from usbip_agent.policy.problems import InvalidConfiguration


def run_agent(service: Service, arguments: Namespace) -> int:
    from usbip_agent.policy.agent import InvalidConfiguration, load_agent_policy, load_agent_policy_files

    files, where = _what(service, arguments)
    try:
        policy = (load_agent_policy_files(files) if files
                  else load_agent_policy(where.configuration, where.drop_ins))
    except InvalidConfiguration as invalid:
        raise _shown(service, arguments, invalid) from None
    hosts, rules = len(policy.hosts), len(policy.rules)
    _show_valid(arguments.json, f"{counted(hosts, 'host')}, {counted(rules, 'rule')}",
                hosts=hosts, rules=rules)
    return 0


def run_usbipa(service: Service, arguments: Namespace) -> int:
    from usbip_agent.policy.usbipa import InvalidConfiguration, load_accept_policy, load_accept_policy_files

    files, where = _what(service, arguments)
    try:
        policy = (load_accept_policy_files(files) if files
                  else load_accept_policy(where.configuration, where.drop_ins))
    except InvalidConfiguration as invalid:
        raise _shown(service, arguments, invalid) from None
    listeners, rules = len(policy.listen), len(policy.rules)
    _show_valid(arguments.json, f"{counted(listeners, 'listener')}, {counted(rules, 'rule')}",
                listeners=listeners, rules=rules)
    return 0


def _what(service: Service, arguments: Namespace) -> tuple[list[Path], Service]:
    """The files to be checked, or else the place of a configuration."""
    from usbip_agent.cli.policies import configured

    if arguments.files and arguments.config:
        raise UsageFault("give files or --config, not both")
    return arguments.files, configured(service, arguments.config)


def _show_valid(as_json: bool, summary: str, **counts: int) -> None:
    if as_json:
        print_json({"valid": True, "problems": [], **counts})
    else:
        print_line(f"configuration is valid: {summary}")


def _shown(service: Service, arguments: Namespace, invalid: InvalidConfiguration) -> ConfigurationFault:
    """Prints every problem, as compilers and linters do, and gives the fault to end with.

    PermissionFault, and nothing printed, for what this user may not even read.
    """
    from usbip_agent.cli.policies import require_readable

    require_readable(service, invalid)
    problems = invalid.problems
    if arguments.json:
        print_json({"valid": False, "problems": [
            {"file": str(each.file), "line": each.line, "message": each.message} for each in problems]})
    else:
        for each in problems:
            print_line(str(each), limit=6000)
    installed = not (arguments.files or arguments.config)
    hint = f"correct it, then: systemctl reload-or-restart {service.unit}" if installed else ""
    count = counted(len(problems), "problem")
    return ConfigurationFault(f"the configuration is invalid ({count})", hint=hint)


_OPTIONS: Final = (option("files", nargs="*", type=Path, metavar="FILE",
                          help="check these files together, instead of the installed configuration"),
                   CONFIGURATION, JSON)

AGENT_VERB: Final = Verb("validate the configuration: every error, with file and line", run_agent, _OPTIONS)
USBIPA_VERB: Final = Verb("validate the configuration: every error, with file and line", run_usbipa, _OPTIONS)
