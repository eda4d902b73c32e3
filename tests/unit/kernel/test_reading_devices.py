"""Reading a device from sysfs while it changes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest

from usbip_agent.kernel import sysfs
from usbip_agent.kernel.uevents import Action, Uevent, device_of_event, is_hub, read_usb_device

read_number = sysfs.read_number


@pytest.fixture
def stick(tmp_path: Path) -> Path:
    for name, text in {"idVendor": "46f4", "idProduct": "0001", "busnum": "1", "devnum": "7", "speed": "480",
                       "serial": "A"}.items():
        (tmp_path / name).write_text(f"{text}\n")
    return tmp_path


def numbers(monkeypatch: pytest.MonkeyPatch, *said: int) -> None:
    """What ``devnum`` says, one read after the other; then what is in the file."""
    left = list(said)

    def read(attribute: Path, *, base: int = 10) -> int:
        if attribute.name == "devnum" and left:
            return left.pop(0)
        return read_number(attribute, base=base)

    monkeypatch.setattr(sysfs, "read_number", read)


@pytest.mark.parametrize("said", [
    pytest.param([], id="at rest"), pytest.param([0], id="being reset"),
    pytest.param([7, 0], id="a reset begins"), pytest.param([6, 7], id="another comes in its place"),
    pytest.param([0, 0, 7, 0], id="reset twice"),
])
def test_a_device_has_its_number(stick: Path, monkeypatch: pytest.MonkeyPatch, said: Sequence[int]) -> None:
    numbers(monkeypatch, *said)
    found = read_usb_device(stick, "")
    assert found is not None and (found.device_number, found.serial) == (7, "A")


def test_one_that_never_comes_to_rest_is_no_device(stick: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers(monkeypatch, *[0] * 1000)
    assert read_usb_device(stick, "") is None


def test_one_that_is_gone_is_none(tmp_path: Path) -> None:
    assert read_usb_device(tmp_path / "2-1", "") is None


@pytest.mark.parametrize(("node", "initialized", "read"), [
    ("/dev/bus/usb/001/007", True, True), ("/dev/bus/usb/001/007", False, False), (None, False, True)])
def test_what_udev_has_not_seen_is_yet_to_come(
        stick: Path, node: str | None, initialized: bool, read: bool) -> None:
    udev = SimpleNamespace(device_node=node, is_initialized=initialized, properties={"ID_PATH": "usb-0:1"})
    found = device_of_event(Uevent(Action.ADD, stick, "usb", "", udev))
    assert (found is not None and found.path == "usb-0:1") is read


def test_a_hub_is_known_by_its_class(stick: Path) -> None:
    assert not is_hub(stick)
    (stick / "bDeviceClass").write_text("09\n")
    assert is_hub(stick)
