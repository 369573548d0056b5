"""How much memory may still be taken: what the machine has free, or what the cgroup's limit leaves."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

_CGROUPS, _OWN = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
_UNBOUNDED = 1 << 60  # version 1 states no limit as a number near 2**63


def available_bytes(meminfo: Path = Path("/proc/meminfo"), root: Path = _CGROUPS, own: Path = _OWN) -> int:
    """Memory that can be had without swapping, in bytes: within every limit of this process's cgroups."""
    with meminfo.open() as lines:
        free = next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    left = [free]
    for limit, used, stat, cache in _limits(root, own):
        if (now := _number(used)) is not None:
            left.append(limit - now + min(now, _cached(stat, cache)))  # such files can be dropped
    return max(0, min(left))


def most_bytes(root: Path = _CGROUPS, own: Path = _OWN) -> int:
    """Memory that a process can have at most, in bytes: the machine's, or the least limit of its cgroups."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([machine, *(limit for limit, *_ in _limits(root, own))])


def _limits(root: Path, own: Path) -> Iterator[tuple[int, Path, Path, str]]:
    """Each limit along the paths of this process's cgroups, of version 2 and version 1, in bytes.

    With it the file that states what is used, the file of statistics, and the name in it of cached files that
    were not read lately.
    """
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            for level in _levels(root, path):
                for name in ("memory.max", "memory.high"):
                    if (limit := _number(level / name)) is not None:
                        yield limit, level / "memory.current", level / "memory.stat", "inactive_file"
        elif "memory" in controllers.split(","):
            for level in _levels(root / "memory", path):
                limit = _number(level / "memory.limit_in_bytes")
                if limit is not None and limit < _UNBOUNDED:
                    used = level / "memory.usage_in_bytes"
                    yield limit, used, level / "memory.stat", "total_inactive_file"


def _levels(root: Path, path: str) -> Iterator[Path]:
    """The folders of a cgroup and of those that it lies in. Inside a container the path may not be there."""
    folder = root / path.lstrip("/")
    while folder != root and root in folder.parents:
        yield folder
        folder = folder.parent
    yield root


def _number(file: Path) -> int | None:
    try:
        return int(file.read_text())
    except (OSError, ValueError):  # no such file, or "max"
        return None


def _cached(stat: Path, name: str) -> int:
    try:
        return next(int(v) for k, v in map(str.split, stat.read_text().splitlines()) if k == name)
    except (OSError, ValueError, StopIteration):
        return 0
