"""The secrets in join codes: each lets one node enrol once, within an hour.

Only hashes are kept, in one file, so that codes survive a restart of the daemon. The hour is measured by the
clock that nobody sets (since boot, sleep included) *and* by the wall clock: a clock set back gains nothing,
one set forward ends codes early, and a code from before a reboot is void.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import secrets
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final

from usbip_agent.errors import Fault, RefusedFault
from usbip_agent.identity.files import DIRECTORY_MODE, read_file, write_file
from usbip_agent.policy.values import system_name

log = logging.getLogger(__name__)

VERSION: Final = 1
SECRET_BYTES: Final = 20
VALID_FOR: Final = 3600.0
"""Seconds."""

REMEMBERED_FOR: Final = 86400.0
"""Seconds for which a code that is over is told apart from one that never was."""

MAXIMUM_PENDING: Final = 256
MAXIMUM_REMEMBERED: Final = 256

_FILE: Final = "join-codes.json"
_LARGEST: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Moment:
    """A point in time on both clocks, in seconds."""

    uptime: float
    wall: float

    @classmethod
    def now(cls) -> Moment:
        return cls(time.clock_gettime(time.CLOCK_BOOTTIME), time.time())


class CodeFault(RefusedFault):
    """A secret that lets nobody in. *what* is for the log alone: the peer is told the same each time."""


@dataclass(frozen=True, slots=True)
class _Code:
    node: str
    digest: str
    uptime: float
    wall: float
    over: str = ""
    """Why it is no longer valid: ``used``…"""

    def ended(self, now: Moment) -> str:
        """Why it is not valid now; empty when it is."""
        if self.over:
            return self.over
        if now.uptime < self.uptime:
            return "from before a reboot"
        if max(now.uptime - self.uptime, now.wall - self.wall) > VALID_FOR:
            return "expired"
        return ""


class JoinCodes:
    """The codes that were issued, in *directory*: best one that a reboot empties."""

    def __init__(self, directory: Path) -> None:
        self._file = directory / _FILE
        self._codes = self._load()

    def issue(self, node: str, now: Moment) -> bytes:
        """A new secret for *node*; an earlier one that was not used is void. Fault when it cannot be kept."""
        codes = self._swept(now)
        if sum(1 for code in codes if not code.ended(now) and code.node != node) >= MAXIMUM_PENDING:
            raise Fault(f"{MAXIMUM_PENDING} join codes wait to be used", hint="wait until some expire")
        secret = secrets.token_bytes(SECRET_BYTES)
        self._save([*(_end(code, "replaced by a newer one", code.node == node) for code in codes),
                    _Code(node, _digest(secret), now.uptime, now.wall)])
        return secret

    def verify(self, secret: bytes, now: Moment) -> str:
        """The node that *secret* was issued for; it stays valid. CodeFault with the reason for the log."""
        return self._find(secret, now).node

    def redeem(self, secret: bytes, now: Moment) -> str:
        """As ``verify``, and when this returns the secret is used, on the disk as well."""
        found = self._find(secret, now)
        self._save([_end(code, "used", code is found) for code in self._swept(now)])
        return found.node

    def cancel(self, node: str, now: Moment) -> bool:
        """Voids the code for *node*; False when none was valid."""
        valid = [code for code in self._codes if code.node == node and not code.ended(now)]
        if valid:
            self._save([_end(code, "revoked", code in valid) for code in self._swept(now)])
        return bool(valid)

    def _find(self, secret: bytes, now: Moment) -> _Code:
        digest = _digest(secret)
        found = None
        for code in self._codes:
            if hmac.compare_digest(code.digest, digest):
                found = code
        if found is None:
            raise CodeFault("a join code that was never issued here")
        over = found.ended(now)
        if over:
            raise CodeFault(f"the join code for {found.node} is {over}")
        return found

    def _swept(self, now: Moment) -> list[_Code]:
        """All codes but those that ended long ago, or that many others followed."""
        fresh = [code for code in self._codes if 0 <= now.uptime - code.uptime <= REMEMBERED_FOR]
        ended = [code for code in fresh if code.ended(now)]
        dropped = {id(code) for code in ended[:max(0, len(ended) - MAXIMUM_REMEMBERED)]}
        return [code for code in fresh if id(code) not in dropped]

    def _save(self, codes: list[_Code]) -> None:
        content = json.dumps({"version": VERSION, "codes": [asdict(code) for code in codes]})
        try:
            self._file.parent.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
            write_file(self._file, content)
        except OSError as error:
            raise Fault(f"{self._file} cannot be written: {error.strerror}") from None
        self._codes = codes

    def _load(self) -> list[_Code]:
        try:
            content = json.loads(read_file(self._file, _LARGEST) or '{"version": 1, "codes": []}')
            if content["version"] != VERSION:
                raise ValueError("it is of another version")
            return [_checked(_Code(**entry)) for entry in content["codes"]][:2 * MAXIMUM_PENDING + 1]
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            log.error("%s is damaged, the join codes in it are void: %s", self._file, error)
            return []


def _digest(secret: bytes) -> str:
    return hashlib.sha256(secret).hexdigest()


def _end(code: _Code, why: str, wanted: bool) -> _Code:
    return replace(code, over=why) if wanted and not code.over else code


def _checked(code: _Code) -> _Code:
    system_name(code.node)
    digest_fits = isinstance(code.digest, str) and len(bytes.fromhex(code.digest)) == 32
    times_fit = isinstance(code.uptime, int | float) and isinstance(code.wall, int | float)
    if not digest_fits or not times_fit or not isinstance(code.over, str):
        raise ValueError("a field is of the wrong type")
    return code
