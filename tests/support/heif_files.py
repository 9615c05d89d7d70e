"""HEIC files made by hand: an HEVC encoder without loss, and the boxes around its pictures.

No free encoder of HEVC is among the dependencies. Samples that are stored as they are (pulse code modulation, ITU-T
H.265, 7.3.8.7) need none: of the arithmetic coder two kinds of bins are left, one with a context, and the terminating
one.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

BLOCK = 16  # samples a side of a coded block
ESSENTIAL = 0x80  # of a property: a reader that does not know it must not show the picture
_ESSENTIAL_KINDS = (b"hvcC", b"av1C", b"irot", b"imir", b"clap")


class BitWriter:
    """Bits, the highest first."""

    def __init__(self) -> None:
        self.bits: list[int] = []

    def number(self, value: int, bits: int) -> BitWriter:
        """Write an unsigned number."""
        self.bits += [value >> place & 1 for place in reversed(range(bits))]
        return self

    def golomb(self, *values: int) -> BitWriter:
        """Write exponential Golomb numbers."""
        for value in values:
            length = (value + 1).bit_length()
            self.number(value + 1, 2 * length - 1)
        return self

    def trailing(self) -> BitWriter:
        """End with a one and zeros up to a whole byte."""
        self.number(1, 1)
        return self.number(0, -len(self.bits) % 8)

    def bytes(self) -> bytes:
        """Return whole bytes."""
        return np.packbits(np.array(self.bits, np.uint8)).tobytes()


class ArithmeticCoder:
    """The coder of ITU-T H.265, 9.3.4, for one context whose bin is always 1, and for terminating bins."""

    # rangeTabLps of the states that the one context passes (table 9-52), and the state after another 1 (table 9-53).
    LPS = np.array(
        [[128, 176, 208, 240], [128, 167, 197, 227], [128, 158, 187, 216], [123, 150, 178, 205], [116, 142, 169, 195],
         [111, 135, 160, 185], [105, 128, 152, 175], [100, 122, 144, 166], [95, 116, 137, 158], [90, 110, 130, 150],
         [85, 104, 123, 142], [81, 99, 117, 135], [77, 94, 111, 128], [73, 89, 105, 122], [69, 85, 100, 116],
         [66, 80, 95, 110], [62, 76, 90, 104], [59, 72, 86, 99], [56, 69, 81, 94], [53, 65, 77, 89], [51, 62, 73, 85],
         [48, 59, 69, 80], [46, 56, 66, 76], [43, 53, 63, 72], [41, 50, 59, 69], [39, 48, 56, 65], [37, 45, 54, 62],
         [35, 43, 51, 59], [33, 41, 48, 56], [32, 39, 46, 53], [30, 37, 43, 50], [29, 35, 41, 48], [27, 33, 39, 45],
         [26, 31, 37, 43], [24, 30, 35, 41], [23, 28, 33, 39], [22, 27, 32, 37], [21, 26, 30, 35], [20, 24, 29, 33],
         [19, 23, 27, 31], [18, 22, 26, 30], [17, 21, 25, 28], [16, 20, 23, 27], [15, 19, 22, 25], [14, 18, 21, 24],
         [14, 17, 20, 23], [13, 16, 19, 22], [12, 15, 18, 21], [12, 14, 17, 20], [11, 14, 16, 19], [11, 13, 15, 18],
         [10, 12, 15, 17], [10, 12, 14, 16], [9, 11, 13, 15], [9, 11, 12, 14], [8, 10, 12, 14], [8, 9, 11, 13],
         [7, 9, 11, 12], [7, 9, 10, 12], [7, 8, 10, 11], [6, 8, 9, 11], [6, 7, 9, 10], [6, 7, 8, 9], [2, 2, 2, 2]]
    )  # fmt: skip

    def __init__(self, out: BitWriter, value_at_first: int = 184, quantiser: int = 26) -> None:
        slope, offset = (value_at_first >> 4) * 5 - 45, ((value_at_first & 15) << 3) - 16
        state = min(max((slope * quantiser >> 4) + offset, 1), 126)
        self.state, self.most_probable = (state - 64, 1) if state > 63 else (63 - state, 0)
        self.out = out
        self.start()

    def start(self) -> None:
        """Begin anew, as after stored samples; the context keeps its state."""
        self.low, self.range, self.first, self.outstanding = 0, 510, True, 0

    def one(self) -> None:
        """Code a 1 with the context."""
        less = int(self.LPS[self.state][self.range >> 6 & 3])
        self.range -= less
        if self.most_probable == 1:
            self.state = min(self.state + 1, 62)
        else:
            raise AssertionError("the context expects a 0")
        self._renormalise()

    def terminate(self, last: bool) -> None:
        """Code a terminating bin; after a 1 the coder is flushed."""
        self.range -= 2
        if last:
            self.low += self.range
            self.range = 2
            self._renormalise()
            self._put(self.low >> 9 & 1)
            self.out.number((self.low >> 7 & 3) | 1, 2)
        else:
            self._renormalise()

    def _renormalise(self) -> None:
        while self.range < 256:
            if self.low < 256:
                self._put(0)
            elif self.low >= 512:
                self.low -= 512
                self._put(1)
            else:
                self.low -= 256
                self.outstanding += 1
            self.range <<= 1
            self.low <<= 1

    def _put(self, bit: int) -> None:
        if self.first:
            self.first = False
        else:
            self.out.number(bit, 1)
        for _ in range(self.outstanding):
            self.out.number(1 - bit, 1)
        self.outstanding = 0


def escaped(kind: int, payload: bytes) -> bytes:
    """Return a unit of HEVC: its header, and its payload with escapes."""
    out, zeros = bytearray([kind << 1, 1]), 0
    for byte in payload:
        if zeros >= 2 and byte <= 3:
            out.append(3)
            zeros = 0
        out.append(byte)
        zeros = zeros + 1 if byte == 0 else 0
    return bytes(out)


def _profile() -> BitWriter:
    """Return the general profile (range extensions) and level."""
    bits = BitWriter().number(0, 3).number(4, 5).number(1 << 27, 32)
    bits.number(0b1001, 4).number(0, 43).number(0, 1)
    return bits.number(186, 8)


def parameters(width: int, height: int, bits: int, channels: int, colours: Sequence[int] | None = None) -> bytes:
    """Return a sequence parameter set: 4:4:4 or 4:0:0, stored samples, and the colours of H.273 where given."""
    whole_width, whole_height = (-(-side // BLOCK) * BLOCK for side in (width, height))
    out = BitWriter().number(0, 4).number(0, 3).number(1, 1)
    out.bits += _profile().bits
    out.golomb(0, 3 if channels == 3 else 0)
    if channels == 3:
        out.number(0, 1)
    out.golomb(whole_width, whole_height)
    out.number(1, 1).golomb(0, whole_width - width, 0, whole_height - height)
    out.golomb(bits - 8, bits - 8, 0)
    out.number(1, 1).golomb(0, 0, 0)
    out.golomb(1, 0, 0, 2, 0, 0)  # blocks of 16 x 16
    out.number(0, 3).number(1, 1).number(bits - 1, 4).number(bits - 1, 4).golomb(1, 0).number(1, 1)
    out.golomb(0).number(0, 3)
    out.number(colours is not None, 1)
    if colours is not None:
        primaries, transfer, matrix, full = colours
        out.number(0, 2).number(1, 1).number(5, 3).number(full, 1).number(1, 1)
        out.number(primaries, 8).number(transfer, 8).number(matrix, 8)
        out.number(0, 1 + 3 + 1).number(0, 1 + 1)
    return escaped(33, out.number(0, 1).trailing().bytes())


def video_parameters() -> bytes:
    """Return a video parameter set."""
    out = BitWriter().number(0, 4).number(3, 2).number(0, 6).number(0, 3).number(1, 1).number(0xFFFF, 16)
    out.bits += _profile().bits
    out.number(1, 1).golomb(0, 0, 0).number(0, 6).golomb(0).number(0, 2)
    return escaped(32, out.trailing().bytes())


def picture_parameters() -> bytes:
    """Return a picture parameter set without any tool."""
    out = BitWriter().golomb(0, 0).number(0, 7).golomb(0, 0, 0).number(0, 3)
    out.golomb(0, 0).number(0, 6).number(1, 1).number(1, 1).number(0, 1).number(1, 1)
    out.number(0, 2).golomb(0).number(0, 2)
    return escaped(34, out.trailing().bytes())


def coded(samples: NDArray[Any], bits: int) -> bytes:
    """Return (H, W) or (H, W, 3) samples as one picture, as it stands in a HEIC file: its length, then the unit.

    Of three channels the order is green, blue, red, which the matrix 0 means.
    """
    planes = samples[..., None] if samples.ndim == 2 else samples[..., [1, 2, 0]]
    height, width = planes.shape[:2]
    padded = np.pad(planes, ((0, -height % BLOCK), (0, -width % BLOCK), (0, 0)), mode="edge").astype(np.uint32)
    out = BitWriter().number(1, 1).number(0, 1).golomb(0, 2).golomb(0)
    out.trailing()
    coder = ArithmeticCoder(out)
    tops, lefts = range(0, padded.shape[0], BLOCK), range(0, padded.shape[1], BLOCK)
    blocks = [padded[top : top + BLOCK, left : left + BLOCK] for top in tops for left in lefts]
    places = np.arange(bits - 1, -1, -1)
    for number, block in enumerate(blocks):
        coder.one()  # one part
        coder.terminate(True)  # stored samples
        out.number(0, -len(out.bits) % 8)
        values = np.moveaxis(block, -1, 0).reshape(-1, 1)
        out.bits += (values >> places & 1).ravel().tolist()
        coder.start()
        coder.terminate(number == len(blocks) - 1)
    out.number(0, -len(out.bits) % 8)
    unit = escaped(19, out.bytes())
    return struct.pack(">I", len(unit)) + unit


# ---- boxes -----------------------------------------------------------------------------------------------------------


def box(kind: bytes, *content: bytes) -> bytes:
    """Return a box."""
    body = b"".join(content)
    return struct.pack(">I4s", 8 + len(body), kind) + body


def full_box(kind: bytes, *content: bytes, version: int = 0, flags: int = 0) -> bytes:
    """Return a box with version and flags."""
    return box(kind, struct.pack(">I", version << 24 | flags), *content)


def size_box(width: int, height: int) -> bytes:
    """Return the size of a picture."""
    return full_box(b"ispe", struct.pack(">II", width, height))


def nclx(primaries: int, transfer: int, matrix: int, full: bool = True) -> bytes:
    """Return colours by code points."""
    return box(b"colr", b"nclx", struct.pack(">HHHB", primaries, transfer, matrix, full << 7))


def icc_box(profile: bytes) -> bytes:
    """Return colours by an ICC profile."""
    return box(b"colr", b"prof", profile)


def alpha_box() -> bytes:
    """Say that a picture is transparency."""
    return full_box(b"auxC", b"urn:mpeg:mpegB:cicp:systems:auxiliary:alpha\0")


@dataclass
class Item:
    """An item to be written: its kind, its bytes, its properties, and what it refers to."""

    kind: bytes
    content: bytes = b""
    properties: Sequence[bytes] = ()
    references: Mapping[bytes, Sequence[int]] = field(default_factory=dict)
    content_type: bytes = b""


def picture_item(samples: NDArray[Any], bits: int = 8, *properties: bytes, size: tuple[int, int] | None = None) -> Item:
    """Return samples as an item: grey, or RGB by the matrix 0, unless a property says otherwise."""
    height, width = samples.shape[:2]
    channels = 1 if samples.ndim == 2 else 3
    sets = {32: video_parameters(), 33: parameters(width, height, bits, channels), 34: picture_parameters()}
    arrays = b"".join(struct.pack(">BHH", 128 | kind, 1, len(unit)) + unit for kind, unit in sets.items())
    head = bytes([1, 4]) + struct.pack(">I", 1 << 27) + bytes([0x90, 0, 0, 0, 0, 0, 186, 0xF0, 0, 0xFC])
    head += bytes([0xFC | (3 if channels == 3 else 0), 0xF8 | bits - 8, 0xF8 | bits - 8, 0, 0, 0x0F, len(sets)])
    colours = [] if any(b"colrnclx" in given for given in properties) or channels == 1 else [nclx(2, 2, 0)]
    depth = full_box(b"pixi", bytes([channels]) + bytes([bits]) * channels)
    boxes = [box(b"hvcC", head + arrays), size_box(*(size or (width, height))), depth, *colours, *properties]
    return Item(b"hvc1", coded(samples, bits), boxes)


def heif(items: Sequence[Item], primary: int = 1, brand: bytes = b"heic", brands: bytes = b"mif1heic") -> bytes:
    """Return a file of items, which are numbered from 1."""
    kinds, associations, references, offsets = b"", b"", b"", b""
    properties: list[bytes] = []
    at = 0
    for number, item in enumerate(items, start=1):
        named = b"\0" + item.content_type + b"\0" if item.kind == b"mime" else b"\0"
        kinds += full_box(b"infe", struct.pack(">HH4s", number, 0, item.kind), named, version=2)
        start = len(properties)
        properties += item.properties
        indexes = bytes(
            start + place | (ESSENTIAL if given[4:8] in _ESSENTIAL_KINDS else 0)
            for place, given in enumerate(item.properties, start=1)
        )
        associations += struct.pack(">HB", number, len(indexes)) + indexes
        for kind, to in item.references.items():
            references += box(kind, struct.pack(f">HH{len(to)}H", number, len(to), *to))
        offsets += struct.pack(">HHHII", number, 0, 1, at, len(item.content))
        at += len(item.content)

    def meta(base: int) -> bytes:
        moved = b"".join(
            entry[:6] + struct.pack(">I", base + struct.unpack(">I", entry[6:10])[0]) + entry[10:]
            for entry in (offsets[place : place + 14] for place in range(0, len(offsets), 14))
        )
        return full_box(
            b"meta",
            full_box(b"hdlr", bytes(4), b"pict", bytes(13)),
            full_box(b"pitm", struct.pack(">H", primary)),
            full_box(b"iloc", b"\x44\0", struct.pack(">H", len(items)), moved),
            full_box(b"iinf", struct.pack(">H", len(items)), kinds),
            box(b"iprp", box(b"ipco", *properties), full_box(b"ipma", struct.pack(">I", len(items)), associations)),
            *([full_box(b"iref", references)] if references else []),
        )

    head = box(b"ftyp", brand, bytes(4), brands)
    pixels = b"".join(item.content for item in items)
    return head + meta(len(head) + len(meta(0)) + 8) + box(b"mdat", pixels)


def heic(samples: NDArray[Any], bits: int = 8, *properties: bytes) -> bytes:
    """Return samples as a HEIC file without loss."""
    return heif([picture_item(samples, bits, *properties)])
