"""Narrower vectors on demand: the environment variables that a worker needs before its libraries are loaded.

Each library picks its kernels once, as it is loaded, by a switch of its own; `ignores_isa` names those
without one.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from deeprecsys.core.errors import InputError, unknown
from deeprecsys.engine.spec import EngineSpec

DEFAULT = "default"


class Isa(NamedTuple):
    """An instruction set that libraries can be held to.

    Attributes:
        needs: flags that the kernel must name of the CPU.
        environment: the libraries' switches.
    """

    bits: int
    needs: frozenset[str]
    environment: Mapping[str, str]


def _isa(bits: int, needs: str, mkl: str, mkl_mode: str, aten: str, onednn: str, cpu: str) -> Isa:
    environment = {
        "MKL_ENABLE_INSTRUCTIONS": mkl,  # works on Intel's CPUs alone
        "MKL_CBWR": mkl_mode,  # works elsewhere too; below AVX2 only COMPATIBLE is narrower there
        "ATEN_CPU_CAPABILITY": aten,  # torch's own kernels
        "ONEDNN_MAX_CPU_ISA": onednn,  # torch's copy of oneDNN
        # The gather kernel. A CPU name alone would leave the host's features switched on.
        "NUMBA_CPU_NAME": cpu,
        "NUMBA_CPU_FEATURES": "+sse4.2",
    }
    return Isa(bits, frozenset(needs.split()), environment)


ISAS: Mapping[str, Isa] = {
    "sse42": _isa(128, "sse4_2", "SSE4_2", "COMPATIBLE", "default", "SSE41", "x86-64-v2"),
    "avx2": _isa(256, "avx2 fma", "AVX2", "AVX2", "avx2", "AVX2", "x86-64-v3"),
    "avx512": _isa(
        512, "avx512f avx512bw avx512dq avx512vl", "AVX512", "AVX512", "avx512", "AVX512_CORE", "x86-64-v4"
    ),
}
"""What `--isa` can name besides `default`, by rising width."""

NAMES = (DEFAULT, *ISAS)

_WITHOUT_SWITCH = {"onnxruntime": "onnxruntime", "openvino": "openvino", "": "onnxruntime"}
"""Dense route of `compiled` -> its library, which always takes the widest vectors of the CPU."""


def environment(isa: str, flags: frozenset[str] | None = None) -> dict[str, str]:
    """A worker's environment variables by name; none for `default`.

    Args:
        isa: one of `NAMES`.
        flags: of the CPU, this machine's by default.

    Raises:
        InputError: no such instruction set, or the CPU lacks it.
    """
    if isa == DEFAULT:
        return {}
    if isa not in ISAS:
        raise unknown("isa", isa, NAMES)
    has = cpu_flags() if flags is None else flags
    if not ISAS[isa].needs <= has:
        there = ", ".join((DEFAULT, *(n for n, i in ISAS.items() if i.needs <= has)))
        raise InputError(f"--isa: expected one that this CPU has ({there}), got {isa}")
    return dict(ISAS[isa].environment)


def ignores_isa(engine: EngineSpec) -> tuple[str, ...]:
    """The libraries of an engine that no switch holds to narrower vectors."""
    own_way = engine.name == "compiled" and engine.args in _WITHOUT_SWITCH
    return (_WITHOUT_SWITCH[engine.args],) if own_way else ()


def cpu_flags(cpuinfo: Path = Path("/proc/cpuinfo")) -> frozenset[str]:
    """The CPU's flags as the kernel lists them; empty where it lists none."""
    if not cpuinfo.exists():
        return frozenset()
    with cpuinfo.open() as lines:
        return next((frozenset(line.split()) for line in lines if line.startswith("flags")), frozenset())
