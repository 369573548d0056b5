"""How a frozen class becomes a JSON object and is read back: the one tolerant reader of all documents.

A document is a frozen dataclass whose fields are the keys of a JSON object. Reading never fails: a value of
the wrong type becomes None and is recorded in `problems`; a key that this version does not have is kept in
`more` and written again; a key that is missing is not written either.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from types import NoneType, UnionType
from typing import Any, Self, Union, dataclass_transform, get_args, get_origin, get_type_hints

import numpy as np

_LARGEST = 1e300  # integers beyond it have no floating-point number to be shown as
_WORDS = {float: "a number", int: "a whole number", str: "text", bool: "true or false"}


@dataclass_transform(frozen_default=True, kw_only_default=True)
@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Document:
    """A JSON object as a frozen class. Every field may be None: an old or damaged object lacks some.

    Classes that derive from it are dataclasses of the same kind.

    Attributes:
        more: keys that this version does not have, such as knobs of a policy from outside the package.
        absent: keys that the object did not have when it was read; None where it was not read.
        problems: what was wrong with it, one sentence each; empty unless it was read.
    """

    more: Mapping[str, Any] = field(default_factory=dict)
    absent: frozenset[str] | None = None
    problems: tuple[str, ...] = ()

    __hash__ = None  # type: ignore[assignment]  # mappings have none

    def __init_subclass__(cls) -> None:
        # Compared and shown by the methods below: one of each is quicker to import than one for each class.
        dataclass(frozen=True, kw_only=True, eq=False, repr=False)(cls)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Document) or type(other) is not type(self):
            return NotImplemented
        mine, theirs = ([getattr(d, name) for name in (*self.types(), "more")] for d in (self, other))
        return mine == theirs

    def __repr__(self) -> str:
        given = ", ".join(f"{name}={getattr(self, name)!r}" for name in self.types() if self.has(name))
        return f"{type(self).__name__}({given})"

    def to_json(self) -> dict[str, Any]:
        """The object, of dict, list, str, int, float, bool and None; floats may be infinite or nan.

        It has the keys that it had when it was read, and those that have a value.
        """
        return {k: _json(getattr(self, k)) for k in self.types() if self.has(k)} | dict(self.more)

    def has(self, name: str) -> bool:
        """Whether the object has this key, be it null."""
        known = self.absent is not None and name not in self.absent
        return known or getattr(self, name) not in (None, ())

    @classmethod
    def types(cls) -> Mapping[str, Any]:
        """The keys of the object and their types."""
        own: Any = cls  # mypy takes the hash of the instances for that of the class
        return _types(own)

    @classmethod
    def from_json(cls, value: Any, of: str = "result") -> Self:
        """The document that a JSON object is; empty where it is none.

        Args:
            value: from JSON, infinite numbers and nan restored (`json_values.restored`).
            of: what problems call it.
        """
        problems: list[str] = []
        found = _read(cls, value, of, problems)
        document = found if isinstance(found, cls) else cls(absent=frozenset(cls.types()))
        object.__setattr__(document, "problems", tuple(problems))
        return document


@cache
def _types(cls: type[Document]) -> Mapping[str, Any]:
    hints, bookkeeping = get_type_hints(cls), get_type_hints(Document)
    return {f.name: hints[f.name] for f in fields(cls) if f.name not in bookkeeping}


def _json(value: Any) -> Any:
    if isinstance(value, Document):
        return value.to_json()
    if isinstance(value, list | tuple):
        return [_json(v) for v in value]
    if isinstance(value, Mapping):
        return {k: _json(v) for k, v in value.items()}
    return value


def _read(kind: Any, value: Any, where: str, problems: list[str]) -> Any:
    """`value` as a `kind`; None and a problem where it is none. Null is always accepted."""
    if value is None or kind is Any:
        return value
    if isinstance(value, np.generic):
        value = value.item()
    origin, args = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return _one_of([a for a in args if a is not NoneType], value, where, problems)
    if isinstance(kind, type) and issubclass(kind, Document):
        if isinstance(value, Mapping):
            return _object(kind, value, where, problems)
        return _wrong("an object", value, where, problems)
    if origin is tuple:
        if isinstance(value, list | tuple):
            return _list(args, value, where, problems)
        return _wrong("a list", value, where, problems)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            return _wrong("an object", value, where, problems)
        read = {str(k): _read(args[1], v, f"{where}.{k}", problems) for k, v in value.items()}
        return {k: v for k, v in read.items() if v is not None or value.get(k) is None}
    if not _fits(kind, value):
        return _wrong(_WORDS[kind], value, where, problems)
    if kind is str:
        return value.encode("utf-8", "replace").decode()  # half a surrogate pair cannot be written
    return int(value) if kind is int else value


def _one_of(kinds: list[Any], value: Any, where: str, problems: list[str]) -> Any:
    """`value` as the first of several kinds that it fits, else as the first of all."""
    for kind in kinds[: len(kinds) if len(kinds) > 1 else 0]:
        own: list[str] = []
        found = _read(kind, value, where, own)
        if not own:
            return found
    return _read(kinds[0], value, where, problems)


def _object(cls: type[Document], value: Mapping[str, Any], where: str, problems: list[str]) -> Document:
    keys, dot = cls.types(), "." if " " in where else " "
    known = {k: _read(keys[k], v, f"{where}{dot}{k}", problems) for k, v in value.items() if k in keys}
    return cls(
        **{name: v for name, v in known.items() if v is not None},
        more={str(k): v for k, v in value.items() if k not in keys},
        absent=frozenset(keys.keys() - known.keys()),
    )


def _list(args: tuple[Any, ...], value: Any, where: str, problems: list[str]) -> Any:
    """A tuple of one kind, without the members that are not of it; or a pair, None where a member is not."""
    if args[-1] is not Ellipsis:
        if len(value) != len(args):
            return _wrong(f"a list of {len(args)}", value, where, problems)
        pairs = enumerate(zip(args, value, strict=True))
        return tuple(_read(a, v, f"{where}[{i}]", problems) for i, (a, v) in pairs)
    read = (_read(args[0], v, f"{where}[{i}]", problems) for i, v in enumerate(value))
    return tuple(v for v in read if v is not None)


def _fits(kind: Any, value: Any) -> bool:
    if kind is bool or kind is str:
        return isinstance(value, kind)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    if isinstance(value, int) and abs(value) > _LARGEST:
        return False
    return kind is float or (math.isfinite(value) and float(value).is_integer())


def _wrong(expected: str, value: Any, where: str, problems: list[str]) -> None:
    problems.append(f"{where}: expected {expected}, got {value!r:.40}: not shown")
