"""Give a finished file its name in a directory, and never replace another file.

There are three ways, and the first that works is taken (decision 0021):

    link     a hard link. It fails when the name is taken, on this host and on all others.
    rename   the kernel's rename that does not replace, where a probe shows that it really refuses a taken name.
    lock     a rename under an exclusive lock of the file `.tmp-lock`. The lock ends with the process that holds it.

A hard link is tried first and costs nothing more than itself. A probe is made only where a hard link is refused: once
per process, location and file system.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import secrets
import socket
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from enum import StrEnum
from functools import cache
from pathlib import Path

from kt_batch.errors import StorageError
from kt_batch.store.names import TEMP_PREFIX

LOCK_NAME = f"{TEMP_PREFIX}lock"  # of a file that stays empty and is never removed, so that all lock the same one

# Answers of file systems without hard links. Some of them are also answers to a bad name or a missing right: the probe
# tells them apart.
_NO_LINKS = frozenset({
    errno.EPERM, errno.EACCES, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL, errno.EMLINK, errno.EXDEV,
    errno.ENOTTY,
})  # fmt: skip
# Answers of a kernel or file system that does not know a call, or forbids it to all. Others say nothing of the way.
_NO_CALL = _NO_LINKS - {errno.EMLINK, errno.EXDEV} | {errno.ENOLCK}
_NOT_SYNCED = frozenset({errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EBADF})
_AT_FDCWD, _NO_REPLACE = -100, 1  # of <linux/fcntl.h> and <linux/fs.h>

_known_ways: dict[tuple[Path, int], Way] = {}  # by location and device


class Way(StrEnum):
    """A way to give a file its name without replacing another."""

    LINK = "link"
    RENAME = "rename"
    LOCK = "lock"


def publish(temporary: Path, target: Path, root: Path) -> bool:
    """Give a synced file its name, durably; return False when the name is taken.

    Afterwards `temporary` may be gone.

    Args:
        temporary: The file, on the file system of `target`.
        target: Its name.
        root: The directory that holds the lock where one is needed: the same for all writers of `target`.

    Raises:
        OSError: The name cannot be given for another reason.
        StorageError: The file system offers no way that excludes two writers.
    """
    stored = _give_name(temporary, target, root)
    sync_directory(target.parent)  # also after losing: the caller relies on the winner's name
    return stored


def way_in(root: Path, folder: Path | None = None) -> Way:
    """Return the way in which files get their names.

    Args:
        root: An existing directory of one location.
        folder: The writable directory of the files, in or below `root`; None for `root` itself.

    Raises:
        OSError: The directory cannot be written to.
        StorageError: The file system offers no way that excludes two writers.
    """
    folder = folder or root
    place = root, folder.stat().st_dev
    if place not in _known_ways:
        _known_ways[place] = _probe(folder)
    return _known_ways[place]


def sync_directory(folder: Path) -> None:
    """Make the names in a directory durable, where its file system can do that for directories.

    Raises:
        OSError: The file system can, and failed.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        sync_open_directory(descriptor)
    finally:
        os.close(descriptor)


def sync_open_directory(descriptor: int) -> None:
    """Do as `sync_directory` with an open directory."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NOT_SYNCED:
            raise


def kernel_id() -> str:
    """Return the id of this run of this machine's kernel, or the host's name where the kernel tells none.

    A rename that does not replace and a lock exclude all processes of one kernel, also in containers. Other kernels
    that mount the same file system may know nothing of them.
    """
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return socket.gethostname()


def _give_name(temporary: Path, target: Path, root: Path) -> bool:
    folder = target.parent
    way = _known_ways.get((root, folder.stat().st_dev), Way.LINK)
    if way is Way.LINK:
        try:
            return _link(temporary, target)
        except OSError as error:
            if error.errno not in _NO_LINKS or (way := way_in(root, folder)) is Way.LINK:
                raise
    return _rename(temporary, target) if way is Way.RENAME else _rename_under_lock(temporary, target, root)


def _link(temporary: Path, target: Path) -> bool:
    try:
        os.link(temporary, target, follow_symlinks=False)
    except FileExistsError:
        return False
    return True


def _rename(temporary: Path, target: Path) -> bool:
    try:
        _rename_without_replacing(temporary, target)
    except FileExistsError:
        return False
    return True


def _rename_under_lock(temporary: Path, target: Path, root: Path) -> bool:
    with _locked(root / LOCK_NAME):
        with suppress(FileNotFoundError):  # any other error says nothing about the name, so nothing may be renamed
            target.lstat()
            return False
        os.rename(temporary, target)  # noqa: PTH104 - no other writer can have made the target
        return True


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock of a file, which the death of its holder frees; wait for it first."""
    descriptor = _open_lock(path)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        while not _is_there(descriptor, path):  # somebody removed the file: others lock the one that took its place
            other = _open_lock(path)
            os.close(descriptor)
            descriptor = other
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(descriptor, fcntl.LOCK_UN)  # a child that was forked meanwhile would keep a lock that is closed
    finally:
        os.close(descriptor)


def _open_lock(path: Path) -> int:
    flags = os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        return os.open(path, os.O_RDWR | flags, 0o666)
    except PermissionError:  # of another user; most file systems lock what can only be read, too
        return os.open(path, os.O_RDONLY | flags, 0o666)


def _is_there(descriptor: int, path: Path) -> bool:
    """Tell whether an open file is the one that a path names."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except FileNotFoundError:
        return False


def _rename_without_replacing(source: Path, target: Path) -> None:
    """Rename a file; raise FileExistsError when the target exists, and OSError when the kernel cannot do that."""
    function = getattr(_libc(), "renameat2", None)
    if function is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS), str(source), None, str(target))
    if function(_AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target), _NO_REPLACE) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), str(source), None, str(target))


@cache
def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    if function := getattr(libc, "renameat2", None):
        function.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint]
        function.restype = ctypes.c_int
    return libc


# ---- the probe -------------------------------------------------------------------------------------------------------


def _probe(folder: Path) -> Way:
    with _two_files(folder) as (first, second):
        if _links(first, folder):
            return Way.LINK
        if _renames_without_replacing(first, second, folder):
            return Way.RENAME
    if _lock_excludes(folder):
        return Way.LOCK
    raise StorageError(
        f"the file system of {folder} has no hard links, no rename that keeps an existing file, and no locks, so two "
        "writers could overwrite each other; use another file system, or object storage (s3://bucket/prefix)"
    )


@contextmanager
def _two_files(folder: Path) -> Iterator[tuple[Path, Path]]:
    paths = [_free_name(folder), _free_name(folder)]
    try:
        for content, path in zip((b"1", b"2"), paths, strict=True):
            path.write_bytes(content)
        yield paths[0], paths[1]
    finally:
        _remove(*paths)


def _links(file: Path, folder: Path) -> bool:
    """Tell whether a hard link can be made, and a second one of the same name cannot."""
    name = _free_name(folder)
    try:
        with _unless(_NO_LINKS):
            return _link(file, name) and not _link(file, name)
    finally:
        _remove(name)
    return False


def _renames_without_replacing(first: Path, second: Path, folder: Path) -> bool:
    """Tell whether a rename to a free name works, and one to a taken name fails and leaves both files as they are."""
    name = _free_name(folder)
    try:
        with _unless(_NO_CALL):
            if _rename(first, name) and not _rename(second, name):
                return second.read_bytes() == b"2" and name.read_bytes() == b"1" and not first.exists()
    finally:
        _remove(name)
    return False


def _lock_excludes(folder: Path) -> bool:
    """Tell whether a lock that is held keeps others out."""
    path = _free_name(folder)
    try:
        with _unless(_NO_CALL), _locked(path):
            other = _open_lock(path)
            try:
                fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
            finally:
                os.close(other)
    finally:
        _remove(path)
    return False


@contextmanager
def _unless(codes: Collection[int]) -> Iterator[None]:
    """End the block at an error with one of these codes, which says that something does not exist here."""
    try:
        yield
    except OSError as error:
        if error.errno not in codes:
            raise


def _free_name(folder: Path) -> Path:
    return folder / f"{TEMP_PREFIX}{secrets.token_hex(12)}"


def _remove(*paths: Path) -> None:
    for path in paths:
        with suppress(OSError):  # `gc` finds what is left
            path.unlink(missing_ok=True)
