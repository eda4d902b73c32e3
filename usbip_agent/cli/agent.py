"""``usbip-agent``: the device side."""

from __future__ import annotations

import sys
from typing import Final

from usbip_agent.cli.program import Program, run_program
from usbip_agent.names import AGENT

PROGRAM: Final = Program(AGENT, "Exports USB devices to the hosts that the policy names.", {
    "status": "status:DEVICES",
    "list": "list:VERB",
    "connect": "connect:VERB",
    "disconnect": "disconnect:VERB",
    "explain": "explain:VERB",
    "check": "check:AGENT_VERB",
    "doctor": "doctor:AGENT_VERB",
    "monitor": "monitor:VERB",
    "join": "join:VERB",
    "run": "run:AGENT_VERB",
})


def main() -> int:
    """The entry point of ``/usr/bin/usbip-agent``; returns its exit status."""
    return run_program(PROGRAM, sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
