"""Tensors in a file of the safetensors format: 8 bytes, the length of a head; the head, JSON; data.

Nothing in such a file is run. It is read, never mapped: a file that shrinks meanwhile is an error and no
fault. No torch here, so that a node reads weights without it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deeprecsys.core.errors import InputError, shown
from deeprecsys.files import first_line, parse_json

MOST_HEAD_BYTES, MOST_RANK, MOST_NUMBERS = 16 << 20, 8, 1 << 48
_PIECE_BYTES = 8 << 20
_DTYPES: dict[str, np.dtype[Any]] = {
    "F16": np.dtype("<f2"), "F32": np.dtype("<f4"), "F64": np.dtype("<f8"), "BF16": np.dtype("<u2"),
    "I32": np.dtype("<i4"), "I64": np.dtype("<i8"),
}  # fmt: skip
FLOATS, WHOLE = ("F16", "F32", "F64", "BF16"), ("I32", "I64")


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """Where a tensor lies in a file: `offset` from the file's beginning, in bytes."""

    datatype: str
    shape: tuple[int, ...]
    offset: int
    size: int


class TensorFile:
    """The tensors of an open file, which stays the caller's to close.

    Args:
        fd: of the file; where: what names it in errors.

    Attributes:
        tensors: by key.

    Raises:
        InputError: it is no such file, or has less than its head says.
    """

    def __init__(self, fd: int, where: str) -> None:
        self.fd, self.where = fd, where
        try:
            self.tensors = _tensors(fd, os.fstat(fd).st_size)
        except (OSError, ValueError) as e:
            raise InputError(
                f"{where}: expected a file of tensors (safetensors), got: {first_line(e)}"
            ) from e

    def read(self, key: str, shape: tuple[int | None, ...], kinds: Collection[str] = FLOATS) -> NDArray[Any]:
        """A tensor in memory: float32 of floating-point numbers, int64 of whole ones.

        Args:
            shape: expected; None takes any length.

        Raises:
            InputError: there is none, or it has another shape or kind, or the file became shorter.
        """
        found = self.expect(key, shape, kinds)
        out = np.empty(found.shape, np.float32 if found.datatype in FLOATS else np.int64)
        self._copy(key, found, out)
        return out

    def read_into(self, key: str, out: NDArray[np.float32]) -> None:
        """Write a floating-point tensor over an array of its shape, C-contiguous. Raises as `read`."""
        self._copy(key, self.expect(key, out.shape), out)

    def expect(
        self, key: str, shape: tuple[int | None, ...], kinds: Collection[str] = FLOATS
    ) -> StoredTensor:
        """A tensor of that shape and kind. Raises as `read`."""
        found = self.tensors.get(key)
        if found is None:
            raise InputError(f"{self.where}: expected a key {key!r}, got {listed(self.tensors)}")
        fits = len(found.shape) == len(shape) and all(
            n in (None, m) for n, m in zip(shape, found.shape, strict=True)
        )
        if not fits or found.datatype not in kinds:
            wanted = ["any" if n is None else n for n in shape]
            raise InputError(
                f"{self.where}: {key!r}: expected {'/'.join(kinds)} {wanted}, got {found.datatype} "
                f"{list(found.shape)}"
            )
        return found

    def all_of(self) -> dict[str, NDArray[Any]]:
        """Every tensor, as `read` gives it."""
        return {key: self.read(key, t.shape, _DTYPES) for key, t in self.tensors.items()}

    def copy_of(self, keys: Iterable[str]) -> bytes:
        """A file with some of the tensors."""
        head, data = {}, []
        at = 0
        for key in keys:
            t = self.tensors[key]
            head[key] = {"dtype": t.datatype, "shape": t.shape, "data_offsets": [at, at + t.size]}
            raw = bytearray(t.size)
            self._pread(key, memoryview(raw), t.offset)
            data.append(bytes(raw))
            at += t.size
        text = json.dumps(head).encode()
        return len(text).to_bytes(8, "little") + text + b"".join(data)

    def _copy(self, key: str, found: StoredTensor, out: NDArray[Any]) -> None:
        """Read piece by piece; one that is stored as it is wanted without a copy."""
        flat, kind = out.reshape(-1), _DTYPES[found.datatype]
        step = _PIECE_BYTES // kind.itemsize
        for at in range(0, flat.size, step):
            into = flat[at : at + step]
            plain = kind == into.dtype
            raw: NDArray[Any] = into if plain else np.empty(len(into), kind)
            self._pread(key, raw.view(np.uint8).data, found.offset + at * kind.itemsize)
            if found.datatype == "BF16":
                into.view(np.uint32)[...] = raw.astype(np.uint32) << np.uint32(16)
            elif not plain:
                with np.errstate(over="ignore"):
                    into[...] = raw

    def _pread(self, key: str, into: memoryview, offset: int) -> None:
        while len(into):
            try:
                count = os.preadv(self.fd, [into[:_PIECE_BYTES]], offset)
            except OSError as e:
                raise InputError(f"{self.where}: {key!r}: expected its data, got: {first_line(e)}") from e
            if not count:
                raise InputError(f"{self.where}: {key!r}: expected its data, got the end of the file")
            into, offset = into[count:], offset + count


def _tensors(fd: int, size: int) -> dict[str, StoredTensor]:
    """The head of a file of `size` bytes; ValueError if it is none."""
    length = int.from_bytes(os.pread(fd, 8, 0), "little")
    if not 2 <= length <= min(MOST_HEAD_BYTES, size - 8):
        raise ValueError(f"a head of {length} bytes in a file of {size}")
    doc = parse_json(os.pread(fd, length, 8))
    if not isinstance(doc, dict):
        raise ValueError("a head that is no JSON object")
    doc.pop("__metadata__", None)
    return {key: _tensor(key, entry, 8 + length, size) for key, entry in doc.items()}


def _tensor(key: str, entry: Any, begin: int, size: int) -> StoredTensor:
    wrong = ValueError(f"{shown(key)}: {shown(entry)}")
    if not isinstance(entry, dict):
        raise wrong
    datatype, shape, at = (entry.get(name) for name in ("dtype", "shape", "data_offsets"))
    if not isinstance(shape, list) or not isinstance(at, list) or len(at) != 2:
        raise wrong
    if not all(type(n) is int and n >= 0 for n in (*shape, *at)):
        raise wrong
    if len(shape) > MOST_RANK or prod(n or 1 for n in shape) > MOST_NUMBERS:
        raise wrong
    if type(datatype) is not str or datatype not in _DTYPES:
        raise ValueError(f"{shown(key)}: numbers of type {shown(datatype)}")
    first, last = at
    if last - first != prod(shape) * _DTYPES[datatype].itemsize:
        raise wrong
    if begin + last > size:
        raise ValueError(
            f"{shown(key)}: data up to byte {begin + last} in a file of {size}, which was cut short"
        )
    return StoredTensor(datatype, tuple(shape), begin + first, last - first)


def listed(keys: Iterable[str]) -> str:
    """The first of many keys, in words."""
    names = sorted(keys)
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "") or "no keys"


def table_keys(tables: Iterable[str], keys: Collection[str], given: Mapping[str, str]) -> dict[str, str]:
    """By table, the key of its weights: as given, else the table's name, or NAME.weight."""
    return {t: given.get(t) or (t if t in keys else f"{t}.weight") for t in tables}
