"""Sends udev's events into a directory that plays /sys and /dev. Run as a process of its own, under umockdev.

It says where the directory is; then each line ``add /sys/devices/…`` on stdin is sent, and answered.
"""

from __future__ import annotations

import sys
from importlib import import_module


def main() -> None:
    import_module("gi").require_version("UMockdev", "1.0")
    testbed = import_module("gi.repository.UMockdev").Testbed.new()
    print(testbed.get_root_dir(), flush=True)
    for line in sys.stdin:
        action, path = line.split()
        testbed.uevent(path, action)
        print("sent", flush=True)


if __name__ == "__main__":
    main()
