"""What the process that scores untrusted answers can no longer do once it is confined: write, connect, start, survive.

Three layers. Resource limits and, on Linux, a death signal and a seccomp filter bind whatever runs in the process;
an audit hook stops Python code on every platform and also keeps it from reading files outside Python's own directories.
None of them is why an answer cannot run code, which is that no answer reaches an evaluator unchecked
(`interp/grading/admission.py`): they are there for the case that this fails.
"""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import signal
import struct
import sys
import time
from collections.abc import Callable
from typing import Any

MEMORY = 4 * 2**30
"""Address space in bytes."""
OPEN_FILES = 64

_PR_SET_PDEATHSIG, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 1, 22, 38
_SECCOMP_MODE_FILTER = 2
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_CLONE_THREAD = 0x00010000
_EPERM, _ENOSYS = 1, 38
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_LOAD, _EQUAL, _ANY_BIT, _RETURN = 0x20, 0x15, 0x45, 0x06
_PERMIT = (_RETURN, 0, 0, _ALLOW)
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16
"""Offsets in what a filter sees of a call (struct seccomp_data)."""

_X86 = {
    "open": 2, "openat": 257, "creat": 85, "clone": 56, "tgkill": 234, "clone3": 435, "openat2": 437,
    "socket": 41, "connect": 42, "accept": 43, "bind": 49, "listen": 50, "socketpair": 53, "accept4": 288,
    "fork": 57, "vfork": 58, "execve": 59, "execveat": 322, "kill": 62, "tkill": 200, "ptrace": 101,
    "pidfd_send_signal": 424, "pidfd_getfd": 438, "process_vm_readv": 310, "process_vm_writev": 311,
    "rename": 82, "renameat": 264, "renameat2": 316, "unlink": 87, "unlinkat": 263, "rmdir": 84, "mkdir": 83,
    "mkdirat": 258, "link": 86, "linkat": 265, "symlink": 88, "symlinkat": 266, "chmod": 90, "fchmod": 91,
    "fchmodat": 268, "chown": 92, "fchown": 93, "lchown": 94, "fchownat": 260, "truncate": 76, "ftruncate": 77,
    "mknod": 133, "mknodat": 259, "utimensat": 280, "setxattr": 188, "mount": 165, "umount2": 166, "chroot": 161,
    "unshare": 272, "setns": 308, "bpf": 321, "io_uring_setup": 425, "userfaultfd": 323, "memfd_create": 319,
    "prlimit64": 302, "setrlimit": 160,
}  # fmt: skip
_ARM = {
    "openat": 56, "clone": 220, "tgkill": 131, "clone3": 435, "openat2": 437,
    "socket": 198, "connect": 203, "accept": 202, "bind": 200, "listen": 201, "socketpair": 199, "accept4": 242,
    "execve": 221, "execveat": 281, "kill": 129, "tkill": 130, "ptrace": 117,
    "pidfd_send_signal": 424, "pidfd_getfd": 438, "process_vm_readv": 270, "process_vm_writev": 271,
    "renameat": 38, "renameat2": 276, "unlinkat": 35, "mkdirat": 34, "linkat": 37, "symlinkat": 36, "fchmod": 52,
    "fchmodat": 53, "fchown": 55, "fchownat": 54, "truncate": 45, "ftruncate": 46, "mknodat": 33, "utimensat": 88,
    "setxattr": 5, "mount": 40, "umount2": 39, "chroot": 51, "unshare": 97, "setns": 268, "bpf": 280,
    "io_uring_setup": 425, "userfaultfd": 282, "memfd_create": 279, "prlimit64": 261,
}  # fmt: skip
_MACHINES = {"x86_64": (0xC000003E, _X86), "aarch64": (0xC00000B7, _ARM)}
"""By machine: what the kernel calls the architecture, and the numbers of its system calls."""

_DENIED_EVENTS = (
    "socket.", "subprocess.", "os.system", "os.exec", "os.fork", "os.posix_spawn", "os.spawn", "os.startfile",
    "os.kill", "os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate", "os.chmod",
    "os.chown", "os.utime", "os.setxattr", "os.chdir", "shutil.", "pty.", "ctypes.", "signal.pthread_kill",
    "sqlite3.", "fcntl.", "mmap.",
)  # fmt: skip
"""How the names of Python's audit events begin that code in the process has no need of."""


def die_with_parent(parent: int) -> str | None:
    """The process is killed as soon as its parent is gone. Returns what this platform lacks."""
    if sys.platform != "linux":
        return "a worker that dies with its parent"
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it went before the signal was asked for
        os._exit(1)
    return None


def confine() -> list[str]:
    """Closes what is not needed for scoring, for good. Returns what this platform lacks, in words."""
    steps: tuple[tuple[str, Callable[[], None]], ...] = (
        ("limits of memory, files and processes", _limit),
        ("a filter of system calls", _filter),
    )
    missing = []
    for what, step in steps:
        try:
            step()
        except (OSError, ValueError, NotImplementedError, AttributeError):
            missing.append(what)
    _audit()
    return missing


def allow_seconds(seconds: float) -> None:
    """Processor time for one more call: what runs on where nobody is left to stop it is killed."""
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (_within(int(time.process_time() + seconds) + 2, hard), hard))


def _within(limit: int, hard: int) -> int:
    """A limit that is not above one that is already in force."""
    return limit if hard == resource.RLIM_INFINITY else min(limit, hard)


def _limit() -> None:
    limits = {
        resource.RLIMIT_AS: MEMORY,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_NOFILE: OPEN_FILES,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NPROC: 0,  # nothing for a superuser: the filter does it there
    }
    for kind, limit in limits.items():
        lower = _within(limit, resource.getrlimit(kind)[1])
        resource.setrlimit(kind, (lower, lower))


def _prctl(option: int, *arguments: Any) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    padded = [*arguments, 0, 0, 0, 0][:4]
    if libc.prctl(option, *(a if isinstance(a, ctypes.c_void_p) else ctypes.c_ulong(a) for a in padded)) != 0:
        raise OSError(ctypes.get_errno(), "prctl")


def _filter() -> None:
    """A seccomp filter: no sockets, no other processes, no file opened for writing, changed or moved.

    Seccomp sees numbers, never what pointers point at; of `open` it sees the flags.
    """
    if sys.platform != "linux" or platform.machine() not in _MACHINES or struct.calcsize("P") != 8:
        raise NotImplementedError
    architecture, numbers = _MACHINES[platform.machine()]
    rules: list[list[tuple[int, int, int, int]]] = []
    for name, number in numbers.items():
        match name:
            case "open" | "openat":
                flags = _ARGUMENTS + 8 * (1 if name == "open" else 2)
                body = [(_LOAD, 0, 0, flags), (_ANY_BIT, 0, 1, _WRITING), _return(_EPERM), _PERMIT]
            case "clone":  # threads are no processes
                body = [(_LOAD, 0, 0, _ARGUMENTS), (_ANY_BIT, 1, 0, _CLONE_THREAD), _return(_EPERM), _PERMIT]
            case "tgkill":  # abort() signals its own process
                body = [(_LOAD, 0, 0, _ARGUMENTS), (_EQUAL, 1, 0, os.getpid()), _return(_EPERM), _PERMIT]
            case "prlimit64" | "setrlimit":  # processor time is set anew for each call
                kind = _ARGUMENTS + 8 * (1 if name == "prlimit64" else 0)
                body = [(_LOAD, 0, 0, kind), (_EQUAL, 1, 0, resource.RLIMIT_CPU), _return(_EPERM), _PERMIT]
            case "clone3" | "openat2":  # their flags lie behind a pointer: callers fall back on the older ones
                body = [_return(_ENOSYS)]
            case _:
                body = [_return(_EPERM)]
        rules.append([(_EQUAL, 0, len(body), number), *body])
    program = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_EQUAL, 1, 0, architecture),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER),
    ]
    program += [line for rule in rules for line in rule] + [_PERMIT]
    code = b"".join(struct.pack("HBBI", *line) for line in program)
    buffer = ctypes.create_string_buffer(code, len(code))
    header = ctypes.create_string_buffer(struct.pack("HP", len(program), ctypes.addressof(buffer)))
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    _prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.c_void_p(ctypes.addressof(header)))


def _return(error: int) -> tuple[int, int, int, int]:
    return (_RETURN, 0, 0, _ERRNO | error)


def _audit() -> None:
    """Python's own hook, which cannot be taken away again."""
    roots = tuple(
        os.path.realpath(path) + os.sep
        for path in {sys.prefix, sys.base_prefix, *filter(os.path.isdir, sys.path)}
        if os.path.realpath(path) != os.sep
    )

    def inside(path: Any) -> bool:
        return isinstance(path, int) or os.path.realpath(os.fsdecode(path)).startswith(roots)

    def check(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, mode, flags = arguments
            if (mode and set(mode) & set("wax+")) or flags & _WRITING or not inside(path):
                raise PermissionError(f"a scorer may not open {path!r}")
        elif event in ("os.listdir", "os.scandir"):
            if not inside(arguments[0] or "."):
                raise PermissionError(f"a scorer may not list {arguments[0]!r}")
        elif event.startswith(_DENIED_EVENTS):
            raise PermissionError(f"a scorer may not do {event}")

    sys.addaudithook(check)
