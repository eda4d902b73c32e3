"""The block devices of a USB device, what stands on them, and keeping them still while it is taken away."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from usbip_agent.blocking import Turn, in_thread, in_turn
from usbip_agent.errors import BusyFault, Fault, KernelFault
from usbip_agent.kernel import sysfs
from usbip_agent.kernel.mounts import PROC, mounts, swaps

DEVICES = Path("/dev")

FLUSH_DEADLINE = 120.0
"""Seconds. A slow stick writes 2 MB/s, and the kernel keeps some hundred MB for it."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Places:
    """Where the kernel's file systems are."""

    sys: Path = sysfs.SYSFS
    proc: Path = PROC
    dev: Path = DEVICES
    run: Path = Path("/run")


@dataclass(frozen=True, slots=True)
class Block:
    """A disk, a partition, or what was made of them (dm-crypt, LVM, md, loop)."""

    name: str
    """The kernel's: ``sda1``, ``dm-0``."""
    number: str
    """``8:1``"""
    node: str
    """What people call it: ``/dev/sda1``, ``/dev/mapper/vault``."""
    part_of: str = ""
    """The name of the disk that it is a partition of."""


@dataclass(frozen=True, slots=True)
class Mounted:
    """A file system on one of the device's blocks."""

    node: str
    where: str


@dataclass(frozen=True, slots=True)
class BlockUsage:
    """What stands on the block devices of a USB device."""

    mounted: tuple[Mounted, ...] = ()
    swaps: tuple[str, ...] = ()
    held: tuple[str, ...] = ()
    """Nodes that the kernel holds for something else: a mount of another namespace, ZFS, a volume group …"""


def blocks_below(directory: Path, places: Places) -> tuple[Block, ...]:
    """The disks and partitions of the USB device in *directory* itself."""
    return tuple(_block(entry, places)
                 for entry in sysfs.class_members(places.sys / "class/block", directory))


def blocks_upon(blocks: Iterable[Block], places: Places) -> tuple[Block, ...]:
    """What was made of *blocks*, and of that in turn."""
    known = {block.name for block in blocks}
    todo, found = sorted(known), []
    while todo:
        name = todo.pop()
        for upper in _made_of(name, places):
            if upper not in known:
                known.add(upper)
                todo.append(upper)
                found.append(_block(places.sys / "class/block" / upper, places))
    return tuple(found)


def block_usage(directory: Path, places: Places) -> BlockUsage:
    """What stands on the USB device in *directory*. Opens its block devices, which a slow one may delay."""
    below = blocks_below(directory, places)
    if not below:
        return BlockUsage()
    upon = blocks_upon(below, places)
    everything = below + upon
    mounted = tuple(_mounted(everything, places))
    swapped = tuple(
        block.node for name in swaps(places.proc) for block in everything if _is(block, name, places))
    used = {each.node for each in mounted} | set(swapped)
    return BlockUsage(mounted, swapped, _held(below, upon, used, places))


def _held(below: tuple[Block, ...], upon: tuple[Block, ...], used: set[str],
          places: Places) -> tuple[str, ...]:
    """What is held by something that nothing in *used* explains.

    A volume group that was assembled but not mounted would lose its ground all the same. A disk is held by
    all who hold its partitions: that says nothing new.
    """
    if used:
        return ()
    if upon:
        return tuple(block.node for block in upon)
    held = [block for block in below if _is_held(block, places)]
    disks = {block.part_of for block in held}
    return tuple(block.node for block in held if block.name not in disks)


def _is_held(block: Block, places: Places) -> bool:
    try:
        os.close(_open(block, places))
    except OSError as error:
        return error.errno == errno.EBUSY
    return False


def _open(block: Block, places: Places, *, alone: bool = True) -> int:
    """The node of *block*, opened *alone* so that nothing mounts it meanwhile: EBUSY when something has.

    O_NONBLOCK lets a drive be that has no disc.
    """
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (os.O_EXCL if alone else 0)
    return os.open(places.dev / block.name.replace("!", "/"), flags)


def _mounted(blocks: tuple[Block, ...], places: Places) -> Iterator[Mounted]:
    seen = set()
    several = _spread_file_systems(blocks, places)
    for mount in mounts(places.proc):
        for block in blocks:
            spread = several.get(block.name, set())
            if (mount.number == block.number or _is(block, mount.source, places)
                    or os.path.basename(mount.source) in spread):
                found = Mounted(block.node, mount.where)
                if found not in seen:
                    seen.add(found)
                    yield found


def _spread_file_systems(blocks: tuple[Block, ...], places: Places) -> dict[str, set[str]]:
    """For each of *blocks* the names of all devices of its btrfs: only one of them is a mount's source."""
    found = {}
    for entry in sysfs.entries(places.sys / "fs/btrfs"):
        members = {each.name for each in sysfs.entries(entry / "devices")}
        found.update({block.name: members for block in blocks if block.name in members})
    return found


def _is(block: Block, path: str, places: Places) -> bool:
    """Whether *path*, as somebody has called a device, is *block*."""
    if not path.startswith("/dev/"):
        return False
    if path in (block.node, f"/dev/{block.name}"):
        return True
    there = places.dev / path.removeprefix("/dev/")
    return there.is_symlink() and there.resolve().name == block.name


def _block(entry: Path, places: Places) -> Block:
    name = entry.name
    mapped = sysfs.read_text(entry / "dm/name")
    parent = entry.resolve().parent.name if (entry / "partition").exists() else ""
    node = f"/dev/mapper/{mapped}" if mapped else f"/dev/{name.replace('!', '/')}"
    return Block(name, sysfs.read_text(entry / "dev"), node, parent)


def _made_of(name: str, places: Places) -> Iterator[str]:
    """The names of what stands directly on *name*: holders, partitions, loop devices that read it."""
    directory = places.sys / "class/block" / name
    yield from (entry.name for entry in sysfs.entries(directory / "holders"))
    yield from (entry.name for entry in sysfs.entries(directory) if (entry / "partition").exists())
    for loop in sysfs.entries(places.sys / "class/block"):
        if loop.name.startswith("loop") and sysfs.read_text(loop / "loop/backing_file") == f"/dev/{name}":
            yield loop.name


class Stillness:
    """The block devices of a USB device: nothing is left to write, and nothing can mount them."""

    def __init__(self, descriptors: list[int]) -> None:
        self._descriptors = descriptors

    async def end(self) -> None:
        """Lets go of them. After the device was taken away they are gone anyway."""
        if self._descriptors:
            try:
                await in_thread("let go of disks", self.close)
            except Fault as fault:
                log.warning("%s", fault)

    def close(self) -> None:
        """Lets go of them, and waits where the kernel still tries to reach the device."""
        while self._descriptors:
            os.close(self._descriptors.pop())


async def keep_still(directory: Path, places: Places = Places()) -> Stillness:
    """Brings to the USB device in *directory* what was written to it, and keeps everybody from mounting it.

    From here to ``end`` the answer of a look at its usage holds: so look before (for the reason), keep still,
    take the device. BusyFault when something was faster; KernelFault when what was written is lost already;
    DeadlineFault.
    """
    return await in_turn("flush", directory.name, lambda turn: _stillness_of(directory, places, turn),
                         deadline=FLUSH_DEADLINE)


async def _stillness_of(directory: Path, places: Places, turn: Turn) -> Stillness:
    stillness = await in_thread(
        f"flush {directory.name}", lambda: _keep_still(directory, places), deadline=None)
    if turn.given_up:  # else the device would be in use for ever, by us
        await in_thread(f"close {directory.name}", stillness.close, deadline=None)
    return stillness


async def flush(directory: Path, places: Places = Places()) -> None:
    """Brings to the USB device in *directory* what was written to it, mounted or not, as well as it goes.

    For a device that is taken although something uses it. It keeps nobody out. DeadlineFault.
    """
    await in_turn("flush", directory.name, lambda turn: in_thread(
        f"flush {directory.name}", lambda: _flush(directory, places), deadline=None), deadline=FLUSH_DEADLINE)


def _flush(directory: Path, places: Places) -> None:
    blocks = blocks_below(directory, places)
    if not blocks:
        return
    os.sync()  # file systems first: what they still have goes to the block devices
    for block in blocks:
        try:
            descriptor = _open(block, places, alone=False)
        except OSError:
            continue  # no disc, or not allowed: then sync has done what can be done
        try:
            os.fsync(descriptor)
        except OSError as error:
            log.warning("%s: what was written does not arrive: %s", block.node, error.strerror)
        finally:
            os.close(descriptor)


def _keep_still(directory: Path, places: Places) -> Stillness:
    blocks = blocks_below(directory, places)
    stillness = Stillness([])
    try:
        descriptors, unopened = _open_all(blocks, places)
        stillness = Stillness(descriptors)
        for descriptor in descriptors:
            os.fsync(descriptor)
    except OSError as error:
        stillness.close()
        nodes = ", ".join(block.node for block in blocks)
        if error.errno == errno.EBUSY:
            raise BusyFault(f"{nodes}: something has just begun to use it") from None
        reason = os.strerror(error.errno or errno.EIO)
        raise KernelFault(
            f"{nodes}: what was written does not arrive: {reason}", errno=error.errno or errno.EIO) from None
    if unopened:
        os.sync()
    return stillness


def _open_all(blocks: Iterable[Block], places: Places) -> tuple[list[int], bool]:
    """Every block device opened, and whether there are some that cannot be.

    Whoever has a partition alone keeps others from the whole disk, himself included: disks that have
    partitions are opened beside them.
    """
    descriptors: list[int] = []
    unopened = False
    disks = {block.part_of for block in blocks}
    for block in blocks:
        try:
            descriptors.append(_open(block, places, alone=block.name not in disks))
        except OSError as error:
            if error.errno == errno.EBUSY:
                Stillness(descriptors).close()
                raise
            if error.errno not in (errno.ENOMEDIUM, errno.ENOENT, errno.ENXIO, errno.ENODEV):
                log.debug("%s: %s", block.node, os.strerror(error.errno or 0))
                unopened = True
    return descriptors, unopened
