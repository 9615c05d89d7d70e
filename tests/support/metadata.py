"""Metadata made by hand, and small pictures that hold it, without any code of kt_batch."""

from __future__ import annotations

import io
import json
import shutil
import struct
import subprocess
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from tests.support.hostile import chunk

Tag = tuple[int, int, int, bytes]  # tag, kind, count, value in the byte order of the block

NAMESPACES = {
    "rdf": "http://www.w3.org/1999/02/22-rdf-syntax-ns#",
    "tiff": "http://ns.adobe.com/tiff/1.0/",
    "exif": "http://ns.adobe.com/exif/1.0/",
    "xmp": "http://ns.adobe.com/xap/1.0/",
    "xmpMM": "http://ns.adobe.com/xap/1.0/mm/",
    "stEvt": "http://ns.adobe.com/xap/1.0/sType/ResourceEvent#",
    "dc": "http://purl.org/dc/elements/1.1/",
    "crs": "http://ns.adobe.com/camera-raw-settings/1.0/",
    "photoshop": "http://ns.adobe.com/photoshop/1.0/",
    "ext": "http://iptc.org/std/Iptc4xmpExt/2008-02-29/",
    "drone": "http://www.dji.com/drone-dji/1.0/",
    "hdrgm": "http://ns.adobe.com/hdr-gain-map/1.0/",
    "note": "http://ns.adobe.com/xmp/note/",
}


# ---- EXIF ------------------------------------------------------------------------------------------------------------


class Exif:
    """A block of EXIF of which the places of all parts are known: `parts[name]` is (start, end).

    Options: `orientation`, and `note`, the tenth of the length of the maker note.
    """

    def __init__(self, order: str = "<", gps: bool = True, thumbnail: bool = True, **options: int) -> None:
        self.order = order
        self.parts: dict[str, tuple[int, int]] = {}
        self._data = bytearray((b"II*\0" if order == "<" else b"MM\0*") + self.long(8))
        image: list[Tag] = [
            (0x010F, 2, 6, b"Maker\0"),
            (0x0110, 2, 4, b"Mod\0"),
            (0x0112, 3, 1, self.short(options.get("orientation", 6))),
            (0x011A, 5, 1, self.long(72) + self.long(1)),
            (0x011B, 5, 1, self.long(72) + self.long(1)),
            (0x0128, 3, 1, self.short(2)),
            (0x0213, 3, 1, self.short(1)),
            (0x8298, 2, 7, b"Author\0"),
            (0x8769, 4, 1, b"exif"),
        ]
        if gps:
            image.append((0x8825, 4, 1, b"gps "))
        self._directory("image", image, b"next" if thumbnail else bytes(4))
        self._directory("exif", self._exposure(options.get("note", 5)))
        self._directory("interop", [(1, 2, 4, b"R03\0"), (2, 7, 4, b"0100")])
        if gps:
            self._directory("gps", self._place())
        if thumbnail:
            picture = self._append("thumbnail", b"\xff\xd8THUMBNAIL\xff\xd9")
            length = struct.pack(order + "I", len(picture))
            where = self.long(self.parts["thumbnail"][0])
            self._directory("second", [(0x0103, 3, 1, self.short(6)), (0x0201, 4, 1, where), (0x0202, 4, 1, length)])
        for name, part in (("exif", "exif"), ("gps ", "gps"), ("next", "second"), ("ioop", "interop")):
            if part in self.parts:
                at = self._data.index(name.encode())
                self._data[at : at + 4] = self.long(self.parts[part][0])

    def block(self) -> bytes:
        """Return the block."""
        return bytes(self._data)

    def part(self, name: str, block: bytes | None = None) -> bytes:
        """Return the bytes of a part."""
        start, end = self.parts[name]
        return (block or self.block())[start:end]

    def short(self, value: int) -> bytes:
        """Return a number of 2 bytes."""
        return struct.pack(self.order + "H", value)

    def long(self, value: int) -> bytes:
        """Return a number of 4 bytes."""
        return struct.pack(self.order + "I", value)

    def _exposure(self, length: int) -> list[Tag]:
        note = b"MAKERNOTE " * length
        return [
            (0x829A, 5, 1, self.long(1) + self.long(250)),
            (0x9000, 7, 4, b"0232"),
            (0x9003, 2, 20, b"2019:08:07 06:05:04\0"),
            (0x9011, 2, 7, b"+02:00\0"),
            (0x9101, 7, 4, b"\1\2\3\0"),
            (0x927C, 7, len(note), note),
            (0x9291, 2, 4, b"120\0"),
            (0xA000, 7, 4, b"0100"),
            (0xA001, 3, 1, self.short(0xFFFF)),
            (0xA002, 4, 1, self.long(4000)),
            (0xA003, 3, 1, self.short(3000)),
            (0xA005, 4, 1, b"ioop"),
        ]

    def _place(self) -> list[Tag]:
        def degrees(*values: int) -> bytes:
            return b"".join(self.long(value) + self.long(1) for value in values)

        return [
            (0, 1, 4, b"\2\3\0\0"),
            (1, 2, 2, b"N\0"),
            (2, 5, 3, degrees(48, 51, 29)),
            (3, 2, 2, b"E\0"),
            (4, 5, 3, degrees(2, 17, 40)),
            (0x1B, 7, 11, b"ASCII\0\0\0GPS"),
        ]

    def _append(self, name: str, content: bytes) -> bytes:
        self._data += bytes(len(self._data) % 2)
        self.parts[name] = (len(self._data), len(self._data) + len(content))
        self._data += content
        return content

    def _directory(self, name: str, tags: list[Tag], following: bytes = bytes(4)) -> None:
        self._data += bytes(len(self._data) % 2)
        start = len(self._data)
        rest = start + 2 + 12 * len(tags) + 4
        table, values = self.short(len(tags)), b""
        for tag, kind, count, value in tags:
            table += struct.pack(self.order + "HHI", tag, kind, count)
            if len(value) <= 4:
                table += value.ljust(4, b"\0")
            else:
                table += self.long(rest + len(values))
                self.parts[f"{name} {tag:#06x}"] = (rest + len(values), rest + len(values) + len(value))
                values += value + bytes(len(value) % 2)
        self._data += table + following + values
        self.parts[name] = (start, rest)


# ---- XMP, IPTC, ICC --------------------------------------------------------------------------------------------------


def xmp(attributes: str = "", elements: str = "", about: str = "") -> bytes:
    """Return a packet with one description."""
    declared = " ".join(f'xmlns:{prefix}="{uri}"' for prefix, uri in NAMESPACES.items() if prefix != "rdf")
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
        f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="{NAMESPACES["rdf"]}">'
        f'<rdf:Description rdf:about="{about}" {declared} {attributes}>{elements}</rdf:Description>'
        '</rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
    ).encode()


def record(number: int, text: bytes) -> bytes:
    """Return one record of IPTC's application part."""
    return struct.pack(">BBBH", 0x1C, 2, number, len(text)) + text


IPTC = record(0, b"\0\4") + record(5, b"A title") + record(80, b"A photographer") + record(90, b"Paris")
RESOURCE = b"8BIM\x04\x04\0\0" + struct.pack(">I", len(IPTC)) + IPTC + bytes(len(IPTC) % 2)
OTHER_RESOURCE = b"8BIM\x04\x0a\x03abc" + struct.pack(">I", 1) + b"\1\0"


# ---- files -----------------------------------------------------------------------------------------------------------


def pixels(width: int = 24, height: int = 16) -> NDArray[Any]:
    """Return a smooth picture (height, width, 3)."""
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([x * 10, y * 15, x + y], axis=-1).astype(np.uint8)


def plain(format: str, alpha: bool = False, **options: Any) -> bytes:  # noqa: A002
    """Return a picture without metadata, as Pillow or tifffile write it."""
    file = io.BytesIO()
    values = pixels()
    if alpha:
        values = np.concatenate([values, values[..., :1]], axis=-1)
    if format in ("tiff", "big"):
        extra: dict[str, Any] = {"extrasamples": ["unassalpha"]} if alpha else {}
        tifffile.imwrite(
            file, values, photometric="rgb", metadata=None, software=False, bigtiff=format == "big", **extra, **options
        )
    else:
        name = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP", "avif": "AVIF"}[format]
        Image.fromarray(values).save(file, name, **options)
    return file.getvalue()


def with_segments(data: bytes, *segments: tuple[int, bytes]) -> bytes:
    """Return a JPEG with segments behind its first header."""
    at = 4 + struct.unpack_from(">H", data, 4)[0]
    made = (struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content for marker, content in segments)
    return data[:at] + b"".join(made) + data[at:]


def with_chunks(data: bytes, *chunks: bytes) -> bytes:
    """Return a PNG with chunks behind its header."""
    return data[:33] + b"".join(chunks) + data[33:]


def hexadecimal(name: str, block: bytes) -> bytes:
    """Return a block as ImageMagick writes it into a text chunk."""
    digits = block.hex()
    lines = [digits[at : at + 72] for at in range(0, len(digits), 72)]
    return "\n".join(["", name, f"{len(block):8}", *lines, ""]).encode()


def raw_profile(chunk_name: bytes, kind: str, block: bytes) -> bytes:
    """Return a text chunk that holds a block."""
    text = hexadecimal(kind, block)
    keyword = f"Raw profile type {kind}".encode() + b"\0"
    content = {b"tEXt": text, b"zTXt": b"\0" + zlib.compress(text), b"iTXt": b"\0\0\0\0" + text}
    return chunk(chunk_name, keyword + content[chunk_name])


def box(name: bytes, content: bytes) -> bytes:
    """Return a box."""
    return struct.pack(">I4s", len(content) + 8, name) + content


# ---- exiftool --------------------------------------------------------------------------------------------------------


def exiftool(path: Path, *options: str) -> dict[str, Any]:
    """Return what exiftool reads of a file, by `Group:Tag`; skip the test where it is not installed."""
    program = shutil.which("exiftool")
    if program is None:
        pytest.skip("exiftool is not installed (Debian: libimage-exiftool-perl)")
    command = [program, "-j", "-G1", "-s", "-a", *options, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout)[0])


def warnings_of(path: Path) -> list[str]:
    """Return the warnings and errors of exiftool's validation."""
    program = shutil.which("exiftool")
    if program is None:
        pytest.skip("exiftool is not installed (Debian: libimage-exiftool-perl)")
    command = [program, "-validate", "-warning", "-error", "-a", "-s", "-s", "-s", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    # What EXIF has for compressed pictures stays in TIFF, or an output made from it would lack it.
    return [line for line in done.stdout.splitlines()[1:] if not line.endswith("is not allowed in TIFF")]
