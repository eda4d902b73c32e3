"""What the lab tells the person who waits for it: progress, and errors with their context."""
from __future__ import annotations

import sys
import time
from pathlib import Path

_STARTED = time.monotonic()


class LabError(Exception):
    """The lab, or a guest in it, did not do what was asked; the text holds the evidence."""


class Timeout(LabError):
    """A deadline passed."""


def say(text: str) -> None:
    """One progress line with the seconds since this process began."""
    print(f"lab {time.monotonic() - _STARTED:6.1f} s  {text}", file=sys.stderr, flush=True)


def tail(path: Path, lines: int = 25) -> str:
    """The end of a log file, as a block to put below an error."""
    try:
        text = path.read_bytes()[-20000:].decode("utf-8", "replace")
    except OSError as error:
        return f"(no {path.name}: {error.strerror})"
    return "\n".join(f"    {line}" for line in text.splitlines()[-lines:])


class Deadline:
    """A point in time that everything below one call shares."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._end = time.monotonic() + seconds

    def left(self) -> float:
        """Seconds until the deadline, never negative."""
        return max(0.0, self._end - time.monotonic())

    def check(self, what: str) -> None:
        """Raises ``Timeout`` when the deadline is over."""
        if not self.left():
            raise Timeout(f"{what}: not within {self.seconds:g} s")
