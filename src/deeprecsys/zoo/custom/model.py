"""A user's own model as the node sees it: a `zoo.Model` whose facts were found out by `describe`."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any, Self

from deeprecsys.core.errors import InputError, positive
from deeprecsys.zoo.custom.spec import FileKind
from deeprecsys.zoo.model import scale_rows
from deeprecsys.zoo.schema import DenseInput, Input, Per, Pooling, Schema, SparseInput, Table

_HEAD = struct.Struct("=qq")


@dataclass(frozen=True)
class Own:
    """A user's own model, described.

    Attributes:
        name: as it was given, weights included.
        full: what it reads, before `rows_scale`.
        splittable: items are scored independently, so that a query may be cut.
        costs: FLOPs by `Per`.
        keys: by table name, where the weights have it; empty where tables are filled from a seed.
        graph: the dense stage as ONNX, its inputs the schema's, its output `scores`; empty where it could
            not be written, and `graph_error` says why.
    """

    name: str
    kind: FileKind
    full: Schema
    dense_parameters: int
    costs: Mapping[str, int]
    splittable: bool = True
    keys: Mapping[str, str] = field(default_factory=dict)
    graph: bytes = b""
    graph_error: str = ""
    rows_scale: float = 1.0

    @property
    def medium_target_ms(self) -> None:
        """Nobody has published one: a target must be given."""

    @property
    def bottleneck(self) -> str:
        return "unknown"

    @cached_property
    def schema(self) -> Schema:
        return replace(self.full, tables=scale_rows(self.full.tables, self.rows_scale))

    def flops(self, per: Per) -> int:
        return self.costs[per]

    def scaled(self, rows_scale: float) -> Self:
        factor = self.rows_scale * positive("rows scale", rows_scale)
        if factor != 1 and self.keys:
            raise InputError(f"--rows-scale: expected 1, as {self.name} has its own weights, got {factor:g}")
        return replace(self, rows_scale=factor)

    def pack(self) -> bytes:
        """All of it as bytes, for other processes."""
        values = {k: v for k, v in self.__dict__.items() if k not in ("schema", "graph", "full")}
        head = json.dumps({**values, "full": schema_values(self.full)}).encode()
        return _HEAD.pack(len(head), len(self.graph)) + head + self.graph

    @classmethod
    def unpack(cls, data: bytes) -> Own:
        """What `pack` packed; more may follow it."""
        head, graph = _HEAD.unpack_from(data)
        at = _HEAD.size + head
        values = json.loads(data[_HEAD.size : at])
        values |= {"kind": FileKind(values["kind"]), "full": schema_of(values["full"])}
        return cls(**values, graph=data[at : at + graph])


def schema_values(schema: Schema) -> dict[str, Any]:
    """A schema as JSON values."""
    return asdict(schema)


def schema_of(values: Mapping[str, Any]) -> Schema:
    """The schema of such values."""
    return Schema(
        tuple(Table(**t) for t in values["tables"]),
        tuple(_input(i) for i in values["inputs"]),
        values["outputs"],
    )


def _input(values: dict[str, Any]) -> Input:
    values = {**values, "per": Per(values["per"])}
    if "table" not in values:
        return DenseInput(**values)
    return SparseInput(**{**values, "pooling": Pooling(values["pooling"])})
