"""Intrinsics that numba lacks: memory by address, prefetch, and whole rows in registers.

Addresses are int64. Nothing here checks one: `kernel` does that.

A row in registers has the type `Lanes(dim)`: `dim` float32 values in vectors of at most `WIDEST` lanes. LLVM
cuts each into as many registers as the host's are wide: 8 lanes with AVX2, 16 with AVX-512, 4 with NEON. A
row too wide for all registers together is spilled to the stack by LLVM, which is right, and costs little
where a row is many cache lines.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from llvmlite import ir
from numba.core import cgutils as _cgutils
from numba.core import types
from numba.extending import intrinsic, models, register_model

from deeprecsys.zoo.rows import HEADER

_I8, _I16, _I32, _I64, _F32 = ir.IntType(8), ir.IntType(16), ir.IntType(32), ir.IntType(64), ir.FloatType()
cgutils: Any = _cgutils  # without type hints
WIDEST = 64


def _intrinsic(function: Callable[..., Any]) -> Any:
    """numba's decorator; its types would give the result the signature of the typing function."""
    return intrinsic(function)


def _with_constants(function: Callable[..., Any]) -> Any:
    """numba's decorator for intrinsics some of whose arguments are constants in compiled code."""
    return intrinsic(prefer_literal=True)(function)


class Lanes(types.Type):
    """`dim` float32 values held in registers."""

    def __init__(self, dim: int) -> None:
        self.dim = dim
        super().__init__(name=f"Lanes({dim})")


def _parts(dim: int) -> Iterator[tuple[int, int]]:
    """(first column, lanes) of each vector that makes up a row: powers of two, widest first."""
    column = 0
    while column < dim:
        lanes = min(WIDEST, 1 << ((dim - column).bit_length() - 1))
        yield column, lanes
        column += lanes


@register_model(Lanes)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager: Any, lanes: Lanes) -> None:
        vectors = [ir.VectorType(_F32, n) for _, n in _parts(lanes.dim)]
        super().__init__(manager, lanes, ir.LiteralStructType(vectors))  # type: ignore[no-untyped-call]


def _pointer(builder: Any, address: Any, offset: int, to: Any) -> Any:
    place = builder.add(address, ir.Constant(_I64, offset)) if offset else address
    return builder.inttoptr(place, to.as_pointer())


def _reader(stored: Any, result: Any) -> Any:
    """An intrinsic that reads one value; a narrow integer is extended with zeros."""

    @_intrinsic
    def read(_context: Any, address: Any) -> Any:
        def generate(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
            value = builder.load(_pointer(builder, args[0], 0, stored), align=4)
            return builder.zext(value, _I64) if stored is _I32 else value

        return result(types.int64), generate

    return read


word: Callable[[int], int] = _reader(_I64, types.int64)
half_word: Callable[[int], int] = _reader(_I32, types.int64)
real: Callable[[int], float] = _reader(_F32, types.float32)


@_intrinsic
def put(_context: Any, _address: Any, _value: Any) -> Any:
    """Write an int64."""

    def generate(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        builder.store(args[1], _pointer(builder, args[0], 0, _I64), align=8)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), generate


@_intrinsic
def prefetch(_context: Any, _address: Any) -> Any:
    """Ask for the cache line of an address, into all levels; any address will do."""

    def generate(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        pointer = _pointer(builder, args[0], 0, _I8)
        form = ir.FunctionType(ir.VoidType(), [pointer.type, _I32, _I32, _I32])
        function = cgutils.get_or_insert_function(builder.module, form, "llvm.prefetch.p0")
        read, locality, data = (ir.Constant(_I32, n) for n in (0, 3, 1))
        builder.call(function, [pointer, read, locality, data])
        return context.get_dummy_value()

    return types.void(types.int64), generate


@_intrinsic
def outside(_context: Any, _index: Any, _count: Any) -> Any:
    """Whether an index is not in 0 … count - 1, in one comparison that LLVM takes to be rarely true."""

    def generate(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        return _rare(builder, builder.icmp_unsigned(">=", args[0], args[1]))

    return types.boolean(types.int64, types.int64), generate


def _rare(builder: Any, condition: Any) -> Any:
    bit = condition.type
    form = ir.FunctionType(bit, [bit, bit])
    expect = cgutils.get_or_insert_function(builder.module, form, f"llvm.expect.i{bit.width}")
    return builder.call(expect, [condition, ir.Constant(bit, 0)])


@_intrinsic
def call(_context: Any, _function: Any, _a: Any, _b: Any, _c: Any, _d: Any) -> Any:
    """Call a C function at an address with four int64."""

    def generate(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        form = ir.FunctionType(ir.VoidType(), [_I64] * 4)
        builder.call(builder.inttoptr(args[0], form.as_pointer()), args[1:])
        return context.get_dummy_value()

    return types.void(*[types.int64] * 5), generate


@_intrinsic
def copy(_context: Any, _target: Any, _source: Any, _size: Any) -> Any:
    """Copy bytes between addresses that do not overlap."""

    def generate(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        target, source = (_pointer(builder, a, 0, _I8) for a in args[:2])
        cgutils.raw_memcpy(builder, target, source, args[2], 1)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), generate


@_intrinsic
def blank(_context: Any, _target: Any, _size: Any) -> Any:
    """Write zero bytes."""

    def generate(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        cgutils.memset(builder, _pointer(builder, args[0], 0, _I8), args[1], 0)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), generate


@_with_constants
def no_rows(_context: Any, dim: Any) -> Any:
    """The sum of no rows: `dim` (a constant) zeros."""
    lanes = Lanes(dim.literal_value)

    def generate(context: Any, _builder: Any, _signature: Any, _args: Any) -> Any:
        return ir.Constant(context.get_value_type(lanes), None)

    return lanes(dim), generate


@_with_constants
def load_row(_context: Any, address: Any, dim: Any, form: Any) -> Any:
    """The row at an address; `dim` and `form` (`fp32`, `bf16` or `int8`) are constants."""
    lanes = Lanes(dim.literal_value)
    load = _LOADS[form.literal_value]

    def generate(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        row = ir.Constant(context.get_value_type(lanes), ir.Undefined)
        for k, (column, n) in enumerate(_parts(lanes.dim)):
            row = builder.insert_value(row, load(builder, args[0], column, n), k)
        return row

    return lanes(types.int64, dim, form), generate


@_intrinsic
def store_row(_context: Any, _address: Any, row: Any) -> Any:
    """Write the `dim` values of a row as float32."""

    def generate(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        for k, (column, _) in enumerate(_parts(row.dim)):
            _store(builder, builder.extract_value(args[1], k), args[0], 4 * column)
        return context.get_dummy_value()

    return types.void(types.int64, row), generate


@_intrinsic
def plus(_context: Any, total: Any, row: Any) -> Any:
    """The sum of two rows."""

    def generate(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        result = args[0]
        for k, _ in enumerate(_parts(total.dim)):
            a, b = (builder.extract_value(x, k) for x in args)
            result = builder.insert_value(result, builder.fadd(a, b), k)
        return result

    return total(total, row), generate


@_intrinsic
def times(_context: Any, row: Any, factor: Any) -> Any:
    """A row times a number."""

    def generate(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        result = args[0]
        for k, (_, n) in enumerate(_parts(row.dim)):
            part = builder.fmul(builder.extract_value(args[0], k), _spread(builder, args[1], n))
            result = builder.insert_value(result, part, k)
        return result

    return row(row, types.float32), generate


def _spread(builder: Any, value: Any, lanes: int) -> Any:
    """A vector of `lanes` times the same value."""
    empty = ir.Constant(ir.VectorType(value.type, lanes), ir.Undefined)
    one = builder.insert_element(empty, value, ir.Constant(_I32, 0))
    zeros = ir.Constant(ir.VectorType(_I32, lanes), [0] * lanes)
    return builder.shuffle_vector(one, empty, zeros)


def _load(builder: Any, address: Any, offset: int, lanes: int) -> Any:
    """A vector of float32 values, `offset` bytes after an address."""
    return builder.load(_pointer(builder, address, offset, ir.VectorType(_F32, lanes)), align=4)


def _store(builder: Any, value: Any, address: Any, offset: int) -> None:
    builder.store(value, _pointer(builder, address, offset, value.type), align=4)


def _fused(builder: Any, a: Any, b: Any, c: Any) -> Any:
    """a b + c of vectors, rounded once where the processor can."""
    form = ir.FunctionType(a.type, [a.type] * 3)
    function = cgutils.get_or_insert_function(builder.module, form, f"llvm.fmuladd.v{a.type.count}f32")
    return builder.call(function, [a, b, c])


def _load_fp32(builder: Any, address: Any, column: int, n: int) -> Any:
    return _load(builder, address, 4 * column, n)


def _load_bf16(builder: Any, address: Any, column: int, n: int) -> Any:
    """bfloat16 is the upper half of a float32."""
    halves = builder.load(_pointer(builder, address, 2 * column, ir.VectorType(_I16, n)), align=2)
    wide = builder.zext(halves, ir.VectorType(_I32, n))
    sixteen = ir.Constant(ir.VectorType(_I32, n), [16] * n)
    return builder.bitcast(builder.shl(wide, sixteen), ir.VectorType(_F32, n))


def _load_int8(builder: Any, address: Any, column: int, n: int) -> Any:
    """code x scale + bias; scale and bias stand before the codes."""
    scale, bias = (builder.load(_pointer(builder, address, at, _F32), align=4) for at in (0, 4))
    place = _pointer(builder, address, HEADER + column, ir.VectorType(_I8, n))
    codes = builder.zext(builder.load(place, align=1), ir.VectorType(_I32, n))
    values = builder.sitofp(codes, ir.VectorType(_F32, n))
    return _fused(builder, values, _spread(builder, scale, n), _spread(builder, bias, n))


_LOADS = {"fp32": _load_fp32, "bf16": _load_bf16, "int8": _load_int8}
