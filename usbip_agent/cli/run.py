"""``run``: the daemon itself, in the foreground. systemd starts it so."""

from __future__ import annotations

import atexit
import logging
import os
import time
from argparse import Namespace
from collections.abc import Callable
from typing import Final

from usbip_agent.cli.options import CONFIGURATION, TCP_PORT, Verb, option
from usbip_agent.errors import ConfigurationFault, ExitStatus, Fault
from usbip_agent.names import Service

log = logging.getLogger(__name__)

PAUSE: Final = 2.0
"""Seconds from a failure to its exit. systemd starts a daemon again almost at once, since one that was killed
is missed; RestartSteps=, which would tell the two apart, came with systemd 254."""


def run_agent(service: Service, arguments: Namespace) -> int:
    from usbip_agent.device_side.main import RunOptions, run

    options = RunOptions(arguments.config or service.configuration)
    return _run(service, arguments, lambda: int(run(options)))


def run_usbipa(service: Service, arguments: Namespace) -> int:
    from usbip_agent.application_side.main import RunOptions, run

    options = RunOptions(arguments.config or service.configuration,
                         ipv4=arguments.ipv4, ipv6=arguments.ipv6, port=arguments.tcp_port)
    return _run(service, arguments, lambda: int(run(options)))


def _run(service: Service, arguments: Namespace, run: Callable[[], int]) -> int:
    from usbip_agent.cli.policies import configured, with_hint
    from usbip_agent.service.journal import set_up

    set_up(service.command, verbose=arguments.debug)
    try:
        return run()
    except ConfigurationFault as fault:
        raise with_hint(configured(service, arguments.config), fault) from None
    except (Fault, OSError):
        _pause_at_the_end()
        raise
    except Exception:
        # Nobody will run a daemon again to see what it was: the journal keeps the traceback.
        log.exception("internal error, please report it")
        _pause_at_the_end()
        return ExitStatus.FAILED


def _pause_at_the_end() -> None:
    """After the line that says what is wrong, and only for systemd; a SIGTERM ends it."""
    if "NOTIFY_SOCKET" in os.environ:
        atexit.register(time.sleep, PAUSE)


AGENT_VERB: Final = Verb("run the daemon in the foreground", run_agent, (
    CONFIGURATION, option("--debug", action="store_true", help="log more")))
USBIPA_VERB: Final = Verb("run the daemon in the foreground", run_usbipa, (
    CONFIGURATION,
    option("-4", "--ipv4", action="store_true", help="listen on IPv4 only"),
    option("-6", "--ipv6", action="store_true", help="listen on IPv6 only"),
    TCP_PORT,
    option("-d", "--debug", action="store_true", help="log more")))
