"""The product's packages for the guests: given, or built from a clean copy of the tree."""
from __future__ import annotations

import io
import os
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

from . import cache
from .report import LabError, say, tail

TREE = Path(__file__).resolve().parents[2]
NODE = ("python3-usbip-agent", "usbip-agent")
HOST = ("python3-usbip-agent", "usbipa")


def find(directory: str | Path | None = None) -> list[Path]:
    """All packages of a directory (default ``$USBIP_LAB_DEBS``), or those of the tree, built."""
    chosen = directory or os.environ.get("USBIP_LAB_DEBS")
    debs = sorted(Path(chosen).resolve().glob("*.deb")) if chosen else build()
    if not debs:
        raise LabError(f"no .deb in {chosen}")
    return debs


def pick(debs: list[Path], names: tuple[str, ...]) -> tuple[Path, ...]:
    """The packages of these names, by the file names Debian gives them."""
    return tuple(deb for deb in debs if deb.name.split("_")[0] in names)


def build() -> list[Path]:
    """Runs ``dpkg-buildpackage`` on what git knows of the tree, uncommitted changes included."""
    if not (TREE / "debian/rules").exists():
        raise LabError(f"{TREE} has no debian/rules: give packages with --debs")
    listed = subprocess.run(["git", "-C", str(TREE), "ls-files", "-z", "-c", "-o",
                             "--exclude-standard"], capture_output=True, check=True).stdout
    names = sorted(name for name in listed.decode().split("\0") if name and (TREE / name).is_file())
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name in names:
            archive.add(TREE / name, name, recursive=False)
    # The key ignores file times: the same content is not built twice.
    parts: list[str | Path] = []
    for name in names:
        if not name.startswith("tests/lab/"):
            parts += [name, TREE / name]
    key = cache.digest(*parts)
    return sorted(cache.entry(f"debs-{key}", lambda path: _make(packed, path)).glob("*.deb"))


def _make(packed: io.BytesIO, target: Path) -> None:
    say("building the packages")
    with tempfile.TemporaryDirectory(prefix="usbip-lab-") as place:
        source = Path(place) / "source"
        packed.seek(0)
        with tarfile.open(fileobj=packed) as archive:
            archive.extractall(source)
        log = target / "build.log"
        with log.open("wb") as file:
            done = subprocess.run(["dpkg-buildpackage", "-us", "-uc", "-b"], cwd=source,
                                  stdout=file, stderr=subprocess.STDOUT, check=False,
                                  stdin=subprocess.DEVNULL)
        if done.returncode:
            raise LabError(f"dpkg-buildpackage failed ({done.returncode}):\n{tail(log, 60)}")
        for deb in Path(place).glob("*.deb"):
            shutil.copyfile(deb, target / deb.name)
