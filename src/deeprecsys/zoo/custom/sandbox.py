"""A process without privileges, in which files of models are read: `python -P sandbox.py MODULE ARGUMENTS`.

The process gives up its privileges before it imports anything that starts threads, and then runs MODULE. It
needs the standard library alone. Two layers forbid network and writing, so that either may be missing:

- seccomp: no sockets, no other program or process, no signal to another process, no opening of a file for
  writing, no change of a file's name, owner, mode, times or attributes;
- Landlock: no writing below any path, no TCP, no signal and no abstract socket to the outside. With it come a
  network namespace without interfaces, and no capability but that to read what the caller could read.

Limits: bytes of private memory and of files, processor time, descriptors. Descriptors that are open at the
start stay usable. Without MODULE it prints which measures the kernel refuses.
"""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import runpy
import struct
import sys
import tempfile
from typing import NamedTuple

ANSWER_BYTES = 1 << 31  # the size to which a file opened by the caller may grow; protobuf's limit too
CPU_S = 3600
DESCRIPTORS = 1024

_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 38, 22, 2
_CLONE_NEWUSER, _CLONE_NEWNET, _CLONE_NEWIPC, _CLONE_THREAD = 0x10000000, 0x40000000, 0x08000000, 0x00010000
_CAP_VERSION, _CAP_DAC_READ_SEARCH = 0x20080522, 2
_EPERM, _ENOSYS = 1, 38
_libc = ctypes.CDLL(None, use_errno=True)


def enter() -> dict[str, str]:
    """Give up this process's privileges, for good.

    Returns:
        The measures that the kernel refused, and why. The others hold.
    """
    refused = {}
    for measure in (_limits, _no_new_privileges, _namespaces, _capabilities, _landlock, _seccomp):
        try:
            measure()
        except OSError as e:
            refused[measure.__name__.strip("_")] = str(e)
    return refused


def _call(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def _syscall(number: int, *arguments: object) -> int:
    return _call(_libc.syscall(ctypes.c_long(number), *arguments), f"system call {number}")


def _limits() -> None:
    from deeprecsys.memory import most_bytes  # which needs the standard library alone, too

    for name, limit in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_CPU, CPU_S),
        (resource.RLIMIT_DATA, most_bytes()),
        (resource.RLIMIT_FSIZE, ANSWER_BYTES),
        (resource.RLIMIT_NOFILE, DESCRIPTORS),
    ):
        hard = resource.getrlimit(name)[1]
        least = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(name, (least, least))


def _no_new_privileges() -> None:
    _call(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "prctl")


def _namespaces() -> None:
    """A network of its own. An ordinary user needs a user namespace for it; root keeps its right to read."""
    user = 0 if os.geteuid() == 0 else _CLONE_NEWUSER
    _call(_libc.unshare(_CLONE_NEWNET | _CLONE_NEWIPC | user), "unshare")


def _capabilities() -> None:
    header = struct.pack("=Ii", _CAP_VERSION, 0)
    held = ctypes.create_string_buffer(24)
    _call(_libc.capget(header, held), "capget")
    keep = struct.unpack("=6I", held)[1] & 1 << _CAP_DAC_READ_SEARCH
    _call(_libc.capset(header, struct.pack("=6I", keep, keep, 0, 0, 0, 0)), "capset")


def _landlock() -> None:
    """Handle every right that changes something, and grant none. Reading is not restricted."""
    create, restrict = 444, 446
    version = _syscall(create, None, ctypes.c_size_t(0), 1)
    writing = 0b1_1111_1111_0010  # WRITE_FILE, REMOVE_*, MAKE_*
    files = writing | (1 << 13 if version >= 2 else 0) | (1 << 14 if version >= 3 else 0)  # REFER, TRUNCATE
    tcp, scoped = (0b11 if version >= 4 else 0), (0b11 if version >= 6 else 0)
    attributes = struct.pack("=QQQ", files, tcp, scoped)[: 8 if version < 4 else 16 if version < 6 else 24]
    ruleset = _syscall(create, attributes, ctypes.c_size_t(len(attributes)), 0)
    try:
        _syscall(restrict, ruleset, 0)
    finally:
        os.close(ruleset)


class _Machine(NamedTuple):
    """An architecture's system calls by number.

    Attributes:
        audit: the architecture's own number.
        absent: calls answered with ENOSYS; the C library then takes older ones that the filter can judge.
        opening: by call, which argument has the flags of opening.
    """

    audit: int
    forbidden: tuple[int, ...]
    absent: tuple[int, ...]
    opening: dict[int, int]
    clone: int
    tgkill: int
    prlimit: int


_MACHINES = {
    "x86_64": _Machine(
        0xC000003E,
        (
            *(41, 53, 57, 58, 59, 322),  # socket, socketpair, fork, vfork, execve, execveat
            *(101, 310, 311, 438),  # ptrace, process_vm_readv, process_vm_writev, pidfd_getfd
            *(62, 200, 424, 129, 297),  # kill, tkill, pidfd_send_signal, rt_sigqueueinfo, rt_tgsigqueueinfo
            *(82, 264, 316, 83, 258, 84, 87, 263),  # rename*, mkdir*, rmdir, unlink*
            *(86, 265, 88, 266, 133, 259, 85, 76),  # link*, symlink*, mknod*, creat, truncate
            *(90, 91, 268, 452, 92, 93, 94, 260),  # chmod*, chown*
            *(132, 235, 261, 280),  # utime*
            *(188, 189, 190, 197, 198, 199, 463, 466),  # *setxattr*, *removexattr*
            *(272, 308, 165, 155, 161),  # unshare, setns, mount, pivot_root, chroot
            # bpf, perf_event_open, keys, userfaultfd, open_by_handle_at
            *(321, 298, 248, 249, 250, 323, 304),
            *(29, 64, 68, 240),  # shmget, semget, msgget, mq_open
        ),
        (425, 435, 437),  # io_uring_setup, clone3, openat2: the C library does without
        {2: 1, 257: 2},  # open, openat
        56,
        234,
        302,
    ),
    "aarch64": _Machine(
        0xC00000B7,
        (
            *(198, 199, 221, 281),
            *(117, 270, 271, 438),
            *(129, 130, 424, 138, 240),
            *(38, 276, 34, 35, 37, 36, 33, 45),
            *(52, 53, 452, 54, 55, 88),
            *(5, 6, 7, 14, 15, 16, 463, 466),
            *(97, 268, 40, 41, 51),
            *(280, 241, 217, 218, 219, 282, 265),
            *(194, 190, 186, 180),
        ),
        (425, 435, 437),
        {56: 2},
        220,
        131,
        261,
    ),
}
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06


def _program(machine: str, pid: int) -> bytes:
    """The filter, as instructions of the classic Berkeley packet filter."""
    calls = _MACHINES[machine]

    def op(code: int, value: int, yes: int = 0, no: int = 0) -> bytes:
        return struct.pack("=HBBI", code, yes, no, value)

    def fail(number: int) -> bytes:
        return op(_RETURN, 0x00050000 | number)

    def where(call: int, argument: int, *rule: bytes) -> bytes:
        """A rule of two instructions on the low half of one argument of a call."""
        return b"".join([op(_EQUAL, call, 0, 4), op(_LOAD, 16 + 8 * argument), *rule, op(_LOAD, 0)])

    refusal = fail(_EPERM)
    return b"".join(
        [
            op(_LOAD, 4), op(_EQUAL, calls.audit, 1, 0), refusal,
            op(_LOAD, 0), op(_AT_LEAST, 0x40000000, 0, 1), refusal,
            *(op(_EQUAL, call, 0, 1) + refusal for call in calls.forbidden),
            *(op(_EQUAL, call, 0, 1) + fail(_ENOSYS) for call in calls.absent),
            *(where(call, at, op(_ANY_BIT, _WRITING, 0, 1), refusal) for call, at in calls.opening.items()),
            where(calls.clone, 0, op(_ANY_BIT, _CLONE_THREAD, 1, 0), refusal),
            where(calls.tgkill, 0, op(_EQUAL, pid, 1, 0), refusal),
            where(calls.prlimit, 0, op(_EQUAL, 0, 1, 0), refusal),
            op(_RETURN, 0x7FFF0000),
        ]
    )  # fmt: skip


def _seccomp() -> None:
    machine = platform.machine()
    if machine not in _MACHINES:
        raise OSError(_ENOSYS, f"no list of system calls for {machine}")
    code = ctypes.create_string_buffer(_program(machine, os.getpid()))
    filter_ = struct.pack("@HP", (len(code) - 1) // 8, ctypes.addressof(code))
    _call(_libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, filter_, 0, 0), "prctl")


if __name__ == "__main__":
    sys.path.append(os.path.abspath(f"{__file__}/../../../.."))  # where this package is, installed or not
    missing = enter()
    if len(sys.argv) == 1:
        sys.exit("\n".join(f"refused: {m}: {why}" for m, why in missing.items()) or "every measure holds")
    # torch would try to write when it is imported.
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = tempfile.tempdir = "/"
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
