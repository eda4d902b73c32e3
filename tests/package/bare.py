"""Bare Debian systems to install the packages in: no init, no kernel, what apt finds on a fresh machine."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from tests.lab import cache
from tests.lab.image import KEYRING, mirror

SHOWN = 40
"""Lines of a failed command's output that are worth reading."""

TOOLS_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
ENTER = 'mount -t proc proc "$1/proc" && mount -t sysfs -o ro sysfs "$1/sys" && cd "$1" && exec chroot "$@"'
"""Run by sh in a mount and process namespace of its own, with the root as first argument."""


class BareSystem:
    """The root of a Debian system in a directory."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @classmethod
    def unpack(cls, suite: str, root: Path) -> BareSystem:
        """A fresh one in *root*. The first of a suite is made from apt's own sources; the cache keeps it."""
        archive = cache.entry(f"bare-{suite}-{cache.digest(suite, mirror())}",
                              lambda target: _make(suite, target)) / "bare.tar"
        root.mkdir(parents=True)
        _checked("tar", "--extract", "--numeric-owner", f"--file={archive}", f"--directory={root}")
        system = cls(root)
        resolver = root / "etc/resolv.conf"
        resolver.unlink(missing_ok=True)
        resolver.write_bytes(Path("/etc/resolv.conf").read_bytes())
        system.checked("apt-get", "-q", "update")
        return system

    def run(self, *command: str, directory: str = "/") -> subprocess.CompletedProcess[str]:
        """Runs *command* as root inside, with nothing of the caller's environment but proxies."""
        inside = ["env", f"--chdir={directory}", *command]
        return subprocess.run(
            ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", ENTER, "sh", str(self.root),
             *inside],
            env=_environment(), text=True, capture_output=True, check=False, stdin=subprocess.DEVNULL)

    def checked(self, *command: str, directory: str = "/") -> str:
        """As ``run``; its stdout. AssertionError with the end of what it said unless it succeeds."""
        done = self.run(*command, directory=directory)
        if done.returncode != 0:
            said = "\n".join([*done.stdout.splitlines()[-SHOWN:], "", *done.stderr.splitlines()[-SHOWN:]])
            raise AssertionError(f"{' '.join(command)}: {done.returncode}\n{said}")
        return done.stdout

    def install(self, *packages: str) -> str:
        return self.checked("apt-get", "-q", "-y", "--no-install-recommends", "install", *packages)

    def path(self, absolute: str) -> Path:
        """Where the file *absolute* of the system is found from outside."""
        return self.root / absolute.lstrip("/")


def _make(suite: str, target: Path) -> None:
    _checked("mmdebstrap", "--quiet", "--mode=root", "--variant=minbase", "--components=main",
             f"--keyring={KEYRING}", suite, str(target / "bare.tar"), mirror())


def _checked(*command: str) -> None:
    done = subprocess.run(command, env=_environment(), text=True, check=False, stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert done.returncode == 0, f"{' '.join(command)}: {done.returncode}\n{done.stdout}"


def _environment() -> dict[str, str]:
    proxies = {name: value for name, value in os.environ.items() if name.lower().endswith("_proxy")}
    return {"PATH": TOOLS_PATH, "LC_ALL": "C.UTF-8", "HOME": "/root", "DEBIAN_FRONTEND": "noninteractive",
            **proxies}
