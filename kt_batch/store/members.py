"""Members of archives: their URIs, which say where their bytes are, and their bytes.

A URI of a member is `tar+` or `zip+`, the URI of the archive, and a fragment:

    tar+file:///data/000.tar#at=1536&bytes=20480&member=park/a.jpg
    zip+s3://bucket/photos.zip#at=58&bytes=91022&deflate=90411&member=a.png
    tar+file:///data/001.tar#at=51200&fault=truncated

Any process reads a member by its offset, without a look at the rest of the archive. A member or an archive that cannot
be used has a URI with the reason, so that it becomes a reject like any other input.
"""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, quote_from_bytes, unquote, unquote_to_bytes

from kt_batch.errors import Reason, RejectError, UsageError
from kt_batch.store.byte_ranges import Ranges, open_ranges
from kt_batch.store.names import FILE_SCHEME, path_of_file_uri
from kt_batch.store.places import MEMBER_SCHEMES, scheme_of

MAX_MEMBER = 2**32  # bytes: larger than any image within the pixel limit, even uncompressed

FAULTS = {
    "unreadable": (Reason.UNREADABLE, "the archive could not be read when it was listed"),
    "no_archive": (Reason.NOT_AN_IMAGE, "it is neither a tar nor a zip archive"),
    "compressed": (Reason.UNSUPPORTED, "the archive is compressed as a whole; allowed are plain tar and zip archives"),
    "volumes": (Reason.UNSUPPORTED, "it is one volume of an archive of several"),
    "truncated": (Reason.TRUNCATED, "the archive ends in the middle of its content"),
    "no_end": (Reason.TRUNCATED, "the archive ends without an end marker, so members may be missing"),
    "no_directory": (Reason.TRUNCATED, "the archive has no directory at its end"),
    "header": (Reason.TRUNCATED, "a header is damaged, and nothing behind it can be found"),
    "trailing": (Reason.TRUNCATED, "the archive goes on behind its end marker, and that is not read"),
    "directory": (Reason.TRUNCATED, "the directory of the archive is damaged"),
    "directory_size": (Reason.UNSUPPORTED, "the directory of the archive is too large"),
    "extension": (Reason.UNSUPPORTED, "an extended header of the member is damaged or too large"),
    "sparse": (Reason.UNSUPPORTED, "the member is a sparse file"),
    "encrypted": (Reason.UNREADABLE, "the member is encrypted"),
    "method": (Reason.UNSUPPORTED, "the member is compressed by a method other than deflate"),
    "overlap": (Reason.UNREADABLE, "the member shares bytes with another one"),
    "local_header": (Reason.TRUNCATED, "the header of the member is damaged"),
    "content": (Reason.TRUNCATED, "the content of the member is damaged"),
    "too_large": (Reason.TOO_MANY_PIXELS, f"the member is larger than {MAX_MEMBER} bytes"),
    "bomb": (Reason.TOO_MANY_PIXELS, "the member unpacks to far more bytes than an image of its size has"),
}

_WHOLE = re.compile(r"at=(?P<at>\d{1,19})(?:&bytes=(?P<size>\d{1,19})(?:&deflate=(?P<packed>\d{1,19}))?)?"
                    r"(?:&fault=(?P<fault>[a-z_]{1,32}))?(?:&member=(?P<path>.+))?")  # fmt: skip
_KEPT = "/!$'()*+,;:@~?=&"  # what the URI of an archive may hold as it is, without the brackets of IPv6
_OBJECTS = ("s3", "gs", "az", "http", "https")


@dataclass(frozen=True)
class Member:
    """A member of an archive, or with an empty path the archive itself.

    archive: An absolute path, or the URI of an object. form: `tar` or `zip`. path: As the archive has it. at: The
    offset of its bytes. size: Its bytes when unpacked. packed: Its bytes in the archive where they are deflated. fault:
    A key of FAULTS; empty for a member that can be read.
    """

    archive: str
    form: str
    path: str = ""
    at: int = 0
    size: int = 0
    packed: int | None = None
    fault: str = ""

    @property
    def uri(self) -> str:
        """Return the URI, which `parse_member` reads."""
        fields = [f"at={self.at}"]
        if not self.fault:
            fields.append(f"bytes={self.size}")
            fields += [] if self.packed is None else [f"deflate={self.packed}"]
        else:
            fields.append(f"fault={self.fault}")
        fields += [f"member={quote_from_bytes(os.fsencode(self.path))}"] if self.path else []
        return f"{self.form}+{_archive_uri(self.archive)}#{'&'.join(fields)}"

    def rejected(self) -> RejectError:
        """Return the error of a member, or of an archive, that cannot be used."""
        reason, why = FAULTS[self.fault]
        named = f"the member {self.path!r} of '{self.archive}'" if self.path else f"'{self.archive}'"
        return RejectError(reason, f"cannot read {named} at byte {self.at}: {why}")


def is_member(uri: str) -> bool:
    """Tell whether a URI is one of a member of an archive."""
    return scheme_of(uri) in MEMBER_SCHEMES


def parse_member(uri: str) -> Member:
    """Read the URI of a member.

    Raises:
        UsageError: it is none.
    """
    form, _, rest = uri.partition("+")
    place, _, fragment = rest.partition("#")
    fields = _WHOLE.fullmatch(fragment)
    fault = (fields and fields["fault"]) or ""
    if fields is None or not is_member(uri) or (fault and fault not in FAULTS) or not (fault or fields["size"]):
        raise UsageError(f"{uri!r} is no URI of a member of an archive")
    packed = None if fields["packed"] is None else int(fields["packed"])
    path = os.fsdecode(unquote_to_bytes(fields["path"] or ""))
    return Member(_archive_place(place), form.lower(), path, int(fields["at"]), int(fields["size"] or 0), packed, fault)


def member_chunks(member: Member) -> Iterator[bytes]:
    """Yield the bytes of a member.

    Raises:
        RejectError: it cannot be used, or its bytes are not what its URI says.
        StorageError, OSError, UsageError: the archive cannot be read.
    """
    if not member.path and not member.fault:
        raise UsageError(f"{member.uri!r} names no member of the archive")
    stored = member.size if member.packed is None else member.packed
    with open_ranges(local_or_object(member.archive), 1 if member.fault else member.at + stored) as source:
        if member.fault:
            source.read(0, 1)  # an archive that cannot be read at all has its own reason
            raise member.rejected()
        yield from unpacked(source, member)


def unpacked(source: Ranges, member: Member) -> Iterator[bytes]:
    """Yield the bytes of a member of an open archive, and at most as many as it states. Raises RejectError."""
    if max(member.size, member.packed or 0) > MAX_MEMBER:
        raise RejectError(*FAULTS["too_large"])
    stored = source.chunks(member.at, member.size if member.packed is None else member.packed)
    received = 0
    for chunk in stored if member.packed is None else _inflated(stored, member.size):
        received += len(chunk)
        yield chunk
    if received != member.size:
        raise RejectError(
            Reason.TRUNCATED, f"cannot read {member.path!r} of '{member.archive}': its bytes are not all there"
        )


def _inflated(stored: Iterator[bytes], size: int) -> Iterator[bytes]:
    """Unpack, to one byte more than `size` at most. Damaged content ends early."""
    unpacker, received = zlib.decompressobj(-zlib.MAX_WBITS), 0
    for piece in stored:
        chunk = piece
        while chunk and received <= size and not unpacker.eof:
            try:
                plain = unpacker.decompress(chunk, min(8 << 20, size + 1 - received))
            except zlib.error:
                return
            received += len(plain)
            chunk = unpacker.unconsumed_tail
            yield plain


def local_or_object(archive: str) -> str | Path:
    """Return the path of an archive in a file, or its URI."""
    return archive if scheme_of(archive) in _OBJECTS else Path(archive)


def archive_of(uri: str) -> str:
    """Return the absolute path or the URI of the archive that a listed input is."""
    return str(path_of_file_uri(uri)) if uri.startswith(FILE_SCHEME) else uri


def _archive_uri(archive: str) -> str:
    if scheme_of(archive) in _OBJECTS:
        scheme, _, rest = archive.partition("://")
        return f"{scheme}://{quote(rest, safe=_KEPT, errors='surrogateescape')}"
    return FILE_SCHEME + quote_from_bytes(os.fsencode(archive))


def _archive_place(uri: str) -> str:
    if not uri.startswith(FILE_SCHEME):
        return unquote(uri, errors="surrogateescape")
    path = path_of_file_uri(uri)
    if path is None:
        raise UsageError(f"{uri!r} is on another machine; allowed is file:///path")
    return str(path)
