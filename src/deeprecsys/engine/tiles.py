"""Small matrix products in registers, and the element-wise functions that follow them, for compiled code.

A `Tile(rows, vectors, lanes)` is that many float32 values in registers: a few rows of a product's result. One
call of `outer` adds the outer product of a column of the left matrix and a row of the right one; a loop of
them is the product, and what follows it works on the same registers.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import models, register_model

from deeprecsys.engine.vectors import (
    _F32,
    _I32,
    _I64,
    _fused,
    _intrinsic,
    _load,
    _pointer,
    _spread,
    _store,
    _with_constants,
)


class Tile(types.Type):
    """`rows` times `vectors` vectors of `lanes` float32 values."""

    def __init__(self, rows: int, vectors: int, lanes: int) -> None:
        self.rows, self.vectors, self.lanes = rows, vectors, lanes
        super().__init__(name=f"Tile({rows}, {vectors}, {lanes})")

    def places(self) -> Iterator[tuple[int, int, int]]:
        """(index, row, vector) of each vector."""
        for k in range(self.rows * self.vectors):
            yield k, *divmod(k, self.vectors)


@register_model(Tile)
class _TileModel(models.PrimitiveModel):
    def __init__(self, manager: Any, tile: Tile) -> None:
        one = ir.VectorType(_F32, tile.lanes)
        super().__init__(manager, tile, ir.LiteralStructType([one] * (tile.rows * tile.vectors)))  # type: ignore[no-untyped-call]


@_with_constants
def blank_tile(_context: Any, rows: Any, vectors: Any, lanes: Any) -> Any:
    """A tile of zeros; all arguments are constants."""
    tile = Tile(rows.literal_value, vectors.literal_value, lanes.literal_value)

    def generate(context: Any, _builder: Any, _signature: Any, _args: Any) -> Any:
        return ir.Constant(context.get_value_type(tile), None)

    return tile(rows, vectors, lanes), generate


@_intrinsic
def outer(_context: Any, tile: Any, _column: Any, _stride: Any, _row: Any) -> Any:
    """tile + column x row: a value per row of the tile, `stride` bytes apart, times contiguous vectors."""

    def generate(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        result, column, stride, row = args
        size = 4 * tile.lanes
        rights = [_load(builder, row, v * size, tile.lanes) for v in range(tile.vectors)]
        for r in range(tile.rows):  # one left value at a time, or registers run out
            value = builder.load(_pointer(builder, column, 0, _F32), align=4)
            left = _spread(builder, value, tile.lanes)
            column = builder.add(column, stride)
            for v, right in enumerate(rights):
                k = r * tile.vectors + v
                total = _fused(builder, left, right, builder.extract_value(result, k))
                result = builder.insert_value(result, total, k)
        return result

    return tile(tile, types.int64, types.int64, types.int64), generate


@_intrinsic
def add_row(_context: Any, tile: Any, _row: Any) -> Any:
    """The tile plus the same contiguous vectors in each of its rows."""

    def generate(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        result = args[0]
        for k, _, v in tile.places():
            bias = _load(builder, args[1], v * 4 * tile.lanes, tile.lanes)
            result = builder.insert_value(result, builder.fadd(builder.extract_value(result, k), bias), k)
        return result

    return tile(tile, types.int64), generate


@_intrinsic
def store_tile(_context: Any, tile: Any, _address: Any, _stride: Any) -> Any:
    """Write a tile's rows, `stride` bytes apart."""

    def generate(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        _, address, stride = args
        for k, r, v in tile.places():
            if r and not v:
                address = builder.add(address, stride)
            _store(builder, builder.extract_value(args[0], k), address, v * 4 * tile.lanes)
        return context.get_dummy_value()

    return types.void(tile, types.int64, types.int64), generate


@_intrinsic
def weigh(_context: Any, sums: Any, tile: Any, _level: Any, _factors: Any, _slope: Any) -> Any:
    """sums [1, vectors] + the sum over a tile's rows r of factors[r] * act(tile[r] + level[r]).

    act is PReLU with the slope at an address; `level` and `factors` are addresses of a value per row.
    """

    def generate(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        result, tile_, level, factors, slope = args
        lanes = tile.lanes
        below = _spread(builder, builder.load(_pointer(builder, slope, 0, _F32), align=4), lanes)
        zero = ir.Constant(ir.VectorType(_F32, lanes), [0.0] * lanes)
        for r in range(tile.rows):
            at, factor = (
                _spread(builder, builder.load(_pointer(builder, a, 4 * r, _F32), align=4), lanes)
                for a in (level, factors)
            )
            for v in range(tile.vectors):
                z = builder.fadd(builder.extract_value(tile_, r * tile.vectors + v), at)
                act = builder.select(builder.fcmp_ordered(">", z, zero), z, builder.fmul(z, below))
                total = _fused(builder, factor, act, builder.extract_value(result, v))
                result = builder.insert_value(result, total, v)
        return result

    return sums(sums, tile, types.int64, types.int64, types.int64), generate


@_with_constants
def multiply_add(_context: Any, _out: Any, _a: Any, _b: Any, _c: Any, lanes: Any) -> Any:
    """Write a b + c for one vector of `lanes` (a constant) at each of the addresses."""
    count = lanes.literal_value

    def generate(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        a, b, c = (_load(builder, x, 0, count) for x in args[1:4])
        _store(builder, _fused(builder, a, b, c), args[0], 0)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64, types.int64, lanes), generate


@_intrinsic
def gated(
    _context: Any, tile: Any, _x: Any, _x_stride: Any, _sequence_of_row: Any, _amount: Any,
    _amount_stride: Any, _bias: Any, _old: Any, _old_stride: Any, _new: Any, _new_stride: Any,
) -> Any:  # fmt: skip
    """A step of a gated recurrent unit, for `lanes` columns of a tile's rows.

        r, u = sigmoid(x + tile)    n = tanh(x + r * (tile + bias))    new = old + amount u (n - old)

    The sums within sigmoid and tanh come multiplied by `SCALES`, so that 2^z is all there is to compute.

    Args:
        tile: [rows, 3]: the products of the state with the matrices of r, u and n.
        x: address of the input's share of r, u and n, one vector after the other, of the first sequence.
        sequence_of_row: address of int64s: each row's share lies that number of `x_stride` after `x`.
        amount: address of the first row's factor of the update gate.
        bias: address of what is added to n's product.
        old, new: addresses of these columns of the first row's state before and after.
    """

    def generate(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        _, x, x_stride, sequence_of_row, amount, amount_stride, bias, old, old_stride, new, new_stride = args
        size, lanes = 4 * tile.lanes, tile.lanes
        own_bias = _load(builder, bias, 0, lanes)
        # Row by row: the last rows' gates then overlap with what follows, another tile's product.
        for k in range(tile.rows):
            index = builder.load(_pointer(builder, sequence_of_row, 8 * k, _I64), align=8)
            mine = builder.add(x, builder.mul(index, x_stride))
            x_r, x_u, x_n = (_load(builder, mine, v * size, lanes) for v in range(3))
            p_r, p_u, p_n = (builder.extract_value(args[0], 3 * k + v) for v in range(3))
            r, u = _sigmoids(builder, builder.fadd(x_r, p_r), builder.fadd(x_u, p_u))
            n = _tanh(builder, _fused(builder, r, builder.fadd(p_n, own_bias), x_n))
            before = _load(builder, old, 0, lanes)
            factor = builder.load(_pointer(builder, amount, 0, _F32), align=4)
            part = builder.fmul(u, _spread(builder, factor, lanes))
            _store(builder, _fused(builder, part, builder.fsub(n, before), before), new, 0)
            amount = builder.add(amount, amount_stride)
            old, new = builder.add(old, old_stride), builder.add(new, new_stride)
        return context.get_dummy_value()

    return types.void(tile, *[types.int64] * 10), generate


def _constant(value: float, like: Any) -> Any:
    return ir.Constant(like.type, [float(np.float32(value))] * like.type.count)


def _power_terms(degree: int = 5) -> list[float]:
    """Coefficients of a polynomial that is 2^f for |f| <= 1/2, to 1e-7 of it, fitted at Chebyshev's
    points."""
    f = 0.5 * np.cos(np.pi * (np.arange(400) + 0.5) / 400)
    return np.polynomial.polynomial.polyfit(f, 2**f, degree).tolist()  # type: ignore[no-any-return]


_TERMS = _power_terms()
_ROUNDER = 1.5 * 2**23
"""A float32 that is added to this is rounded to an integer, which the sum's lowest bits hold."""
SCALES = (-1 / np.log(2), -1 / np.log(2), 2 / np.log(2))
"""Factors z / x of the sums within r, u and n: sigmoid(x) = 1 / (1 + 2^z), tanh(x) = 1 - 2 / (1 + 2^z)."""
_MOST = 60.0
"""The most |z|: there the functions are 0 or 1 to rounding, and a product of two powers is finite."""


def _power(builder: Any, z: Any) -> Any:
    """2^z for z held within ±`_MOST`; of NaN it is NaN."""
    for sign, bound in (("<", _MOST), (">", -_MOST)):
        limit = _constant(bound, z)
        z = builder.select(builder.fcmp_unordered(sign, z, limit), z, limit)
    rounder = _constant(_ROUNDER, z)
    held = builder.fadd(z, rounder)
    f = builder.fsub(z, builder.fsub(held, rounder))
    p = _constant(_TERMS[-1], z)
    for term in reversed(_TERMS[:-1]):
        p = _fused(builder, p, f, _constant(term, z))
    words = ir.VectorType(_I32, z.type.count)
    exponent = builder.shl(builder.bitcast(held, words), ir.Constant(words, [23] * words.count))
    return builder.bitcast(builder.add(builder.bitcast(p, words), exponent), z.type)


def _sigmoids(builder: Any, a: Any, b: Any) -> tuple[Any, Any]:
    """1 / (1 + 2^a) and 1 / (1 + 2^b), to 1e-7 of 1; one division for both."""
    one = _constant(1.0, a)
    a, b = (builder.fadd(one, _power(builder, x)) for x in (a, b))
    inverse = builder.fdiv(one, builder.fmul(a, b))
    return builder.fmul(inverse, b), builder.fmul(inverse, a)


def _tanh(builder: Any, z: Any) -> Any:
    """1 - 2 / (1 + 2^z), to 1e-7 of 1."""
    one = _constant(1.0, z)
    share = builder.fdiv(_constant(2.0, z), builder.fadd(one, _power(builder, z)))
    return builder.fsub(one, share)
