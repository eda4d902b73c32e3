"""usbip-host and the USB core in a thread: what the daemon writes to sysfs they obey as the kernel does.

Sources: drivers/usb/usbip/stub_main.c, stub_dev.c. What would crash or confuse a kernel is a *crime*.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.component.agent.tree import Tree

LINGERING = 0.1
"""Seconds from the end of a link until the stub has let go of it."""

AVAILABLE, USED = 1, 2


@dataclass
class _Stub:
    """What the driver keeps of a device that it has."""

    link: socket.socket | None = None
    free_at: float | None = None
    """When an ended link is let go of."""


@dataclass
class FakeStub:
    """Its table, and what it has. ``stop`` ends it."""

    tree: Tree
    address: Path
    entries: int = 16
    history: list[str] = field(default_factory=list)
    crimes: list[str] = field(default_factory=list)
    never_answers: set[str] = field(default_factory=set)
    """Writes that the kernel does not return from."""
    before: dict[str, Callable[[], None]] = field(default_factory=dict)
    """What happens in the instant before a write is obeyed."""
    _table: list[str] = field(default_factory=list)
    _stubs: dict[str, _Stub] = field(default_factory=dict)
    _stuck: list[socket.socket] = field(default_factory=list)
    _changed: threading.Condition = field(default_factory=threading.Condition)

    def __post_init__(self) -> None:
        self._driver = self.tree.bus / "drivers/usbip-host"
        self._show_table()
        self._calls = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._calls.bind(str(self.address))
        self._calls.listen(512)
        self._wake, self._woken = socket.socketpair()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    # What tests ask and do.

    @property
    def linked(self) -> set[str]:
        """The devices with a link."""
        with self._changed:
            return {bus_id for bus_id, stub in self._stubs.items() if stub.link is not None}

    @property
    def table(self) -> list[str]:
        """What stands in ``match_busid``."""
        with self._changed:
            return list(self._table)

    def until(self, condition: Callable[[], bool], deadline: float) -> None:
        """Waits until *condition* holds, asked after everything that happens here."""
        with self._changed:
            assert self._changed.wait_for(condition, deadline), (
                f"linked {sorted(self.linked)}, table {self._table}, history {self.history[-12:]}")

    def until_linked(self, wanted: set[str], deadline: float) -> None:
        """Waits until these devices have a link and no others."""
        self.until(lambda: self.linked == wanted, deadline)

    def link(self, bus_id: str) -> socket.socket:
        """What was handed over."""
        with self._changed:
            link = self._stubs[bus_id].link
        assert link is not None
        return link

    def received(self, bus_id: str, size: int) -> bytes:
        """The next bytes on a link, as the driver would take them."""
        link = self.link(bus_id)
        link.settimeout(LINGERING)
        return link.recv(size, socket.MSG_PEEK)

    def unplug(self, bus_id: str) -> None:
        """The device is pulled out: its link ends, its entry in the table stays."""
        with self._changed:
            stub = self._stubs.pop(bus_id, None)
            if stub is not None and stub.link is not None:
                _hang_up(stub.link)
            self.tree.unplug(bus_id)
            self._changed.notify_all()
        self._poke()

    def write(self, attribute: str, value: str) -> None:
        """As somebody else, or a daemon that died since, has written to sysfs."""
        with self._changed:
            assert self._obey(attribute, value.split(), None) == 0
            self._changed.notify_all()

    def stop(self) -> None:
        self._wake.close()
        self._thread.join()
        for stub in self._stubs.values():
            if stub.link is not None:
                stub.link.close()
        for call in self._stuck:
            call.close()
        self._woken.close()
        self._calls.close()

    # The kernel's side.

    def _poke(self) -> None:
        self._wake.send(b"!")

    def _run(self) -> None:
        while True:
            with self._changed:
                watched = {stub.link.fileno(): stub for stub in self._stubs.values()
                           if stub.link is not None and stub.free_at is None}
                times = [stub.free_at for stub in self._stubs.values() if stub.free_at is not None]
            poller = select.poll()
            poller.register(self._woken, select.POLLIN | select.POLLHUP)
            poller.register(self._calls, select.POLLIN)
            for link in watched:
                poller.register(link, select.POLLRDHUP)
            wait = max(0.0, min(times) - time.monotonic()) * 1000 + 1 if times else None
            for descriptor, _event in poller.poll(wait):
                if descriptor == self._woken.fileno():
                    if not self._woken.recv(64):
                        return
                elif descriptor == self._calls.fileno():
                    self._answer()
                elif watched[descriptor].free_at is None:
                    watched[descriptor].free_at = time.monotonic() + LINGERING
            with self._changed:
                self._let_go_of_ended()
                self._changed.notify_all()

    def _let_go_of_ended(self) -> None:
        for bus_id, stub in self._stubs.items():
            if stub.free_at is not None and stub.free_at <= time.monotonic():
                assert stub.link is not None
                _hang_up(stub.link)
                stub.link = stub.free_at = None
                self._show_status(bus_id, AVAILABLE)

    def _answer(self) -> None:
        call = self._calls.accept()[0]
        data, descriptors, _flags, _address = socket.recv_fds(call, 512, 1)
        text = data.decode()
        with self._changed:
            self.history.append(text)
            if text in self.never_answers:
                self._stuck.append(call)
                return
            self.before.pop(text, lambda: None)()
            attribute, *words = text.split()
            link = socket.socket(fileno=descriptors[0]) if descriptors else None
            answer = self._obey(attribute, words, link)
        with call, suppress(BrokenPipeError):  # the daemon was killed meanwhile
            call.send(str(answer).encode())

    def _obey(self, attribute: str, words: list[str], link: socket.socket | None) -> int:
        """0, or the errno of the write."""
        match attribute.split("/"):
            case ["drivers", "usbip-host", "match_busid"]:
                return self._change_table(*words)
            case ["drivers", "usbip-host", "rebind"]:
                return self._rebind(words[0])
            case ["drivers", driver, "unbind"]:
                return self._unbind(driver, words[0])
            case ["drivers", "usbip-host", "bind"]:
                return self._bind(words[0]) if self.tree.driver(words[0]) == "" else errno.ENODEV
            case ["drivers_probe"]:
                return self._probe(words[0])
            case ["devices", bus_id, "usbip_sockfd"] if link is not None:
                return self._take(bus_id, link)
        return errno.ENOENT

    def _is_there(self, bus_id: str) -> bool:
        return (self.tree.bus / "devices" / bus_id).exists()

    def _change_table(self, verb: str, bus_id: str) -> int:
        if verb == "add" and bus_id not in self._table:
            if len(self._table) >= self.entries:
                return errno.ENOMEM
            self._table.append(bus_id)
        elif verb == "del" and bus_id not in self._stubs and bus_id in self._table:
            self._table.remove(bus_id)
        self._show_table()
        return 0

    def _rebind(self, bus_id: str) -> int:
        if bus_id not in self._table:
            return errno.ENODEV
        self._table.remove(bus_id)
        self._show_table()
        return self._probe(bus_id) if self._is_there(bus_id) else 0

    def _unbind(self, driver: str, bus_id: str) -> int:
        if not self._is_there(bus_id) or self.tree.driver(bus_id) != driver:
            return errno.ENODEV
        stub = self._stubs.pop(bus_id, None)
        if stub is not None:
            if stub.link is not None:
                self.crimes.append(f"{bus_id} was unbound while its link was up")
                stub.link.close()
            for name in ("usbip_status", "usbip_sockfd"):
                (self.tree.bus / "devices" / bus_id / name).unlink()
        self.tree.drive(bus_id, "")
        self.tree.tell(self.tree.bus / "devices" / bus_id, "unbind")
        return 0

    def _bind(self, bus_id: str) -> int:
        if not self._is_there(bus_id) or bus_id not in self._table:
            return errno.ENODEV
        self._stubs[bus_id] = _Stub()
        self.tree.drive(bus_id, "usbip-host")
        self._show_status(bus_id, AVAILABLE)
        (self.tree.bus / "devices" / bus_id / "usbip_sockfd").touch()
        self.tree.tell(self.tree.bus / "devices" / bus_id, "bind")
        return 0

    def _probe(self, bus_id: str) -> int:
        if not self._is_there(bus_id):
            return errno.ENODEV
        if self.tree.driver(bus_id):
            return 0
        if bus_id in self._table:
            return self._bind(bus_id)
        self.tree.drive(bus_id, "usb")
        self.tree.tell(self.tree.bus / "devices" / bus_id, "bind")
        return 0

    def _take(self, bus_id: str, link: socket.socket) -> int:
        stub = self._stubs.get(bus_id)
        if stub is None or stub.link is not None:
            link.close()
            return errno.ENOENT if stub is None else errno.EINVAL
        stub.link = link
        self._show_status(bus_id, USED)
        return 0

    def _show_status(self, bus_id: str, status: int) -> None:
        _show(self.tree.bus / "devices" / bus_id / "usbip_status", f"{status}\n")

    def _show_table(self) -> None:
        _show(self._driver / "match_busid", " ".join(self._table) + "\n")


def _show(attribute: Path, text: str) -> None:
    new = attribute.with_name(f".{attribute.name}")
    new.write_text(text)
    os.replace(new, attribute)


def _hang_up(link: socket.socket) -> None:
    try:
        link.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # its peer was first
    link.close()
