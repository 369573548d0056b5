"""Compiling Python to machine code, and keeping what was compiled on disk. Imports numba.

Two kinds: numba functions (`compiled`), and C functions over int64 (`c_function`), which other code calls by
address. numba's own cache is not safe when processes compile different variants of one function at once;
`c_function` gives each variant a name of its own.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar, cast

import llvmlite
from llvmlite import binding
from numba import cfunc, njit
from numba.core import config as _config
from numba.core import types

config: Any = _config  # numba fills it in from the environment

F = TypeVar("F", bound=Callable[..., object])


def compiled(function: F) -> F:
    """`function`, compiled; the code is kept on disk where there is a place for it."""
    try:
        made: Any = njit(cache=True, nogil=True)(function)
    except RuntimeError:  # a read-only installation and no home directory: compile in every process
        return cast(F, njit(nogil=True)(function))
    keep = made._cache.save_overload

    def keep_if_possible(*code: object) -> None:
        with suppress(OSError):  # the disk is full
            keep(*code)

    made._cache.save_overload = keep_if_possible
    return cast(F, made)


def inner(function: F) -> F:
    """A function that compiled code calls."""
    return cast(F, njit(function))


def inlined(function: F) -> F:
    """A function that is inlined into compiled code: vectors in registers do not survive a call."""
    return cast(F, njit(forceinline=True)(function))


def c_function(function: Callable[..., None], name: str, arguments: int, sources: tuple[str, ...]) -> Any:
    """A C function of `arguments` int64, compiled, and kept on disk where there is a place for it.

    Its name on disk contains a checksum of its code and of the host's processor: processes that compile at
    the same time, or share a home directory, write equal bytes to one file or others to another, and files
    of older code are not found.

    Args:
        name: of the variant: all that the function closes over must be in it.
        sources: the files that its code comes from.
    """
    function.__qualname__ = function.__name__ = f"{name}_{identity(sources):08x}"
    signature = types.void(*[types.int64] * arguments)
    try:
        return cfunc(signature, cache=True)(function)
    except (RuntimeError, OSError):  # no place to write to: compile in every process
        return cfunc(signature)(function)


def files(*modules: ModuleType) -> tuple[str, ...]:
    """The source files of modules."""
    return tuple(m.__file__ or "" for m in modules)


@cache
def identity(sources: tuple[str, ...]) -> int:
    """A checksum of code, of the compiler, and of the processor that it is compiled for."""
    # A worker may be held to narrower vectors than the host has (`engine.isa`).
    cpu = config.CPU_NAME or binding.get_host_cpu_name()
    features = config.CPU_FEATURES or binding.get_host_cpu_features().flatten()
    host = f"{llvmlite.__version__} {cpu} {features}"
    code = b"".join(Path(file).read_bytes() for file in (*sources, __file__))
    return zlib.crc32(code + host.encode())


@cache
def target_has(feature: str) -> bool:
    """Whether code is compiled for a processor with a feature ("avx512f", as LLVM names it)."""
    if config.CPU_NAME or config.CPU_FEATURES:
        return f"+{feature}" in str(config.CPU_FEATURES).split(",")
    return bool(binding.get_host_cpu_features().get(feature, False))
