"""Directories that are slow to make and worth keeping: made once, whole, under a lock."""
from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Callable, Iterator

from .report import say

KEPT = 6          # prepared snapshots that survive pruning, beside those of the last two hours
RECENT = 7200.0


def root() -> Path:
    """Where everything cached lives; ``$USBIP_LAB_CACHE`` moves it."""
    path = Path(os.environ.get("USBIP_LAB_CACHE") or "/var/cache/usbip-agent-lab")
    path.mkdir(parents=True, exist_ok=True)
    return path


def digest(*parts: str | bytes | Path) -> str:
    """A short key for all that goes into an entry; a ``Path`` counts by its content."""
    total = hashlib.sha256()
    for part in parts:
        data = part.read_bytes() if isinstance(part, Path) else part
        data = data.encode() if isinstance(data, str) else data
        total.update(b"%d:" % len(data) + data)
    return total.hexdigest()[:12]


def entry(name: str, make: Callable[[Path], None]) -> Path:
    """The directory ``name``; when it is missing ``make`` fills a temporary one, then renamed."""
    final = root() / name
    with _lock(name):
        if not final.is_dir():
            building = Path(tempfile.mkdtemp(prefix=f"tmp-{name}-", dir=root()))
            try:
                building.chmod(0o755)
                make(building)
                building.rename(final)
            except BaseException:
                shutil.rmtree(building, ignore_errors=True)
                raise
    os.utime(final)
    return final


def exists(name: str) -> bool:
    """Whether an entry is there already."""
    return (root() / name).is_dir()


def prune(prefix: str) -> None:
    """Removes all but the entries of this prefix that were used last."""
    entries = [path for path in root().glob(f"{prefix}*") if path.is_dir()]
    entries.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    for path in entries[KEPT:]:
        if time.time() - path.stat().st_mtime > RECENT:
            shutil.rmtree(path, ignore_errors=True)


def scratch() -> Path:
    """A new temporary directory; removes those of lab processes that were killed."""
    for path in Path(tempfile.gettempdir()).glob("usbip-lab-*-*"):
        owner = path.name.split("-")[2]
        if owner.isdigit() and not Path(f"/proc/{owner}").exists():
            shutil.rmtree(path, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=f"usbip-lab-{os.getpid()}-"))


@contextlib.contextmanager
def _lock(name: str) -> Iterator[None]:
    """Held while an entry is looked up or made, so that two runs don't make it at once."""
    with open(root() / f"{name}.lock", "w", encoding="ascii") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"{name}: another run is making it; waiting")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
