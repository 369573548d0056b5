"""Heads that were read before: a client's requests differ in their binary data, seldom in their JSON part."""

from __future__ import annotations

from dataclasses import replace

from deeprecsys.serve.protocol.inputs import Inputs, ValidatedRequest
from deeprecsys.serve.protocol.request import Request

KEPT = 1024
LARGEST_BYTES = 1 << 15
_ID = b'{"id":"'  # as clients begin that give each request an id of its own


class HeaderCache:
    """The last heads of all-binary requests, by their bytes without a leading id."""

    def __init__(self) -> None:
        self._kept: dict[bytes, tuple[Inputs, Request, ValidatedRequest]] = {}

    def find(self, inputs: Inputs, head: bytes) -> tuple[Request, ValidatedRequest] | None:
        """What was read of such a head, for the same model's inputs."""
        id_, rest = _split(head)
        found = self._kept.get(rest)
        if found is None or found[0] is not inputs:
            return None
        _, request, fit = found
        if id_ is None:
            return request, fit
        try:
            return replace(request, id=id_.decode()), fit
        except UnicodeDecodeError:
            return None

    def keep(self, inputs: Inputs, head: bytes, request: Request, fit: ValidatedRequest) -> None:
        """Remember a head that was read, unless it holds data itself."""
        if len(head) > LARGEST_BYTES or any(t.size is None for t in request.inputs):
            return
        if len(self._kept) >= KEPT:
            del self._kept[next(iter(self._kept))]
        self._kept[_split(head)[1]] = inputs, request, fit


def _split(head: bytes) -> tuple[bytes | None, bytes]:
    """A leading id that needs no unescaping, and the rest."""
    if head.startswith(_ID):
        end = head.find(b'"', len(_ID))
        id_ = head[len(_ID) : end]
        if end > 0 and b"\\" not in id_ and id_.isascii() and id_.decode().isprintable():
            return id_, head[end:]
    return None, head
