"""The policies of both sides as the files have them now, for verbs that only look."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from usbip_agent.errors import ConfigurationFault, PermissionFault
from usbip_agent.names import AGENT, USBIPA, Service
from usbip_agent.policy.agent import AgentPolicy, InvalidConfiguration, load_agent_policy
from usbip_agent.policy.usbipa import AcceptPolicy, load_accept_policy

Policy = TypeVar("Policy")


def configured(service: Service, configuration: Path | None) -> Service:
    """*service* with another configuration (``--config``) and the drop-ins beside it, as ``run`` has it."""
    if configuration is None:
        return service
    return replace(service, configuration=configuration,
                   drop_ins=configuration.parent / service.drop_ins.name)


def agent_policy(service: Service) -> AgentPolicy:
    """Raises ConfigurationFault, or PermissionFault when this user may not read the configuration."""
    return _load(service, lambda: load_agent_policy(service.configuration, service.drop_ins))


def accept_policy(service: Service) -> AcceptPolicy:
    """As ``agent_policy``, for the application side."""
    return _load(service, lambda: load_accept_policy(service.configuration, service.drop_ins))


def _load(service: Service, load: Callable[[], Policy]) -> Policy:
    try:
        return load()
    except InvalidConfiguration as invalid:
        require_readable(service, invalid)
        raise with_hint(service, invalid) from None


def require_readable(service: Service, invalid: InvalidConfiguration) -> None:
    """Raises PermissionFault when a file is not wrong but kept from this user: it may hold passwords."""
    for problem in invalid.problems:
        if problem.line == 0 and _is_kept_from_us(problem.file):
            raise PermissionFault(f"this user may not read {problem.file}",
                                  hint=f"sudo {service.command} …") from None


def _is_kept_from_us(file: Path) -> bool:
    try:
        os.close(os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY))
    except PermissionError:
        return True
    except (OSError, ValueError):
        pass  # the loader has said why
    return False


def with_hint(service: Service, invalid: ConfigurationFault) -> ConfigurationFault:
    """The fault of an invalid configuration, with the words that show all of its errors."""
    installed = service.configuration in (AGENT.configuration, USBIPA.configuration)
    words = "check" if installed else f"check --config {service.configuration}"
    return ConfigurationFault(invalid.what, hint=f"{service.command} {words} shows every error")
