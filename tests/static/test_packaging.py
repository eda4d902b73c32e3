"""What stands in more than one place agrees, and all that is to be installed is."""

from __future__ import annotations

import re
import tomllib

import pytest

from tests.static.tree import ROOT
from usbip_agent import __version__

DEBIAN = ROOT / "debian"


def project() -> dict[str, object]:
    with (ROOT / "pyproject.toml").open("rb") as file:
        found: dict[str, object] = tomllib.load(file)["project"]
    return found


def installed_sources() -> set[str]:
    """Every path of the tree that some debian/*.install, *.manpages or *.service names."""
    lists = [*DEBIAN.glob("*.install"), *DEBIAN.glob("*.manpages")]
    lines = [line for path in lists for line in path.read_text(encoding="utf-8").splitlines()]
    named = {line.split()[0] for line in lines if line}
    units = {str(path.resolve().relative_to(ROOT)) for path in DEBIAN.glob("*.service")}
    return named | units


def test_versions_agree() -> None:
    first = (DEBIAN / "changelog").read_text(encoding="utf-8").splitlines()[0]
    debian = re.fullmatch(r"usbip-agent \((\S+)\) \S+; urgency=\w+", first)
    assert debian is not None
    assert project()["version"] == __version__ == debian[1]
    assert re.search(rf"^## {re.escape(__version__)}\b", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"),
                     re.MULTILINE)


@pytest.mark.parametrize("directory", ["dbus", "etc", "man", "systemd", "udev"])
def test_everything_that_is_shipped_is_installed(directory: str) -> None:
    files = {str(path.relative_to(ROOT)) for path in (ROOT / directory).rglob("*") if path.is_file()}
    assert files
    assert not files - installed_sources()


def test_what_is_installed_exists() -> None:
    assert not [name for name in installed_sources() if not (ROOT / name).exists()]


def test_commands_of_the_packages_are_those_of_the_project() -> None:
    commands = project()["scripts"]
    assert isinstance(commands, dict)
    for command, target in commands.items():
        module, _, function = target.partition(":")
        script = (DEBIAN / "bin" / command).read_text(encoding="utf-8")
        assert f"from {module} import {function}" in script


def test_debian_depends_on_what_python_needs() -> None:
    """Debian's names of the libraries, for those that dh_python3 cannot be trusted to find."""
    dependencies = project()["dependencies"]
    assert isinstance(dependencies, list)
    assert "dbus-next == 0.2.3" in dependencies
    control = (DEBIAN / "control").read_text(encoding="utf-8")
    assert "python3-dbus-next (<< 0.2.4~)" in control
    assert "${python3:Depends}" in control


def test_the_tests_of_a_build_find_what_python_needs() -> None:
    """dh_python3 finds what the packages need; what their tests need at build time is written by hand."""
    dependencies = project()["dependencies"]
    assert isinstance(dependencies, list)
    control = (DEBIAN / "control").read_text(encoding="utf-8").partition("\nPackage:")[0]
    debian = {"PyYAML": "yaml", "systemd-python": "systemd"}
    names = [re.split("[ =<>]", each)[0] for each in dependencies]
    missing = [name for name in names
               if not re.search(rf" python3-{debian.get(name, name)}\b[^,]* <!nocheck>", control)]
    assert not missing
