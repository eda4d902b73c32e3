"""usbipa itself, with nothing replaced but /sys: a tree of files to read, and a fake kernel to write to.

A write goes to the fake kernel over a socket, for an attach together with the descriptor it names, and
returns when the kernel has obeyed; as a write to sysfs does.
"""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

from usbip_agent.errors import KernelFault
from usbip_agent.kernel import sysfs


def write(attribute: Path, value: str) -> None:
    descriptors = [int(value.split()[1])] if attribute.name == "attach" else []
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as kernel:
        kernel.connect(os.environ["FAKE_KERNEL"])
        socket.send_fds(kernel, [f"{attribute.name} {value}".encode()], descriptors)
        answer = int(kernel.recv(16))
    if answer:
        raise KernelFault(f"writing {value!r} to {attribute}: {os.strerror(answer)}", errno=answer)


sysfs.SYSFS = Path(os.environ["FAKE_SYS"])
sysfs.write = write

if __name__ == "__main__":
    if os.environ.get("LISTEN_FDS"):
        os.environ["LISTEN_PID"] = str(os.getpid())  # as systemd sets it, which knows the process it makes

    from usbip_agent.cli.usbipa import main

    sys.exit(main())
