"""A folder of one user: nobody else may read it or write to it, and no link in it is followed.

The folder is checked each time it is opened. Every file is opened relative to the open folder, so that a folder that is
swapped afterwards changes nothing. A folder that is a link, belongs to somebody else, or grants others any right is
refused.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from kt_batch.errors import StorageError
from kt_batch.store.names import TEMP_PREFIX
from kt_batch.store.publish import sync_open_directory

LOCK = "lock"
_FILE = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK  # a pipe does not block; `_regular` refuses it


class UnwritableError(StorageError):
    """The folder cannot be created, this process may not write to it, or its disk is full or gives no locks."""


class PrivateFolder:
    """An open folder of this user, mode 0700.

    Args:
        path: The folder, which is created where it is missing.
        read_only: Only read: the folder must exist, and may lie where nothing can be written.

    Raises:
        UnwritableError: The folder cannot be opened, created or written to.
        StorageError: The folder is a link, belongs to somebody else, or is open to others.
    """

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        self.path = path
        self.read_only = read_only
        try:
            if not read_only:
                path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                with suppress(FileExistsError):
                    path.mkdir(mode=0o700)
            self._folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            if path.is_symlink():
                raise StorageError(f"The cache folder '{path}' is a link; name a folder with --cache-dir.") from error
            raise UnwritableError(f"The cache folder '{path}' cannot be used: {error.strerror}.") from error
        try:
            self._check()
        except BaseException:
            self.close()
            raise

    def _check(self) -> None:
        status = os.fstat(self._folder)
        mode = stat.S_IMODE(status.st_mode)
        if status.st_uid != os.geteuid():
            raise StorageError(
                f"The cache folder '{self.path}' belongs to user {status.st_uid}, not to user {os.geteuid()}; "
                "name a folder of your own with --cache-dir."
            )
        if mode & 0o077:
            raise StorageError(
                f"The cache folder '{self.path}' is open to other users (mode {mode:04o}, allowed is 0700); "
                "check what lies in it, then: chmod 700, or name another folder with --cache-dir."
            )
        if not self.read_only and not os.access(".", os.W_OK | os.X_OK, dir_fd=self._folder):
            raise UnwritableError(f"The cache folder '{self.path}' cannot be written to.")

    def close(self) -> None:
        """Close the folder; files opened from it stay open."""
        os.close(self._folder)

    def open(self, name: str, flags: int = os.O_RDONLY) -> BinaryIO | None:
        """Open a regular file; None where there is none. A link or anything else under the name counts as none."""
        try:
            descriptor = os.open(name, flags | _FILE, 0o600, dir_fd=self._folder)
        except (FileNotFoundError, IsADirectoryError):
            return None
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.EMLINK, errno.ENXIO):
                return None
            raise
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            return None
        return os.fdopen(descriptor, "rb" if flags & os.O_ACCMODE == os.O_RDONLY else "r+b", buffering=0)

    def names(self) -> list[str]:
        """Return the sorted names of everything in the folder."""
        return sorted(os.listdir(self._folder))  # noqa: PTH208 - pathlib takes no descriptor

    def status(self, name: str) -> os.stat_result | None:
        """Return the status of a regular file; None where there is none."""
        try:
            found = os.stat(name, dir_fd=self._folder, follow_symlinks=False)
        except FileNotFoundError:
            return None
        return found if stat.S_ISREG(found.st_mode) else None

    def touch(self, name: str) -> None:
        """Create an empty file, or set its time of change to the present."""
        file = self.open(name, os.O_RDWR | os.O_CREAT)
        if file is not None:
            with file:
                now = time.time_ns()  # the kernel's own time is coarse
                os.utime(file.fileno(), ns=(now, now))

    def append(self, name: str, data: bytes) -> None:
        """Append to a file in one write; create it where there is none."""
        file = self.open(name, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        if file is not None:
            with file:
                file.write(data)

    def remove(self, name: str) -> None:
        """Remove a file or a link, if there is one."""
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self._folder)

    @contextmanager
    def new_file(self, name: str) -> Iterator[BinaryIO]:
        """Yield a file under a temporary name that takes `name`, synced, if no error ends the block."""
        temporary = f"{TEMP_PREFIX}{secrets.token_hex(12)}"
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | _FILE
            with os.fdopen(os.open(temporary, flags, 0o600, dir_fd=self._folder), "r+b") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.rename(temporary, name, src_dir_fd=self._folder, dst_dir_fd=self._folder)
            sync_open_directory(self._folder)
        finally:
            self.remove(temporary)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder's lock, which the death of its holder frees; wait for it first."""
        lock = self.open(LOCK, os.O_RDWR | os.O_CREAT)
        if lock is None:
            raise StorageError(f"'{self.path / LOCK}' is not a regular file; remove it.")
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def free_bytes(self) -> int:
        """Return the free space of the file system in bytes."""
        status = os.fstatvfs(self._folder)
        return status.f_bavail * status.f_frsize
