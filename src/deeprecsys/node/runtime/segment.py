"""Anonymous shared memory on huge pages: a memfd has no name to leak and no mount's limit.

Measured ways to huge pages that are also shared are in docs/design/0004-shared-memory.md.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

HUGE = 2 << 20
_MADV_HUGEPAGE, _MADV_COLLAPSE = 14, 25
_MAP_FIXED, _MAP_POPULATE, _MAP_NORESERVE = 0x10, 0x8000, 0x4000
_PART = 64 << 20
_FAILED = ctypes.c_void_p(-1).value

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


def round_up(n: int, to: int) -> int:
    return -(-n // to) * to


class Segment:
    """A block of anonymous shared memory, and this process's 2 MB-aligned map of it.

    The process that creates a segment passes `fd` to its children, which attach to it. Closing drops
    this process's map and descriptor; the memory goes when the last process has dropped it.

    Args:
        fd: descriptor of the memory.
        size: bytes, as created.
        writable: whether this map may be written; a write to a read-only map is a fault.
    """

    def __init__(self, fd: int, size: int, writable: bool) -> None:
        self.fd, self.size = fd, size
        self._mapped = round_up(max(size, 1), HUGE)
        self._address = _map_aligned(fd, self._mapped, writable)
        self.writable = writable
        self._holders, self._lock = 1, threading.Lock()

    @classmethod
    def create(cls, name: str, size: int) -> Segment:
        """New zeroed memory of `size` bytes, advised onto huge pages where the kernel grants them."""
        fd = os.memfd_create(f"deeprecsys-{name}", os.MFD_CLOEXEC)
        try:
            os.ftruncate(fd, round_up(max(size, 1), HUGE))
            segment = cls(fd, size, writable=True)
        except OSError:
            os.close(fd)
            raise
        _libc.madvise(segment._address, segment._mapped, _MADV_HUGEPAGE)
        return segment

    def collapse(self) -> None:
        """Ask for huge pages once more, for memory that will be filled or is; refusal is no error.

        Before it is filled it costs least: nothing is copied, and the writes fault once per 2 MB. A huge
        page is made of what is there, so one small page of each is touched. Several threads share the
        work: where a host must find the memory first, that is what a start waits for.
        """
        content = self.array(np.uint8, (self.size,))

        def part(at: int) -> None:
            content[at : at + _PART : HUGE] |= 0
            _libc.madvise(self._address + at, min(_PART, self._mapped - at), _MADV_COLLAPSE)

        with ThreadPoolExecutor(min(len(os.sched_getaffinity(0)), 8)) as pool:
            for _ in pool.map(part, range(0, self._mapped, _PART)):
                pass

    @property
    def memory(self) -> ctypes.Array[ctypes.c_char]:
        """The bytes, without a copy; alive only while the segment is open."""
        return (ctypes.c_char * self.size).from_address(self._address)

    def array(self, dtype: Any, shape: tuple[int, ...], offset: int = 0) -> NDArray[Any]:
        """An array over part of the memory, without a copy."""
        return np.ndarray(shape, dtype, memoryview(self.memory).cast("B"), offset)

    def words(self) -> memoryview:
        """The memory as signed 64-bit words: scalar access far cheaper than an array's."""
        return memoryview(self.memory).cast("B").cast("q")

    def huge_fraction(self) -> float:
        """Share of this map that sits on huge pages right now."""
        return huge_bytes(self._address, self._mapped) / self._mapped

    def share(self) -> Segment:
        """This segment for one holder more, each of which closes it."""
        with self._lock:
            self._holders += 1
        return self

    def close(self) -> None:
        """Drop the map and the descriptor, as the last holder. Views must not be used afterwards."""
        with self._lock:
            self._holders -= 1
            last = self._holders <= 0
        if last and self._address:
            _libc.munmap(self._address, self._mapped)
            os.close(self.fd)
            self._address = 0


def _map_aligned(fd: int, size: int, writable: bool) -> int:
    """Map at a 2 MB boundary: other maps of a memfd never get huge pages."""
    anonymous = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE
    reserved = _libc.mmap(None, size + HUGE, 0, anonymous, -1, 0)
    if reserved == _FAILED:
        raise OSError(ctypes.get_errno(), f"cannot reserve {size} bytes of address space")
    start = round_up(reserved, HUGE)
    if start > reserved:
        _libc.munmap(reserved, start - reserved)
    _libc.munmap(start + size, reserved + HUGE - start)
    access = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
    # A reader fills in its page table at once: no page faults in the first batches.
    flags = mmap.MAP_SHARED | _MAP_FIXED | (0 if writable else _MAP_POPULATE)
    address = _libc.mmap(start, size, access, flags, fd, 0)
    if address == _FAILED:
        raise OSError(ctypes.get_errno(), f"cannot map {size} bytes of shared memory")
    return int(address)


def huge_bytes(address: int, size: int) -> int:
    """Bytes of this process's map [address, address + size) that are on huge pages, from smaps."""
    total, inside = 0, False
    with open("/proc/self/smaps") as smaps:
        for line in smaps:
            head = line.split(maxsplit=1)[0]
            if "-" in head and not head.endswith(":"):
                low, high = (int(x, 16) for x in head.split("-"))
                inside = low < address + size and high > address
            elif inside and head == "ShmemPmdMapped:":
                total += 1024 * int(line.split()[1])
    return total
