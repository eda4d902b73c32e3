"""The packages under test, and the bare systems that they are installed in."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp

import pytest

from tests.package.bare import BareSystem

HERE = Path(__file__).parent
SUITES = {"bookworm": "12", "trixie": "13"}


def pytest_addoption(parser: pytest.Parser) -> None:
    try:
        parser.addoption("--debs", metavar="DIR", help="test these packages instead of newly built ones")
    except ValueError:
        pass  # the laboratory has it too, with the same meaning


@pytest.fixture(scope="session")
def debs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The three packages: those of --debs, else built from the tree as it stands."""
    given = request.config.getoption("--debs")
    directory = Path(given).resolve() if given else tmp_path_factory.mktemp("debs")
    if not given:
        subprocess.run([HERE / "build-debs", directory], check=True)
    found = sorted(directory.glob("*.deb"))
    assert [path.name.split("_")[0] for path in found] == ["python3-usbip-agent", "usbip-agent", "usbipa"]
    return found


@pytest.fixture(scope="session")
def place() -> Iterator[Path]:
    """A directory for the roots of systems; device nodes work in it, unlike below some temporary ones."""
    directory = Path(mkdtemp(prefix="usbip-agent-bare-", dir="/var/tmp"))
    yield directory
    rmtree(directory)


@pytest.fixture(scope="session", params=SUITES, ids=[f"debian{number}" for number in SUITES.values()])
def suite(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def bare(suite: str, place: Path) -> Iterator[BareSystem]:
    """A system that nothing was installed in yet."""
    system = BareSystem.unpack(suite, Path(mkdtemp(prefix=suite, dir=place)) / "root")
    yield system
    rmtree(system.root)


@pytest.fixture(scope="session")
def installed(suite: str, place: Path, debs: list[Path]) -> BareSystem:
    """A system with all three packages installed. Tests only look at it."""
    system = BareSystem.unpack(suite, place / f"installed-{suite}")
    install(system, debs)
    return system


def install(system: BareSystem, debs: list[Path]) -> None:
    """What an administrator does."""
    directory = system.path("/root/debs")
    directory.mkdir()
    for deb in debs:
        (directory / deb.name).write_bytes(deb.read_bytes())
    system.install(*(f"/root/debs/{deb.name}" for deb in debs))
