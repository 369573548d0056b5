"""The work of a batch of a model, counted from its layers: products, gathers, operators."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from deeprecsys.core.errors import InputError
from deeprecsys.zoo.dlrm import Dlrm
from deeprecsys.zoo.interest import Dien, DienArtefact, Din, DinArtefact
from deeprecsys.zoo.model import Model
from deeprecsys.zoo.ncf import Ncf, NcfArtefact
from deeprecsys.zoo.schema import FLOAT_BYTES, Per
from deeprecsys.zoo.wnd import MtWnd, MtWndArtefact, Wnd


@dataclass(frozen=True, slots=True)
class DenseLayer:
    """A fully connected layer, or what amounts to one.

    Attributes:
        inputs, outputs: widths.
        per: whether it runs for every item, or once per slice.
        rows: rows of the product for each of those: more than one where a layer is applied to a sequence.
        steps: how often in turn: the steps of a recurrent layer, each reading the weights again.
        kind: what a breakdown calls it.
        bare: a product of two activations: there are no weights.
    """

    inputs: int
    outputs: int
    per: Per = Per.ITEM
    rows: int = 1
    steps: int = 1
    kind: str = "fc"
    bare: bool = False

    @property
    def flops(self) -> int:
        """2 x multiply-adds for each item (or slice)."""
        return 2 * self.inputs * self.outputs * self.rows * self.steps

    @property
    def weight_bytes(self) -> int:
        return 0 if self.bare else self.inputs * self.outputs * FLOAT_BYTES

    @property
    def activation_bytes(self) -> int:
        """Read once, written once and read again by what follows, for each item (or slice)."""
        return (self.inputs + 2 * self.outputs) * FLOAT_BYTES * self.rows * self.steps


@dataclass(frozen=True, slots=True)
class GatherWork:
    """Rows of one table that each item (or slice) reads."""

    rows: int
    row_bytes: int
    table_rows: int
    per: Per = Per.ITEM


@dataclass(frozen=True, slots=True)
class Work:
    """A batch's work.

    Attributes:
        name: the model.
        layers, gathers: in order.
        operators: launches of a framework per batch: one per gather, two per layer and step (the product and
            what follows it), one to join the features.
        table_bytes: all embedding tables.
        input_bytes: features of an item, ids included; what a transfer to an accelerator moves.
    """

    name: str
    layers: tuple[DenseLayer, ...]
    gathers: tuple[GatherWork, ...]
    operators: int
    table_bytes: int
    input_bytes: int

    @property
    def weight_bytes(self) -> int:
        return sum(x.weight_bytes for x in self.layers)

    def flops(self, items: int) -> int:
        return sum(x.flops * (items if x.per is Per.ITEM else 1) for x in self.layers)

    def gathered_bytes(self, items: int) -> int:
        return sum(g.rows * g.row_bytes * (items if g.per is Per.ITEM else 1) for g in self.gathers)

    def activation_bytes(self, items: int) -> int:
        return sum(x.activation_bytes * (items if x.per is Per.ITEM else 1) for x in self.layers)


def chain(*widths: int, **rest: Any) -> list[DenseLayer]:
    """Fully connected layers one behind the other."""
    return [DenseLayer(a, b, **rest) for a, b in pairwise(widths)]


def _dlrm(m: Dlrm) -> list[DenseLayer]:
    layers = chain(*m.bottom) + chain(m.interaction_width, *m.top)
    if m.interaction == "dot":
        layers.append(DenseLayer(m.dim, m.vectors, rows=m.vectors, kind="interaction", bare=True))
    return layers


def _ncf(m: Ncf) -> list[DenseLayer]:
    user = DenseLayer(m.dim, m.mlp[0], Per.QUERY)
    return [user, *chain(m.dim, *m.mlp), DenseLayer(m.dim + m.mlp[-1], 1)]


def _ncf_artefact(m: NcfArtefact) -> list[DenseLayer]:
    return [*chain(2 * m.dim, *m.mlp), DenseLayer(m.dim + m.mlp[-1], m.out)]


def _wnd(m: Wnd) -> list[DenseLayer]:
    user = [DenseLayer(m.user_width, m.deep[0], m.user_per)]
    if m.crosses:
        user.append(DenseLayer(m.dense, 1, m.user_per))
    return user + chain(m.item_width, *m.deep)


def _mtwnd(m: MtWnd) -> list[DenseLayer]:
    tower = [DenseLayer(m.user_width, m.tower[0], Per.QUERY), *chain(m.item_width, *m.tower)]
    return tower * m.tasks


def _mtwnd_artefact(m: MtWndArtefact) -> list[DenseLayer]:
    return chain(*m.widths)


def _din(m: Din) -> list[DenseLayer]:
    t, d, h = m.behaviours, m.width, m.attention
    shared = {"kind": "attention", "rows": t}
    return [
        DenseLayer(d, h, Per.QUERY, **shared),  # type: ignore[arg-type] # as named
        DenseLayer(m.profile_width, m.head[0], Per.QUERY),
        DenseLayer(d, h, **shared),  # type: ignore[arg-type]
        DenseLayer(h, 1, **shared),  # type: ignore[arg-type]
        DenseLayer(d, 1, bare=True, **shared),  # type: ignore[arg-type]
        *chain(2 * d, *m.head),
    ]


def _din_artefact(m: DinArtefact) -> list[DenseLayer]:
    units = [x for _ in range(m.behaviours) for x in chain(*m.unit, kind="attention")]
    return units + chain(4 * m.dim, *m.head)


def _dien(m: Dien) -> list[DenseLayer]:
    t, h, d = m.behaviours, m.hidden, m.width
    return [
        DenseLayer(d + h, 3 * h, Per.QUERY, steps=t, kind="recurrent"),
        DenseLayer(h, 3 * h, Per.QUERY, rows=t, kind="recurrent"),
        DenseLayer(m.profile_width, m.head[0], Per.QUERY),
        DenseLayer(d, h, kind="attention"),
        DenseLayer(h, 1, rows=t, kind="attention", bare=True),
        DenseLayer(h, 3 * h, steps=t, kind="recurrent"),
        *chain(h + d, *m.head),
    ]


def _dien_artefact(m: DienArtefact) -> list[DenseLayer]:
    h, t = m.hidden, m.steps
    return [
        DenseLayer(m.dim, h, rows=t, kind="recurrent"),
        DenseLayer(h, h, steps=t, kind="recurrent"),
        DenseLayer(h, h, rows=t),
        DenseLayer(h, h, rows=t, kind="recurrent"),
        DenseLayer(h, h, steps=t, kind="recurrent"),
        *chain(*m.head_widths),
    ]


_LAYERS: dict[type, Callable[[Any], list[DenseLayer]]] = {
    Dlrm: _dlrm,
    Ncf: _ncf,
    NcfArtefact: _ncf_artefact,
    Wnd: _wnd,
    MtWnd: _mtwnd,
    MtWndArtefact: _mtwnd_artefact,
    Din: _din,
    DinArtefact: _din_artefact,
    Dien: _dien,
    DienArtefact: _dien_artefact,
}


def work_of(model: Model) -> Work:
    """The work of a model of the zoo.

    Raises:
        InputError: a model whose layers are not known here.
    """
    if type(model) not in _LAYERS:
        raise InputError(f"model: expected one of the zoo's, got {type(model).__name__}")
    layers = tuple(_LAYERS[type(model)](model))
    schema = model.schema
    gathers = []
    for i in schema.sparse:
        table = schema.table(i.table)
        gathers.append(GatherWork(i.lookups, table.dim * FLOAT_BYTES, table.rows, i.per))
    operators = len(gathers) + sum(2 * x.steps for x in layers) + 1
    return Work(
        model.name, layers, tuple(gathers), operators, schema.table_bytes, schema.feature_bytes(Per.ITEM)
    )
