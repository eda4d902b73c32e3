"""What the agent makes of what an earlier run left: the kernel's state says what is true of it."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from tests.unit.device_side.samples import LAB, STICK
from tests.unit.device_side.world import Kernel, policy
from usbip_agent.device import Kind
from usbip_agent.device_side.adoption import Adopted, Leftovers
from usbip_agent.device_side.records import ExportRecord
from usbip_agent.kernel.exporter import LinkStatus
from usbip_agent.service.notify import Notifier, StoredDescriptor
from usbip_agent.service.records import RecordStore

RECORD = replace(ExportRecord.of(STICK, LAB), shown_transport="plain", peer="10.0.0.1:3240", since=17)


@dataclass
class Past:
    """A record, a stored link and its other end, and what the kernel has of it."""

    directory: Path
    kernel: Kernel = field(default_factory=Kernel)

    def __post_init__(self) -> None:
        self.ours, self.theirs = socket.socketpair()
        self.theirs.setblocking(False)
        self.store = RecordStore(self.directory, ExportRecord)
        self.store.put("1-1", RECORD)

    def leftovers(self, *, stored: bool = True) -> Leftovers:
        descriptors = [StoredDescriptor("export-1-1", self.ours.detach())] if stored else []
        return Leftovers(self.store, descriptors, Notifier())

    def adopt(self, *, stored: bool = True) -> Adopted:
        return self.leftovers(stored=stored).adopt(STICK, policy(LAB), self.kernel)

    @property
    def has_ended(self) -> bool:
        try:
            return self.theirs.recv(1) == b""
        except BlockingIOError:
            return False

    @property
    def is_forgotten(self) -> bool:
        return not list(self.store.all())


@pytest.fixture
def past(tmp_path: Path) -> Iterator[Past]:
    made = Past(tmp_path)
    yield made
    made.ours.close()
    made.theirs.close()


def test_a_link_that_lives_goes_on(past: Past) -> None:
    past.kernel.claimed, past.kernel.status = {"1-1"}, LinkStatus.USED
    adopted = past.adopt()
    assert adopted.connection is not None and adopted.connection.host == LAB
    assert adopted.claimed and adopted.since == 17 and adopted.link is not None
    assert not past.has_ended and not past.is_forgotten
    adopted.link.close()


def test_a_link_without_its_descriptor_is_known_all_the_same(past: Past) -> None:
    past.kernel.claimed, past.kernel.status = {"1-1"}, LinkStatus.USED
    adopted = past.adopt(stored=False)
    assert adopted.connection is not None and adopted.link is None


@pytest.mark.parametrize("status", [LinkStatus.AVAILABLE, LinkStatus.ERROR])
def test_a_link_that_has_ended_leaves_the_device_ours(past: Past, status: LinkStatus) -> None:
    """To be connected anew or, where the rules have changed meanwhile, to be given back."""
    past.kernel.claimed, past.kernel.status = {"1-1"}, status
    assert past.adopt() == Adopted(claimed=True)


def test_a_bind_before_which_the_daemon_died_leaves_nothing(past: Past) -> None:
    assert past.adopt() == Adopted()
    assert past.is_forgotten


def test_another_enumeration_has_nothing_to_go_on_with(past: Past) -> None:
    past.kernel.claimed, past.kernel.status = {"1-1"}, LinkStatus.USED
    past.store.put("1-1", replace(RECORD, device_number=STICK.device_number + 1))
    assert past.adopt() == Adopted()
    assert past.is_forgotten


def test_another_gadget_on_the_same_vudc_has_nothing_to_go_on_with(past: Past) -> None:
    gadget = replace(STICK, kind=Kind.VUDC, bus_id="usbip-vudc.0", bus_number=0, device_number=0)
    past.store.put(gadget.bus_id, ExportRecord.of(gadget, held=True))
    another = replace(gadget, product="0001")
    assert past.leftovers().adopt(gadget, policy(LAB), past.kernel) == Adopted(held=True)
    past.store.put(gadget.bus_id, ExportRecord.of(gadget, held=True))
    assert past.leftovers(stored=False).adopt(another, policy(LAB), past.kernel) == Adopted()


def test_what_an_earlier_release_left_goes_on(past: Past) -> None:
    past.kernel.claimed, past.kernel.status = {"1-1"}, LinkStatus.USED
    file = past.directory / "1-1.json"
    written = json.loads(file.read_text())
    del written["vendor"], written["product"]
    file.write_text(json.dumps(written))
    adopted = past.adopt()
    assert adopted.connection is not None and adopted.link is not None
    adopted.link.close()


def test_what_no_record_tells_of_is_somebody_else_s(past: Past) -> None:
    """``usbip bind`` has it: it is not ours to give back."""
    past.store.remove("1-1")
    past.kernel.claimed = {"1-1"}
    assert past.adopt(stored=False) == Adopted()


def test_what_is_held_stays_so(past: Past) -> None:
    past.store.put("1-1", replace(RECORD, held=True))
    assert past.adopt() == Adopted(held=True)


def test_what_belongs_to_devices_that_are_no_more_goes(past: Past) -> None:
    past.leftovers().forget_the_rest()
    assert past.has_ended and past.is_forgotten


def test_a_device_that_is_not_known_yet_keeps_what_it_has(past: Past) -> None:
    past.kernel.claimed, past.kernel.status = {"1-1"}, LinkStatus.USED
    leftovers = past.leftovers()
    leftovers.forget_the_rest({"1-1"})
    assert not past.has_ended and not past.is_forgotten
    adopted = leftovers.adopt(STICK, policy(LAB), past.kernel)
    assert adopted.connection is not None and adopted.link is not None
    adopted.link.close()
