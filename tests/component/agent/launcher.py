"""usbip-agent itself, with nothing replaced but the machine.

What is written to /sys goes to a fake kernel, mounts and sessions are read elsewhere, udev's rules and the
events that it is asked for are left in a directory, and whoever runs the tests is root.

A write goes to the fake kernel over a socket, for a hand-over together with the descriptor that it names, and
returns when the kernel has obeyed; as a write to sysfs does. /sys for reading is umockdev's.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterable
from functools import partial
from pathlib import Path

from usbip_agent.bus import server
from usbip_agent.bus.operations import AgentOperations
from usbip_agent.errors import KernelFault
from usbip_agent.kernel import holds, mounts, stub, sysfs, udev_rules
from usbip_agent.report import Report

MACHINE = Path(os.environ["FAKE_MACHINE"])


def write(attribute: Path, value: str) -> None:
    if attribute.name == "uevent":
        with (MACHINE / "uevents").open("a") as log:
            log.write(f"{value} {attribute.parent.name}\n")
        return
    descriptors = [int(value)] if attribute.name == "usbip_sockfd" else []
    name = attribute.relative_to("/sys/bus/usb")
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as kernel:
        kernel.connect(str(MACHINE / "kernel"))
        socket.send_fds(kernel, [f"{name} {value}".encode()], descriptors)
        answer = int(kernel.recv(16) or b"5")
    if answer:
        raise KernelFault(f"writing {value!r} to {attribute}: {os.strerror(answer)}", errno=answer)


def replace_the_machine() -> None:
    sysfs.write = write
    nodes = Path(os.environ["UMOCKDEV_DIR"]) / "nodes"
    stub.ENTRIES = int(os.environ.get("FAKE_ENTRIES", stub.ENTRIES))
    holds.DEVICE_NODES = nodes / "bus/usb"
    mounts.PROC = MACHINE / "proc"  # for looking; the watch has its default already, and polls the real one
    if (mounts.PROC / "1/mountinfo").is_symlink():  # to a table that the kernel keeps, which can be polled
        mounts.MountWatch.__init__.__defaults__ = (mounts.PROC,)
    from usbip_agent.kernel import block_devices, usage

    places = block_devices.Places(dev=nodes, run=MACHINE / "run")
    block_devices.keep_still.__defaults__ = block_devices.flush.__defaults__ = (places,)
    usage.read_usage.__defaults__ = (places, *(usage.read_usage.__defaults__ or ())[1:])
    udev_rules.UdevRules = partial(  # type: ignore[assignment,misc]
        udev_rules.UdevRules, MACHINE / "rules.d", reload=["true"])
    udev_rules.mend_marks.__defaults__ = (MACHINE / "run/udev/data",)
    serve_agent = server.serve_agent

    async def serve_us_as_root(operations: AgentOperations, *, reports: Iterable[Report]) -> server.BusServer:
        return await serve_agent(operations, reports=reports, privileged_uid=os.getuid())

    server.serve_agent = serve_us_as_root  # type: ignore[assignment]


def shorten_deadlines(seconds: float) -> None:
    """For hosts that say nothing."""
    from usbip_agent.device_side import attempt, request

    setattr(attempt, "request", partial(request.request, deadline=seconds))
    attempt.UNEXPORT_DEADLINE = seconds


def wait_for_ever() -> None:
    """For what is tried again because something has happened, and not because it was time."""
    from usbip_agent.device_side import delays

    delays.FIRST_DELAY = delays.LONGEST_DELAY = 3600.0


if __name__ == "__main__":
    if os.environ.get("LISTEN_FDS"):
        os.environ["LISTEN_PID"] = str(os.getpid())  # as systemd sets it, which knows the process it makes
    replace_the_machine()
    if "FAKE_DEADLINE" in os.environ:
        shorten_deadlines(float(os.environ["FAKE_DEADLINE"]))
    if "FAKE_PATIENCE" in os.environ:
        wait_for_ever()

    from usbip_agent.cli.agent import main

    sys.exit(main())
