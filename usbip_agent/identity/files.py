"""Files that are there whole or not at all, and nobody else's to read."""

from __future__ import annotations

import os
from pathlib import Path

DIRECTORY_MODE = 0o700
FILE_MODE = 0o600


def write_file(path: Path, content: str, *, lasting: bool = True) -> None:
    """Writes or replaces *path* in one step, mode 0600. OSError when that fails; *path* is then as before.

    *lasting*: it is on the disk on return. Of two writers at a time one must keep the other out.
    """
    temporary = path.with_name(f".{path.name}.new")
    stage_file(temporary, content, lasting=lasting)
    commit_file(temporary, path, lasting=lasting)


def stage_file(temporary: Path, content: str, *, lasting: bool = True) -> None:
    """Writes *temporary*, for ``commit_file``. What an earlier attempt left there is replaced."""
    temporary.unlink(missing_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        with os.fdopen(os.open(temporary, flags, FILE_MODE), "w", encoding="utf-8") as file:
            file.write(content)
            file.flush()
            if lasting:
                os.fsync(file.fileno())
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def commit_file(temporary: Path, path: Path, *, lasting: bool = True) -> None:
    """Gives a staged file its name, in place of what had it."""
    try:
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    if lasting:
        sync_directory(path.parent)


def remove_file(path: Path) -> bool:
    """Removes *path* for good; False when there is none."""
    try:
        path.unlink()
    except FileNotFoundError:
        return False
    sync_directory(path.parent)
    return True


def sync_directory(directory: Path) -> None:
    """Returns when the names in *directory* are on the disk."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_file(path: Path, limit: int) -> str | None:
    """The text of *path*, None when there is none. OSError; ValueError when it is longer or no UTF-8."""
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except FileNotFoundError:
        return None
    if len(data) > limit:
        raise ValueError(f"longer than {limit} bytes")
    return data.decode("utf-8")
