"""Logging: to the journal with its structured fields when there is one, to stderr otherwise.

A transition is one line. Its fields (``USBIP_BUSID=`` and so on, see ``names.Journal``) let
``journalctl USBIP_BUSID=1-1.4`` tell the life of one device.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping

from usbip_agent.text import printable

_LONGEST_LINE = 1000


class _OneLine(logging.Formatter):
    """Whatever is in a message, it stays one line and cannot command a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        message = printable(record.getMessage(), _LONGEST_LINE)
        if record.exc_info:
            return f"{message}\n{self.formatException(record.exc_info)}"
        return message


def set_up(identifier: str, *, verbose: bool = False) -> None:
    """Sends what is logged to the journal under *identifier*, or to stderr where no journal reads."""
    handler: logging.Handler = logging.StreamHandler(sys.stderr)
    if os.environ.get("JOURNAL_STREAM"):
        from systemd.journal import JournalHandler
        handler = JournalHandler(SYSLOG_IDENTIFIER=identifier)
    handler.setFormatter(_OneLine())
    logging.basicConfig(level=logging.DEBUG if verbose else logging.INFO, handlers=[handler], force=True)
    logging.getLogger("asyncio").setLevel(logging.WARNING)


def transition(log: logging.Logger, level: int, message: str, fields: Mapping[str, str | int]) -> None:
    """One journal line for one transition; *fields* by ``names.Journal``, empty ones are left out."""
    extra = {name: printable(str(value)) for name, value in fields.items() if value not in ("", None)}
    log.log(level, "%s", message, extra=extra)
