"""Which cores a node may use, and how its own process is scheduled among the workers."""

from __future__ import annotations

import contextlib
import ctypes
import os
import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

_PR_SET_PDEATHSIG, _PR_SET_TIMERSLACK = 1, 29
_libc = ctypes.CDLL(None, use_errno=True)


def usable_cores() -> list[int]:
    """The cores of this process's affinity mask, as many as the cgroup's CPU quota pays for."""
    cores = sorted(os.sched_getaffinity(0))
    quota = cgroup_quota()
    return cores if quota is None else cores[: max(1, int(quota))]


def cgroup_quota(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> float | None:
    """Cores that this process's cgroup (version 2) pays for, the least along its path; None if unbounded."""
    try:
        path = own.read_text().strip().rsplit(":", 1)[-1].lstrip("/")
    except OSError:
        return None
    least: float | None = None
    folder = root / path
    for level in [folder, *folder.parents]:
        try:
            limit, period = (level / "cpu.max").read_text().split()[:2]
        except (OSError, ValueError):
            continue
        if limit != "max":
            share = int(limit) / int(period)
            least = share if least is None else min(least, share)
    return least


def realtime_permitted() -> bool:
    """Whether this process may run under SCHED_FIFO."""
    with realtime() as granted:
        return granted


@contextmanager
def realtime() -> Iterator[bool]:
    """Run the calling thread under SCHED_FIFO where permitted; yields whether it is.

    The dispatcher needs a core for microseconds at a time, while workers hold all cores for
    milliseconds: under the normal policy it would wait for them. Children do not inherit it.
    """
    before, param = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(1))
        granted = True
    except OSError:
        granted = False
        _libc.prctl(_PR_SET_TIMERSLACK, 1, 0, 0, 0)  # or select() would sleep 50 µs longer than asked
    try:
        yield granted
    finally:
        if granted:
            os.sched_setscheduler(0, before, param)


@contextmanager
def awake() -> Iterator[bool]:
    """Keep idle cores from sleeping, where permitted; yields whether they are.

    A core that sleeps takes its wake-up time to begin a batch, and in a virtual machine it gives its
    processor back: to get it again can take milliseconds. The kernel's interface is a file that holds as
    long as it is open (power management quality of service, `Documentation/power/pm_qos_interface`).
    """
    try:
        fd = os.open("/dev/cpu_dma_latency", os.O_WRONLY)
    except OSError:
        yield False
        return
    try:
        os.write(fd, struct.pack("i", 0))
        yield True
    finally:
        os.close(fd)


def die_with_parent(parent: int, signal: int) -> None:
    """Have the kernel send this process `signal` when its parent dies, however that happens."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal, 0, 0, 0)
    if os.getppid() != parent:  # it died before we asked
        os._exit(0)


def go_first() -> None:
    """Take precedence over what else runs on this process's cores, where permitted.

    At the greatest weight of the fair scheduler, a process of usual weight next to a worker gets about one
    part in ninety of the core: a batch is disturbed by a percent and not by half. Unlike a real-time class
    it starves no process.
    """
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, -20)
    with contextlib.suppress(OSError):  # where the kernel weighs sessions and not processes
        Path("/proc/self/autogroup").write_text("-20")


@contextmanager
def usual_weight() -> Iterator[None]:
    """Within the block, take no precedence: for work that a worker on the same core must not wait for."""
    before = os.getpriority(os.PRIO_PROCESS, 0)
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, max(before, 0))
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, 0, before)


def worker_nice(pids: Iterable[int]) -> int | None:
    """The greatest nice value of the processes that are alive; None where none is."""
    found = []
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):  # it has died
            found.append(os.getpriority(os.PRIO_PROCESS, pid))
    return max(found, default=None)


def pss_bytes(pids: list[int]) -> int:
    """Proportional set size of the processes together: shared pages count once, over their sharers."""
    total = 0
    for pid in pids:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        total += 1024 * int(next(ln.split()[1] for ln in text.splitlines() if ln.startswith("Pss:")))
    return total


def numa_nodes(root: Path = Path("/sys/devices/system/node")) -> int:
    """How many NUMA nodes the machine has."""
    return max(1, len(list(root.glob("node[0-9]*"))))


def interleave_memory(nodes: int) -> bool:
    """Spread this thread's next allocations over all NUMA nodes; returns whether the kernel agreed.

    Tables are read by every worker at random rows: no node is the right one for them.
    """
    if nodes < 2 or os.uname().machine != "x86_64":
        return False
    set_mempolicy, mpol_interleave = 238, 3
    mask = ctypes.c_ulong((1 << nodes) - 1)
    return bool(_libc.syscall(set_mempolicy, mpol_interleave, ctypes.byref(mask), 65) == 0)
