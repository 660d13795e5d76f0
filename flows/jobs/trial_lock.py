"""Locks this process in by the kernel's own means: Landlock for files, seccomp for everything else. Linux only.

    lock(readable=[...], writable="/tmp/x", files=True)    # for good: neither can be taken away again

After it the process starts no process, opens no socket, sends no signal, traces nothing and has no capability; with
`files` it reads and writes only what it was given. System calls by ctypes: no maintained library offers both.
Only the standard library, since it runs where nothing else is importable.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import signal
import stat
import struct
from collections.abc import Sequence

_ARCHITECTURES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
_LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT = 444, 445, 446
_OLDEST_LANDLOCK = 3
"""Before version 3 a file outside could be truncated."""
_NO_NEW_PRIVS, _SET_SECCOMP, _FILTER, _DROP_BOUNDING, _END_WITH_PARENT = 38, 22, 2, 24, 1

# Rights of Landlock: version 1 has 13 bits, 2 adds REFER, 3 TRUNCATE, 5 IOCTL_DEV.
_READ = 1 << 2 | 1 << 3
_FILE_RIGHTS = 1 << 0 | 1 << 1 | 1 << 2 | 1 << 14
_NO_DEVICES = ~(1 << 0 | 1 << 6 | 1 << 11)

# Numbers on (x86_64, aarch64); -1: it does not exist there.
_DENIED = {
    "socket": (41, 198), "fork": (57, -1), "vfork": (58, -1), "execve": (59, 221), "execveat": (322, 281),
    "kill": (62, 129), "tkill": (200, 130), "tgkill": (234, 131), "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240), "pidfd_send_signal": (424, 424), "pidfd_getfd": (438, 438),
    "process_madvise": (440, 440), "ptrace": (101, 117), "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271), "kcmp": (312, 272), "io_uring_setup": (425, 425),
    "unshare": (272, 97), "setns": (308, 268), "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41),
    "chroot": (161, 51), "open_tree": (428, 428), "move_mount": (429, 429), "fsopen": (430, 430),
    "mount_setattr": (442, 442), "open_by_handle_at": (304, 265), "bpf": (321, 280), "perf_event_open": (298, 241),
    "userfaultfd": (323, 282), "add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219),
    "shmget": (29, 194), "shmat": (30, 196), "shmctl": (31, 195), "shmdt": (67, 197),
    "semget": (64, 190), "semop": (65, 193), "semctl": (66, 191), "semtimedop": (220, 192),
    "msgget": (68, 186), "msgsnd": (69, 189), "msgrcv": (70, 188), "msgctl": (71, 187),
    "mq_open": (240, 180), "mq_unlink": (241, 181), "mq_timedsend": (242, 182), "mq_timedreceive": (243, 183),
    "mq_notify": (244, 184), "mq_getsetattr": (245, 185),
    "memfd_create": (319, 279), "memfd_secret": (447, 447), "setpriority": (141, 140), "ioprio_set": (251, 30),
    "sched_setparam": (142, 118), "sched_setscheduler": (144, 119), "sched_setattr": (314, 274),
    "sched_setaffinity": (203, 122), "migrate_pages": (256, 238), "move_pages": (279, 239),
}  # fmt: skip
# Landlock does not restrict who may change owner, mode, times and attributes of a file.
_DENIED_METADATA = {
    "chmod": (90, -1), "fchmod": (91, 52), "fchmodat": (268, 53), "fchmodat2": (452, 452), "chown": (92, -1),
    "fchown": (93, 55), "lchown": (94, -1), "fchownat": (260, 54), "utime": (132, -1), "utimes": (235, -1),
    "futimesat": (261, -1), "utimensat": (280, 88), "setxattr": (188, 5), "lsetxattr": (189, 6),
    "fsetxattr": (190, 7), "removexattr": (197, 14), "lremovexattr": (198, 15), "fremovexattr": (199, 16),
    "setxattrat": (463, 463), "removexattrat": (466, 466), "file_setattr": (469, 469),
}  # fmt: skip
_CLONE, _CLONE3, _PRLIMIT = (56, 220), (435, 435), (302, 261)
_CAPSET = (126, 91)
_FCNTL, _IOCTL = (72, 25), (16, 29)
_SENDS_SIGNALS = {_FCNTL: (8, 15), _IOCTL: (0x8901, 0x8902)}
"""F_SETOWN, F_SETOWN_EX, FIOSETOWN, SIOCSPGRP: by them the kernel signals another process about a descriptor."""
_THREAD = 0x10000
_X32 = 0x40000000


class LockError(OSError):
    """The kernel does not offer what the lock needs."""


def supported(*, files: bool) -> bool:
    """Whether this machine can lock a process in."""
    if os.name != "posix" or platform.system() != "Linux" or platform.machine() not in _ARCHITECTURES:
        return False
    return not files or _landlock_version() >= _OLDEST_LANDLOCK


def lock(*, readable: Sequence[str], writable: str, files: bool) -> None:
    """Lock the calling thread, and all that it starts from now on, in. Call it before there are others.

    Args:
        readable: Files and folders that may be read.
        writable: The one folder that may be changed.
        files: Restrict files too; False where they are out of sight already.

    Raises:
        LockError: Nothing, or not everything, could be locked.
    """
    if not supported(files=files):
        raise LockError(errno.ENOSYS, "no seccomp or Landlock for this kernel")
    for capability in range(64):
        _libc().prctl(_DROP_BOUNDING, capability, 0, 0, 0)  # only a privileged process has any to drop
    _checked("prctl", _libc().prctl(_NO_NEW_PRIVS, 1, 0, 0, 0))
    if files:
        _landlock(readable, writable)
    _drop_capabilities()
    _checked("prctl", _libc().prctl(_END_WITH_PARENT, signal.SIGKILL, 0, 0, 0))
    _seccomp(files)


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _checked(what: str, result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise LockError(number, f"{what}: {os.strerror(number)}")
    return result


def _call(number: int, *arguments: object) -> int:
    return int(_libc().syscall(ctypes.c_long(number), *arguments))


def _landlock_version() -> int:
    return _call(_LANDLOCK_CREATE, None, ctypes.c_size_t(0), ctypes.c_uint32(1))


def _landlock(readable: Sequence[str], writable: str) -> None:
    version = _landlock_version()
    rights = (1 << 15) - 1 | (1 << 15 if version >= 5 else 0)
    # Files; TCP from version 4; abstract sockets and signals from version 6.
    rules = struct.pack("QQQ", rights, 3, 3)[: 24 if version >= 6 else 16 if version >= 4 else 8]
    ruleset = _checked(
        "landlock", _call(_LANDLOCK_CREATE, rules, ctypes.c_size_t(len(rules)), ctypes.c_uint32(0))
    )
    try:
        for path in readable:
            _allow(ruleset, path, _READ)
        for device in ("/dev/urandom", "/dev/random", "/dev/zero"):
            _allow(ruleset, device, _READ)
        _allow(ruleset, os.devnull, _READ | 1 << 1 | 1 << 14)
        _allow(ruleset, writable, rights & _NO_DEVICES)
        _checked("landlock", _call(_LANDLOCK_RESTRICT, ctypes.c_int(ruleset), ctypes.c_uint32(0)))
    finally:
        os.close(ruleset)


def _allow(ruleset: int, path: str, rights: int) -> None:
    try:
        opened = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return  # what is not there needs no permission
    try:
        if not stat.S_ISDIR(os.fstat(opened).st_mode):
            rights &= _FILE_RIGHTS
        rule = struct.pack("=Qi", rights, opened)
        _checked("landlock", _call(_LANDLOCK_ADD, ctypes.c_int(ruleset), 1, rule, ctypes.c_uint32(0)))
    finally:
        os.close(opened)


def _drop_capabilities() -> None:
    header = struct.pack("Ii", 0x20080522, 0)
    number = _CAPSET[_ARCHITECTURES[platform.machine()][1]]
    _checked("capset", _call(number, header, bytes(24)))


def _seccomp(files: bool) -> None:
    filters = _program(files)
    code = b"".join(struct.pack("HBBI", *line) for line in filters)
    buffer = ctypes.create_string_buffer(code, len(code))
    program = struct.pack("HxxxxxxP", len(filters), ctypes.addressof(buffer))
    _checked("seccomp", _libc().prctl(_SET_SECCOMP, _FILTER, program, 0, 0))


def _program(files: bool) -> list[tuple[int, int, int, int]]:
    """The filter as instructions (code, jump if true, jump if false, operand)."""
    architecture, column = _ARCHITECTURES[platform.machine()]
    load, equal, at_least, any_bit, give = 0x20, 0x15, 0x35, 0x45, 0x06
    allow, kill = 0x7FFF0000, 0x80000000
    refuse, absent = 0x50000 | errno.EPERM, 0x50000 | errno.ENOSYS
    lines = [(load, 0, 0, 4), (equal, 1, 0, architecture), (give, 0, 0, kill), (load, 0, 0, 0)]
    if column == 0:
        lines += [(at_least, 0, 1, _X32), (give, 0, 0, kill)]
    for numbers in (*_DENIED.values(), *(_DENIED_METADATA.values() if files else ())):
        if numbers[column] >= 0:
            lines += [(equal, 0, 1, numbers[column]), (give, 0, 0, refuse)]
    # Without clone3 the C library starts its threads by clone, whose flags can be looked at.
    lines += [(equal, 0, 1, _CLONE3[column]), (give, 0, 0, absent)]
    lines += [(equal, 0, 4, _CLONE[column]), (load, 0, 0, 16), (any_bit, 1, 0, _THREAD), (give, 0, 0, refuse)]
    lines += [(give, 0, 0, allow)]
    for numbers, requests in _SENDS_SIGNALS.items():
        lines += [(equal, 0, 5, numbers[column]), (load, 0, 0, 24)]
        lines += [
            (equal, 1, 0, requests[0]),
            (equal, 0, 1, requests[1]),
            (give, 0, 0, refuse),
            (give, 0, 0, allow),
        ]
    # Limits of another process.
    lines += [(equal, 0, 3, _PRLIMIT[column]), (load, 0, 0, 16), (equal, 1, 0, 0), (give, 0, 0, refuse)]
    return [*lines, (give, 0, 0, allow)]
