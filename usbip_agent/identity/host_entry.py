"""The entry for a host that has enrolled us, ``agent.d/HOST.yaml``: tried out first, written afterwards."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from usbip_agent.errors import ConfigurationFault, Fault, UsageFault
from usbip_agent.identity.files import commit_file, read_file, stage_file
from usbip_agent.identity.join_code import JoinCode
from usbip_agent.names import Service
from usbip_agent.policy.agent import InvalidConfiguration, load_agent_policy_files
from usbip_agent.policy.document import Mapping, Scalar, parse_document
from usbip_agent.policy.hosts import Host
from usbip_agent.policy.problems import Problems, Source
from usbip_agent.policy.values import system_name

_LARGEST: Final = 64 * 1024
_DIRECTORY_MODE: Final = 0o700

_HEAD: Final = "# Written by usbip-agent join, which replaces it when this node joins the host again.\n"


@dataclass(frozen=True, slots=True)
class StagedEntry:
    """An entry that is valid beside all else, and not in force yet. Ends with ``commit`` or ``discard``."""

    host: Host
    """As the agent will see it."""
    file: Path
    temporary: Path

    def commit(self) -> None:
        """Puts the entry in force at the next reload. Fault."""
        try:
            commit_file(self.temporary, self.file)
        except OSError as error:
            raise Fault(f"{self.file} cannot be written: {error.strerror}") from None

    def discard(self) -> None:
        self.temporary.unlink(missing_ok=True)


def entry_text(name: str, code: JoinCode, proxy: str | None = None) -> str:
    """The file for the host of *code*, called *name* on this node."""
    keys = [("url", code.url), ("transport", "wss")] if code.url else [
        ("address", code.address), ("port", str(code.port)), ("transport", "tls")]
    keys += [("fingerprint", code.fingerprint), *([("proxy", proxy)] if proxy else [])]
    # JSON's strings are strings of YAML as well.
    lines = [f"    {key}: {value if value.isalnum() else json.dumps(value)}\n" for key, value in keys]
    return f"{_HEAD}version: 1\nhosts:\n  {json.dumps(name)}:\n{''.join(lines)}"


def stage_entry(service: Service, name: str, code: JoinCode, *, proxy: str | None = None,
                replace_other: bool = False) -> StagedEntry:
    """Writes the entry beside its place, and makes sure that the whole configuration is valid with it.

    What an earlier join wrote is replaced; when it pinned another certificate, only if *replace_other*.
    UsageFault for a name that is taken; InvalidConfiguration; Fault when it cannot be written.
    """
    try:
        system_name(name)
    except ValueError as error:
        raise UsageFault(str(error), hint="--name gives it another name") from None
    file = service.drop_ins / f"{name}.yaml"
    _check_earlier(file, name, code.fingerprint, replace_other)
    temporary = file.with_name(f".{file.name}.new")
    try:
        file.parent.mkdir(mode=_DIRECTORY_MODE, parents=True, exist_ok=True)
        stage_file(temporary, entry_text(name, code, proxy))
    except OSError as error:
        raise Fault(f"{file} cannot be written: {error.strerror}") from None
    try:
        host = _host_of(_other_files(service, file), temporary, name)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return StagedEntry(host, file, temporary)


def _other_files(service: Service, file: Path) -> list[Path]:
    """Every file of the configuration but *file*, in the order in which they are read."""
    try:
        drop_ins = sorted(path for path in service.drop_ins.iterdir()
                          if path.suffix == ".yaml" and not path.name.startswith("."))
    except FileNotFoundError:
        drop_ins = []
    except OSError as error:
        raise ConfigurationFault(f"{service.drop_ins} cannot be read: {error.strerror}") from None
    return [service.configuration, *(path for path in drop_ins if path != file)]


def _host_of(others: list[Path], temporary: Path, name: str) -> Host:
    try:
        host = load_agent_policy_files([*others, temporary]).host(name)
    except InvalidConfiguration as invalid:
        for problem in invalid.problems:
            if problem.file == temporary:  # read last: a name that stands twice is put down to it
                raise UsageFault(f"the entry for the host is not valid: {problem.message}",
                                 hint="see --name and --proxy") from None
        raise
    assert host is not None
    return host


def _check_earlier(file: Path, name: str, fingerprint: str, replace_other: bool) -> None:
    """UsageFault when *file* is there and is not an earlier join's with the same certificate."""
    try:
        text = read_file(file, _LARGEST)
    except OSError as error:
        raise Fault(f"{file} cannot be read: {error.strerror}") from None
    except ValueError:
        text = ""
    if text is None:
        return
    pinned = _pinned(file, text, name)
    if pinned is None:
        raise UsageFault(f"{file} exists and holds more than the host {name}",
                         hint="--name gives this one another name")
    if pinned.lower() != fingerprint and not replace_other:
        raise UsageFault(f"{file} pins another certificate of host {name}: {pinned or 'none'}",
                         hint="if it was set up anew, say --replace; else --name gives this one another name")


def _pinned(file: Path, text: str, name: str) -> str | None:
    """The fingerprint in a file that holds nothing but the host *name*; None when it is another file."""
    document = parse_document(Source(file, file.name), text.encode("utf-8"), Problems())
    if document is None or {entry.name for entry in document.entries} != {"version", "hosts"}:
        return None
    hosts = document.get("hosts")
    if hosts is None or not isinstance(hosts.value, Mapping):
        return None
    entries = hosts.value.entries
    if [entry.name for entry in entries] != [name] or not isinstance(entries[0].value, Mapping):
        return None
    pinned = entries[0].value.get("fingerprint")
    return pinned.value.text if pinned is not None and isinstance(pinned.value, Scalar) else ""
