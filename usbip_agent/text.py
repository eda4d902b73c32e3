"""Text from outside (USB strings, node names, peers) made fit to be shown.

A USB device chooses its own serial and model; a terminal, a journal line and a status line must survive any.
"""

from __future__ import annotations

MAXIMUM_SHOWN = 256
"""Characters of a foreign string that are ever shown. USB strings have at most 126."""


def printable(text: str, limit: int = MAXIMUM_SHOWN) -> str:
    """*text* with everything that is not printable escaped, cut to *limit* characters with ``…``."""
    escaped = "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
        for character in text[: limit + 1]
    )
    return escaped if len(escaped) <= limit else escaped[: limit - 1] + "…"


def ascii_only(text: str) -> str:
    """*text* in ASCII, for what takes nothing else (sd_notify through Latin-1)."""
    return text.encode("ascii", "backslashreplace").decode("ascii")
