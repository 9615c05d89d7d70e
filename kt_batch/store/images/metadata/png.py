"""Metadata in PNG: chunks eXIf, iTXt for XMP, iCCP, and blocks that ImageMagick and others wrote as text.

Source: PNG, third edition.
"""

from __future__ import annotations

import zlib

from kt_batch.store.images.headers import PNG
from kt_batch.store.images.metadata import photoshop
from kt_batch.store.images.metadata.blocks import MAX_BLOCK, Blocks, bounded, sound_exif, sound_icc
from kt_batch.store.images.png import chunk, chunks_of, is_sound

_TEXTS = frozenset({b"tEXt", b"zTXt", b"iTXt"})
_XMP, _RAW = b"XML:com.adobe.xmp", b"Raw profile type "
_XMP_OF_APP1 = b"http://ns.adobe.com/xap/1.0/\0"
_MAX_UNPACKED = 16  # texts and profiles that are unpacked


def read(data: bytes) -> Blocks:
    """Return the metadata of a PNG, wherever it stands; a chunk of its own counts more than a text."""
    view = memoryview(data)
    found: dict[str, bytes] = {}
    wrapped: dict[str, bytes] = {}
    unpacked = 0
    for name, at, end in chunks_of(data):
        kind = name in _TEXTS or name in (b"eXIf", b"iCCP")
        if not kind or end + 4 > len(data) or end - at > MAX_BLOCK or not is_sound(view, at, end):
            continue
        content = data[at + 8 : end]
        if name == b"eXIf":
            _put(found, "exif", sound_exif(content))
        elif name == b"iCCP" or content.startswith((_XMP + b"\0", _RAW)):
            unpacked += 1
            if unpacked <= _MAX_UNPACKED:
                _read_packed(name, content, found, wrapped)
    return Blocks(**{**wrapped, **found})


def embed(data: bytes, blocks: Blocks) -> bytes:
    """Return a PNG with metadata before its pixels; chunks of the same kinds are replaced.

    IPTC has no chunk: it is written as text, as ImageMagick does and as exiftool reads it.
    """
    made = chunks(blocks)
    if not made:
        return data
    parts = [data[: len(PNG)]]
    at = len(PNG)
    for name, start, end in chunks_of(data):
        if not _is_replaced(name, data[start + 8 : min(end, start + 64)], blocks):
            parts.append(data[start : end + 4])
        if name == b"IHDR":
            parts.append(made)
        at = end + 4
    return b"".join(parts) + data[at:]


def chunks(blocks: Blocks) -> bytes:
    """Return the chunks that hold metadata; they stand before the pixels."""
    made = b""
    if blocks.icc:
        made += chunk(b"iCCP", b"ICC profile\0\0" + zlib.compress(blocks.icc))
    if blocks.exif:
        made += chunk(b"eXIf", blocks.exif)
    if blocks.xmp:
        made += chunk(b"iTXt", _XMP + b"\0\0\0\0\0" + blocks.xmp)
    if blocks.iptc:
        made += chunk(b"zTXt", _RAW + b"iptc\0\0" + zlib.compress(_hexadecimal("iptc", photoshop.wrapped(blocks.iptc))))
    return made


def _put(found: dict[str, bytes], kind: str, block: bytes | None) -> None:
    if block := bounded(block):
        found.setdefault(kind, block)


def _read_packed(name: bytes, content: bytes, found: dict[str, bytes], wrapped: dict[str, bytes]) -> None:
    """Read a profile or a text."""
    keyword, _, rest = content.partition(b"\0")
    if name == b"iCCP":
        _put(found, "icc", sound_icc(_inflated(rest[1:])))
    elif keyword == _XMP:
        _put(found, "xmp", _text(name, rest))
    else:
        _read_wrapped(keyword.removeprefix(_RAW), _text(name, rest), wrapped)


def _read_wrapped(kind: bytes, text: bytes | None, wrapped: dict[str, bytes]) -> None:
    """Read a block that was written as text: a name, its length, then hexadecimal digits."""
    try:
        block = bytes.fromhex((text or b"").decode("ascii").split("\n", 3)[3])
    except (ValueError, LookupError):
        return
    if exif := sound_exif(block):
        _put(wrapped, "exif", exif)
    elif kind == b"xmp" or block.startswith(_XMP_OF_APP1):
        _put(wrapped, "xmp", block.removeprefix(_XMP_OF_APP1))
    elif kind == b"iptc":
        _put(wrapped, "iptc", photoshop.iptc_of(block.removeprefix(b"Photoshop 3.0\0")) or photoshop.sound_iptc(block))
    elif kind in (b"icc", b"icm"):
        _put(wrapped, "icc", sound_icc(block))


def _text(name: bytes, rest: bytes) -> bytes | None:
    """Return the text behind a keyword."""
    if name == b"tEXt":
        return rest
    if name == b"zTXt":
        return _inflated(rest[1:])
    packed = rest[:1] == b"\1"
    _, first, others = rest[2:].partition(b"\0")
    _, second, text = others.partition(b"\0")
    if not first or not second:
        return None
    return _inflated(text) if packed else text


def _inflated(packed: bytes) -> bytes | None:
    """Return unpacked bytes; None where they are damaged or too many."""
    unpack = zlib.decompressobj()
    try:
        content = unpack.decompress(packed, MAX_BLOCK * 2 + 2**16)  # two digits a byte
    except zlib.error:
        return None
    return content if unpack.eof else None


def _hexadecimal(name: str, block: bytes) -> bytes:
    digits = block.hex()
    lines = [digits[at : at + 72] for at in range(0, len(digits), 72)]
    return "\n".join(["", name, f"{len(block):8}", *lines, ""]).encode("ascii")


def _is_replaced(name: bytes, content: bytes, blocks: Blocks) -> bool:
    if name in (b"iCCP", b"sRGB", b"gAMA", b"cHRM", b"cICP"):
        return blocks.icc is not None
    if name == b"eXIf":
        return blocks.exif is not None
    if name not in _TEXTS:
        return False
    is_xmp, is_iptc = content.startswith(_XMP + b"\0"), content.startswith(_RAW + b"iptc\0")
    return (is_xmp and blocks.xmp is not None) or (is_iptc and blocks.iptc is not None)
