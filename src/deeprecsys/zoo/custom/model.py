"""A user's own model: how it is named, the class that a user writes, and what was found out about it.

No torch here, and none of the user's code.
"""

from __future__ import annotations

import json
import os
import re
import struct
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from deeprecsys.core.errors import InputError, positive
from deeprecsys.zoo.model import scale_rows
from deeprecsys.zoo.schema import (
    DenseInput,
    Feed,
    Input,
    Per,
    Pooling,
    Schema,
    Signature,
    SparseInput,
    Table,
    TensorSpec,
)

if TYPE_CHECKING:
    from torch import nn

FORMS = "package.module:Class, FILE.py:Class, FILE.onnx or FILE.pt2"


class FileKind(StrEnum):
    """What holds the model: a class of `OwnModel`, a PyTorch module or a function that makes one, a file."""

    CLASS = "class"
    MODULE = "module"
    ONNX = "onnx"
    EXPORTED = "pt2"


_FILES = {".onnx": FileKind.ONNX, ".pt2": FileKind.EXPORTED}


@dataclass(frozen=True, slots=True)
class CustomSpec:
    """The name of a model of one's own, taken apart.

    Attributes:
        where: a file, or of a class the module or file that defines it.
        attribute: the class or function; "" of a file.
        weights: the file of a class's weights; "" for none.
        example: the file of a module's example inputs; "" for none.
    """

    text: str
    kind: FileKind
    where: str
    attribute: str = ""
    weights: str = ""
    example: str = ""


def is_own(name: str) -> bool:
    """Whether a model's name means a user's own rather than one of the zoo."""
    return ":" in name or "/" in name or re.search(r"\.(onnx|pt2|py)(@|$)", name) is not None


def with_weights(name: str, weights: str | Path | None, example: str | Path | None = None) -> str:
    """A model's name with the files of its weights and example inputs, as one: `NAME@FILE@example=FILE`.

    Raises:
        InputError: a model that takes none.
    """
    for option, given, between in (("--weights", weights, "@"), ("--example", example, _EXAMPLE)):
        if given is None:
            continue
        if not is_own(name):
            raise InputError(f"{option}: expected a model of your own ({FORMS}), got {name!r}")
        name = parse(f"{name}{between}{given}").text
    return name


def short_name(name: str) -> str:
    """The name that clients of a server ask for: of a class, or of a file without folder and suffix.

    Of `NAME/VERSION/model.onnx`, as repositories of models are laid out, it is the folder's.
    """
    if not is_own(name):
        return name
    spec = parse(name)
    file = Path(spec.where).absolute()
    if file.stem == "model" and file.parent.name.isdecimal() and file.parents[1].name:
        return spec.attribute or file.parents[1].name
    return spec.attribute or file.stem


def same_model(a: str, b: str) -> bool:
    """Whether two names mean one model: files are the same however their paths are written."""
    if a == b or not (is_own(a) and is_own(b)):
        return a == b
    try:
        return _identity(parse(a)) == _identity(parse(b))
    except InputError:  # a file that is not there
        return False


def _identity(spec: CustomSpec) -> tuple[object, ...]:
    def file(path: str) -> object:
        try:
            found = os.stat(path)
        except OSError:  # a module's name
            return path
        return found.st_dev, found.st_ino

    return spec.kind, file(spec.where), spec.attribute, file(spec.weights), file(spec.example)


_EXAMPLE = "@example="
_CLASS = re.compile(r":(?P<attribute>[^\W\d]\w*)(?=@|$)")


def parse(text: str) -> CustomSpec:
    """The spec of an own model.

    Paths may contain `@` and `:`; of several readings, the first whose file is there is taken.

    Raises:
        InputError: none of the forms, or a file that is not there.
    """
    whole, between, example = text.rpartition(_EXAMPLE)
    if between and not Path(text).is_file():
        spec = parse(whole)
        if spec.kind is not FileKind.CLASS:
            raise InputError(f"--example: expected none with {whole}, which states its inputs, got {example}")
        return replace(spec, text=text, example=_file("--example", example))
    suffix = Path(text).suffix
    if suffix in _FILES and Path(text).is_file():
        return CustomSpec(text, _FILES[suffix], text)
    readings = [
        CustomSpec(text, FileKind.CLASS, text[: m.start()], m["attribute"], text[m.end() + 1 :])
        for m in _CLASS.finditer(text)
        if m.start()
    ]
    file, _, weights = text.rpartition("@")
    if Path(file).suffix in _FILES and (Path(file).is_file() or not readings):
        raise InputError(f"--weights: expected none with {file}, which carries its own, got {weights}")
    if not readings:
        if suffix in _FILES:
            _file("model", text)
        raise InputError(f"model: expected {FORMS}, got {text.partition('@')[0]!r}")
    spec = next((r for r in readings if Path(r.where).is_file()), readings[0])
    if "/" in spec.where or spec.where.endswith(".py"):
        _file("model", spec.where)
    if spec.weights:
        _file("--weights", spec.weights)
    return spec


def _file(field: str, path: str) -> str:
    if not Path(path).is_file():
        raise InputError(f"{field}: expected a file, got {path}, which is none")
    return path


class OwnModel:
    """A model as its two stages: embedding look-ups, which `schema` describes, and all the rest.

    A subclass takes no arguments. Its tables are filled from the weights file, or from a seed where none is
    given: capacity can be planned before there is a trained model.

    Attributes:
        schema: tables, inputs and the number of scores per item.
        table_keys: by table name, its key in the weights file; by default the name itself, or NAME.weight.
        dense_prefix: what the dense stage's keys begin with in the weights file.
    """

    schema: ClassVar[Schema]
    table_keys: ClassVar[Mapping[str, str]] = {}
    dense_prefix: ClassVar[str] = ""

    def dense_stage(self) -> nn.Module:
        """A new module without the embedding tables.

        Its `forward` is called with one keyword argument per input of the schema, float32: a dense input as
        it came, a sparse one as its rows, pooled: [n, dim] summed or averaged, [n, lookups * dim] side by
        side, [n, lookups, dim] as a sequence. n is 1 where the input is per query. It returns [n, outputs],
        or [n].
        """
        raise NotImplementedError


_HEAD = struct.Struct("=qqq")


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
            not be written, for the reason in `graph_error`. Each worker has a copy of its weights.
        merged: the same for items of several queries: a row per query of each input that is per query, and
            `slice_of_item` [n] int64. Its weights are those of `graph` (`onnx_session.with_weights`). Empty
            where the graph could not be rewritten, or need not be.
        user_stage: see `zoo.model.Model`.
        notes: what was not recognised, and why.
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
    merged: bytes = b""
    user_stage: int = 0
    notes: tuple[str, ...] = ()
    rows_scale: float = 1.0

    @property
    def medium_target_ms(self) -> None:
        """None is published: a target must be given."""

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
        """The whole description as bytes, for other processes."""
        values = {k: v for k, v in self.__dict__.items() if k not in ("schema", "graph", "merged", "full")}
        head = json.dumps({**values, "full": asdict(self.full)}).encode()
        return _HEAD.pack(len(head), len(self.graph), len(self.merged)) + head + self.graph + self.merged

    @classmethod
    def unpack(cls, data: bytes) -> Own:
        """What `pack` packed; more may follow it."""
        head, graph, merged = _HEAD.unpack_from(data)
        at = _HEAD.size + head
        values = json.loads(data[_HEAD.size : at])
        values |= {"kind": FileKind(values["kind"]), "full": schema_of(values["full"])}
        values["notes"] = tuple(values["notes"])
        end = at + graph
        return cls(**values, graph=data[at:end], merged=data[end : end + merged])


def schema_of(values: Mapping[str, Any]) -> Schema:
    """The schema whose `asdict` these values are."""
    return Schema(
        tuple(Table(**t) for t in values["tables"]),
        tuple(_input(i) for i in values["inputs"]),
        values["outputs"],
        _signature(values["given"]) if values["given"] else None,
    )


def _signature(values: Mapping[str, Any]) -> Signature:
    return Signature(*(tuple(_tensor(t) for t in values[kind]) for kind in ("inputs", "outputs")))


def _tensor(values: Mapping[str, Any]) -> TensorSpec:
    feeds = tuple(Feed(f["input"], tuple(f["columns"])) for f in values["feeds"])
    return TensorSpec(**{**values, "row": tuple(values["row"]), "feeds": feeds, "per": Per(values["per"])})


def _input(values: dict[str, Any]) -> Input:
    values = {**values, "per": Per(values["per"])}
    if "table" not in values:
        return DenseInput(**{**values, "ids": tuple((c, n) for c, n in values["ids"])})
    fields = tuple((first, rows) for first, rows in values["fields"])
    return SparseInput(**{**values, "pooling": Pooling(values["pooling"]), "fields": fields})
