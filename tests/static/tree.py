"""The source tree, as the static tests look at it."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "usbip_agent"
ENVIRONMENT = {**os.environ, "PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    """Runs *command* in the tree with the system's own tools; stdout and stderr are one text."""
    return subprocess.run([str(word) for word in command], cwd=ROOT, env=ENVIRONMENT, text=True, check=False,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def is_installed(command: str) -> bool:
    return shutil.which(command, path=ENVIRONMENT["PATH"]) is not None


def python_files(directory: Path) -> list[Path]:
    """Every module below *directory*."""
    return sorted(path for path in directory.rglob("*.py") if "__pycache__" not in path.parts)


def scripts() -> list[Path]:
    """Every shell script of the tree: by its first line, or by its place in debian/."""
    places = [ROOT / name for name in (".ci", "debian", "tests")]
    found = [path for place in places for path in place.rglob("*") if path.is_file() and _is_shell(path)]
    return sorted(found)


def _is_shell(path: Path) -> bool:
    with path.open("rb") as file:
        first = file.readline(80)
    return first.startswith(b"#!") and first.split(b"/")[-1].split()[0] in (b"sh", b"bash")


@cache
def syntax_tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def imported_modules(path: Path) -> set[str]:
    """The dotted names of all that *path* imports, wherever in it."""
    names = set()
    for node in ast.walk(syntax_tree(path)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {".".join((_absolute(path, node), alias.name)) for alias in node.names}
    return names


def calls(path: Path) -> Iterator[tuple[ast.Call, str]]:
    """Every call in *path* with the name that it calls: ``run``, ``subprocess.run``, ``.run``."""
    for node in ast.walk(syntax_tree(path)):
        if isinstance(node, ast.Call):
            yield node, ast.unparse(node.func)


def strings(path: Path) -> Iterator[tuple[int, str]]:
    """Every string constant of *path* that is no docstring, with its line."""
    tree = syntax_tree(path)
    documentation = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documentation:
            yield node.lineno, node.value


def shown(path: Path, line: int = 0) -> str:
    """``usbip_agent/wire.py:12``"""
    return f"{path.relative_to(ROOT)}:{line}" if line else str(path.relative_to(ROOT))


def _absolute(path: Path, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    package = path.relative_to(ROOT).parts[:-node.level]
    return ".".join((*package, node.module) if node.module else package)
