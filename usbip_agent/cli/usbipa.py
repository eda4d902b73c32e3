"""``usbipa``: the application side."""

from __future__ import annotations

import sys
from typing import Final

from usbip_agent.cli.program import Program, run_program
from usbip_agent.names import USBIPA

PROGRAM: Final = Program(USBIPA, "Imports the USB devices that nodes export to this host.", {
    "status": "status:IMPORTS",
    "port": "status:IMPORTS",
    "detach": "detach:VERB",
    "enroll": "enroll:VERB",
    "nodes": "nodes:VERB",
    "revoke": "revoke:VERB",
    "explain": "explain_accept:VERB",
    "check": "check:USBIPA_VERB",
    "doctor": "doctor:USBIPA_VERB",
    "monitor": "monitor:VERB",
    "run": "run:USBIPA_VERB",
})


def main() -> int:
    """The entry point of ``/usr/bin/usbipa``; returns its exit status."""
    return run_program(PROGRAM, sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
