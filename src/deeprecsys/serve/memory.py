"""The memory that clients may claim, over HTTP and gRPC together."""

from __future__ import annotations

from deeprecsys.node.service.backend import Reason, RefusedError

POOL_BYTES = 256 << 20
"""Limit of the memory of all HTTP bodies and gRPC messages that are being read."""
KEPT_BYTES = 64 << 20
"""Limit of the buffers that are kept for reuse: to touch fresh memory costs as much as to copy it."""
_STEP_BYTES = 1 << 18
_WASTE = 8  # a kept buffer may be larger than needed by this factor


class FullError(RefusedError):
    """There is no memory for another request."""

    def __init__(self, most: int) -> None:
        super().__init__(Reason.OVERLOAD, f"bodies that are being read already take {most} bytes", 0.1)


class BufferPool:
    """The memory that requests may take until their values are in their seats.

    Attributes:
        most: limit in bytes; taken: bytes charged now.
    """

    def __init__(self, most: int = POOL_BYTES, kept: int = KEPT_BYTES) -> None:
        self.most, self.taken = most, 0
        self._kept_most, self._kept_bytes = kept, 0
        self._kept: list[bytearray] = []  # the last used at the end: it is likely to be in a cache

    def charge(self, count: int) -> None:
        """Take `count` bytes of the limit.

        Raises:
            FullError: fewer are left.
        """
        if self.taken + count > self.most:
            raise FullError(self.most)
        self.taken += count

    def give(self, count: int) -> None:
        self.taken -= count

    def memory(self, length: int) -> bytearray:
        """A buffer of at least `length` bytes, charged until it is given to `put_back`.

        Raises:
            FullError
        """
        size = -(-length // _STEP_BYTES) * _STEP_BYTES
        for at in range(len(self._kept) - 1, -1, -1):
            if size <= len(self._kept[at]) <= _WASTE * size:
                self.charge(len(self._kept[at]))
                self._kept_bytes -= len(self._kept[at])
                return self._kept.pop(at)
        self.charge(size)
        return bytearray(size)

    def put_back(self, memory: bytearray) -> None:
        self.give(len(memory))
        if len(memory) > self._kept_most:
            return
        self._kept.append(memory)
        self._kept_bytes += len(memory)
        while self._kept_bytes > self._kept_most:
            self._kept_bytes -= len(self._kept.pop(0))
