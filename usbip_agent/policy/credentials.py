"""Keys that point at a PKI's files, the same at a host and at a listener."""

from __future__ import annotations

from usbip_agent.policy.document import Mapping
from usbip_agent.policy.problems import Problems

CREDENTIALS = ("ca", "certificate", "key")


def require_whole_credentials(mapping: Mapping, problems: Problems, *, what: str) -> None:
    """Notes a certificate without its key, and the reverse."""
    for present, missing in (("certificate", "key"), ("key", "certificate")):
        if (entry := mapping.get(present)) and mapping.get(missing) is None:
            problems.add(entry.place, f"{what} has {present} without {missing}: they go together")
