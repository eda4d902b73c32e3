"""What tools say of the tree: style, types, scripts, manual pages."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.static.tree import ROOT, run, scripts, shown

PYTHON = "/usr/bin/python3"


def test_flake8_is_content() -> None:
    said = run(PYTHON, "-m", "flake8")
    assert said.returncode == 0, said.stdout


@pytest.mark.parametrize("part", ["usbip_agent", "tests"])
def test_everything_is_typed(part: str) -> None:
    said = run(PYTHON, "-m", "mypy", "--strict", part)
    assert said.returncode == 0, said.stdout


@pytest.mark.parametrize("script", scripts(), ids=shown)
def test_shell_scripts_are_sound(script: Path) -> None:
    said = run("shellcheck", "--exclude=SC1091", script)  # sourced files that are elsewhere
    assert said.returncode == 0, said.stdout


@pytest.mark.parametrize("page", sorted((ROOT / "man").iterdir()), ids=shown)
def test_manual_pages_are_well_formed(page: Path) -> None:
    said = run("mandoc", "-T", "lint", "-W", "warning", page)
    assert not said.stdout


@pytest.mark.parametrize("file", [*(ROOT / "dbus").glob("*.xml"), *(ROOT / "dbus").glob("*.conf")], ids=shown)
def test_dbus_files_are_well_formed(file: Path) -> None:
    ElementTree.parse(file)
