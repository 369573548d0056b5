"""How much memory may still be taken: what the machine has free, or what the cgroup's limit leaves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

_UNBOUNDED = 1 << 60  # version 1 states no limit as a number near 2**63


def available_bytes(
    meminfo: Path = Path("/proc/meminfo"),
    root: Path = Path("/sys/fs/cgroup"),
    own: Path = Path("/proc/self/cgroup"),
) -> int:
    """Memory that can be had without swapping, in bytes: within every limit of this process's cgroups."""
    with meminfo.open() as lines:
        free = next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    return max(0, min([free, *_left(root, own)]))


def _left(root: Path, own: Path) -> Iterator[int]:
    """What each limit along the paths of this process's cgroups leaves, of version 2 and version 1."""
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            for level in _levels(root, path):
                two = (level / "memory.max", level / "memory.high")
                yield from _of(two, level / "memory.current", level / "memory.stat", "inactive_file")
        elif "memory" in controllers.split(","):
            for level in _levels(root / "memory", path):
                one, used = (level / "memory.limit_in_bytes",), level / "memory.usage_in_bytes"
                yield from _of(one, used, level / "memory.stat", "total_inactive_file")


def _levels(root: Path, path: str) -> Iterator[Path]:
    """The folders of a cgroup and of those that it lies in. Inside a container the path may not be there."""
    folder = root / path.lstrip("/")
    while folder != root and root in folder.parents:
        yield folder
        folder = folder.parent
    yield root


def _of(limits: Sequence[Path], used: Path, stat: Path, cache: str) -> Iterator[int]:
    """What limits leave above what is used; cached files that were not read lately can be dropped."""
    for file in limits:
        limit, now = _number(file), _number(used)
        if limit is not None and now is not None and limit < _UNBOUNDED:
            yield limit - now + min(now, _cached(stat, cache))


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
