"""Machines frozen at a useful moment: booted once, and again with the product installed.

A snapshot is a directory: ``memory`` (a migration stream) and ``disk.qcow2`` (an overlay of its
parent's disk). Both are read-only, so any number of guests continue from it at the same time.
"""
from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Mapping

from . import cache
from .guest import BOOT, Guest
from .image import build
from .machine import State, version
from .network import Switch
from .report import say

# Python's modules in the page cache: each would cost seconds of emulated disk and decoding later.
WARM = ("python3 -c 'import asyncio, argparse, cryptography.x509, dbus_next.aio, email.message, "
        "json, pyudev, sdnotify, ssl, websockets, yaml'; usbip version; journalctl -n 1; "
        "udevadm info -e; apt-get --version; systemctl show -p Version; "
        # Not to be seen on the cable with the snapshot's own address, before it has its own.
        "ip link set eth0 down")


@dataclass(frozen=True)
class Role:
    """What one guest of a prepared set holds: a suite, packages, and a script run after them."""

    suite: str = "trixie"
    debs: tuple[Path, ...] = ()
    setup: str = ""
    files: Mapping[str, str] = field(default_factory=dict)      # written before the packages

    def key(self, name: str) -> str:
        """A digest of all that shapes the guest, its parent included."""
        parts: list[str | Path] = [name, booted(self.suite).key, self.setup]
        for deb in self.debs:
            parts += [deb.name, deb]
        for path, text in sorted(self.files.items()):
            parts += [path, text]
        return cache.digest(*parts)


def booted(suite: str) -> State:
    """A freshly booted guest of a suite, without a role yet."""
    image = build(suite)
    key = cache.digest(image.key, version(), WARM)
    name = f"booted-{suite}-{key}"
    if not cache.exists(name):
        say(f"{suite}: no snapshot yet, so it boots once (about a minute)")
    directory = cache.entry(
        name, lambda path: _freeze({"lab": (State(image, image.disk, "raw", None, image.key),
                                            Role(suite, setup=WARM))}, path))
    return _state(State(image, image.disk, "raw", None, image.key), directory / "lab", key)


def prepare(roles: Mapping[str, Role]) -> dict[str, State]:
    """A snapshot per guest, with packages installed and set up; made in parallel when missing."""
    key = cache.digest(*(role.key(name) for name, role in sorted(roles.items())))
    parents = {name: booted(role.suite) for name, role in roles.items()}
    bare = [name for name, role in roles.items() if not (role.debs or role.setup or role.files)]
    if len(bare) == len(roles):
        return parents
    directory = cache.entry(f"prepared-{key}", lambda path: _freeze(
        {name: (parents[name], role) for name, role in roles.items()}, path))
    cache.prune("prepared-")
    return {name: _state(parents[name], directory / name, f"{key}-{name}") for name in roles}


def _state(parent: State, directory: Path, key: str) -> State:
    return State(parent.image, directory / "disk.qcow2", "qcow2", directory / "memory", key)


def _freeze(plan: Mapping[str, tuple[State, Role]], target: Path) -> None:
    """Starts all guests of a plan, sets them up side by side, and saves each below ``target``."""
    work = cache.scratch()
    switch = Switch()
    guests = {name: Guest(name, state, switch, work / name) for name, (state, _) in plan.items()}
    try:
        for guest in guests.values():
            guest.start()
        for guest in guests.values():
            guest.ready()
        say(f"{', '.join(guests)}: running")
        jobs = []
        for name, guest in guests.items():
            role = plan[name][1]
            for path, text in role.files.items():
                guest.put(path, text)
            names = [f"/root/debs/{deb.name}" for deb in role.debs]
            for deb, path in zip(role.debs, names):
                guest.put(path, deb)
            script = "set -e\nsystemctl is-system-running --wait || true\n"
            if names:
                script += f"apt-get install -y -q {' '.join(names)}\n"
            jobs.append((guest, guest.start_job(f"{script}{role.setup}\nsync", BOOT)))
        for guest, job in jobs:
            result = job.wait(BOOT + 20)
            if result.rc:
                raise RuntimeError(f"{guest.name}: set-up failed ({result.rc}):\n{result.stdout}\n"
                                   f"{result.stderr}\n{guest.context()}")
        say(f"{', '.join(guests)}: set up, freezing")
        for name, guest in guests.items():
            (target / name).mkdir()
            guest.save(target / name)
        say(f"{', '.join(guests)}: frozen")
    finally:
        for guest in guests.values():
            guest.close()
        switch.close()
        shutil.rmtree(work, ignore_errors=True)
