"""Fixtures of the tests that run on real kernels. All of them carry the marker ``lab``."""
from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Iterator, Mapping

import pytest

from . import debs, snapshot
from .machine import QEMU, State
from .pair import Pair
from .report import say

HERE = Path(__file__).parent


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--debs DIR``: test these packages in place of newly built ones."""
    parser.addoption("--debs", metavar="DIR", help="packages to install in the lab's guests")


def pytest_configure(config: pytest.Config) -> None:
    """Declares the marker."""
    config.addinivalue_line("markers", "lab: runs QEMU guests; takes minutes the first time")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks all tests below this directory, and skips them where there is no QEMU."""
    missing = [tool for tool in (QEMU, "mmdebstrap", "qemu-img") if not shutil.which(tool)]
    for item in items:
        if HERE in Path(item.path).parents:
            item.add_marker("lab")
            if missing:
                item.add_marker(pytest.mark.skip(reason=f"no {', '.join(missing)}"))


@pytest.fixture(scope="session")
def packages(pytestconfig: pytest.Config) -> list[Path]:
    """The product's .deb files: of ``--debs`` or ``$USBIP_LAB_DEBS``, else newly built."""
    return debs.find(pytestconfig.getoption("--debs", default=None))


@pytest.fixture(scope="session")
def prepared(packages: list[Path]) -> Mapping[str, State]:
    """Snapshots of a node and a host with the product installed, as ``apt install`` leaves it."""
    return snapshot.prepare({"node": snapshot.Role(debs=debs.pick(packages, debs.NODE)),
                             "host": snapshot.Role(debs=debs.pick(packages, debs.HOST))})


@pytest.fixture(scope="session")
def bare() -> Mapping[str, State]:
    """Snapshots of a node and a host without the product."""
    state = snapshot.booted("trixie")
    return {"node": state, "host": state}


@pytest.fixture
def pair(prepared: Mapping[str, State], request: pytest.FixtureRequest) -> Iterator[Pair]:
    """A fresh node and host with the product, running."""
    yield from running(prepared, request)


@pytest.fixture
def bare_pair(bare: Mapping[str, State], request: pytest.FixtureRequest) -> Iterator[Pair]:
    """A fresh node and host without the product, running."""
    yield from running(bare, request)


def running(states: Mapping[str, State], request: pytest.FixtureRequest) -> Iterator[Pair]:
    """For fixtures: guests for one test, with their evidence kept when it fails."""
    before = request.session.testsfailed
    with Pair(states) as guests:
        guests.start()
        yield guests
        if request.session.testsfailed > before:
            base = os.environ.get("USBIP_LAB_EVIDENCE")
            if base:
                Path(base).mkdir(parents=True, exist_ok=True)
            place = Path(tempfile.mkdtemp(prefix=f"{request.node.name}-".replace("/", "_"),
                                          dir=base))
            guests.dump(place)
            say(f"{request.node.name} failed; journals and kernel logs are in {place}")
