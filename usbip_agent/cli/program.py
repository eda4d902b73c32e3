"""From the words of a command line to an exit status, and from any failure to its one line on stderr."""

from __future__ import annotations

import os
import sys
import traceback
from argparse import ArgumentParser
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Final, NoReturn

from usbip_agent import __version__
from usbip_agent.cli.options import DEBUG, Verb
from usbip_agent.cli.output import print_diagnostic
from usbip_agent.errors import ExitStatus, Fault, UsageFault
from usbip_agent.names import Service
from usbip_agent.text import printable

DEFAULT_VERB: Final = "status"


@dataclass(frozen=True, slots=True)
class Program:
    """One of the two commands. *verbs* maps each verb to where it is: ``module:NAME`` in this package."""

    service: Service
    summary: str
    verbs: Mapping[str, str]

    def verb(self, name: str) -> Verb:
        """Imports the verb; UsageFault when there is none of that name."""
        if name not in self.verbs:
            from difflib import get_close_matches
            close = get_close_matches(name, self.verbs, n=1)
            hint = f'did you mean "{close[0]}"?' if close else f"see {self.service.command} --help"
            raise UsageFault(f'there is no verb "{printable(name, 40)}"', hint=hint)
        module, _, attribute = self.verbs[name].partition(":")
        found = getattr(import_module(f"{__package__}.{module}"), attribute)
        assert isinstance(found, Verb)
        return found

    def help(self) -> str:
        """What ``--help`` prints."""
        command = self.service.command
        width = max(map(len, self.verbs))
        lines = [f"  {name:<{width}}  {self.verb(name).summary}" for name in self.verbs]
        return "\n".join([
            f"usage: {command} [VERB] [OPTION…]", "", self.summary, "", *lines, "",
            f"Without a verb: {DEFAULT_VERB}. Each verb has its own --help; --version is the version.",
            f"More: man {command}, man {command}.yaml",
        ])


class _Parser(ArgumentParser):
    """Says what is wrong in one line and leaves the exit to us."""

    def error(self, message: str) -> NoReturn:
        raise UsageFault(message, hint=f"see {self.prog} --help")


def parser_for(program: Program, name: str, verb: Verb) -> ArgumentParser:
    """The parser of one verb."""
    parser = _Parser(prog=f"{program.service.command} {name}", description=verb.summary, epilog=verb.details,
                     allow_abbrev=False)
    parser.add_argument("--version", action="version", version=_version_of(program), help="print the version")
    own = any("--debug" in each.flags for each in verb.options)
    for each in verb.options if own else (*verb.options, DEBUG):
        parser.add_argument(*each.flags, **each.settings)
    return parser


def _version_of(program: Program) -> str:
    return f"{program.service.command} {__version__}"


def run_program(program: Program, words: Sequence[str]) -> int:
    """Runs the command; never raises. 130 after SIGINT, quiet when nobody reads the output any more."""
    command = program.service.command
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")  # a locale without "…" is no reason to fail
    try:
        status = _run(program, words)
        sys.stdout.flush()
        return status
    except Fault as fault:
        print_diagnostic(command, line_of(fault))
        return fault.exit_status
    except KeyboardInterrupt:
        return ExitStatus.INTERRUPTED
    except BrokenPipeError:
        _give_up_output()
        return ExitStatus.FAILED
    except OSError as error:
        _give_up_output()
        print_diagnostic(command, error.strerror or str(error))
        return ExitStatus.FAILED
    except Exception as error:
        return _internal_error(command, error, "--debug" in words)


def _give_up_output() -> None:
    """What cannot be written now must not be tried again at Python's end: its exit status would be ours."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def line_of(fault: Fault) -> str:
    """``WHAT: HINT``"""
    return f"{fault.what}: {fault.hint}" if fault.hint else fault.what


def _run(program: Program, words: Sequence[str]) -> int:
    if words and words[0] in ("-h", "--help"):
        print(program.help())
        return ExitStatus.DONE
    if words and words[0] == "--version":
        print(_version_of(program))
        return ExitStatus.DONE
    named = bool(words) and not words[0].startswith("-")
    name = words[0] if named else DEFAULT_VERB
    verb = program.verb(name)
    try:
        arguments = parser_for(program, name, verb).parse_args(words[1:] if named else words)
    except SystemExit as end:  # --help or --version printed it
        return end.code if isinstance(end.code, int) else ExitStatus.DONE
    return verb.run(program.service, arguments)


def _internal_error(command: str, error: Exception, debug: bool) -> int:
    if debug:
        traceback.print_exception(error)
    what = printable(f"{type(error).__name__}: {error}", 300)
    hint = "please report it" if debug else "run it again with --debug, and please report it"
    print_diagnostic(command, f"internal error: {what}: {hint}")
    return ExitStatus.FAILED
