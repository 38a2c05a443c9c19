"""What did not change between two clones of a file, by the file system's own maps (FIEMAP).

A block of the newer clone has the bytes of the older one where both maps name the same physical place. That is so only
while the older clone exists and pins its extents: a freed one can come back with other bytes. So both maps are read
from the files themselves, never from a stored list, the older one again after the newer, and the older file must be
the sealed one (``Seal``). Whatever is not certain counts as changed and is read.

Source: Documentation/filesystems/fiemap.rst, include/uapi/linux/fiemap.h.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import struct
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FS_IOC_FIEMAP = 0xC020660B
FIEMAP_FLAG_SYNC = 0x1  # dirty pages get their place on the disk before the map is read
EXTENTS_A_CALL = 4096  # 56 bytes each

# Flags of an extent (fiemap.h). A place named by a map with one of the unsure ones proves nothing about bytes.
EXTENT_LAST = 0x0001
EXTENT_SHARED = 0x2000
SURE = (
    EXTENT_LAST | EXTENT_SHARED
)  # anything else: unknown, delayed, encoded, encrypted, inline, tail, unwritten, merged

_HEADER = struct.Struct("=QQIIII")
_EXTENT = np.dtype(
    [("logical", "<u8"), ("physical", "<u8"), ("length", "<u8"), ("_", "<u8", 2), ("flags", "<u4"), ("__", "<u4", 3)]
)
# f_type of statfs(2), from magic.h. Elsewhere a physical place need not be one place: bcachefs counts on each device
# from the start, on OCFS2 other machines write.
_MAPS_UNDERSTOOD = (0x58465342, 0x9123683E)  # XFS, btrfs
_LIBC = ctypes.CDLL(None, use_errno=True)

Extents = npt.NDArray[np.void]  # of _EXTENT, in the file's order


class NoMap(Exception):
    """The file system gives no map of this file. Read everything instead."""


@dataclass(frozen=True, slots=True)
class Seal:
    """What tells a clone that nobody touched since it was made."""

    device: int
    inode: int
    changed_ns: int
    size_bytes: int

    @classmethod
    def of(cls, descriptor: int) -> Seal:
        return cls.of_status(os.fstat(descriptor))

    @classmethod
    def of_status(cls, status: os.stat_result) -> Seal:
        return cls(status.st_dev, status.st_ino, status.st_ctime_ns, status.st_size)


def extents(descriptor: int) -> Extents:
    """The whole map of a file, as it is on the disk now. ``NoMap`` where the file system has none."""
    size = _HEADER.size + EXTENTS_A_CALL * _EXTENT.itemsize
    buffer = bytearray(size)
    parts: list[Extents] = []
    at = 0
    while True:
        _HEADER.pack_into(buffer, 0, at, 0xFFFF_FFFF_FFFF_FFFF - at, FIEMAP_FLAG_SYNC, 0, EXTENTS_A_CALL, 0)
        try:
            fcntl.ioctl(descriptor, FS_IOC_FIEMAP, buffer, True)
        except OSError as error:
            raise NoMap(str(error.strerror)) from error
        mapped = _HEADER.unpack_from(buffer)[3]
        if not mapped:
            break
        part = np.frombuffer(buffer, _EXTENT, mapped, _HEADER.size).copy()
        parts.append(part)
        last = part[-1]
        if int(last["flags"]) & EXTENT_LAST:
            break
        at = int(last["logical"]) + int(last["length"])
    return np.concatenate(parts) if parts else np.empty(0, _EXTENT)


def own_bytes(descriptor: int) -> int:
    """Bytes on the disk that only this file has."""
    found = extents(descriptor)
    return int(found["length"][(found["flags"] & EXTENT_SHARED) == 0].sum())


def unchanged_blocks(older: int, newer: int, seal: Seal, block_bytes: int) -> npt.NDArray[np.bool_]:
    """For each block of the file ``newer``: True where the file ``older`` surely holds the same bytes.

    Both are open descriptors of clones; ``seal`` is what ``older`` was when it was made. All False where anything
    casts doubt: another device or inode, a change since, a map that moved while it was looked at. ``NoMap``: of a file
    system whose maps nobody has held against its bytes.
    """
    if _file_system(newer) not in _MAPS_UNDERSTOOD:
        raise NoMap("this file system's maps are not known to prove anything")
    new_size = os.fstat(newer).st_size
    count = -(-new_size // block_bytes)
    nothing = np.zeros(count, np.bool_)
    if Seal.of(older) != seal or os.fstat(newer).st_dev != seal.device:
        return nothing
    before = extents(older)
    now = extents(newer)
    same = same_places(before, now)
    if not np.array_equal(extents(older), before) or Seal.of(older) != seal:
        return nothing
    return whole_blocks(same, seal.size_bytes, new_size, block_bytes)


def _file_system(descriptor: int) -> int:
    buffer = ctypes.create_string_buffer(256)  # struct statfs begins with its type, a word
    if _LIBC.fstatfs(descriptor, buffer) != 0:
        return 0
    return ctypes.c_ulong.from_buffer(buffer).value & 0xFFFF_FFFF


def same_places(one: Extents, other: Extents) -> npt.NDArray[np.int64]:
    """Stretches of the files, ``[[start, end], ...]`` in order, where both maps name the same physical place, surely.

    Pure. Neighbouring stretches are joined.
    """
    one, other = _sure(one), _sure(other)
    if not len(one) or not len(other):
        return np.empty((0, 2), np.int64)
    # cut both maps at every edge of either; then each piece lies in at most one extent of each
    edges = np.unique(np.concatenate([_edges(one), _edges(other)]))
    starts, ends = edges[:-1], edges[1:]
    shift_one, shift_other = _shift_at(one, starts), _shift_at(other, starts)
    equal = (shift_one == shift_other) & (shift_one != _NOWHERE)
    starts, ends = starts[equal], ends[equal]
    if not len(starts):
        return np.empty((0, 2), np.int64)
    apart = np.flatnonzero(starts[1:] != ends[:-1])
    first = np.concatenate([[0], apart + 1])
    last = np.concatenate([apart, [len(starts) - 1]])
    return np.stack([starts[first], ends[last]], axis=1)


def whole_blocks(
    stretches: npt.NDArray[np.int64], old_size: int, new_size: int, block_bytes: int
) -> npt.NDArray[np.bool_]:
    """Which blocks lie wholly inside one stretch; one cut off by the file's end needs the same end in both. Pure."""
    count = -(-new_size // block_bytes)
    starts = np.arange(count, dtype=np.int64) * block_bytes
    ends = np.minimum(starts + block_bytes, new_size)
    if not len(stretches) or not count:
        return np.zeros(count, np.bool_)
    at = np.searchsorted(stretches[:, 0], starts, side="right") - 1
    inside = (at >= 0) & (stretches[np.maximum(at, 0), 1] >= ends)
    # beyond the old end the extent's last block may hold anything
    full = (ends <= old_size) & ((ends - starts == block_bytes) | (old_size == new_size))
    whole: npt.NDArray[np.bool_] = inside & full
    return whole


_NOWHERE = np.iinfo(np.int64).min


def _sure(found: Extents) -> Extents:
    sure: Extents = found[(found["flags"] & ~np.uint32(SURE)) == 0]
    return sure


def _edges(found: Extents) -> npt.NDArray[np.int64]:
    start = found["logical"].astype(np.int64)
    return np.concatenate([start, start + found["length"].astype(np.int64)])


def _shift_at(found: Extents, places: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Physical minus logical position at each place; ``_NOWHERE`` outside all extents."""
    start = found["logical"].astype(np.int64)
    end = start + found["length"].astype(np.int64)
    shift = found["physical"].astype(np.int64) - start
    at = np.searchsorted(start, places, side="right") - 1
    inside = (at >= 0) & (places < end[np.maximum(at, 0)])
    return np.where(inside, shift[np.maximum(at, 0)], _NOWHERE)
