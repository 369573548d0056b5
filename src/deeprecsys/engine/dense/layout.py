"""Where a dense stage reads its inputs: few wide buffers, each input at its columns. No torch here.

Inputs that a network concatenates are adjacent in one buffer, so that the gather writes the concatenation
itself and no copy is made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deeprecsys.zoo.custom import Own
from deeprecsys.zoo.dlrm import Dlrm
from deeprecsys.zoo.interest import Dien, DienArtefact, Din, DinArtefact, InterestModel
from deeprecsys.zoo.model import Model
from deeprecsys.zoo.ncf import Ncf, NcfArtefact
from deeprecsys.zoo.schema import DenseInput, Per, Schema
from deeprecsys.zoo.wnd import MtWnd, MtWndArtefact, Wnd

_LINE = 64  # bytes of a cache line, and of the widest vector


@dataclass(frozen=True, slots=True)
class BufferPlace:
    """Where one input's values lie in a row of its buffer: `width` columns from `column`, at each step."""

    column: int
    width: int


@dataclass(frozen=True, slots=True)
class Buffer:
    """A contiguous float32 array that a dense stage reads: [rows, width], or [rows, steps, width].

    Attributes:
        per: whether its rows are the batch's items or its slices.
        width: columns of a row, or of one step of it.
        steps: length of the sequences; 0 where the inputs are none.
        places: by input name, in the order of their columns.
        direct: it holds a single dense input, so a run of that input's own rows may be read in its stead.
    """

    name: str
    per: Per
    width: int
    steps: int
    places: Mapping[str, BufferPlace]
    direct: bool

    def shape(self, rows: int) -> tuple[int, ...]:
        return (rows, self.steps, self.width) if self.steps else (rows, self.width)


@dataclass(frozen=True)
class Layout:
    """All buffers of a dense stage. Every input of the schema has its place in exactly one."""

    buffers: tuple[Buffer, ...]

    @classmethod
    def of(cls, model: Model) -> Layout:
        """The layout of a model's dense stage."""
        groups = _GROUPS[type(model)](model)
        return cls(tuple(_buffer(model.schema, name, inputs) for name, inputs in groups.items()))

    @property
    def per_query(self) -> bool:
        """Some buffer has a row per slice: the stage must know each item's slice."""
        return any(b.per is Per.QUERY for b in self.buffers)

    def allocate(self, items: int, slices: int) -> dict[str, NDArray[np.float32]]:
        """New buffers by name, with room for `items` and `slices`; they begin on cache lines."""
        rows = {Per.ITEM: items, Per.QUERY: slices}
        return {b.name: aligned(b.shape(rows[b.per])) for b in self.buffers}

    def views(self, buffers: Mapping[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
        """By input name, its columns of the buffers: [rows, width], or [rows, steps, width] of a sequence."""
        return {
            name: buffers[b.name][..., p.column : p.column + p.width]
            for b in self.buffers
            for name, p in b.places.items()
        }


def aligned(shape: tuple[int, ...]) -> NDArray[np.float32]:
    """A zeroed float32 array that begins on a cache line."""
    size = int(np.prod(shape))
    raw: NDArray[np.float32] = np.zeros(size + _LINE // 4, np.float32)
    first = (-raw.ctypes.data % _LINE) // 4
    return raw[first : first + size].reshape(shape)


def _buffer(schema: Schema, name: str, inputs: tuple[str, ...]) -> Buffer:
    by_name = {i.name: i for i in schema.inputs}
    places: dict[str, BufferPlace] = {}
    column, pers, steps = 0, set(), set()
    for i in (by_name[n] for n in inputs):
        *sequence, width = schema.row_shape(i)
        steps.add(sequence[0] if sequence else 0)
        pers.add(i.per)
        places[i.name] = BufferPlace(column, width)
        column += width
    assert len(pers) == len(steps) == 1, f"buffer {name}: inputs of different kinds side by side"
    direct = len(inputs) == 1 and isinstance(by_name[inputs[0]], DenseInput)
    return Buffer(name, pers.pop(), column, steps.pop(), places, direct)


Groups = dict[str, tuple[str, ...]]
"""Input names by buffer name, in the order of their columns."""


def _each(model: Ncf | Own) -> Groups:
    return {i.name: (i.name,) for i in model.schema.inputs}


def _wnd(model: Wnd) -> Groups:
    wide: Groups = {"cross": ("cross",)} if model.crosses else {}
    user, item = ("dense", *model.user_features), model.item_features
    if model.user_per is Per.QUERY:
        return {"user": user, "item": item, **wide}
    return {"item": user + item, **wide}


def _ncf_artefact(model: NcfArtefact) -> Groups:
    a, b, *rest = (i.name for i in model.schema.inputs)
    return {"mf_0": (a,), "mf_1": (b,), "mlp": tuple(rest)}


def _interest(model: InterestModel) -> Groups:
    behaviours, item = ("behaviour_goods", "behaviour_category"), ("candidate_goods", "candidate_category")
    return {"behaviours": behaviours, "user": model.profile_features, "item": item}


def _dien_artefact(model: DienArtefact) -> Groups:
    profile, *sequence, candidate, context = (i.name for i in model.schema.inputs)
    # A buffer per step: each step's product reads one contiguous matrix.
    steps = {f"step_{t}": (name,) for t, name in enumerate(sequence)}
    return {**steps, "rest": (profile, candidate, context)}


_GROUPS: dict[type[Any], Callable[[Any], Groups]] = {
    Dlrm: lambda m: {"dense": ("dense",), "features": tuple(i.name for i in m.schema.sparse)},
    Wnd: _wnd,
    MtWnd: lambda m: {"user": ("dense", *m.user_features), "item": m.item_features},
    MtWndArtefact: lambda m: {"item": tuple(i.name for i in m.schema.inputs)},
    Ncf: _each,
    NcfArtefact: _ncf_artefact,
    Din: _interest,
    DinArtefact: lambda m: {
        "behaviours": m.behaviour_features,
        "candidate": ("candidate",),
        "rest": ("user", "context"),
    },
    Dien: _interest,
    DienArtefact: _dien_artefact,
    Own: _each,
}
"""Configuration -> its groups."""
