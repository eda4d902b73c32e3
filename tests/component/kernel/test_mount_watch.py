"""Hearing of mounts, on the kernel's own tables: a mount namespace stands in for the system's."""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from usbip_agent.kernel.mounts import Mount, MountWatch, mounts, swaps

DEADLINE = 20.0
ELSEWHERE = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-c", "echo there; exec sh")


class Namespace:
    """A shell in mount and user namespaces of its own."""

    def __init__(self, root: Path) -> None:
        self._shell = subprocess.Popen(ELSEWHERE, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                       stderr=subprocess.DEVNULL, text=True)
        assert self._shell.stdout and self._shell.stdin
        self.works = self._shell.stdout.readline() == "there\n"
        self.proc = root / "proc"
        (self.proc / "1").mkdir(parents=True)
        (self.proc / "1/mountinfo").symlink_to(f"/proc/{self._shell.pid}/mountinfo")

    def do(self, command: str) -> None:
        assert self._shell.stdin and self._shell.stdout
        self._shell.stdin.write(f"{command}; echo $?\n")
        self._shell.stdin.flush()
        assert self._shell.stdout.readline() == "0\n"

    def end(self) -> None:
        self._shell.communicate()


@pytest.fixture
def namespace(tmp_path: Path) -> Iterator[Namespace]:
    made = Namespace(tmp_path)
    try:
        if not made.works:
            pytest.skip("no user namespaces here")
        yield made
    finally:
        made.end()


async def test_mounts_are_heard_of_and_nothing_else(namespace: Namespace, tmp_path: Path) -> None:
    changed = asyncio.Event()
    calls = []

    def note() -> None:
        calls.append([mount for mount in mounts(namespace.proc) if mount.where == str(place)])
        changed.set()

    async def heard_of(command: str) -> None:
        changed.clear()
        await asyncio.to_thread(namespace.do, command)
        async with asyncio.timeout(DEADLINE):
            await changed.wait()

    place = tmp_path / "a b"
    place.mkdir()
    watch = MountWatch(note, namespace.proc)
    watch.start()
    try:
        await heard_of(f"mount -t tmpfs some '{place}'")
        assert [mount.source for mount in calls[-1]] == ["some"]
        await heard_of(f"umount '{place}'")
        assert calls[-1] == []
        made, began = len(calls), time.process_time()
        await asyncio.to_thread(namespace.do, "sleep 0.3")
        assert (len(calls), time.process_time() - began < 0.2) == (made, True), "it turns in circles"
    finally:
        watch.close()
    await asyncio.to_thread(namespace.do, f"mount -t tmpfs some '{place}'")
    assert len(calls) == made


async def test_our_own_table_where_there_is_no_other(tmp_path: Path) -> None:
    (tmp_path / "self").mkdir()
    (tmp_path / "self/mountinfo").symlink_to("/proc/self/mountinfo")
    assert "/" in [mount.where for mount in mounts(tmp_path)]
    watch = MountWatch(lambda: None, tmp_path)
    watch.start()
    watch.close()
    watch.close()


def test_tables_are_read_as_the_kernel_writes_them(tmp_path: Path) -> None:
    (tmp_path / "1").mkdir()
    (tmp_path / "1/mountinfo").write_text(
        "36 35 98:0 /a /b\\040c\\134 rw,noatime shared:1 master:2 - ext3 /dev/d\\040e rw\n"
        "nonsense\n37 35 0:5 / /x rw - tmpfs\n", encoding="ascii")
    (tmp_path / "swaps").write_text("Filename\tType\n/dev/a\\040b partition\n\n", encoding="ascii")
    assert list(mounts(tmp_path)) == [Mount("98:0", "/dev/d e", "/b c\\")]
    assert swaps(tmp_path) == ("/dev/a b",)
    assert (list(mounts(tmp_path / "1")), swaps(tmp_path / "1")) == ([], ())
