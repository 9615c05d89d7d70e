"""Enter archives: their images as inputs, each with its name, its place and its image id, found in one pass."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from kt_batch.errors import RejectError, StorageError, UnreachableError, UsageError
from kt_batch.store.byte_ranges import Ranges, open_ranges
from kt_batch.store.input_names import distinct, input_component
from kt_batch.store.inputs import Found, Input
from kt_batch.store.members import MAX_MEMBER, Member, archive_of, local_or_object, unpacked
from kt_batch.store.objects import is_object
from kt_batch.store.passed_over import (
    COMPRESSED_SUFFIXES,
    Kinds,
    add_kinds,
    is_archive_name,
    is_image_name,
    kind_of,
    no_images,
)
from kt_batch.store.tars import ArchiveFaultError, Entry, tar_entries
from kt_batch.store.zips import STARTS, zip_entries

_COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")  # gzip, bzip2, xz, zstd


@dataclass(frozen=True)
class Entered:
    """The content of one archive.

    inputs: Its images, and itself where it is damaged. passed_over: Its other files, by kind.
    """

    inputs: tuple[Input, ...]
    passed_over: Kinds


def is_archive(source: Input) -> bool:
    """Tell whether an input is an archive to enter."""
    return is_archive_name(source.uri.partition("?")[0] if is_object(source.uri) else source.uri)


def enter(source: Input) -> Entered:
    """List the images of an archive and identify them by content.

    A member or an archive that cannot be used is an input whose URI says why: reading it raises RejectError.

    Raises:
        UnreachableError: the store of the archive fails.
    """
    archive = archive_of(source.uri)
    form = "zip" if archive.lower().endswith(".zip") else "tar"
    inputs: list[Input] = []
    counts: list[Kinds] = []
    try:
        with open_ranges(local_or_object(archive)) as opened:
            form = _form(opened, archive)
            for entry in zip_entries(opened) if form == "zip" else tar_entries(opened):
                if entry.kind or not is_image_name(entry.path):
                    counts.append({entry.kind or kind_of(entry.path): 1})
                else:
                    inputs.append(_input(source, opened, Member(archive, form, entry.path), entry))
    except UnreachableError:
        raise
    except ArchiveFaultError as error:
        inputs.append(_whole(source, Member(archive, form, at=error.at, fault=error.fault)))
    except (OSError, StorageError, UsageError, ValueError):
        inputs.append(_whole(source, Member(archive, form, fault="unreadable")))
    return Entered(tuple(inputs), add_kinds(counts))


def enter_all(found: Found, entered: Sequence[Entered]) -> Found:
    """Return what was found with its archives replaced by their content.

    Args:
        found: The inputs of a command.
        entered: The content of its archives, in their order.

    Raises:
        UsageError: there is no input left.
    """
    if not entered:
        return found
    plain = [source for source in found.inputs if not is_archive(source)]
    inputs = {source.uri: source for source in [*plain, *(each for one in entered for each in one.inputs)]}
    passed_over = add_kinds([found.passed_over, *(one.passed_over for one in entered)])
    if not inputs:
        raise no_images("what was named", passed_over)
    names = distinct({uri: source.name for uri, source in inputs.items()})
    named = [replace(source, name=names[uri]) for uri, source in inputs.items()]
    return replace(found, inputs=sorted(named, key=lambda item: item.name), passed_over=passed_over)


def _form(opened: Ranges, archive: str) -> str:
    """Tell `zip` from `tar` by the content. Raises ArchiveFaultError for an archive that is compressed as a whole."""
    start = opened.read(0, 8)
    if start.startswith(_COMPRESSED) or (archive.lower().endswith(COMPRESSED_SUFFIXES)):
        raise ArchiveFaultError("compressed", 0)
    return "zip" if start.startswith(STARTS) or archive.lower().endswith(".zip") else "tar"


def _input(source: Input, opened: Ranges, member: Member, entry: Entry) -> Input:
    """Return the input for a member, with its image id, or with the reason why it has none."""
    fault = entry.fault or ("too_large" if entry.size > MAX_MEMBER else "")
    member = replace(member, at=entry.at, size=entry.size, packed=entry.packed, fault=fault)
    identity = "" if fault else _identified(opened, member, entry.crc)
    if not fault and not identity:
        member = replace(member, fault="content")
    parts = [input_component(part) for part in entry.path.split("/") if part not in ("", ".")]
    return replace(source, uri=member.uri, name="/".join([source.name, *parts]), image_id=identity)


def _identified(opened: Ranges, member: Member, crc: int | None) -> str:
    """Return the image id of a member; empty where its content is damaged."""
    digest, checked = hashlib.sha256(), 0
    try:
        for chunk in unpacked(opened, member):
            digest.update(chunk)
            checked = zlib.crc32(chunk, checked) if crc is not None else 0
    except RejectError:
        return ""
    return digest.hexdigest()[:16] if crc in (None, checked) else ""


def _whole(source: Input, member: Member) -> Input:
    return replace(source, uri=member.uri, image_id="")


def archives_of(found: Found) -> Iterator[Input]:
    """Yield the archives among the inputs of a command, in order."""
    return (source for source in found.inputs if is_archive(source))
