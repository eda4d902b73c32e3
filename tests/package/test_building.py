"""The packages build where they are to build, and lintian has nothing to say."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.package.bare import TOOLS_PATH, BareSystem
from tests.package.conftest import HERE

LINTIAN = ("lintian", "--fail-on=error,warning", "--allow-root")


def test_lintian_is_content(debs: list[Path]) -> None:
    said = subprocess.run([*LINTIAN, *debs], text=True, check=False, capture_output=True,
                          env={"PATH": TOOLS_PATH, "LC_ALL": "C.UTF-8"})
    assert said.returncode == 0, said.stdout + said.stderr


def test_builds_on_a_bare_debian_with_what_it_says_it_needs(bare: BareSystem) -> None:
    """Source and binary packages, with the suite's own tools, and its own lintian on all of them."""
    source = bare.path("/build/usbip-agent")
    subprocess.run([HERE / "copy-tree", source], check=True)
    bare.checked("apt-get", "-q", "-y", "--no-install-recommends", "build-dep", "/build/usbip-agent")
    bare.checked("dpkg-buildpackage", "-us", "-uc", directory="/build/usbip-agent")
    bare.install("lintian")
    changes = next(bare.path("/build").glob("*.changes")).name
    bare.checked(*LINTIAN, f"/build/{changes}")
