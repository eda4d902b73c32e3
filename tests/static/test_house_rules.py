"""The rules of the house (CONTRIBUTING.md): what may happen in which room, and how large things may get."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.static.tree import (
    PACKAGE, ROOT, calls, imported_modules, python_files, shown, strings, syntax_tree)

MODULE_LINES = 400
FUNCTION_LINES = 60

BASE = {"names", "errors", "device", "report", "text", "wire"}
"""Words and values that every room uses. They know no room, and do no I/O."""

SHARED = {"blocking"}
"""What every room but the pure ones uses as well."""

USES: dict[str, set[str]] = {
    "policy": set(),
    "identity": {"policy", "transport", "service"},
    "kernel": set(),
    "transport": {"policy", "identity"},
    "service": set(),
    "bus": set(),
    "device_side": {"policy", "identity", "kernel", "transport", "bus", "service"},
    "application_side": {"policy", "identity", "kernel", "transport", "bus", "service"},
    "cli": {"policy", "identity", "kernel", "transport", "bus", "service", "device_side", "application_side"},
}
"""Which rooms a room may use, beside BASE, SHARED and itself."""

ONLY_IN = {
    "cryptography": "identity", "dbus_next": "bus", "pyudev": "kernel", "sdnotify": "service",
    "systemd": "service", "yaml": "policy"}
"""Libraries that only one room knows."""

IO_MODULES = {
    "asyncio", "ctypes", "select", "selectors", "signal", "socket", "subprocess", "threading", "time"}
PURE_ROOMS = {"policy", *BASE}

MODULES = python_files(PACKAGE)
TESTS = python_files(ROOT / "tests")


def room_of(path: Path) -> str:
    """``policy`` for usbip_agent/policy/rules.py, ``wire`` for usbip_agent/wire.py."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def test_every_room_is_known() -> None:
    assert {room_of(path) for path in MODULES} <= {*USES, *BASE, *SHARED, "__init__", "__main__"}


@pytest.mark.parametrize("path", MODULES, ids=shown)
def test_a_room_uses_only_what_it_may(path: Path) -> None:
    room = room_of(path)
    allowed = {"__version__", room, *BASE, *USES.get(room, set()), *(set() if room in PURE_ROOMS else SHARED)}
    used = {name.split(".")[1] for name in imported_modules(path) if name.startswith("usbip_agent.")}
    assert used <= allowed


@pytest.mark.parametrize("path", MODULES, ids=shown)
def test_a_library_is_known_to_one_room(path: Path) -> None:
    tops = {name.split(".")[0] for name in imported_modules(path)}
    assert not {library for library, room in ONLY_IN.items() if library in tops and room_of(path) != room}


@pytest.mark.parametrize("path", [path for path in MODULES if room_of(path) in PURE_ROOMS], ids=shown)
def test_the_pure_core_does_no_io(path: Path) -> None:
    assert not {name.split(".")[0] for name in imported_modules(path)} & IO_MODULES


def test_only_the_kernel_room_knows_sysfs() -> None:
    found = [shown(path, line) for path in MODULES if room_of(path) != "kernel"
             for line, text in strings(path) if re.search(r"(^|[\s\"'])/sys(/|$)", text)]
    assert not found


def test_no_command_goes_through_a_shell() -> None:
    found = []
    for path in [*MODULES, *TESTS]:
        for call, name in calls(path):
            through_shell = any(word.arg == "shell" and not _is_false(word.value) for word in call.keywords)
            if through_shell or name in ("os.system", "os.popen", "subprocess.getoutput"):
                found.append(shown(path, call.lineno))
    assert not found


def test_tests_wait_for_what_happens_and_never_sleep() -> None:
    # The guest agent is no test: with nobody at the other end of its port there is nothing to be awaited.
    tests = [path for path in TESTS if path.name != "guest_agent.py"]
    found = [shown(path, call.lineno) for path in tests for call, name in calls(path)
             if name.split(".")[-1] == "sleep" and ast.unparse(call) != "asyncio.sleep(0)"]
    assert not found, "wait for the thing itself, with a deadline"


@pytest.mark.parametrize("path", [*MODULES, *TESTS], ids=shown)
def test_modules_and_functions_stay_small(path: Path) -> None:
    length = len(path.read_text(encoding="utf-8").splitlines())
    assert length <= MODULE_LINES
    long = [f"{shown(path, node.lineno)} {node.name}" for node in ast.walk(syntax_tree(path))
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            and (node.end_lineno or node.lineno) - node.lineno >= FUNCTION_LINES]
    assert not long


def _is_false(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is False
