"""Running a command inside of the test: its words in, its status and what it said out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from usbip_agent.cli import agent, usbipa
from usbip_agent.cli.program import Program, run_program

PROGRAMS = {"usbip-agent": agent.PROGRAM, "usbipa": usbipa.PROGRAM}

AGENT_CONFIGURATION = """\
version: 1
hosts:
  lab: {address: 192.0.2.1, transport: plain}
  backup: {address: 192.0.2.2, transport: plain}
rules:
  - name: nothing that types
    match: {class: hid}
    ignore: true
  - name: zigbee stick
    match: {vendor: 10c4, product: ea60, serial: "01A*"}
    connect: [lab, backup]
default: ignore
"""

USBIPA_CONFIGURATION = """\
version: 1
listen:
  - {address: "*", port: 3240, transports: [plain]}
rules:
  - name: kitchen
    node: pi-*
    match: {vendor: 10c4}
    accept: true
  - name: cellar
    address: 10.9.0.0/24
    accept: true
default: reject
"""


@dataclass(frozen=True)
class Outcome:
    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    def is_one_line(self, command: str) -> bool:
        """What a failure has to look like."""
        return (self.err.startswith(f"{command}: ") and self.err.count("\n") == 1
                and "Traceback" not in self.err)


@dataclass(frozen=True)
class Runner:
    """Runs a command without a bus, and notes what it prints."""

    capture: pytest.CaptureFixture[str]

    def __call__(self, command: str, *words: str | Path) -> Outcome:
        return self.run(PROGRAMS[command], *words)

    def run(self, program: Program, *words: str | Path) -> Outcome:
        self.capture.readouterr()
        status = run_program(program, [str(word) for word in words])
        said = self.capture.readouterr()
        return Outcome(int(status), said.out, said.err)


def every_verb() -> Iterator[tuple[str, str]]:
    """Each verb with its command."""
    for command, program in PROGRAMS.items():
        for verb in program.verbs:
            yield command, verb
