"""JPEG XL: the header of its codestream, and its first frame as samples.

libjxl (imagecodecs) decodes. It turns the picture by the orientation in the header, and gives the colours that the
header names, but it does not hand over what the header says: that is read here. Source: ISO/IEC 18181-1, annexes B to
E.
"""

from __future__ import annotations

from dataclasses import dataclass

import imagecodecs

from kt_batch.errors import Reason, RejectError
from kt_batch.store.images import spaces
from kt_batch.store.images.boxes import boxes
from kt_batch.store.images.colour import SRGB, Space, named, space_of
from kt_batch.store.images.headers import check_bytes, check_pixels
from kt_batch.store.images.jxl_profile import profile_of
from kt_batch.store.images.samples import Raster, Samples

CODESTREAM, CONTAINER = b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n"
SOURCE = "the colour encoding of JPEG XL"

_RATIOS = {1: (1, 1), 2: (12, 10), 3: (4, 3), 4: (3, 2), 5: (16, 9), 6: (5, 4), 7: (2, 1)}
_RGB, _GREY, _XYB = 0, 1, 2  # kinds of colours
_ALPHA, _SPOT, _BLACK, _CFA = 0, 2, 4, 5  # kinds of further channels
_CUSTOM = 2  # of a white point and of primaries
_WHITES = {1: (0.3127, 0.3290), 10: (1 / 3, 1 / 3), 11: (0.314, 0.351)}
_CODES_WITH_D65 = {1: 1, 9: 9, 11: 12}  # primaries -> the code point of ITU-T H.273 with the white D65
_DCI_WHITE, _P3, _CODE_OF_DCI = 11, 11, 11
_UNKNOWN_TRANSFER = 2
_MAX_CHANNELS = 16
_SIZES = ((9, 1), (13, 1), (18, 1), (30, 1))


class HeaderError(ValueError):
    """A header that ends early or contradicts itself."""


@dataclass(frozen=True)
class Encoding:
    """The colours that a header names; primaries and white are chromaticities where they are custom."""

    kind: int = _RGB
    icc: bool = False
    white: int = 1
    primaries: int = 1
    transfer: int = 13
    gamma: float | None = None
    points: tuple[float, ...] = spaces.SRGB_PRIMARIES  # x, y of red, green, blue and white


@dataclass(frozen=True)
class Header:
    """The header of a codestream.

    width, height: As stored. orientation: As EXIF numbers it; the decoder turns the picture by it.
    """

    width: int
    height: int
    orientation: int
    bits: int
    is_float: bool
    animated: bool
    alpha: bool
    premultiplied: bool
    black: bool
    further_channels: int
    xyb: bool
    encoding: Encoding

    @property
    def channels(self) -> int:
        """Return the number of channels of colour."""
        return 1 if self.encoding.kind == _GREY else 3

    @property
    def bytes(self) -> int:
        """Return the bytes of the samples; the decoder computes with floats."""
        return self.width * self.height * (self.channels + self.further_channels) * (1 if self.bits <= 8 else 2)


class _Bits:
    """Bits of bytes, the lowest first."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def number(self, bits: int) -> int:
        start, self._at = self._at, self._at + bits
        if self._at > 8 * len(self._data):
            raise HeaderError("the header ends early")
        window = int.from_bytes(self._data[start // 8 : -(-self._at // 8)], "little")
        return window >> (start & 7) & ((1 << bits) - 1)

    def flag(self) -> bool:
        return bool(self.number(1))

    def choice(self, *choices: tuple[int, int]) -> int:
        """Read one of four numbers, each of so many bits and counted from an offset."""
        bits, offset = choices[self.number(2)]
        return offset + self.number(bits)

    def enum(self) -> int:
        return self.choice((0, 0), (0, 1), (4, 2), (6, 18))

    def coordinate(self) -> float:
        value = self.choice((19, 0), (19, 524288), (20, 1048576), (21, 2097152))
        return (value >> 1 ^ -(value & 1)) / 1e6  # zigzag


def codestream(data: bytes, most: int = 2**16) -> bytes:
    """Return the first bytes of the codestream of a file, which may be in boxes.

    Raises:
        HeaderError: There is none.
    """
    if data[:2] == CODESTREAM:
        return data[:most]
    found = b""
    for box in boxes(data, 0, len(data)):
        if box.kind == b"jxlc":
            return data[box.start : min(box.end, box.start + most)]
        if box.kind == b"jxlp":
            found += data[box.start + 4 : min(box.end, box.start + 4 + most)]
            if len(found) >= most:
                break
    if not found:
        raise HeaderError("there is no codestream")
    return found


def header_of(data: bytes) -> Header:
    """Read the header of a file.

    Raises:
        HeaderError: It ends early, or contradicts itself.
    """
    stream = codestream(data)
    if stream[:2] != CODESTREAM:
        raise HeaderError("the codestream has no signature")
    bits = _Bits(stream[2:])
    width, height = _size(bits)
    if bits.flag():  # all as usual
        return Header(width, height, 1, 8, False, False, False, False, False, 0, True, Encoding())
    orientation, animated, extra_fields = 1, False, bits.flag()
    if extra_fields:
        orientation = 1 + bits.number(3)
        if bits.flag():
            _size(bits)  # as it should be shown
        if bits.flag():
            _pass_preview(bits)
        animated = bits.flag()
        if animated:
            _pass_animation(bits)
    depth, is_float = _depth(bits)
    bits.flag()
    count = bits.choice((0, 0), (0, 1), (4, 2), (12, 1))
    if count > _MAX_CHANNELS:
        raise RejectError(
            Reason.UNSUPPORTED, f"the JPEG XL has {count} channels beside its colours; allowed are {_MAX_CHANNELS}"
        )
    further = [_further_channel(bits) for _ in range(count)]
    alpha = [associated for kind, associated in further if kind == _ALPHA]
    black = any(kind == _BLACK for kind, _ in further)
    xyb = bits.flag()
    return Header(
        width, height, orientation, depth, is_float, animated,
        bool(alpha), alpha[:1] == [True], black, count, xyb, _encoding(bits),
    )  # fmt: skip


def _size(bits: _Bits) -> tuple[int, int]:
    small = bits.flag()
    height = 8 * (1 + bits.number(5)) if small else bits.choice(*_SIZES)
    ratio = bits.number(3)
    if ratio:
        across, down = _RATIOS[ratio]
        return height * across // down, height
    return 8 * (1 + bits.number(5)) if small else bits.choice(*_SIZES), height


def _pass_preview(bits: _Bits) -> None:
    eights = bits.flag()
    sizes = ((0, 16), (0, 32), (5, 1), (9, 33)) if eights else ((6, 1), (8, 65), (10, 321), (12, 1345))
    bits.choice(*sizes)
    if bits.number(3) == 0:
        bits.choice(*sizes)


def _pass_animation(bits: _Bits) -> None:
    bits.choice((0, 100), (0, 1000), (10, 1), (30, 1))
    bits.choice((0, 1), (0, 1001), (8, 1), (10, 1))
    bits.choice((0, 0), (3, 0), (16, 0), (32, 0))
    bits.flag()


def _depth(bits: _Bits) -> tuple[int, bool]:
    if bits.flag():
        depth = bits.choice((0, 32), (0, 16), (0, 24), (6, 1))
        bits.number(4)
        return depth, True
    return bits.choice((0, 8), (0, 10), (0, 12), (6, 1)), False


def _further_channel(bits: _Bits) -> tuple[int, bool]:
    """Return the kind of a further channel, and whether the colours are multiplied by it."""
    if bits.flag():
        return _ALPHA, False
    kind = bits.enum()
    _depth(bits)
    bits.choice((0, 0), (0, 3), (0, 4), (3, 1))
    for _ in range(bits.choice((0, 0), (4, 0), (5, 16), (10, 48))):
        bits.number(8)  # its name
    if kind == _ALPHA:
        return kind, bits.flag()
    if kind == _SPOT:
        bits.number(64)
    if kind == _CFA:
        bits.choice((0, 1), (2, 0), (4, 3), (8, 19))
    return kind, False


def _encoding(bits: _Bits) -> Encoding:
    if bits.flag():
        return Encoding()
    icc, kind = bits.flag(), bits.enum()
    if icc or kind == _XYB:
        return Encoding(kind, icc)
    white = bits.enum()
    white_point = (bits.coordinate(), bits.coordinate()) if white == _CUSTOM else _WHITES.get(white, (0.0, 0.0))
    primaries = 1 if kind == _GREY else bits.enum()
    if primaries == _CUSTOM and kind != _GREY:
        points = tuple(bits.coordinate() for _ in range(6))
    else:
        points = spaces.PRIMARIES_BY_CODE.get(_CODES_WITH_D65.get(primaries, 0), (0.0,) * 6)[:6]
    gamma = bits.number(24) / 1e7 if bits.flag() else None
    transfer = bits.enum() if gamma is None else 0
    return Encoding(kind, icc, white, primaries, transfer, gamma, (*points, *white_point))


def read(data: bytes) -> Raster:
    """Read the first frame.

    Raises:
        RejectError: Its colours are of a kind that is not read, or it is too large.
    """
    header = header_of(data)
    check_pixels(header.width, header.height, len(data))
    check_bytes(header.bytes, len(data))
    if header.black:
        raise RejectError(Reason.UNSUPPORTED, "the JPEG XL has a channel of black ink; allowed are grey and RGB")
    decided = space(header, data)
    samples: Samples = imagecodecs.jpegxl_decode(data, index=0, numthreads=1)
    width, height = (header.height, header.width) if header.orientation > 4 else (header.width, header.height)
    if samples.ndim not in (2, 3) or samples.shape[:2] != (height, width):
        raise HeaderError(f"the samples are {samples.shape}, and the header declares {width} x {height} pixels")
    return Raster(
        samples=samples.reshape(height, width, -1),
        channels=header.channels,
        width=width,
        height=height,
        white=1.0 if samples.dtype.kind == "f" else float(2**header.bits - 1),
        alpha=header.alpha,
        premultiplied=header.premultiplied,
        space=decided,
    )


def space(header: Header, data: bytes) -> Space:
    """Decide the colour space of the samples of a file.

    Raises:
        RejectError: The colours are of a kind that is not converted.
    """
    encoding, channels = header.encoding, header.channels
    if encoding.icc:
        if (profile := profile_of(data)) is None:
            raise RejectError(
                Reason.UNSUPPORTED,
                "the JPEG XL has a packed ICC profile that cannot be had from libjxl; allowed are its own encodings",
            )
        return space_of(channels, profile, {}, lambda: False)
    if encoding.kind not in (_RGB, _GREY):
        raise RejectError(
            Reason.UNSUPPORTED, f"the JPEG XL has colours of kind {encoding.kind}; allowed are grey and RGB"
        )
    if encoding.gamma is None and encoding.transfer == _UNKNOWN_TRANSFER:
        return SRGB
    code = _CODES_WITH_D65.get(encoding.primaries, 0) if encoding.white == 1 else 0
    if (encoding.white, encoding.primaries) == (_DCI_WHITE, _P3):
        code = _CODE_OF_DCI
    if encoding.gamma is None and (
        encoding.transfer in (spaces.PQ, spaces.HLG) or encoding.transfer in spaces.NOT_CONVERTED
    ):
        return space_of(channels, None, {b"cICP": bytes((code, encoding.transfer, 0, 1))}, lambda: False, SOURCE)
    if encoding.gamma is None:
        curve = spaces.CURVES_BY_CODE.get(encoding.transfer)
    else:
        curve = (1 / encoding.gamma,) if encoding.gamma >= 0.1 else None
    if curve is None:
        raise HeaderError(f"there is no transfer function {encoding.transfer}, gamma {encoding.gamma}")
    red_x, red_y, green_x, green_y, blue_x, blue_y, white_x, white_y = encoding.points
    primaries = (red_x, red_y, green_x, green_y, blue_x, blue_y, white_x, white_y)
    return named(SOURCE, primaries, curve, channels)
