"""Files of the formats that Pillow does not write, or not in every depth: AVIF, JPEG XL, JPEG 2000 and camera raw."""

from __future__ import annotations

import io
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import imagecodecs
import numpy as np
import tifffile
from numpy.typing import NDArray

from tests.support.heif_files import Item, box, full_box, heif, nclx, size_box

Samples = NDArray[Any]


def avif(samples: Samples, bits: int = 8, *properties: bytes) -> bytes:
    """Return samples as an AVIF without loss, with more properties of the picture."""
    return heif([avif_item(samples, bits, *properties)], brand=b"avif", brands=b"mif1avif")


def avif_item(samples: Samples, bits: int = 8, *properties: bytes) -> Item:
    """Return samples as an item: libavif codes them, and the boxes are made here."""
    data = bytes(imagecodecs.avif_encode(samples, level=100, speed=10, bitspersample=bits, numthreads=1))
    height, width = samples.shape[:2]
    channels = 1 if samples.ndim == 2 else 3
    at = data.index(b"av1C") - 4
    configuration = data[at : at + int.from_bytes(data[at : at + 4], "big")]
    content = data[data.index(b"mdat") + 4 :]
    colours = [] if any(b"colrnclx" in given for given in properties) else [nclx(2, 2, 0 if channels == 3 else 2)]
    depth = full_box(b"pixi", bytes([channels]) + bytes([bits]) * channels)
    return Item(b"av01", content, [configuration, size_box(width, height), depth, *colours, *properties])


# ---- JPEG XL ---------------------------------------------------------------------------------------------------------


def jxl(samples: Samples, bits: int | None = None, **options: Any) -> bytes:
    """Return samples as libjxl writes them without loss: as sRGB for 8 bits, else as linear."""
    return bytes(imagecodecs.jpegxl_encode(samples, lossless=True, bitspersample=bits, numthreads=1, **options))


class JxlBits:
    """Bits of a JPEG XL header, the lowest first."""

    def __init__(self) -> None:
        self.bits: list[int] = []

    def number(self, value: int, bits: int) -> JxlBits:
        """Append a number."""
        self.bits += [value >> place & 1 for place in range(bits)]
        return self

    def enum(self, value: int) -> JxlBits:
        """Append the number of a kind."""
        if value < 2:
            return self.number(value, 2)
        return self.number(2, 2).number(value - 2, 4) if value < 18 else self.number(3, 2).number(value - 18, 6)

    def coordinate(self, value: float) -> JxlBits:
        """Append a chromaticity."""
        folded = 2 * round(value * 1e6)
        choice, bits, start = (
            (0, 19, 0) if folded < 524288 else (1, 19, 524288) if folded < 1048576 else (2, 20, 1048576)
        )
        return self.number(choice, 2).number(folded - start, bits)

    def bytes(self) -> bytes:
        """Return whole bytes."""
        return np.packbits(np.array(self.bits, np.uint8), bitorder="little").tobytes()


@dataclass(frozen=True)
class JxlColours:
    """Colours by the numbers of ISO/IEC 18181-1, E.2: white 1 D65, primaries 1 sRGB, transfer 13 sRGB, 8 linear.

    points: x, y of red, green and blue, for primaries 2. gamma: The exponent of the signal, in place of `transfer`.
    """

    transfer: int = 13
    primaries: int = 1
    white: int = 1
    points: tuple[float, ...] = ()
    gamma: float | None = None
    icc: bool = False


def jxl_with(
    samples: Samples, bits: int, colours: JxlColours, orientation: int = 1, premultiplied: bool = False
) -> bytes:
    """Return samples as a JPEG XL without loss whose header says what the encoder at hand cannot say.

    The frames are those of libjxl. They begin at a whole byte, which is found by trying.
    """
    data = jxl(samples, bits, usecontainer=False)
    header = _jxl_header(samples, bits, colours, orientation, premultiplied)
    plain = _jxl_header(samples, bits, JxlColours(), 1, premultiplied)
    for at in range(4, 64):
        try:
            found = imagecodecs.jpegxl_decode(plain + data[at:], index=0, numthreads=1)
        except imagecodecs.JpegxlError:
            continue
        if np.array_equal(found, samples):
            return header + data[at:]
    raise AssertionError("the frames were not found")


def _jxl_header(samples: Samples, bits: int, colours: JxlColours, orientation: int, premultiplied: bool) -> bytes:
    grey, alpha = samples.ndim == 2 or samples.shape[2] == 2, samples.ndim == 3 and samples.shape[2] in (2, 4)
    out = JxlBits().number(0, 1)
    out.number(1, 2).number(samples.shape[0] - 1, 13).number(0, 3).number(1, 2).number(samples.shape[1] - 1, 13)
    out.number(0, 1).number(1, 1).number(orientation - 1, 3).number(0, 3)
    out.number(0, 1).number(3, 2).number(bits - 1, 6).number(0, 1)
    out.number(alpha, 2)
    if alpha:
        out.number(0, 1).enum(0).number(0, 1).number(3, 2).number(bits - 1, 6).number(0, 4).number(premultiplied, 1)
    out.number(0, 1).number(0, 1).number(colours.icc, 1).enum(int(grey))
    if not colours.icc:
        out.enum(colours.white)
        if not grey:
            out.enum(colours.primaries)
        for value in colours.points:
            out.coordinate(value)
        out.number(colours.gamma is not None, 1)
        if colours.gamma is None:
            out.enum(colours.transfer)
        else:
            out.number(round(colours.gamma * 1e7), 24)
        out.enum(1)
    return b"\xff\x0a" + out.number(1, 1).number(0, 2).number(1, 1).bytes()


# ---- JPEG 2000 -------------------------------------------------------------------------------------------------------


def jp2(samples: Samples, bits: int = 8, colours: bytes | None = None, *parts: bytes) -> bytes:
    """Return samples as a JP2 without loss. colours: The box `colr`. parts: More boxes of the header."""
    stream = j2k(samples, bits)
    height, width = samples.shape[:2]
    channels = 1 if samples.ndim == 2 else samples.shape[2]
    head = box(b"ihdr", struct.pack(">IIHBBBB", height, width, channels, bits - 1, 7, 0, 0))
    colours = colours or enumerated(17 if channels < 3 else 16)
    return (
        b"\0\0\0\x0cjP  \r\n\x87\n"
        + box(b"ftyp", b"jp2 ", bytes(4), b"jp2 ")
        + box(b"jp2h", head, colours, *parts)
        + box(b"jp2c", stream)
    )


def j2k(samples: Samples, bits: int = 8) -> bytes:
    """Return samples as a bare codestream without loss."""
    return bytes(imagecodecs.jpeg2k_encode(samples, level=0, codecformat="j2k", bitspersample=bits, mct=False))


def enumerated(number: int) -> bytes:
    """Return the box of colours that have a number."""
    return box(b"colr", b"\1\0\0", struct.pack(">I", number))


def jp2_profile(profile: bytes) -> bytes:
    """Return the box of colours by an ICC profile."""
    return box(b"colr", b"\2\0\0", profile)


def channel_kinds(*kinds: int) -> bytes:
    """Return the box of the channels: 0 a colour, 1 opacity, 2 opacity that the colours are multiplied by."""
    entries = b"".join(
        struct.pack(">HHH", number, kind, 0 if kind else number + 1) for number, kind in enumerate(kinds)
    )
    return box(b"cdef", struct.pack(">H", len(kinds)), entries)


# ---- camera raw ------------------------------------------------------------------------------------------------------


def dng(samples: Samples, *, orientation: int = 1, white: int = 65535, neutral: Sequence[float] = (1, 1, 1)) -> bytes:
    """Return a DNG of a sensor whose red, green and blue are those of linear sRGB.

    samples: (H, W) uint16 under the filters red, green, green, blue. neutral: What the camera saw of white.
    """
    to_d65 = np.array(
        [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.119192, 0.9503041]]
    )

    def rationals(values: Any) -> tuple[int, ...]:
        return tuple(number for value in values for number in (round(value * 10000), 10000))

    tags = [
        (33421, "H", 2, (2, 2), True),
        (33422, "B", 4, bytes([0, 1, 1, 2]), True),
        (50706, "B", 4, bytes([1, 4, 0, 0]), True),
        (50708, "s", 0, "kt chart camera", True),
        (50721, "2i", 9, rationals(np.linalg.inv(to_d65).ravel()), True),
        (50778, "H", 1, 21, True),
        (50714, "H", 1, 0, True),
        (50717, "H", 1, white, True),
        (50728, "2I", 3, rationals(neutral), True),
        (274, "H", 1, orientation, True),
        (271, "s", 0, "kt", True),
        (272, "s", 0, "chart camera", True),
    ]
    file = io.BytesIO()
    tifffile.imwrite(file, samples, photometric="cfa", extratags=tags, metadata=None)
    return file.getvalue()


def mosaic(colours: NDArray[np.float64]) -> Samples:
    """Return linear colours (H, W, 3) in [0, 1] as a sensor sees them under its filters."""
    values = np.round(colours * 65535).astype(np.uint16)
    seen = values[..., 1].copy()
    seen[::2, ::2] = values[::2, ::2, 0]
    seen[1::2, 1::2] = values[1::2, 1::2, 2]
    return seen
