"""A location in a directory of this machine or of a shared file system.

A file is written next to its target under a name that is never listed, synced, and given its name by
`store/publish.py`, which never replaces a file: two writers would both believe that they won.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import file_digest
from pathlib import Path
from typing import BinaryIO

from kt_batch.errors import DamagedError, NameRefusedError, StorageError
from kt_batch.store.names import MAX_COMPONENT_BYTES, TEMP_PREFIX, Names, check_range, is_safe_name, safe_name
from kt_batch.store.publish import Way, publish, sync_directory, way_in
from kt_batch.store.regular import open_regular, reading, size_of_regular

_ABSENT = (FileNotFoundError, NotADirectoryError, IsADirectoryError)
_REFUSED_NAMES = (errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL)
_SHORTEST_LIMIT = 64  # of a component; a file system that states less, or nothing, is not believed
_COPIED_BYTES = 2**22  # at a time
_TEMPORARY = re.compile(rf"{re.escape(TEMP_PREFIX)}[0-9a-f]{{24}}(\.[a-z]+)?")


@dataclass(frozen=True)
class LocalLocation:
    """A directory, created by the first write. `Location` documents the methods."""

    root: Path  # absolute

    @property
    def uri(self) -> str:
        """Return file:///absolute/path."""
        return self.root.as_uri()

    def read_bytes(self, name: str) -> bytes:
        """See `Location`."""
        path = self._path(name)
        with reading(path), open_regular(path) as file:
            return file.read()

    def read_range(self, name: str, start: int, length: int) -> bytes:
        """See `Location`."""
        check_range(name, start, length)
        path = self._path(name)
        with reading(path), open_regular(path) as file:
            file.seek(start)
            return file.read(min(length, max(os.fstat(file.fileno()).st_size - start, 0)))

    def size(self, name: str) -> int:
        """See `Location`."""
        path = self._path(name)
        with reading(path):
            return size_of_regular(path)

    def refusal(self, name: str) -> str | None:
        """See `Location`."""
        path = self._path(name)
        try:
            path.lstat()
        except OSError as error:
            return error.strerror if error.errno in _REFUSED_NAMES else None
        return None

    def longest_component(self) -> int:
        """See `Location`.

        Before the location exists, the nearest existing directory above it counts.
        """
        existing = self._nearest_directory()
        with reading(existing):
            longest = os.statvfs(existing).f_namemax
        return longest if longest >= _SHORTEST_LIMIT else MAX_COMPONENT_BYTES

    def put_if_absent(self, name: str, data: bytes) -> bool:
        """See `Location`."""
        target = self._writable_path(name)
        with _writing(target), _temporary_next_to(target) as temporary:
            with temporary.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            return publish(temporary, target, self.root)

    def put_file_if_absent(self, name: str, file: BinaryIO, time: int | None = None) -> bool:
        """See `Location`."""
        target = self._writable_path(name)
        with _writing(target), _temporary_next_to(target) as temporary:
            file.seek(0)
            with temporary.open("xb") as copy:
                shutil.copyfileobj(file, copy, _COPIED_BYTES)
                copy.flush()
                if time is not None:
                    os.utime(copy.fileno(), ns=(time, time))
                os.fsync(copy.fileno())
            return publish(temporary, target, self.root)

    def put_content(self, name: str, source: Path) -> None:
        """See `Location`.

        A source from `scratch_directory` gets the name itself; any other is copied first.
        """
        target = self._writable_path(name)
        with _writing(target), _temporary_next_to(target) as temporary:
            stored = self._publish_itself(source, target)
            if stored is None:
                shutil.copyfile(source, temporary)
                _sync(temporary)
                stored = publish(temporary, target, self.root)
            if not stored:
                _check_same(source, target)

    def list(self, prefix: str = "") -> Names:
        """See `Location`."""
        top = self._path(prefix.rstrip("/")) if prefix.rstrip("/") else self.root
        return sorted(filter(is_safe_name, self._walk(top)))

    def list_temporary(self) -> dict[str, int]:
        """See `Location`; a file that also has its final name frees 0 bytes."""
        sizes = {}
        for name in sorted(filter(_is_temporary, self._walk(self.root))):
            path = self.root / name
            with reading(path), suppress(FileNotFoundError):  # its writer has finished
                status = path.lstat()
                if stat.S_ISREG(status.st_mode):
                    sizes[name] = status.st_size if status.st_nlink == 1 else 0
        return sizes

    def open(self, name: str) -> BinaryIO:
        """See `Location`."""
        path = self._path(name)
        with reading(path):
            return open_regular(path)

    def local_path(self, name: str) -> Path | None:
        """See `Location`."""
        return self._path(name)

    def delete(self, name: str) -> None:
        """See `Location`."""
        path = self.root / name if _is_temporary(name) else self._path(name)
        if not path.parent.is_dir():
            return
        target = self._writable(path)
        with _writing(target):
            target.unlink(missing_ok=True)
            sync_directory(target.parent)

    def free_bytes(self) -> int | None:
        """See `Location`.

        Before the location exists, the nearest existing directory above it counts.
        """
        existing = self._nearest_directory()
        with reading(existing):
            return shutil.disk_usage(existing).free

    def publishing(self) -> str | None:
        """See `Location`.

        Before the location exists, the nearest existing directory above it counts. A directory that cannot be written
        to has no answer: the first write says why.
        """
        try:
            way = way_in(self._nearest_directory())
        except OSError:
            return None
        return None if way is Way.LINK else str(way)

    def scratch_directory(self) -> Path:
        """See `Location`."""
        with _writing(self.root):
            _make_directory(self.root)
        return self.root

    def _publish_itself(self, source: Path, target: Path) -> bool | None:
        """Give a scratch file its name as `publish` does; return None for a file that has to be copied first."""
        if source.parent != self.root:
            return None
        _sync(source)
        try:
            return publish(source, target, self.root)
        except OSError as error:
            if error.errno != errno.EXDEV:  # another file system, or the same one mounted there once more
                raise
            return None

    def _nearest_directory(self) -> Path:
        return next(folder for folder in (self.root, *self.root.parents) if folder.is_dir())

    def _path(self, name: str) -> Path:
        return self.root / safe_name(name)

    def _writable_path(self, name: str) -> Path:
        return self._writable(self._path(name))

    def _writable(self, path: Path) -> Path:
        """Return the target with an existing directory that is really below the root.

        Raises:
            StorageError: a link on the way leads out of the root.
        """
        with _writing(path):
            root, folder = self.root.resolve(), path.parent.resolve()
            if not folder.is_relative_to(root):
                raise StorageError(f"cannot write {path}: {path.parent} is a link that leads out of {self.root}")
            _make_directory(folder)
        return folder / path.name

    def _walk(self, top: Path) -> Iterator[str]:
        """Yield the names of all files below a directory, safe or not."""

        def refuse(error: OSError) -> None:
            if not isinstance(error, _ABSENT):
                raise StorageError(f"cannot list {error.filename}: {error.strerror}") from error

        for folder, _, files in os.walk(top, onerror=refuse):
            yield from (Path(folder, file).relative_to(self.root).as_posix() for file in files)


def _is_temporary(name: str) -> bool:
    """Tell whether a name below the root is that of an unfinished file."""
    folder, slash, last = name.rpartition("/")
    return _TEMPORARY.fullmatch(last) is not None and (not slash or is_safe_name(folder))


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        kind = NameRefusedError if error.errno in _REFUSED_NAMES else StorageError
        raise kind(f"cannot write {path}: {error.strerror or error}") from error


@contextmanager
def _temporary_next_to(target: Path) -> Iterator[Path]:
    """Yield a free name in the directory of `target`, and remove the file afterwards."""
    path = target.with_name(f"{TEMP_PREFIX}{secrets.token_hex(12)}")
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


def _make_directory(folder: Path) -> None:
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    for path in reversed(missing):
        path.mkdir(exist_ok=True)
        sync_directory(path.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _check_same(source: Path, target: Path) -> None:
    """Raise DamagedError when a file that is there already has other content than its name promises."""
    size, there = source.stat().st_size, target.stat().st_size
    if size != there:
        raise DamagedError(f"{target} holds {there} bytes, but its content has {size}; remove it")
    with source.open("rb") as ours, target.open("rb") as theirs:
        if file_digest(ours, "sha256").digest() != file_digest(theirs, "sha256").digest():
            raise DamagedError(f"{target} holds other content than its name says; remove it")
