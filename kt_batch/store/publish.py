"""Give a finished file its name in a directory, and never replace another file.

There are three ways, and the first that works is taken (decision 0021):

    link     a hard link. It fails when the name is taken, on this host and on all others.
    rename   the kernel's rename that does not replace, where a probe shows that it really refuses a taken name.
    lock     a rename under an exclusive lock of the file `.tmp-lock`. The lock ends with the process that holds it.

A hard link is tried first and costs nothing more than itself. A probe is made, once per directory and process, only
where a hard link is refused.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import secrets
from collections.abc import Callable, Iterator
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
_NOT_SYNCED = frozenset({errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EBADF})
_AT_FDCWD, _NO_REPLACE = -100, 1  # of <linux/fcntl.h> and <linux/fs.h>


class Way(StrEnum):
    """A way to give a file its name without replacing another."""

    LINK = "link"
    RENAME = "rename"
    LOCK = "lock"


def publish(temporary: Path, target: Path, root: Path) -> bool:
    """Give a synced file its name, durably; return False when the name is taken.

    Afterwards `temporary` may be gone.

    Args:
        temporary: The file, in the directory of `target` or elsewhere on its file system.
        target: Its name.
        root: The directory that holds the lock where one is needed: the same for all writers of `target`.

    Raises:
        OSError: The name cannot be given for another reason.
        StorageError: The file system offers no way that excludes two writers.
    """
    try:
        os.link(temporary, target, follow_symlinks=False)
        stored = True
    except FileExistsError:
        stored = False
    except OSError as error:
        if error.errno not in _NO_LINKS or (way := way_in(root)) is Way.LINK:
            raise
        stored = _RENAMES[way](temporary, target, root)
    sync_directory(target.parent)  # also after losing: the caller relies on the winner's name
    return stored


def way_in(folder: Path) -> Way:
    """Return the way in which files in an existing, writable directory get their names.

    Raises:
        OSError: The directory cannot be written to.
        StorageError: The file system offers no way that excludes two writers.
    """
    return _probed(folder, folder.stat().st_dev)


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
    """Return the id of this run of this machine's kernel.

    A rename that does not replace and a lock exclude all processes of one kernel, also in containers. Other kernels
    that mount the same file system may know nothing of them.
    """
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def _rename(temporary: Path, target: Path, _: Path) -> bool:
    try:
        _rename_without_replacing(temporary, target)
    except FileExistsError:
        return False
    return True


def _rename_under_lock(temporary: Path, target: Path, root: Path) -> bool:
    with _locked(root):
        if os.path.lexists(target):
            return False
        os.rename(temporary, target)  # noqa: PTH104 - no other writer can have made the target
        return True


_RENAMES: dict[Way, Callable[[Path, Path, Path], bool]] = {Way.RENAME: _rename, Way.LOCK: _rename_under_lock}


@contextmanager
def _locked(root: Path) -> Iterator[None]:
    descriptor = _open_lock(root / LOCK_NAME)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)  # this ends the lock


def _open_lock(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)


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


@cache
def _probed(folder: Path, _device: int) -> Way:
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
        os.link(file, name)
        os.link(file, name)
    except FileExistsError:
        return True
    except OSError:
        return False
    finally:
        _remove(name)
    return False


def _renames_without_replacing(first: Path, second: Path, folder: Path) -> bool:
    """Tell whether a rename to a free name works, and one to a taken name fails and leaves both files as they are."""
    name = _free_name(folder)
    try:
        _rename_without_replacing(first, name)
        try:
            _rename_without_replacing(second, name)
        except FileExistsError:
            return second.read_bytes() == b"2" and name.read_bytes() == b"1" and not first.exists()
    except OSError:
        return False
    finally:
        _remove(name)
    return False


def _lock_excludes(folder: Path) -> bool:
    """Tell whether a lock that is held keeps others out."""
    path = _free_name(folder)
    holder = _open_lock(path)
    try:
        fcntl.flock(holder, fcntl.LOCK_EX)
        other = _open_lock(path)
        try:
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(other)
    except OSError:
        return False
    finally:
        os.close(holder)
        _remove(path)
    return False


def _free_name(folder: Path) -> Path:
    return folder / f"{TEMP_PREFIX}{secrets.token_hex(12)}"


def _remove(*paths: Path) -> None:
    for path in paths:
        with suppress(OSError):  # `gc` finds what is left
            path.unlink(missing_ok=True)
