"""The machine record: where a figure was measured. What cannot be read is "unavailable"."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

from deeprecsys.version import VERSION

UNAVAILABLE = "unavailable"
_FLAGS = ("avx2", "fma", "f16c", "avx512f", "avx512_bf16", "avx512_vnni", "amx_tile", "amx_bf16", "amx_int8")
_PACKAGES = ("numba", "numpy", "torch")


def machine_record() -> dict[str, Any]:
    """CPU, memory, kernel and versions of this machine, as JSON values."""
    cpu = _cpuinfo()
    return {
        "cpu": cpu.get("model name") or platform.processor() or UNAVAILABLE,  # that may start a process
        "cpu_family_model": f"{cpu.get('cpu family', '?')}/{cpu.get('model', '?')}",
        "cores": len(os.sched_getaffinity(0)),
        "isa": [f for f in _FLAGS if f in cpu.get("flags", "").split()],
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "transparent_hugepage": _chosen(Path("/sys/kernel/mm/transparent_hugepage/enabled")),
        "shmem_huge": _chosen(Path("/sys/kernel/mm/transparent_hugepage/shmem_enabled")),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "versions": {"deeprecsys": VERSION} | {name: _version(name) for name in _PACKAGES},
        "power": UNAVAILABLE if not Path("/sys/class/powercap/intel-rapl:0/energy_uj").exists() else "rapl",
    }


def same_machine(a: dict[str, Any], b: dict[str, Any]) -> bool:
    """Whether figures of two machine records can be compared: the same kind and number of cores."""
    keys = ("cpu", "cpu_family_model", "cores", "isa")
    return all(a.get(k) == b.get(k) for k in keys)


def _cpuinfo() -> dict[str, str]:
    """The first processor's block of /proc/cpuinfo."""
    try:
        block = Path("/proc/cpuinfo").read_text().split("\n\n", 1)[0]
    except OSError:
        return {}
    pairs = (line.partition(":") for line in block.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def _chosen(path: Path) -> str:
    """The bracketed word of a kernel switch file."""
    try:
        text = path.read_text()
    except OSError:
        return UNAVAILABLE
    return text[text.find("[") + 1 : text.find("]")] if "[" in text else text.strip()


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return UNAVAILABLE
