"""Forbid this process to start others, by a filter of system calls. Threads stay allowed.

A limit of processes (`RLIMIT_NPROC`) forbids threads too, and libde265 decodes no HEIC without one. Nor does it bind
root. Sources: seccomp(2), the kernel's include/uapi/linux/seccomp.h, filter.h and audit.h.
"""

from __future__ import annotations

import ctypes
import errno
import platform
import struct
import sys

_NO_NEW_PRIVILEGES, _SET_SECCOMP, _MODE_FILTER = 38, 22, 2  # of prctl
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06  # instructions of BPF
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16  # offsets in struct seccomp_data; the low half of the argument
_CLONE_THREAD = 0x10000
_X32 = 0x40000000  # numbers of another set of system calls begin here

# Machine -> number of the architecture; numbers of execve, execveat, fork, vfork; of clone; of clone3.
_CALLS = {
    "x86_64": (0xC000003E, (59, 322, 57, 58), 56, 435),
    "aarch64": (0xC00000B7, (221, 281), 220, 435),
}


class _Filter(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def forbid_processes() -> bool:
    """Forbid this process, and its threads, to start a program or a process for good; return whether that was done.

    It is not done on a system without such filters, or on a processor that is not known here.
    """
    known = _CALLS.get(platform.machine())
    if sys.platform != "linux" or sys.maxsize < 2**32 or known is None:
        return False
    instructions = _instructions(*known)
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl.argtypes = [ctypes.c_int, *[ctypes.c_ulong] * 4]
    program = _Filter(len(instructions) // 8, instructions)
    if libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0) != 0:
        return False
    return bool(libc.prctl(_SET_SECCOMP, _MODE_FILTER, ctypes.addressof(program), 0, 0) == 0)


def _instructions(architecture: int, forbidden: tuple[int, ...], clone: int, clone3: int) -> bytes:
    """Return the filter; a jump counts instructions from the next one, first where the comparison holds."""
    refuse, absent = _ERRNO | errno.EPERM, _ERRNO | errno.ENOSYS
    answers = [(_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, refuse), (_RETURN, 0, 0, absent)]
    calls = len(forbidden)
    # Behind the checks of numbers stand: load the argument, check it, allow, refuse, absent.
    program = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_EQUAL, 0, calls + 7, architecture),
        (_LOAD, 0, 0, _NUMBER),
        (_AT_LEAST, calls + 5, 0, _X32),
        *((_EQUAL, calls + 4 - place, 0, number) for place, number in enumerate(forbidden)),
        (_EQUAL, 5, 0, clone3),  # glibc then takes clone, whose flags can be seen
        (_EQUAL, 0, 2, clone),
        (_LOAD, 0, 0, _FIRST_ARGUMENT),
        (_ANY_BIT, 0, 1, _CLONE_THREAD),
        *answers,
    ]
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in program)
