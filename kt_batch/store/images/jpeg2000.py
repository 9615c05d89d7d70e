"""JPEG 2000: its boxes and the header of its codestream, and its samples by OpenJPEG (imagecodecs).

OpenJPEG applies palettes, puts the channels in order, and makes RGB of sYCC. Sources: ISO/IEC 15444-1, annexes A and I;
ISO/IEC 15444-2, annex M.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import imagecodecs
import numpy as np

from kt_batch.errors import Reason, RejectError
from kt_batch.store.images.boxes import Box, boxes
from kt_batch.store.images.colour import Space, space_of
from kt_batch.store.images.headers import check_bytes, check_pixels
from kt_batch.store.images.samples import Raster, Samples

FILE, CODESTREAM = b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51"

_CHANNELS = {12: 4, 16: 3, 17: 1, 18: 3}  # the enumerated colours that are read: CMYK, sRGB, grey and sYCC
_NAMES = {0: "two levels", 1: "YCbCr", 3: "YCbCr", 4: "YCbCr", 14: "Lab", 15: "two levels", 19: "Lab", 20: "e-sRGB"}
_NAMES |= {21: "ROMM RGB", 24: "e-sYCC"}
_ENUMERATED, _RESTRICTED_PROFILE, _PROFILE, _CODE_POINTS = 1, 2, 3, 5
_CHANNELS_OF_PROFILE = {b"GRAY": 1, b"RGB ": 3, b"CMYK": 4}
_OPACITY, _PREMULTIPLIED = 1, 2
_MAX_TILES = 2**16
_CINEMA = (3, 4)  # profiles of the codestream: 2K and 4K


class HeaderError(ValueError):
    """A header that ends early or contradicts itself."""


@dataclass(frozen=True)
class Header:
    """The header of a codestream.

    bits: Of each component. parts: Whether components are smaller than the picture. cinema: Whether it is a frame of
    digital cinema, whose colours are XYZ.
    """

    width: int
    height: int
    bits: tuple[int, ...]
    signed: bool
    parts: bool
    tiles: int
    cinema: bool

    @property
    def bytes(self) -> int:
        """Return the bytes of the samples."""
        return self.width * self.height * len(self.bits) * (1 if max(self.bits) <= 8 else 2)


@dataclass(frozen=True)
class Description:
    """What the boxes around a codestream say; all absent for a bare codestream."""

    enumerated: int | None = None
    profile: bytes | None = None
    code_points: tuple[int, int] | None = None
    palette: bool = False
    channels: tuple[int, ...] = ()  # of `cdef`, in order: 0 colour, 1 opacity, 2 premultiplied opacity


def header_of(data: bytes) -> Header:
    """Read the header of the codestream of a file.

    Raises:
        HeaderError: There is none, or it ends early.
    """
    stream = _codestream(data)
    if stream[:4] != CODESTREAM or len(stream) < 42:
        raise HeaderError("there is no whole header of a codestream")
    right, bottom, left, top, tile_wide, tile_high, tile_left, tile_top, count = struct.unpack_from(">8IH", stream, 8)
    if len(stream) < 42 + 3 * count or count == 0:
        raise HeaderError(f"the header declares {count} components and ends before them")
    if right <= left or bottom <= top or 0 in (tile_wide, tile_high):
        raise HeaderError(f"the header declares {right - left} x {bottom - top} pixels")
    tiles = -(-(right - tile_left) // tile_wide) * -(-(bottom - tile_top) // tile_high)
    components = [stream[42 + 3 * at : 45 + 3 * at] for at in range(count)]
    return Header(
        width=right - left,
        height=bottom - top,
        bits=tuple(1 + (component[0] & 127) for component in components),
        signed=any(component[0] & 128 for component in components),
        parts=any(component[1:] != b"\1\1" for component in components),
        tiles=tiles,
        cinema=int.from_bytes(stream[6:8], "big") in _CINEMA,
    )


def _codestream(data: bytes) -> bytes:
    if data[:4] == CODESTREAM:
        return data
    for box in boxes(data, 0, len(data)):
        if box.kind == b"jp2c":
            return box.content()
    raise HeaderError("there is no codestream")


def description_of(data: bytes) -> Description:
    """Read the boxes around the codestream."""
    if data[:4] == CODESTREAM:
        return Description()
    parts = _header_boxes(data)
    enumerated, profile, code_points = None, None, None
    channels: tuple[int, ...] = ()
    for box in parts:
        content = box.content()
        if box.kind == b"colr" and len(content) >= 3 and (enumerated, profile, code_points) == (None, None, None):
            method, rest = content[0], content[3:]
            if method == _ENUMERATED and len(rest) >= 4:
                enumerated = int.from_bytes(rest[:4], "big")
            elif method in (_RESTRICTED_PROFILE, _PROFILE):
                profile = rest
            elif method == _CODE_POINTS and len(rest) >= 4:
                primaries, transfer = struct.unpack_from(">HH", rest)
                code_points = (primaries, transfer)
        elif box.kind == b"cdef":
            channels = _channels(box)
    palette = any(box.kind == b"pclr" for box in parts)
    return Description(enumerated, profile, code_points, palette, channels)


def _channels(box: Box) -> tuple[int, ...]:
    cursor = box.cursor()
    entries = [(cursor.number(2), cursor.number(2), cursor.number(2)) for _ in range(cursor.number(2))]
    return tuple(kind for _, kind, _ in sorted(entries))


def read(data: bytes) -> Raster:
    """Read the picture.

    Raises:
        RejectError: Its colours or samples are of a kind that is not read, or it is too large.
    """
    header, description = header_of(data), description_of(data)
    check_pixels(header.width, header.height, len(data))
    check_bytes(header.bytes, len(data))
    if header.tiles > _MAX_TILES:
        raise HeaderError(f"the header declares {header.tiles} tiles")
    _check_samples(header)
    channels = _colour_channels(header, description)
    space = _space(channels, description)
    samples: Samples = imagecodecs.jpeg2k_decode(_without_profile(data, description), numthreads=1)
    if samples.ndim not in (2, 3) or samples.shape[:2] != (header.height, header.width):
        raise HeaderError(f"the samples are {samples.shape}, the header says {header.width} x {header.height}")
    samples = samples.reshape(header.height, header.width, -1)
    kind = next((kind for kind in description.channels if kind in (_OPACITY, _PREMULTIPLIED)), 0)
    return Raster(
        samples=samples,
        channels=channels,
        width=header.width,
        height=header.height,
        white=255.0 if description.palette and samples.dtype == np.uint8 else float(2 ** header.bits[0] - 1),
        alpha=kind != 0 and samples.shape[2] > channels,
        premultiplied=kind == _PREMULTIPLIED,
        space=space,
    )


def _without_profile(data: bytes, description: Description) -> bytes:
    """Return a file whose profile the decoder does not find; it would convert the samples by it, to 8 bits."""
    if description.profile is None:
        return data
    hidden = bytearray(data)
    for box in _header_boxes(data):
        if box.kind == b"colr":
            hidden[box.start - 4 : box.start] = b"free"
    return bytes(hidden)


def _header_boxes(data: bytes) -> list[Box]:
    return next((box.children() for box in boxes(data, 0, len(data)) if box.kind == b"jp2h"), [])


def _check_samples(header: Header) -> None:
    if header.signed or len(set(header.bits)) > 1 or header.bits[0] > 16:
        raise RejectError(
            Reason.UNSUPPORTED,
            f"the JPEG 2000 has components of {', '.join(map(str, header.bits[:8]))} bits"
            f"{', signed' if header.signed else ''}; allowed are unsigned ones of the same 1 to 16 bits",
        )
    if header.cinema:
        raise RejectError(Reason.UNSUPPORTED, "the JPEG 2000 is a frame of digital cinema, whose colours are XYZ")
    if header.parts:
        raise RejectError(
            Reason.UNSUPPORTED, "the JPEG 2000 has components that are smaller than the picture; allowed are full ones"
        )


def _colour_channels(header: Header, description: Description) -> int:
    """Return the number of channels of colour: 1, 3 or 4."""
    count = 3 if description.palette else len(header.bits)
    if description.enumerated is not None and description.enumerated not in _CHANNELS:
        name = _NAMES.get(description.enumerated, "another kind")
        raise RejectError(
            Reason.UNSUPPORTED,
            f"the JPEG 2000 has colours of {name} (number {description.enumerated}); allowed are grey, sRGB, sYCC, "
            "CMYK and an ICC profile",
        )
    if description.enumerated is not None:
        channels = _CHANNELS[description.enumerated]
    elif description.profile is not None:
        channels = _CHANNELS_OF_PROFILE.get(description.profile[16:20], 0)
    else:
        channels = 1 if count < 3 else 3
    if channels == 0 or not channels <= count <= channels + 1:
        raise RejectError(
            Reason.UNSUPPORTED,
            f"the JPEG 2000 has {count} components for {channels} channels of colour; allowed is at most one more",
        )
    return channels


def _space(channels: int, description: Description) -> Space:
    chunks = {}
    if description.code_points and max(description.code_points) < 256:
        chunks = {b"cICP": bytes((*description.code_points, 0, 1))}
    return space_of(channels, description.profile, chunks, lambda: False, "the colour box of JPEG 2000")
