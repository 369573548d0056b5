"""The work of a batch of each model: the products of its dense stage, and element-wise work.

A floor is not an engine: it is how long the parts take that no engine can leave out, each as fast as the
best library does it alone. Products are listed at the shape at which they must be done, recurrent layers
step by step; a first step, whose state is 0, needs none.
"""

from __future__ import annotations

from functools import singledispatch
from itertools import pairwise
from typing import Any, NamedTuple

from deeprecsys.paper.platforms import work_of
from deeprecsys.zoo import Model
from deeprecsys.zoo.interest import Dien, DienArtefact, Din, DinArtefact
from deeprecsys.zoo.schema import Per


class Product(NamedTuple):
    """A matrix product [m, k] x [k, n], done `times` times over with the same weight."""

    m: int
    k: int
    n: int
    times: int = 1

    @property
    def flops(self) -> float:
        return 2.0 * self.m * self.k * self.n


class Wise(NamedTuple):
    """Element-wise work: `count` evaluations of `tanh` or `sigmoid`, or operations of `vector` kind
    (multiply-adds, sums, comparisons on registers)."""

    kind: str
    count: float


class Work(NamedTuple):
    """What a batch of one slice computes.

    Attributes:
        products: the dense stage's.
        wise: what is no product. It is no part of the floor, but of the corrected one.
        streamed: bytes that are read once, of operands that are in no product.
    """

    products: tuple[Product, ...]
    wise: tuple[Wise, ...] = ()
    streamed: float = 0.0

    @property
    def flops(self) -> float:
        return sum(p.flops * p.times for p in self.products)


def work(model: Model, items: int) -> Work:
    """The work of one slice of `items` items; layers whose result is not used are left out."""
    found = _work(model, items)
    return found._replace(products=tuple(p for p in found.products if min(p[:3]) > 0 and p.times > 0))


def _chain(m: int, *widths: int) -> tuple[Product, ...]:
    return tuple(Product(m, a, b) for a, b in pairwise(widths))


@singledispatch
def _work(model: Any, n: int) -> Work:
    """Models whose dense stage is nothing but fully connected layers."""
    return Work(tuple(
        Product(x.rows * (n if x.per is Per.ITEM else 1), x.inputs, x.outputs, x.steps)
        for x in work_of(model).layers if not x.bare
    ))  # fmt: skip


def _click_head(n: int, profile: int, item: int, head: tuple[int, ...]) -> tuple[Product, ...]:
    """The two logits' difference is one output."""
    return (Product(1, profile, head[0]), *_chain(n, item, *head[:-1], 1))


@_work.register
def _(model: Din, n: int) -> Work:
    t, d, h = model.behaviours, model.width, model.attention
    unit = (
        Product(t, d, h),  # what is made of the behaviours alone
        Product(n, d, t * h),
        Product(n * t, h, 1),
        Product(n, t, d),
    )
    head = _click_head(n, model.profile_width, 2 * d, model.head)
    return Work((*unit, *head), (Wise("vector", 2.0 * n * t * h),))  # PReLU: a product and a choice


@_work.register
def _(model: DinArtefact, n: int) -> Work:
    tables, dim = model.behaviours, model.dim
    products = (Product(n, dim, tables), *_chain(n, 4 * dim, *model.head))
    # Each table's unit after its dot product: multiply-add, ReLU, sum, for every column.
    return Work(products, (Wise("vector", 3.0 * n * tables * dim),), 4.0 * n * tables * dim)


@_work.register
def _(model: Dien, n: int) -> Work:
    t, d, h = model.behaviours, model.width, model.hidden
    once = (Product(t, d, 3 * h), Product(1, h, 3 * h, t - 1), Product(t, h, 3 * h))
    attention = (Product(t, d, h), Product(n, d, t))  # keys once per slice, then each candidate's scores
    steps = (Product(n, h, 3 * h, t - 1),)
    head = _click_head(n, model.profile_width, h + d, model.head)
    cells = t * (n + 1) * h
    wise = (Wise("sigmoid", 2.0 * cells), Wise("tanh", 1.0 * cells), Wise("vector", 5.0 * cells))
    return Work((*once, *attention, *steps, *head), wise)


@_work.register
def _(model: DienArtefact, n: int) -> Work:
    t, h = model.steps, model.hidden
    # The input products of the first layer can be done for all steps at once, the others cannot.
    products = (
        Product(n * t, model.dim, h),
        Product(n, h, h, t - 1),
        Product(n, h, h, t),
        Product(n, h, h, t - 1),
    )
    return Work((*products, *_chain(n, *model.head_widths)), (Wise("tanh", 2.0 * n * t * h),))
