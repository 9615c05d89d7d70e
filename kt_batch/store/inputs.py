"""List the input images of a command, and read their bytes.

An argument is a file, a directory, a pattern, s3://bucket/prefix or file:///path. The `uri` of an input is where its
bytes are. Its `name` is what its outputs are named after: relative, with slashes, unique, and below any directory that
it is joined to.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote_from_bytes

from kt_batch.errors import Reason, RejectError, StorageError, UnreachableError, UsageError
from kt_batch.store import layout
from kt_batch.store.folders import Below, among, walk
from kt_batch.store.images.file_bytes import Data, large_file
from kt_batch.store.input_names import distinct, input_component
from kt_batch.store.manifests import Manifest, path_in_manifest
from kt_batch.store.members import is_member, member_chunks, parse_member
from kt_batch.store.names import FILE_SCHEME, path_of_file_uri
from kt_batch.store.objects import (
    READ_ONLY_SCHEMES,
    bucket_and_key,
    is_object,
    keys,
    list_remote,
    object_chunks,
    object_size,
)
from kt_batch.store.passed_over import (
    Kinds,
    add_kinds,
    count_kinds,
    is_archive_name,
    is_hidden,
    is_image_name,
    no_images,
)
from kt_batch.store.patterns import MAGIC, matches, split_pattern
from kt_batch.store.places import S3, clean_place, refuse_unpacked, scheme_of

MAX_BYTES = 2**32  # larger than any image within the pixel limit, even uncompressed
LARGE_BYTES = 2**26  # a file of this size on, and on this machine, is not read into memory
CHUNK = 8 << 20  # bytes in memory at a time while hashing

_ALLOWED = "name a file, a directory, a pattern, an archive, s3://bucket/prefix or --manifest FILE"


@dataclass(frozen=True)
class Input:
    """One image to read.

    uri: an absolute path as plain text, s3://bucket/key, file:/// with percent codes for a path that is not UTF-8, or
    that of a member of an archive (`store/members.py`). name: relative path that its outputs are named after. tags:
    what a manifest says about it. image_id: where it is known already; empty elsewhere.
    """

    uri: str
    name: str
    tags: tuple[str, ...] = ()
    image_id: str = ""


@dataclass(frozen=True)
class _Listing:
    """The images of one argument, as (URI, path below `root`).

    A file is its own root, with an empty path. ours: The libraries and runs below `root`. others: What else was passed
    over, by kind. tags: URI -> what a manifest says about it.
    """

    root: str
    images: tuple[tuple[str, str], ...]
    ours: tuple[str, ...] = ()
    others: Kinds = field(default_factory=dict)
    tags: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Found:
    """The inputs of a command, sorted by name, and what was passed over.

    ours: The libraries and runs below its folders. passed_over: Files that are no images, by kind.
    """

    inputs: list[Input]
    ours: list[str]
    passed_over: Kinds = field(default_factory=dict)


def list_inputs(arguments: Sequence[str], manifests: Sequence[Manifest] = ()) -> list[Input]:
    """List all images that the arguments stand for, as `find_inputs` does, without what was passed over."""
    return find_inputs(arguments, manifests).inputs


def find_inputs(arguments: Sequence[str], manifests: Sequence[Manifest] = ()) -> Found:
    """Find all images and archives that the arguments and the rows of manifests stand for.

    Each URI occurs once, and names are unique. With one argument, names are relative to the directory, or to the part
    of a pattern before its first `*`, `?` or `[`; a file has its own name. Names of a manifest are relative to its
    folder, or else whole places. With several arguments, the names of each directory or manifest go under its last
    component; names that several inputs would share hold a hash of their place. The order of the arguments has no
    effect. Directories and patterns yield only files with an image suffix, no hidden ones, and none from the libraries
    and runs below them; a pattern that ends in the suffix of an archive yields archives. A file that is named in full
    always counts, and so does a library or a run that is named alone.

    Raises:
        UsageError: there is nothing to do.
        StorageError: a place cannot be listed.
    """
    if not arguments and not manifests:
        raise UsageError(f"no images were given; {_ALLOWED}")
    alone = len(arguments) + len(manifests) == 1
    expanded = [argument for argument in arguments if not alone and _is_ours(argument)]  # a shell's `photos/*`
    listings = [_listing(argument) for argument in arguments if argument not in expanded]
    listings += map(_manifest_listing, manifests)
    listings.sort(key=lambda listing: (listing.root, listing.images))
    if not listings:
        raise UsageError(f"all {len(arguments)} arguments are libraries or runs; name one alone to use its pictures")
    roots = {listing.root: listing.root.rstrip("/").rpartition("/")[2] or "root" for listing in listings}
    labels = distinct({root: input_component(last) for root, last in roots.items()})
    names: dict[str, str] = {}
    tags: dict[str, set[str]] = {}
    for listing in listings:
        for uri, path in listing.images:
            below = [input_component(part) for part in path.split("/") if part]
            parts = [labels[listing.root], *below] if len(labels) > 1 or not below else below
            names.setdefault(uri, "/".join(parts))
        for uri, some in listing.tags.items():
            tags.setdefault(uri, set()).update(some)
    inputs = [Input(uri, name, tuple(sorted(tags.get(uri, ())))) for uri, name in distinct(names).items()]
    return Found(
        sorted(inputs, key=lambda item: item.name),
        sorted({*expanded, *(place for each in listings for place in each.ours)}),
        add_kinds(each.others for each in listings),
    )


def read_input(uri: str) -> bytes:
    """Read the bytes of an input.

    Raises:
        RejectError: UNREADABLE when the input is gone, is no regular file, or cannot be read; TOO_MANY_PIXELS when it
            is larger than any image within the pixel limit.
        UnreachableError: its store fails, which is no fault of the image.
    """
    with _reading(uri):
        return b"".join(_chunks(uri, MAX_BYTES))


def open_input(uri: str) -> Data:
    """Return the bytes of an input as `read_input` does, or the open file where it is large and on this machine."""
    with _reading(uri):
        file = None if is_object(uri) or is_member(uri) else large_file(_local_path(uri), LARGE_BYTES, MAX_BYTES)
    return file or read_input(uri)


def input_id(uri: str) -> str:
    """Return the image id of an input, without all its bytes in memory.

    Raises as `read_input` does.
    """
    digest = hashlib.sha256()
    with _reading(uri):
        for chunk in _chunks(uri, CHUNK):
            digest.update(chunk)
    return digest.hexdigest()[:16]


def input_size(uri: str) -> int | None:
    """Return the size of an unread input in bytes; None where it is unknown."""
    try:
        if is_member(uri):
            member = parse_member(uri)
            return None if member.fault or input_size(member.archive) is None else member.size
        if is_object(uri):
            return object_size(uri)
        status = _local_path(uri).stat()
    except (OSError, ValueError, StorageError, UsageError):
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) else None


def file_time(uri: str) -> int | None:
    """Return when the file of an input was last written to, in nanoseconds; None for no file of this machine."""
    if is_member(uri) or is_object(uri):
        return None
    try:
        return _local_path(uri).stat().st_mtime_ns
    except (OSError, ValueError, UsageError):
        return None


# ---- reading ---------------------------------------------------------------------------------------------------------


@contextmanager
def _reading(uri: str) -> Iterator[None]:
    try:
        yield
    except UnreachableError:
        raise
    except (OSError, ValueError, StorageError, UsageError) as error:
        raise RejectError(Reason.UNREADABLE, f"cannot read {uri!r}: {error}") from error


def _chunks(uri: str, most: int) -> Iterator[bytes]:
    """Yield the bytes of an input, at most `most` at a time, or a member of an archive block by block."""
    if is_member(uri):
        return member_chunks(parse_member(uri))
    return _chunks_of_object(uri, most) if is_object(uri) else _chunks_of_file(_local_path(uri), most)


def _chunks_of_file(path: Path, most: int) -> Iterator[bytes]:
    """Yield as many bytes as the file's size says.

    Files that the kernel makes up have size 0 and never end.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):  # checked before opening: opening a named pipe blocks
        raise OSError("it is not a regular file")
    _check_bytes(str(path), status.st_size)
    left = status.st_size
    with path.open("rb") as file:
        while left and (chunk := file.read(min(left, most))):
            left -= len(chunk)
            yield chunk


def _chunks_of_object(uri: str, most: int) -> Iterator[bytes]:
    size = object_size(uri)
    _check_bytes(uri, size or 0)
    read = 0
    for chunk in object_chunks(uri, size, most):
        read += len(chunk)
        _check_bytes(uri, read)  # a store may not say the size, or say another one
        yield chunk


def _check_bytes(uri: str, size: int) -> None:
    if size > MAX_BYTES:
        raise RejectError(Reason.TOO_MANY_PIXELS, f"{uri!r} holds {size} bytes; allowed are {MAX_BYTES}")


# ---- listing ---------------------------------------------------------------------------------------------------------


def _listing(argument: str) -> _Listing:
    if not argument:
        raise UsageError(f"an argument is empty; {_ALLOWED}")
    argument = clean_place(argument)
    scheme = scheme_of(argument)
    if scheme == "s3":
        return _list_s3(argument)
    if scheme in READ_ONLY_SCHEMES:
        return _list_remote(argument)
    if scheme not in (None, "file"):
        raise UsageError(f"{argument!r} has the unknown scheme {scheme}://; {_ALLOWED}")
    path = _local_path(argument)
    if path.is_dir():
        return _listed(argument, str(path), walk(path))
    if path.is_file() or path.is_symlink():  # a dangling link becomes a reject, as in a directory
        return _Listing(str(path), ((_uri(str(path)), ""),))
    if path.exists():
        raise UsageError(f"{argument!r} is neither a file nor a directory; {_ALLOWED}")
    prefix, pattern = split_pattern(str(path))
    root = Path(prefix or "/")
    if not pattern or not root.is_dir():
        raise UsageError(f"{argument!r} does not exist; {_ALLOWED}")
    return _listed(argument, str(root), walk(root, depth=None if "**" in pattern else len(pattern)), pattern)


def _list_s3(argument: str) -> _Listing:
    """List what an s3:// argument stands for.

    That is an object of that very name, else everything below it, else what it matches as a pattern.
    """
    bucket, key = bucket_and_key(argument)
    if not key.endswith("/") and next(keys(bucket, key), None) == key:  # keys are sorted, so the name itself is first
        uri = f"{S3}{bucket}/{key}"
        return _Listing(uri, ((uri, ""),))
    folder, pattern = key.rstrip("/"), list[str]()
    below = among(_keys_below(bucket, folder))
    prefix, parts = split_pattern(folder)
    if parts and not below.images:
        folder, pattern, below = prefix, parts, among(_keys_below(bucket, prefix))
    return _listed(argument, f"{S3}{bucket}/{folder}".rstrip("/"), below, pattern)


def _list_remote(argument: str) -> _Listing:
    root, paths = list_remote(argument)
    if not paths:
        name = argument.partition("?")[0].partition("#")[0].rstrip("/")
        return _Listing(name, ((argument, ""),))
    return _listed(argument, root, among(paths))


def _listed(argument: str, root: str, below: Below, pattern: Sequence[str] = ()) -> _Listing:
    """Return the listing of what lies below `root`, or of what matches a pattern there."""
    images, others = below.images, below.others
    if pattern:
        images = [path for path in images if matches(path.split("/"), pattern)]
        others = [path for path in others if matches(path.split("/"), pattern)]
    if pattern and is_archive_name(pattern[-1]):
        images = images + [path for path in others if is_archive_name(path) and not is_hidden(path)]
        others = [path for path in others if not is_archive_name(path) or is_hidden(path)]
    places = tuple(f"{root.rstrip('/')}/{path}" for path in sorted(below.ours))
    kinds = count_kinds(others)
    found = tuple(sorted((_uri(f"{root.rstrip('/')}/{path}"), path) for path in images))
    if not found:
        raise no_images(repr(argument), kinds, places)
    return _Listing(root, found, places, kinds)


def _manifest_listing(manifest: Manifest) -> _Listing:
    """Return the inputs that the rows of a manifest stand for, each under its place below the manifest's folder."""
    images: dict[str, str] = {}
    tags: dict[str, set[str]] = {}
    ours: list[str] = []
    others = [manifest.passed_over]
    for row in manifest.rows:
        listing = _listing_of_row(row.place)
        for uri, _ in listing.images:
            images.setdefault(uri, path_in_manifest(uri, manifest.folder))
            if row.tags:
                tags.setdefault(uri, set()).update(row.tags)
        ours += listing.ours
        others += [listing.others] if listing.others else []
    listed = tuple(sorted(images.items()))
    return _Listing(manifest.root, listed, tuple(ours), add_kinds(others), {uri: tuple(t) for uri, t in tags.items()})


def _listing_of_row(place: str) -> _Listing:
    """Return what a row stands for: a file, whether it is there or not, or what a folder or a pattern holds."""
    remote, uri = scheme_of(place) not in (None, "file"), uri_of_row(place)
    try:
        several = bool(MAGIC.search(place)) or (place.endswith("/") if remote else not is_image_name(place))
        if several and scheme_of(place) in (None, "file", "s3"):
            return _listing(place)
    except UnreachableError:
        raise
    except (OSError, UsageError, StorageError):  # it names nothing, or what cannot be listed: the row becomes a reject
        return _Listing(uri, ((uri, ""),))
    return _Listing(uri, ((uri, ""),))


def uri_of_row(place: str) -> str:
    """Return the URI of the one file that a row of a manifest names, whether it is there or not."""
    try:
        return place if scheme_of(place) not in (None, "file") else _uri(str(_local_path(place)))
    except (OSError, UsageError):  # it names no file of this machine: the row becomes a reject
        return place


def _is_ours(argument: str) -> bool:
    """Tell whether an argument is a library or a run in a directory."""
    place = clean_place(argument) if argument else ""
    return scheme_of(place) in (None, "file") and (_local_path(place) / layout.plan_path(0)).is_file()


def _keys_below(bucket: str, folder: str) -> list[str]:
    start = f"{folder}/" if folder else ""
    return [key[len(start) :] for key in keys(bucket, start)]


# ---- paths and names -------------------------------------------------------------------------------------------------


def _local_path(text: str) -> Path:
    """Return the absolute path of a plain path or a file:// URI."""
    if text.startswith(FILE_SCHEME):
        named = path_of_file_uri(text)
        if named is None:
            raise UsageError(f"{text!r} is on another machine; allowed is file:///path")
        text = str(named)
    refuse_unpacked(text)
    path = Path(text).absolute()
    if path.name == "..":
        return path.resolve()
    # Only the file system knows what `..` after a link means. A link in the last place keeps its own name.
    return path.parent.resolve() / path.name if ".." in path.parts else path


def _uri(path: str) -> str:
    try:
        path.encode()
    except UnicodeEncodeError:  # a name that is not UTF-8 fits in no table; its URI does
        return FILE_SCHEME + quote_from_bytes(os.fsencode(path))
    return path
