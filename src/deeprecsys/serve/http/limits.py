"""Limits of what HTTP clients may claim: times, connections, bytes of a head and of a body's framing."""

from __future__ import annotations

import functools
import resource
from dataclasses import dataclass

FIRST_S = 30.0
"""How long a connection may idle before its first request."""
HEAD_S = 20.0
"""How long a head may take from its first byte; and the rest of a body whose request is answered already."""
KEEP_ALIVE_S = 75
"""How long a connection may idle after a reply."""
LINGER_S, MOST_DROPPED = 1.0, 1 << 24
"""How long, and how many bytes, a connection drops of what its client still sends after its last reply."""
WRITE_S = 30.0
"""How long a client may leave a reply unread."""
MOST_CONNECTIONS, RESERVED_CONNECTIONS = 2048, 32
"""Beyond the first number an idle connection is closed for each new one, preferably one that has made no
request or is within the head of its next. Where none is idle, the reserved ones take health checks and
metrics alone."""
RESERVED_S = 2.0
"""How long a reserved connection may idle before its one request."""
RESERVED_FOR = (b"/v2/health/", b"/metrics", b"/live.json")
MOST_HEAD_BYTES, MOST_URL_BYTES = 1 << 15, 1 << 13
MOST_FRAMING_BYTES = 1 << 16
"""Bytes of a chunked body that are no data (sizes, extensions, trailers), beyond 8 for each byte of data."""
MOST_PIPELINED = 4
"""Requests of one connection that wait for the one before them. What follows is neither parsed nor read."""
_STEP, _CHUNK_STEP = 1024, 4096

Refusal = tuple[int, str]
"""Status and message."""


@functools.cache
def most_connections() -> int:
    """`MOST_CONNECTIONS`, or half the descriptors that the process may have where that is less."""
    return min(MOST_CONNECTIONS, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2)


@dataclass(slots=True)
class Meter:
    """Counts the bytes of a connection's requests as they are parsed.

    Attributes:
        in_head: whether a head is being parsed, or awaited.
        head_bytes: of the head so far.
        body_left: of a body of known length; chunked: whether it is of another.
        ended: whether a request has ended within what was parsed last.
    """

    in_head: bool = True
    head_bytes: int = 0
    body_left: int = 0
    chunked: bool = False
    ended: bool = False
    _framing: int = 0

    def head_ended(self, length: int) -> None:
        """A head is complete; its body has a length, or 0."""
        self.in_head, self.head_bytes, self.body_left = False, 0, length
        self.chunked, self._framing = not length, 0

    def chunk(self, count: int) -> None:
        """Bytes of data have come of a chunked body."""
        self._framing = max(self._framing - 9 * count, -16 * MOST_FRAMING_BYTES)

    def request_ended(self) -> None:
        self.in_head = self.ended = True
        self.body_left = 0

    def step(self, count: int) -> int:
        """How many of the next `count` bytes to parse at once: few, as several requests may lie in them."""
        return min(count, _STEP if self.in_head else _CHUNK_STEP)

    def parsed(self, count: int, url_bytes: int) -> Refusal | None:
        """Count bytes that were parsed of a head or a chunked body; why they are too many, if they are."""
        if self.in_head:
            self.head_bytes += count
            if url_bytes > MOST_URL_BYTES:
                return 414, f"path: expected at most {MOST_URL_BYTES} bytes, got more"
            if self.head_bytes > MOST_HEAD_BYTES:
                return 431, f"headers: expected at most {MOST_HEAD_BYTES} bytes, got more"
        elif self.chunked:
            self._framing += count
            if self._framing > MOST_FRAMING_BYTES:
                return 400, "body: expected data in its chunks, got extensions or trailers"
        return None
