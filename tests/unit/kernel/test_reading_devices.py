"""Reading a device from sysfs while it changes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from usbip_agent.kernel import sysfs
from usbip_agent.kernel.uevents import read_usb_device

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
