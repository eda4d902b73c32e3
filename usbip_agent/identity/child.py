"""Running ``making`` and ``checking``: a short-lived Python for what needs ``cryptography``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Final

import usbip_agent
from usbip_agent.errors import DeadlineFault, Fault
from usbip_agent.text import printable

DEADLINE: Final = 60.0
"""Seconds. A Raspberry Pi takes two, when it is not busy with starting."""

_HOME: Final = Path(usbip_agent.__file__).parents[1]
"""Where this very package lies: ``-m`` looks in the current directory first, which may be anybody's."""

_LONGEST_ANSWER = 300


def run_module(module: str, *arguments: str, given: str = "", deadline: float = DEADLINE) -> None:
    """Runs ``usbip_agent.identity.<module>`` with *given* on its stdin. Blocks.

    Fault with the last line that it said on stderr, DeadlineFault after *deadline* seconds.
    """
    command = [sys.executable, "-E", "-s", "-B", "-m", f"{__package__}.{module}", *arguments]
    try:
        ended = subprocess.run(command, cwd=_HOME, input=given, stdout=subprocess.DEVNULL,
                               stderr=subprocess.PIPE, text=True, errors="replace", timeout=deadline,
                               check=False)
    except subprocess.TimeoutExpired:
        raise DeadlineFault(f"{module} took longer than {deadline:g} s") from None
    except OSError as error:
        raise Fault(f"{module} cannot be started: {error.strerror}") from None
    if ended.returncode != 0:
        last = ended.stderr.strip().splitlines()[-1:] or [f"{module} ended with status {ended.returncode}"]
        raise Fault(printable(last[0], _LONGEST_ANSWER))
