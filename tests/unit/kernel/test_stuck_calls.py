"""The kernel answers long after it was given up: nothing is taken then, and nothing is begun before."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import Coroutine, Iterator
from pathlib import Path

import pytest

from tests.unit.device_side.world import until
from tests.unit.kernel.late import pass_time
from tests.unit.kernel.stick import STICK, Store, Sysfs
from usbip_agent import blocking
from usbip_agent.blocking import KERNEL_DEADLINE
from usbip_agent.errors import DeadlineFault
from usbip_agent.kernel import holds, sysfs
from usbip_agent.kernel.holds import Holds
from usbip_agent.kernel.stub import START_PATIENCE, Stub

DEADLINE = 10.0


class Kernel:
    """Obeys what is written, but hangs in the write to *hangs* until ``answer``."""

    def __init__(self, tree: Sysfs) -> None:
        self.tree = tree
        self.hangs = "usb/unbind"
        self.done: list[str] = []
        self.linked: list[int] = []
        """The inodes of the sockets that it was given."""
        self.inside, self._answered = threading.Event(), threading.Event()
        self._driver = tree.root / "hub/1-1.2/driver"
        self.drive("usb")

    def write(self, attribute: Path, value: str) -> None:
        name = "/".join(attribute.parts[-2:])
        if name == self.hangs:
            self.inside.set()
            assert self._answered.wait(DEADLINE)
        self.done.append(f"{name} {value}")
        match name:
            case "usb/unbind" | "usbip-host/unbind":
                self.drive("")
            case "usbip-host/bind":
                self.drive("usbip-host")
            case "usb/drivers_probe":
                self.drive("usb")
            case "1-1.2/usbip_sockfd":
                self.linked.append(os.fstat(int(value)).st_ino)

    def answer(self) -> None:
        self._answered.set()

    def drive(self, driver: str) -> None:
        self._driver.unlink(missing_ok=True)
        if driver:
            self._driver.symlink_to(self.tree.driver.parent / driver)


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sysfs:
    monkeypatch.setattr(holds, "DEVICE_NODES", tmp_path / "nodes")
    made = Sysfs(tmp_path)
    made.plug(7)
    return made


@pytest.fixture
def kernel(tree: Sysfs, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kernel]:
    made = Kernel(tree)
    monkeypatch.setattr(sysfs, "write", made.write)
    yield made
    made.answer()


async def given_up(kernel: Kernel, work: Coroutine[object, object, None]) -> None:
    """The deadline of *work* has passed while the kernel hangs."""
    task = asyncio.create_task(work)
    await until(kernel.inside.is_set)
    pass_time(KERNEL_DEADLINE)
    with pytest.raises(DeadlineFault, match=": the kernel has not answered since ..:..:..$"):
        await task


async def test_a_claim_that_was_given_up_takes_nothing(tree: Sysfs, kernel: Kernel) -> None:
    store = Store()
    stub = Stub(Holds(store), tree.root)
    await given_up(kernel, stub.claim(STICK))
    assert len(store.kept) == 2  # it may be bound yet
    threads = threading.active_count()
    for further in (stub.claim, stub.give_back, stub.resume):
        with pytest.raises(DeadlineFault, match="^bind 1-1.2: the kernel has not answered since"):
            await further(STICK)
    assert threading.active_count() == threads
    kernel.answer()
    await until(lambda: not blocking._turns)
    assert kernel.done == ["usb/unbind 1-1.2", "usb/drivers_probe 1-1.2"]
    assert store.kept == {}


@pytest.mark.parametrize("hangs", ["usbip-host/match_busid", "usbip-host/bind"])
async def test_what_was_bound_too_late_is_given_back(tree: Sysfs, kernel: Kernel, hangs: str) -> None:
    kernel.hangs = hangs
    store = Store()
    stub = Stub(Holds(store), tree.root)
    await given_up(kernel, stub.claim(STICK))
    kernel.answer()
    await until(lambda: not blocking._turns)
    assert kernel.done[-4:] == ["usbip-host/bind 1-1.2", "usbip-host/unbind 1-1.2",
                                "usbip-host/rebind 1-1.2", "usb/drivers_probe 1-1.2"]
    assert store.kept == {} and not stub.holds(STICK)


async def test_a_place_is_forgotten_when_the_kernel_is_done_with_it(tree: Sysfs, kernel: Kernel) -> None:
    """The device was pulled out, which lets go on what hangs."""
    store = Store()
    stub = Stub(Holds(store), tree.root)
    await stub.resume(STICK)
    (tree.driver / "match_busid").write_text("1-1.2\n")
    kernel.drive("usbip-host")
    kernel.hangs = "usbip-host/unbind"
    await given_up(kernel, stub.give_back(STICK))
    forgotten = asyncio.create_task(stub.forget(STICK))
    await asyncio.sleep(0)
    assert not forgotten.done()
    tree.unplug()
    kernel.answer()
    await forgotten
    assert store.kept == {} and not blocking._turns


async def test_a_link_that_was_closed_meanwhile_is_not_taken_for_another(
        tree: Sysfs, kernel: Kernel) -> None:
    kernel.hangs = "1-1.2/usbip_sockfd"
    ours, theirs = socket.socketpair()
    link, before = os.fstat(ours.fileno()), len(os.listdir("/proc/self/fd"))
    with theirs:
        with ours:
            await given_up(kernel, Stub(Holds(), tree.root).hand_over(STICK, ours))
        theirs.settimeout(DEADLINE)
        assert theirs.recv(1) == b""  # at once: what the kernel begins with it later has ended already
        assert kernel.linked == []
        kernel.answer()
        await until(lambda: not blocking._turns)
        assert kernel.linked == [link.st_ino]
        assert len(os.listdir("/proc/self/fd")) == before - 1


async def test_a_start_does_not_wait_for_a_place_that_hangs(
        tree: Sysfs, kernel: Kernel, caplog: pytest.LogCaptureFixture) -> None:
    store = Store()
    stub = Stub(Holds(store), tree.root)
    await stub.resume(STICK)
    (tree.driver / "match_busid").write_text("1-1.2\n")
    kernel.hangs = "usbip-host/rebind"
    kernel.drive("")
    tree.unplug()
    starting = asyncio.create_task(stub.forget_the_gone())
    await until(kernel.inside.is_set)
    pass_time(START_PATIENCE)
    await starting
    assert "forget 1-1.2: the kernel has not answered since" in caplog.text and len(store.kept) == 2
    with pytest.raises(DeadlineFault, match="^forget 1-1.2: the kernel has not answered since"):
        await stub.claim(STICK)
    kernel.answer()
    await until(lambda: not blocking._turns)
    assert kernel.done == ["usbip-host/rebind 1-1.2"] and store.kept == {}
