"""The places that a command writes to: never one of its inputs, and no file of others unasked.

A result that is one file (a picture, a page, a table) is written next to its target and renamed, so that a crash leaves
what was there. A library or a run is a folder, where `put_if_absent` replaces nothing.
"""

from __future__ import annotations

import os
import secrets
import shutil
import stat
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from os import PathLike, fspath
from pathlib import Path

from kt_batch.errors import StorageError, UsageError
from kt_batch.store import layout
from kt_batch.store.inputs import list_inputs
from kt_batch.store.manifests import STANDARD_INPUT, Manifest
from kt_batch.store.names import FILE_SCHEME, TEMP_PREFIX, path_of_file_uri
from kt_batch.store.patterns import split_pattern

Named = str | PathLike[str]
DEVICES = ("/dev/", "/proc/")
SHARED_MEMORY = "/dev/shm/"  # noqa: S108 - a file system with files of users


@dataclass(frozen=True)
class Inputs:
    """What a command reads.

    images: Paths, folders, patterns or URIs, as for `list_inputs`. files: Single files; None counts as absent.
    places: Libraries and runs. manifests: Lists of images that were read.
    """

    images: Sequence[Named] = ()
    files: Sequence[Named | None] = ()
    places: Sequence[Named | None] = ()
    manifests: Sequence[Manifest] = ()


@dataclass(frozen=True)
class Target:
    """A file that a command writes as a whole.

    option: The option that names it. inputs: What the command reads. force: Replace a file of others; None where no
    option asks for that. begins: The bytes with which an earlier result of the same kind begins; such a file is
    replaced unasked. Empty where results cannot be told from other files.
    """

    option: str
    path: Path
    inputs: Inputs = field(default_factory=Inputs)
    force: bool | None = False
    begins: bytes = b""

    def check(self) -> Path:
        """Return the file to write, with links resolved.

        Raises:
            UsageError: it is an input, no file, in no folder, or a file of others without `force`.
        """
        named = f"{self.option} '{self.path}'"
        target = _resolved(named, self.path)
        refuse_input(self.option, self.path, self.inputs)
        if not os.path.lexists(self.path) or self.force or (self.begins and _begins(target, self.begins)):
            return target
        if not target.exists():
            forced = "" if self.force is None else ", or give --force"
            raise UsageError(f"{named} is a link to nothing; remove it, or name another file{forced}.")
        forced = "" if self.force is None else ", or give --force to replace it"
        raise UsageError(f"{named} exists already; name another file{forced}.")

    def check_early(self) -> None:
        """Check the target before its folder is made, if there is none yet. Raises UsageError as `check` does."""
        if self.path.parent.exists():
            self.check()
        else:
            refuse_input(self.option, self.path, self.inputs)

    def write(self, data: bytes) -> None:
        """Check the target once more and write it. Raises UsageError and StorageError; nothing is changed then."""
        write_file(self.check(), data)


def write_file(path: Path, data: bytes) -> None:
    """Write a file as a whole: what was there remains until all of `data` is on the disk.

    Raises:
        StorageError: it cannot be written.
    """
    temporary = path.with_name(f"{TEMP_PREFIX}{secrets.token_hex(12)}")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        with suppress(OSError):  # no earlier file, or a file system without modes
            shutil.copymode(path, temporary)
        temporary.replace(path)
    except OSError as error:
        raise StorageError(f"'{path}' cannot be written: {error.strerror}.") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def refuse_input(option: str, target: Named, inputs: Inputs) -> None:
    """Raise UsageError when a file to be written is an input, or a library or a run keeps its own files there.

    Files are compared by device and inode, so links, hard links, other spellings and other cases are the same file.
    """
    with suppress(OSError):
        status = os.stat(target)  # noqa: PTH116
        for path in _input_files(inputs):
            if _is(path, status):
                raise UsageError(f"{option} '{target}' is the input '{path}', which is never overwritten.")
    path = Path(os.path.realpath(target))
    for place in filter(None, map(local_path, inputs.places)):
        folder = next((parent for parent in path.parents if _same(parent, place)), None)
        if folder and layout.is_reserved(path.relative_to(folder).as_posix()):
            raise UsageError(f"{option} '{target}' lies among the files of the library or run '{place}'.")
    if owner := _owner(path):
        raise UsageError(f"{option} '{target}' lies among the files of the library or run '{owner}'.")


def check_place(option: str, place: str, images: Sequence[str], manifests: Sequence[Manifest] = ()) -> None:
    """Refuse a library or a run that is a file, a folder whose files are inputs, or among the files of another one.

    Args:
        option: The option that names it.
        place: A path or URI.
        images: The inputs, as for `list_inputs`.
        manifests: Lists of further inputs.

    Raises:
        UsageError: it is one of these.
    """
    folder = local_path(place)
    if folder is not None and os.path.lexists(folder) and not folder.is_dir():
        kind = "a link to nothing" if not folder.exists() else "a file" if folder.is_file() else "no folder"
        raise UsageError(f"{option} '{place}' is {kind}; name a folder, which may be new.")
    if folder is not None:
        _refuse_own_folder(option, folder)
    rows = [path.parent for manifest in manifests for path in _row_files(manifest)]
    for image in (*images, *dict.fromkeys(map(str, rows))):
        root = local_path(image)
        if root is None or folder is None:
            same = image.rstrip("/") == place.rstrip("/")
        else:
            same = _same(_folder_of(root), folder)
        if same:
            raise UsageError(f"{option} '{place}' is the folder of the input '{image}'; name another folder.")


def refuse_inputs_inside(option: str, folder: Path, inputs: Inputs) -> None:
    """Raise UsageError when an input lies in a folder whose files a command replaces, at any depth."""
    if not folder.is_dir():
        return
    first = {path.parent.resolve(): path for path in _input_files(inputs)}
    for parent, path in first.items():
        if any(_same(each, folder) for each in (parent, *parent.parents)):
            raise UsageError(f"{option} '{folder}' holds the input '{path}'; name another folder.")


def _refuse_own_folder(option: str, folder: Path) -> None:
    """Raise UsageError for a place in a folder where a library or a run keeps its own files."""
    if owner := _owner(Path(os.path.realpath(folder))):
        raise UsageError(
            f"{option} '{folder}' lies among the files of the library or run '{owner}'; name another folder."
        )


def _owner(path: Path) -> Path | None:
    """Return the library or run among whose own files a resolved path lies, if there is one."""
    for parent in path.parents:
        if (parent / layout.plan_path(0)).is_file() and layout.is_reserved(path.relative_to(parent).as_posix()):
            return parent
    return None


def local_path(named: Named | None) -> Path | None:
    """Return the path of a file or folder of this machine; None for a URI of another place."""
    text = "" if named is None else fspath(named)
    if text.startswith(FILE_SCHEME):
        return path_of_file_uri(text)
    return Path(text).absolute() if text and "://" not in text and "\0" not in text else None


def _resolved(named: str, path: Path) -> Path:
    """Return where a file's bytes go. Raises UsageError where no file can be."""
    text = os.path.abspath(path)  # noqa: PTH100
    target = Path(os.path.realpath(path))
    if target.is_dir():
        raise UsageError(f"{named} is a folder; name a file.")
    device = text.startswith(DEVICES) and not text.startswith(SHARED_MEMORY)
    if device or (target.exists() and not target.is_file()):
        raise UsageError(f"{named} is a device, a pipe or a socket; name a file.")
    if not target.parent.is_dir():
        raise UsageError(f"{named} is in no directory that exists.")
    return target


def _input_files(inputs: Inputs) -> Iterator[Path]:
    """Yield the local files that a command reads as they are named."""
    yield from filter(None, map(local_path, inputs.files))
    for manifest in inputs.manifests:
        yield from filter(None, [local_path(manifest.place) if manifest.place != STANDARD_INPUT else None])
        yield from _row_files(manifest)
    arguments = [fspath(image) for image in inputs.images if local_path(image) is not None]
    if arguments:
        yield from filter(None, (local_path(source.uri) for source in list_inputs(arguments)))


def _row_files(manifest: Manifest) -> Iterator[Path]:
    """Yield the local files that a manifest names."""
    return filter(None, (local_path(row.place) for row in manifest.rows))


def _folder_of(root: Path) -> Path:
    """Return the folder of an argument: itself, that of a file, or that of a pattern before its first `*`."""
    if root.is_dir():
        return root
    if root.exists() or root.is_symlink():
        return root.parent
    return Path(split_pattern(str(root))[0] or "/")


def _begins(path: Path, start: bytes) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(start)) == start
    except OSError:
        return False


def _same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return False


def _is(path: Path, status: os.stat_result) -> bool:
    try:
        found = path.stat()
    except OSError:
        return False
    return stat.S_ISREG(found.st_mode) and os.path.samestat(found, status)
