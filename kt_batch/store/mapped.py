"""Files that are mapped into memory, and what happens when one of them is cut meanwhile.

Reading a page beyond the end of a mapped file raises the signal SIGBUS, which ends a process. A search therefore asks
before and after whether its files are as they were. For a cut in between, the first mapped file installs a guard (on
Linux, if the main thread opens it): Python's own handler only wakes a thread, which maps zeros over the missing pages.
The interrupted read goes on with these, and the check after the search reports the cut.

The thread needs the interpreter's lock, so mapped tensors are read by torch, which releases it, and never by numpy. A
SIGBUS that no mapped file explains ends the process as before.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import resource
import signal
import sys
import threading
import weakref
from pathlib import Path
from typing import BinaryIO

from kt_batch.errors import DamagedError, StorageError

SIGNALS = 4096  # taken at a time
SPARE_FILES = 256  # that a process may open besides
IDLE = 64  # more than a pipe holds of earlier signals

_MAP_FIXED = 0x10  # <sys/mman.h>, of all Linux machines
_files: weakref.WeakSet[MappedFile] = weakref.WeakSet()


class MappedFile:
    """An open file that is mapped, under the name that errors give it; it stays open as long as this object lives."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        self.descriptor = os.dup(file.fileno())  # keeps its locks too
        weakref.finalize(self, os.close, self.descriptor)
        self.name = name
        self._status = os.fstat(self.descriptor)
        _files.add(self)
        _guard()

    @property
    def path(self) -> Path:
        """A path that opens this very file, whatever its name leads to by now."""
        return Path(f"/dev/fd/{self.descriptor}")

    def check(self) -> None:
        """Raise DamagedError when the file has been cut or written to since it was opened."""
        status = os.fstat(self.descriptor)
        if status.st_size != self._status.st_size:
            raise DamagedError(
                f"{self.name} was cut or extended while it was in use: it has {status.st_size} bytes, not "
                f"{self._status.st_size}."
            )
        if status.st_mtime_ns != self._status.st_mtime_ns:
            raise DamagedError(f"{self.name} was written to while it was in use.")


def allow_open_files(more: int) -> None:
    """Raise this process's own limit of open files, as far as the system lets it, so that `more` can stay open.

    Often it is 1,024, and a large index has thousands of shards.

    Raises:
        StorageError: The system lets it open fewer.
    """
    needed = sum(1 for _ in Path("/dev/fd").iterdir()) + more
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed + SPARE_FILES:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise StorageError(f"This process may open {hard} files (ulimit -Hn), and this index needs {needed}.")
    wanted = needed + SPARE_FILES
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard))


def _guard() -> None:
    """Install the guard, unless it is there or another part of the program waits for signals in the same way."""
    main = threading.current_thread() is threading.main_thread()
    if sys.platform != "linux" or not main or signal.getsignal(signal.SIGBUS) is _ignore:
        return
    reading, writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    os.set_blocking(reading, True)
    previous = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    if previous != -1:
        signal.set_wakeup_fd(previous)
        os.close(reading)
        os.close(writing)
        return
    signal.signal(signal.SIGBUS, _ignore)
    threading.Thread(target=_mend, args=(reading,), name="mapped-files", daemon=True).start()


def _ignore(*_: object) -> None:
    """Do nothing: the thread has been woken already."""


def _mend(reading: int) -> None:
    """After each SIGBUS, fill what is missing; where nothing is, give the signal its usual effect."""
    idle = 0
    while signals := os.read(reading, SIGNALS):
        if signal.SIGBUS not in signals:
            continue
        idle = 0 if sum(_fill(file) for file in list(_files)) else idle + 1
        if idle > IDLE:
            ctypes.CDLL(None).signal(signal.SIGBUS, 0)  # to the default: `signal.signal` is for the main thread


def _fill(file: MappedFile) -> int:
    """Map zeros over the mapped pages of a file beyond its end; return the number of mappings with such pages."""
    try:
        size = os.fstat(file.descriptor).st_size
    except OSError:  # the process ends, and has closed it while earlier signals were looked at
        return 0
    end = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
    name = str(Path(f"/proc/self/fd/{file.descriptor}").readlink()).replace("\n", "\\012")
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = (ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long)
    filled = 0
    for line in Path("/proc/self/maps").read_text(errors="surrogateescape").splitlines():
        addresses, _, offset, _, _, *path = line.split(maxsplit=5)
        start, stop = (int(address, 16) for address in addresses.split("-"))
        first = max(start, start + end - int(offset, 16))
        if path == [name] and first < stop:
            how = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_FIXED
            libc.mmap(first, stop - first, mmap.PROT_READ | mmap.PROT_WRITE, how, -1, 0)
            filled += 1
    return filled
