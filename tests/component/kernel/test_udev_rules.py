"""The rules file: whole, only when it changes, and udev is told."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from usbip_agent.errors import KernelFault
from usbip_agent.kernel.udev_rules import CLAIMS, UdevRules, mend_marks

TEXT = '# rules\nLABEL="x"\n'


def told(directory: Path) -> int:
    """How often udev was told."""
    log = directory / "told"
    return len(log.read_text(encoding="ascii").splitlines()) if log.exists() else 0


def rules_in(directory: Path) -> UdevRules:
    command = directory / "reload"
    command.write_text(f"#!/bin/sh\necho told >>{directory}/told\n", encoding="ascii")
    command.chmod(0o755)
    return UdevRules(directory / "rules.d", reload=[str(command)])


async def test_written_when_changed_and_removed_when_empty(tmp_path: Path) -> None:
    rules, file = rules_in(tmp_path), tmp_path / "rules.d" / CLAIMS
    assert not await rules.put("")
    assert (told(tmp_path), file.exists()) == (0, False)
    assert await rules.put(TEXT)
    assert (told(tmp_path), file.read_text(encoding="utf-8")) == (1, TEXT)
    assert stat.S_IMODE(file.stat().st_mode) == 0o644
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o755
    written = file.stat().st_mtime_ns, file.stat().st_ino
    assert not await rules.put(TEXT)
    assert (told(tmp_path), (file.stat().st_mtime_ns, file.stat().st_ino)) == (1, written)
    assert await rules.put(TEXT + "#\n")
    assert await rules.put("")
    assert (told(tmp_path), list(file.parent.iterdir())) == (3, [])


async def test_a_udev_that_is_not_there_changes_nothing(tmp_path: Path) -> None:
    rules = UdevRules(tmp_path, reload=["/nonexistent/udevadm"])
    assert await rules.put(TEXT)
    assert (tmp_path / CLAIMS).read_text(encoding="utf-8") == TEXT


async def test_a_udev_that_says_no_changes_nothing(tmp_path: Path) -> None:
    assert await UdevRules(tmp_path, reload=["false"]).put(TEXT)


async def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="ascii")
    with pytest.raises(KernelFault, match=f"writing {tmp_path}/file/rules.d/{CLAIMS}: Not a directory"):
        await UdevRules(tmp_path / "file" / "rules.d", reload=["true"]).put(TEXT)


async def test_the_whole_device_is_looked_at_again_and_not_its_neighbours(tmp_path: Path) -> None:
    device = tmp_path / "usb1/1-1"
    inside = [device, device / "1-1:1.0", device / "1-1:1.0/host0/block/sda"]
    for directory in [*inside, device / "1-1.2", device / "1-1:1.0/power"]:
        directory.mkdir(parents=True)
        (directory / "uevent").touch()
        if directory.name != "power":
            (directory / "subsystem").symlink_to(tmp_path)
    (device / "dev").write_text("189:1\n", encoding="ascii")
    (device / "1-1.2/idVendor").touch()
    (device / "1-1:1.0/gone").symlink_to(tmp_path / "nowhere")
    (tmp_path / "1-1").symlink_to(device)
    await mend_marks("MARK", {tmp_path / "1-1": True, tmp_path / "gone": True}, tmp_path)
    assert changed(tmp_path) == sorted(inside)


@pytest.mark.parametrize(("record", "should_be", "mended"), [
    ("E:MARK=1\n", True, False), ("I:1\nE:MARK=1\nG:x\n", False, True), ("", False, False),
    ("E:MARK=0\n", True, True), ("E:OTHER_MARK=1\nE:MARK=10\n", False, False),
])
async def test_only_what_is_marked_wrongly(
        record: str, should_be: bool, mended: bool, tmp_path: Path) -> None:
    device = tmp_path / "1-1"
    device.mkdir()
    (device / "subsystem").symlink_to(tmp_path)
    (device / "uevent").touch()
    (device / "dev").write_text("189:1\n", encoding="ascii")
    (tmp_path / "c189:1").write_text(record, encoding="ascii")
    await mend_marks("MARK", {device: should_be}, tmp_path)
    assert changed(tmp_path) == ([device] if mended else [])


def changed(directory: Path) -> list[Path]:
    """The devices that have had an event."""
    return sorted(file.parent for file in directory.rglob("uevent") if file.read_text(encoding="ascii"))
