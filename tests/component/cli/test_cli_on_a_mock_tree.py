"""``list`` and ``explain`` on a tree of USB devices that umockdev makes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]

# A root hub, a serial adapter, a device that the stub has, and one that is itself imported.
TREE = """\
P: /devices/pci0000:00/0000:00:14.0/usb1
E: DEVTYPE=usb_device
E: SUBSYSTEM=usb
A: idVendor=1d6b\\n
A: idProduct=0002\\n
A: busnum=1\\n
A: devnum=1\\n
A: bDeviceClass=09\\n
A: speed=480\\n

P: /devices/pci0000:00/0000:00:14.0/usb1/1-4
E: DEVTYPE=usb_device
E: ID_PATH=pci-0000:00:14.0-usb-0:4
E: SUBSYSTEM=usb
A: idVendor=10c4\\n
A: idProduct=ea60\\n
A: busnum=1\\n
A: devnum=7\\n
A: bDeviceClass=00\\n
A: speed=12\\n
A: serial=01A7\\n
A: manufacturer=Silicon Labs\\n
A: product=CP2102\\n
L: driver=../../../../../bus/usb/drivers/usb

P: /devices/pci0000:00/0000:00:14.0/usb1/1-4/1-4:1.0
E: DEVTYPE=usb_interface
E: SUBSYSTEM=usb
A: bInterfaceClass=ff\\n
L: driver=../../../../../../bus/usb/drivers/cp210x

P: /devices/pci0000:00/0000:00:14.0/usb1/1-10
E: DEVTYPE=usb_device
E: SUBSYSTEM=usb
A: idVendor=dead\\n
A: idProduct=beef\\n
A: busnum=1\\n
A: devnum=8\\n
A: bDeviceClass=00\\n
A: speed=480\\n
A: product=\\033[2Jowned\\n
L: driver=../../../../../bus/usb/drivers/usbip-host

P: /devices/platform/vhci_hcd.0/usb4/4-1
E: DEVTYPE=usb_device
E: SUBSYSTEM=usb
A: idVendor=0781\\n
A: idProduct=5567\\n
A: busnum=4\\n
A: devnum=2\\n
A: bDeviceClass=00\\n
A: speed=480\\n
"""

CONFIGURATION = """\
version: 1
hosts: {lab: {address: 192.0.2.1, transport: plain}}
rules:
  - {name: stick, match: {vendor: 10c4, path: "pci-*"}, connect: lab}
"""


@pytest.fixture
def configuration(tmp_path: Path) -> Path:
    file = tmp_path / "agent.yaml"
    file.write_text(CONFIGURATION)
    return file


def run(tmp_path: Path, *words: str | Path) -> subprocess.CompletedProcess[str]:
    tree = tmp_path / "tree.umockdev"
    tree.write_text(TREE)
    return subprocess.run(
        ["umockdev-run", "-d", tree, "--", sys.executable, "-m", "usbip_agent.cli.agent", *words], cwd=ROOT,
        env={**os.environ, "DBUS_SYSTEM_BUS_ADDRESS": f"unix:path={tmp_path}/no-bus"},
        capture_output=True, text=True, timeout=60)


def test_list(tmp_path: Path, configuration: Path) -> None:
    said = run(tmp_path, "list", "--json", "--config", configuration)
    assert (said.returncode, said.stderr) == (0, "")
    stick, other = json.loads(said.stdout)["devices"]
    assert (stick["bus_id"], stick["drivers"], stick["verdict"]) == ("1-4", ["cp210x"], "connect to lab")
    assert (stick["path"], stick["serial"]) == ("pci-0000:00:14.0-usb-0:4", "01A7")
    assert (other["bus_id"], other["drivers"], other["verdict"]) == ("1-10", ["usbip-host"], "ignore")


def test_list_for_people(tmp_path: Path, configuration: Path) -> None:
    said = run(tmp_path, "list", "--config", configuration)
    assert said.stdout.splitlines()[:2] == [
        " - busid 1-4 (10c4:ea60)", "   Silicon Labs : CP2102 (10c4:ea60)"]
    assert "owned" in said.stdout and "\x1b" not in said.stdout


@pytest.mark.parametrize(("bus_id", "end"), [
    ("1-4", 'connect to lab (by "stick")'), ("1-10", "ignore (by the default)"),
    ("4-1", "but it is itself imported, and never exported")])
def test_explain(tmp_path: Path, configuration: Path, bus_id: str, end: str) -> None:
    said = run(tmp_path, "explain", bus_id, "--config", configuration)
    assert (said.returncode, said.stdout.splitlines()[-1]) == (0, end)
