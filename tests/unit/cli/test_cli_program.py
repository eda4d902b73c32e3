"""From words to an exit status, and from any failure to its line."""

from __future__ import annotations

import os
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest
from tests.unit.cli.running import PROGRAMS, Runner, every_verb
from usbip_agent import __version__
from usbip_agent.cli import program
from usbip_agent.cli.options import Verb
from usbip_agent.cli.program import Program
from usbip_agent.errors import ALL_FAULTS, Fault, KernelFault
from usbip_agent.names import AGENT, Service

ROOT = Path(__file__).parents[3]

VERBS = {
    "usbip-agent": {
        "run", "status", "list", "connect", "disconnect", "explain", "check", "doctor", "monitor", "join"},
    "usbipa": {"run", "status", "port", "detach", "explain", "check", "doctor", "monitor", "enroll", "nodes",
               "revoke"},
}
"""As the contract has them."""

SHOWING = {"status", "port", "list", "explain", "check", "doctor", "monitor", "enroll", "nodes"}


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_verbs_are_those_of_the_contract(name: str) -> None:
    assert VERBS[name] <= set(PROGRAMS[name].verbs)


@pytest.mark.parametrize(("name", "verb"), every_verb())
def test_every_verb_has_help(command: Runner, name: str, verb: str) -> None:
    outcome = command(name, verb, "--help")
    assert (outcome.status, outcome.err) == (0, "")
    assert outcome.out.startswith(f"usage: {name} {verb}")
    assert ("--json" in outcome.out) == (verb in SHOWING)
    assert verb in command(name, "--help").out


@pytest.mark.parametrize("name", PROGRAMS)
def test_version(command: Runner, name: str) -> None:
    assert command(name, "--version").out == f"{name} {__version__}\n"


@pytest.mark.parametrize(("name", "verb"), every_verb())
def test_every_verb_has_the_version(command: Runner, name: str, verb: str) -> None:
    outcome = command(name, verb, "--version")
    assert (outcome.status, outcome.out, outcome.err) == (0, f"{name} {__version__}\n", "")


@pytest.mark.parametrize("words", [
    ["frobnicate"], ["--frobnicate"], ["status", "extra"], ["status", "--js"], ["connect"],
    ["connect", "-b", "1-1"],
    ["connect", "-b", "../../etc", "-r", "lab"], ["connect", "-b", "1-1\n", "-r", "lab"],
    ["connect", "-b", "1-1", "-r", " "], ["connect", "-b", "1-1", "-r", "lab", "-t", "0"],
    ["connect", "-b", "1-1", "-r", "lab", "-t", "65536"], ["connect", "-b", "1-1", "-r", "lab", "-t", "٣"],
    ["connect", "-b", "1-1", "-r", "lab", "-d"], ["disconnect"], ["disconnect", "-b", "1-1", "-d"],
    ["disconnect", "-b", "usb1"], ["explain"], ["explain", "--vendor", "10c4"],
    ["explain", "--vendor", "10c"],
    ["explain", "1-1", "--vendor", "10c4", "--product", "ea60"], ["explain", "\x1b[2J"],
    ["explain", "--vendor", "10c4", "--product", "ea60", "--class", "mouse"],
    ["check", "--config", "a.yaml", "b.yaml"], ["run", "extra"],
])
def test_bad_usage_is_one_line(command: Runner, words: list[str]) -> None:
    outcome = command("usbip-agent", *words)
    assert (outcome.status, outcome.out) == (2, "")
    assert outcome.is_one_line("usbip-agent") and "\x1b" not in outcome.err


@pytest.mark.parametrize("words", [
    ["detach"], ["detach", "-1"], ["detach", "one"], ["detach", "9" * 30], ["explain", "--address", "lab"],
    ["explain", "--vendor", "10c4", "--product", "ea60", "--node", ""], ["list"], ["connect"],
])
def test_bad_usage_of_usbipa_is_one_line(command: Runner, words: list[str]) -> None:
    outcome = command("usbipa", *words)
    assert (outcome.status, outcome.out) == (2, "")
    assert outcome.is_one_line("usbipa")


def test_a_misspelt_verb_is_guessed(command: Runner) -> None:
    assert 'did you mean "connect"?' in command("usbip-agent", "conect").err


def raising(error: BaseException) -> Program:
    """A program whose default verb ends with *error*."""
    def run(service: Service, arguments: Namespace) -> int:
        raise error

    class Raising(Program):
        def verb(self, name: str) -> Verb:
            return Verb("fails", run)

    return Raising(AGENT, "fails", {"status": ""})


@pytest.mark.parametrize("kind", ALL_FAULTS)
def test_every_fault_is_one_line_and_its_status(command: Runner, kind: type[Fault]) -> None:
    fault = (KernelFault("no\nway", errno=22, hint="go \x1b home") if issubclass(kind, KernelFault)
             else kind("no\nway", hint="go \x1b home"))
    outcome = command.run(raising(fault))
    assert (outcome.status, outcome.out) == (kind.exit_status, "")
    assert outcome.err == "usbip-agent: no\\nway: go \\x1b home\n"


def test_a_fault_without_a_hint(command: Runner) -> None:
    assert command.run(raising(Fault("no way"))).err == "usbip-agent: no way\n"


def test_an_interrupt_is_quiet(command: Runner) -> None:
    outcome = command.run(raising(KeyboardInterrupt()))
    assert (outcome.status, outcome.err) == (130, "")


def test_a_system_error_is_one_line(command: Runner) -> None:
    outcome = command.run(raising(OSError(28, "No space left on device")))
    assert (outcome.status, outcome.err) == (1, "usbip-agent: No space left on device\n")


def test_an_internal_error_shows_its_traceback_only_when_asked(command: Runner) -> None:
    outcome = command.run(raising(ValueError("odd")))
    assert outcome.status == 1
    assert outcome.is_one_line("usbip-agent") and "--debug" in outcome.err
    assert "Traceback" in command.run(raising(ValueError("odd")), "--debug").err


HELP = "import sys; from usbip_agent.cli.agent import main; sys.argv[1:] = ['--help']; sys.exit(main())"


def python(code: str, stdout: int = subprocess.PIPE) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, "-c", code], env=environment, stdout=stdout,
                          stderr=subprocess.PIPE, text=True, timeout=30)


@pytest.mark.parametrize("word", ["--help", "--version", "status --help", "doctor --help", "monitor --help"])
def test_help_imports_nothing_heavy(word: str) -> None:
    said = python(
        "import sys; from usbip_agent.cli.agent import PROGRAM; "
        "from usbip_agent.cli.program import run_program; "
        f"run_program(PROGRAM, {word.split()!r}); "
        "print(sorted({'asyncio', 'dbus_next', 'yaml', 'pyudev', 'socket', 'subprocess'} & set(sys.modules)),"
        " file=sys.stderr)")
    assert said.stderr == "[]\n"


def test_a_reader_that_goes_away_is_no_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    said = python(HELP, writer)
    os.close(writer)
    assert said.stderr == "" and said.returncode == 1


def test_a_full_disk_is_said() -> None:
    with open("/dev/full", "w") as full:
        said = python(HELP, full.fileno())
    assert said.returncode == 1 and said.stderr.startswith("usbip-agent: ")
    assert "Traceback" not in said.stderr


def test_status_is_the_default() -> None:
    assert program.DEFAULT_VERB == "status"
    assert all(program.DEFAULT_VERB in each.verbs for each in PROGRAMS.values())
