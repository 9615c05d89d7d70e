"""What the headers of an HEVC or AV1 picture declare: its size, its depth, and its colours.

A decoder takes memory by them, and not by what the file around them says. Sources: ITU-T H.265, 7.3.2.2 and E.2.1;
ISO/IEC 14496-15, 8.3.3.1; AV1 Bitstream & Decoding Process Specification, 5.3 to 5.5.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

Colours: TypeAlias = tuple[int, int, int, bool]  # primaries, transfer function, matrix, full range

_SPS = 33  # the kind of unit that holds a sequence parameter set
_SEQUENCE_HEADER = 1
_MAX_ORDER = 32  # of an exponential Golomb number


class HeaderError(ValueError):
    """A header that ends early or contradicts itself."""


@dataclass(frozen=True)
class VideoHeader:
    """A header. channels: 1 or 3. colours: None where it says none."""

    width: int
    height: int
    bits: int
    channels: int
    colours: Colours | None = None


class Bits:
    """Bits of bytes, the highest first."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def number(self, bits: int) -> int:
        """Read an unsigned number of so many bits.

        Raises:
            HeaderError: There are fewer.
        """
        start, self._at = self._at, self._at + bits
        if self._at > 8 * len(self._data):
            raise HeaderError("the header of the picture ends early")
        last = -(-self._at // 8)
        window = int.from_bytes(self._data[start // 8 : last], "big")
        return window >> (8 * last - self._at) & ((1 << bits) - 1)

    def golomb(self) -> int:
        """Read an exponential Golomb number."""
        zeros = 0
        while self.number(1) == 0:
            zeros += 1
            if zeros > _MAX_ORDER:
                raise HeaderError("a number in the header of the picture is too long")
        return (1 << zeros) - 1 + self.number(zeros)

    def flag(self) -> bool:
        """Read one bit."""
        return bool(self.number(1))


def hevc_header(configuration: bytes) -> VideoHeader:
    """Read the sequence parameter set in the content of `hvcC`; the largest picture counts where there are several.

    Raises:
        HeaderError: There is none, or it cannot be read.
    """
    found: list[VideoHeader] = []
    at = 23
    for _ in range(configuration[22] if len(configuration) > 22 else 0):
        kind, count = configuration[at] & 63 if at < len(configuration) else 0, configuration[at + 1 : at + 3]
        at += 3
        for _ in range(int.from_bytes(count, "big")):
            if at + 2 > len(configuration):
                raise HeaderError("the parameter sets of the picture end early")
            size = int.from_bytes(configuration[at : at + 2], "big")
            if kind == _SPS:
                found.append(_hevc_parameters(configuration[at + 2 : at + 2 + size]))
            at += 2 + size
    if not found:
        raise HeaderError("the picture has no sequence parameter set")
    return max(found, key=lambda header: header.width * header.height)


def _hevc_parameters(unit: bytes) -> VideoHeader:
    bits = Bits(unit[2:].replace(b"\0\0\3", b"\0\0"))
    bits.number(4)
    layers = bits.number(3)
    bits.number(1 + 96)  # profile and level
    if layers:
        present = [(bits.flag(), bits.flag()) for _ in range(layers)] + [(False, False)] * (8 - layers)
        bits.number(2 * (8 - layers))
        for profile, level in present:
            bits.number(88 * profile + 8 * level)
    bits.golomb()
    chroma = bits.golomb()
    if chroma == 3:
        bits.flag()
    width, height = bits.golomb(), bits.golomb()
    if bits.flag():
        for _ in range(4):  # a part that is shown
            bits.golomb()
    depth = 8 + max(bits.golomb(), bits.golomb())
    header = VideoHeader(width, height, depth, 1 if chroma == 0 else 3)
    try:
        colours = _hevc_colours(bits, layers)
    except HeaderError:
        return header
    return VideoHeader(width, height, depth, header.channels, colours)


def _hevc_colours(bits: Bits, layers: int) -> Colours | None:
    """Read what follows the depth, up to the colours; None where they are not said, or stand behind long tables."""
    counter = bits.golomb() + 4
    _pass_numbers(bits, 3 * (layers + 1 if bits.flag() else 1))
    _pass_numbers(bits, 6)
    if bits.flag() and bits.flag():  # scaling lists
        return None
    bits.number(2)
    if bits.flag():  # samples without coding
        bits.number(8)
        _pass_numbers(bits, 2)
        bits.flag()
    if bits.golomb():  # sets of reference pictures
        return None
    if bits.flag():
        for _ in range(min(bits.golomb(), 32)):
            bits.number(counter + 1)
    bits.number(2)
    return _hevc_usability(bits) if bits.flag() else None


def _pass_numbers(bits: Bits, count: int) -> None:
    for _ in range(count):
        bits.golomb()


def _hevc_usability(bits: Bits) -> Colours | None:
    """Read the colours in what H.265 calls video usability information."""
    if bits.flag() and bits.number(8) == 255:  # the shape of a pixel
        bits.number(32)
    if bits.flag():  # overscan
        bits.flag()
    if not bits.flag():
        return None
    bits.number(3)
    full = bits.flag()
    return (bits.number(8), bits.number(8), bits.number(8), full) if bits.flag() else None


def av1_header(stream: bytes) -> VideoHeader:
    """Read the sequence header at the beginning of an AV1 picture.

    Raises:
        HeaderError: There is none, or it cannot be read.
    """
    at = 0
    while at < len(stream):
        kind, extended, sized = stream[at] >> 3 & 15, stream[at] >> 2 & 1, stream[at] >> 1 & 1
        at += 1 + extended
        size, at = _leb128(stream, at) if sized else (len(stream) - at, at)
        if kind == _SEQUENCE_HEADER:
            return _av1_sequence(Bits(stream[at : at + size]))
        at += size
    raise HeaderError("the picture has no sequence header")


def _leb128(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for place in range(8):
        if at + place >= len(data):
            break
        value |= (data[at + place] & 127) << 7 * place
        if data[at + place] < 128:
            return value, at + place + 1
    raise HeaderError("a size in the header of the picture is damaged")


def _av1_sequence(bits: Bits) -> VideoHeader:
    profile = bits.number(3)
    bits.flag()
    reduced = bits.flag()
    if reduced:
        bits.number(5)
    else:
        _pass_operating_points(bits)
    size_bits = bits.number(4) + 1, bits.number(4) + 1
    width, height = bits.number(size_bits[0]) + 1, bits.number(size_bits[1]) + 1
    if not reduced and bits.flag():  # numbers of frames
        bits.number(7)
    bits.number(3)
    if not reduced:
        _pass_tools(bits)
    bits.number(3)
    return _av1_colours(bits, profile, width, height)


def _pass_operating_points(bits: Bits) -> None:
    decoder_model, delay = False, 0
    if bits.flag():  # timing
        bits.number(64)
        if bits.flag():
            bits.golomb()
        decoder_model = bits.flag()
        if decoder_model:
            delay = bits.number(5) + 1
            bits.number(42)
    delays = bits.flag()
    for _ in range(bits.number(5) + 1):
        bits.number(12)
        if bits.number(5) > 7:
            bits.flag()
        if decoder_model and bits.flag():
            bits.number(2 * delay + 1)
        if delays and bits.flag():
            bits.number(4)


def _pass_tools(bits: Bits) -> None:
    bits.number(4)
    order_hint = bits.flag()
    if order_hint:
        bits.number(2)
    screen_content = True if bits.flag() else bits.flag()
    if screen_content and not bits.flag():
        bits.flag()
    if order_hint:
        bits.number(3)


def _av1_colours(bits: Bits, profile: int, width: int, height: int) -> VideoHeader:
    high = bits.flag()
    depth = (12 if bits.flag() else 10) if profile == 2 and high else 10 if high else 8
    grey = profile != 1 and bits.flag()
    said = (bits.number(8), bits.number(8), bits.number(8)) if bits.flag() else None
    full = True if said == (1, 13, 0) else bits.flag()
    return VideoHeader(width, height, depth, 1 if grey else 3, (*said, full) if said else None)
