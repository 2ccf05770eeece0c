"""What this process may still do: ever less, and nothing gives it back.

Limits that the system keeps (time, memory, files) everywhere; on Linux also no other process to start, signal, trace
or change (seccomp), no file but those named (Landlock), and none of root's privileges. Calls that are refused fail
with "Operation not permitted" or "Permission denied".
"""

import ctypes
import os
import platform
import resource
import signal
import struct
import sys
from collections.abc import Iterable, Iterator, Mapping

# number of a system call on x86-64 and on arm64
REFUSED: dict[str, tuple[int, int | None]] = {
    "fork": (57, None), "vfork": (58, None), "execve": (59, 221), "execveat": (322, 281),
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "kcmp": (312, 272),
    "pidfd_open": (434, 434), "pidfd_getfd": (438, 438), "pidfd_send_signal": (424, 424), "tkill": (200, 130),
    "rt_sigqueueinfo": (129, 138), "rt_tgsigqueueinfo": (297, 240), "process_madvise": (440, 440),
    "setpriority": (141, 140), "ioprio_set": (251, 30), "sched_setparam": (142, 118),
    "sched_setscheduler": (144, 119), "sched_setattr": (314, 274),
    "socket": (41, 198), "io_uring_setup": (425, 425), "bpf": (321, 280), "perf_event_open": (298, 241),
    "userfaultfd": (323, 282), "unshare": (272, 97), "setns": (308, 268),
    "add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219),
    "shmget": (29, 194), "msgget": (68, 186), "semget": (64, 190), "mq_open": (240, 180),
}  # fmt: skip
ON_ITSELF = {"kill": (62, 129), "tgkill": (234, 131)}  # only where the first argument is this process
ON_ITSELF_OR_0 = {"prlimit64": (302, 261)}
REFUSED_COMMANDS = {  # by the second argument: what makes the system send signals, or types on a terminal
    "fcntl": ((72, 25), (8, 10, 15)),  # F_SETOWN, F_SETSIG, F_SETOWN_EX
    "ioctl": ((16, 29), (0x8901, 0x8902, 0x5412, 0x541C)),  # FIOSETOWN, SIOCSPGRP, TIOCSTI, TIOCLINUX
}
CLONE, CLONE3, SECCOMP = (56, 220), (435, 435), (317, 277)
CLONE_THREAD = 0x10000
MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # column above, the system's name for it

LOAD, EQUAL, AT_LEAST, ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
ALLOW, KILL, EPERM, ENOSYS = 0x7FFF0000, 0x80000000, 0x50001, 0x50026
NUMBER, MACHINE, FIRST, SECOND = 0, 4, 16, 24  # where a filter finds them; of an argument, the lower half

READ = 0b1101  # execute (map code), read a file, list a folder
LIST = 0b1000
FILE_RIGHTS = 1 | 2 | 4 | 1 << 14 | 1 << 15  # those that a rule on a file may name


def set_limits(limits: Mapping[str, int], *, no_processes: bool) -> None:
    """Bound processor time (s), memory beyond what is taken now (bytes), a file's size and the number of open files.

    no_processes: nor may there be new ones, nor threads, as far as this limit is kept (it is not for root).
    """
    bounds = {
        resource.RLIMIT_CPU: limits["cpu_seconds"],
        resource.RLIMIT_FSIZE: limits["file_bytes"],
        resource.RLIMIT_NOFILE: limits["open_files"],
        resource.RLIMIT_CORE: 0,
    }
    if sys.platform == "linux":
        with open("/proc/self/statm") as file:
            taken = int(file.read().split()[0]) * resource.getpagesize()
        bounds[resource.RLIMIT_AS] = taken + limits["memory"]
    if no_processes:
        bounds[resource.RLIMIT_NPROC] = 0
    for which, bound in bounds.items():  # at the lower one the system says why, at the upper one it kills
        resource.setrlimit(which, (bound, bound + (which == resource.RLIMIT_CPU)))


def confine(readable: Iterable[str], hidden: str, folder: str) -> list[str]:
    """Give up all that can be given up but reading below `readable` (not below `hidden`) and writing below `folder`.

    The names of the protections that are now in force.
    """
    if sys.platform != "linux":
        return []
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG: end with the judge
    done = []
    if libc.capset(struct.pack("Ii", 0x20080522, 0), bytes(24)) == 0:
        done.append("no privileges")
    if libc.prctl(38, 1, 0, 0, 0) == 0:  # PR_SET_NO_NEW_PRIVS, which both of the following need
        if restrict_files(libc, readable, hidden, folder):
            done.append("no other files")
        if restrict_calls(libc):
            done.append("no other processes")
    return done


def restrict_files(libc: ctypes.CDLL, readable: Iterable[str], hidden: str, folder: str) -> bool:
    """Landlock: read below `readable`, do anything below `folder`, reach no other path; signals stay inside, too.

    Of `hidden`, if it is below one of `readable`, there is no more to be had than the names of its files.
    """
    version = libc.syscall(444, None, 0, 1)
    if version < 1:
        return False
    rights = (1 << {1: 13, 2: 14, 3: 15, 4: 15}.get(version, 16)) - 1
    network, scopes = (3 if version >= 4 else 0), (3 if version >= 6 else 0)
    wanted = struct.pack("QQQ", rights, network, scopes)
    rules = libc.syscall(444, wanted, 8 if version < 4 else 16 if version < 6 else 24, 0)
    if rules < 0:
        return False
    for path, allowed in [*_rights(readable, hidden), ("/dev/null", FILE_RIGHTS), (folder, rights)]:
        try:
            place = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            continue
        allowed &= rights if os.path.isdir(path) else rights & FILE_RIGHTS
        libc.syscall(445, rules, 1, struct.pack("=Qi", allowed, place), 0)
        os.close(place)
    restricted = libc.syscall(446, rules, 0) == 0
    os.close(rules)
    return restricted


def restrict_calls(libc: ctypes.CDLL) -> bool:
    """seccomp: threads may be started, but no process, and no other process can be reached."""
    if platform.machine() not in MACHINES:
        return False
    column, machine = MACHINES[platform.machine()]
    steps = list(_filter(column, machine, os.getpid()))
    program = b"".join(struct.pack("HBBI", *step) for step in steps)
    buffer = ctypes.create_string_buffer(program)
    header = struct.pack("HxxxxxxP", len(steps), ctypes.addressof(buffer))
    return libc.syscall(SECCOMP[column], 1, 1, header) == 0  # a filter, for all threads


def _filter(column: int, machine: int, me: int) -> Iterator[tuple[int, int, int, int]]:
    """A program of (operation, steps to skip if true, if false, operand)."""
    yield LOAD, 0, 0, MACHINE
    yield EQUAL, 1, 0, machine
    yield RETURN, 0, 0, KILL
    yield LOAD, 0, 0, NUMBER
    if column == 0:  # the calls of the 32-bit interface have other numbers
        yield AT_LEAST, 0, 1, 0x40000000
        yield RETURN, 0, 0, EPERM
    for numbers in REFUSED.values():
        if (refused := numbers[column]) is not None:
            yield EQUAL, 0, 1, refused
            yield RETURN, 0, 0, EPERM
    yield EQUAL, 0, 1, CLONE3[column]  # its flags cannot be seen here; without it, the C library takes clone
    yield RETURN, 0, 0, ENOSYS
    yield EQUAL, 0, 4, CLONE[column]
    yield LOAD, 0, 0, FIRST
    yield ANY_BIT, 1, 0, CLONE_THREAD
    yield RETURN, 0, 0, EPERM
    yield RETURN, 0, 0, ALLOW
    for calls, others in ((ON_ITSELF, ()), (ON_ITSELF_OR_0, (0,))):
        for numbers in calls.values():
            allowed = (me, *others)
            yield EQUAL, 0, len(allowed) + 3, numbers[column]
            yield LOAD, 0, 0, FIRST
            for i, process in enumerate(allowed):
                yield EQUAL, len(allowed) - i, 0, process
            yield RETURN, 0, 0, EPERM
            yield RETURN, 0, 0, ALLOW
    for numbers, commands in REFUSED_COMMANDS.values():
        yield EQUAL, 0, len(commands) + 3, numbers[column]
        yield LOAD, 0, 0, SECOND
        for i, command in enumerate(commands):
            yield EQUAL, len(commands) - i, 0, command
        yield RETURN, 0, 0, ALLOW
        yield RETURN, 0, 0, EPERM
    yield RETURN, 0, 0, ALLOW


def _rights(paths: Iterable[str], hidden: str) -> Iterator[tuple[str, int]]:
    """What is allowed below each path: to read; around `hidden` to list, so that modules beside it are found."""
    for path in map(os.path.realpath, paths):
        if path == hidden:
            continue
        if hidden.startswith(path.rstrip("/") + "/"):
            yield path, LIST
            yield from _rights((entry.path for entry in os.scandir(path)), hidden)
        else:
            yield path, READ
