"""Camera raw: which files are raw, and how they are developed.

LibRaw (rawpy, the extra `raw`) develops: with the white balance of the camera, without automatic brightness, turned by
the camera's orientation, in 16 bits with the primaries of Rec. 2020 and the curve of sRGB.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from kt_batch.errors import Reason, RejectError
from kt_batch.store.images import spaces
from kt_batch.store.images.colour import named
from kt_batch.store.images.file_bytes import Data
from kt_batch.store.images.headers import TIFF, check_bytes, check_pixels
from kt_batch.store.images.samples import Raster, Samples

if TYPE_CHECKING:
    import rawpy

Order: TypeAlias = Literal["little", "big"]

SOURCE = "the camera's colour matrix"

_SIGNATURES = (
    (b"FUJIFILMCCD-RAW ", "RAF"),
    (b"IIRO", "ORF"),
    (b"IIRS", "ORF"),
    (b"MMOR", "ORF"),
    (b"IIU\0", "RW2"),
    (b"\0MRM", "MRW"),
    (b"FOVb", "X3F"),
    (b"II\x1a\0\0\0HEAPCCDR", "CRW"),
)
_CR2, _CR3 = b"CR\x02", b"ftypcrx "
_DNG_VERSION, _SUB_DIRECTORIES, _PHOTOMETRIC, _COMPRESSION = 50706, 330, 262, 259
_RAW_COLOURS = (32803, 34892)  # colour filter array, linear raw
# Of Sony, Nikon, Kodak, Pentax, Samsung and Panasonic: no other TIFF is packed so.
_RAW_COMPRESSIONS = (32767, 32769, 32770, 32772, 34713, 34316, 34826, 65000, 65535)
_MAX_DIRECTORIES, _MAX_ENTRIES = 32, 4096
_ENTRY, _OFFSET = 12, 4  # bytes of an entry of a directory, and of a place in the file
_TYPE_SIZES = {1: 1, 3: 2, 4: 4, 13: 4}

_CURVE_OF_SRGB = (2.4, 12.92)  # as LibRaw takes it: power, and slope at black
_BYTES_A_PIXEL = 6


def kind_of(data: Data) -> str | None:
    """Name the kind of a camera raw file by its content; None for other files.

    A TIFF is raw when one of its directories holds the samples of a sensor, or it says that it is a DNG.
    """
    head = data[:16]
    for signature, kind in _SIGNATURES:
        if head.startswith(signature):
            return kind
    if head[4:12] == _CR3:
        return "CR3"
    return _kind_of_tiff(data) if data[:4] in TIFF[:2] else None


def _kind_of_tiff(data: Data) -> str | None:
    if data[8:11] == _CR2:
        return "CR2"
    for number, tags in enumerate(_directories(data)):
        if number == 0 and _DNG_VERSION in tags:
            return "DNG"
        if tags.get(_PHOTOMETRIC) in _RAW_COLOURS or tags.get(_COMPRESSION) in _RAW_COMPRESSIONS:
            return "camera raw in a TIFF"
    return None


def _directories(data: Data) -> Iterator[dict[int, int]]:
    """Yield the tags of the directories of a TIFF, each with its first value, and of their sub-directories.

    Only small parts of the file are looked at.
    """
    order: Order = "little" if data[:2] == b"II" else "big"
    waiting, seen = [int.from_bytes(data[4:8], order)], set[int]()
    while waiting and len(seen) < _MAX_DIRECTORIES:
        start = waiting.pop(0)
        if start in seen or not 8 <= start <= len(data) - 2:
            continue
        seen.add(start)
        count = int.from_bytes(data[start : start + 2], order)
        end = start + 2 + _ENTRY * count
        entries, following = data[start + 2 : min(end, start + 2 + _ENTRY * _MAX_ENTRIES)], data[end : end + 4]
        tags: dict[int, int] = {}
        for at in range(0, len(entries) - _ENTRY + 1, _ENTRY):
            entry = entries[at : at + _ENTRY]
            tag, kind = int.from_bytes(entry[:2], order), int.from_bytes(entry[2:4], order)
            tags.setdefault(tag, int.from_bytes(entry[8 : 8 + _TYPE_SIZES.get(kind, 0)], order))
            if tag == _SUB_DIRECTORIES:
                waiting += _offsets(data, entry, order)
        if len(following) == _OFFSET:
            waiting.append(int.from_bytes(following, order))
        yield tags


def _offsets(data: Data, entry: bytes, order: Order) -> list[int]:
    """Return the places of sub-directories: of one in the entry, of several where the entry points to."""
    number = min(int.from_bytes(entry[4:8], order), _MAX_DIRECTORIES)
    place = int.from_bytes(entry[8:12], order)
    list_of_places = entry[8:12] if number == 1 else data[place : place + _OFFSET * number]
    return [
        int.from_bytes(list_of_places[at : at + _OFFSET], order)
        for at in range(0, len(list_of_places) - _OFFSET + 1, _OFFSET)
    ]


def declared_bytes(data: bytes) -> int:
    """Return the bytes of the developed samples, by the headers; 0 without LibRaw."""
    try:
        with _opened(data) as file:
            return int(file.sizes.raw_width * file.sizes.raw_height * _BYTES_A_PIXEL)
    except (RejectError, ValueError):  # decoding finds it again, and says it
        return 0


def read(data: bytes, kind: str, long_side: int) -> Raster:
    """Develop a raw file, at half the size where that has a long side of at least `long_side`.

    Raises:
        RejectError: LibRaw is not installed, or it does not know the camera; or the picture is too large.
    """
    with _opened(data, kind) as file:
        sizes = file.sizes
        for width, height in ((sizes.raw_width, sizes.raw_height), (sizes.width, sizes.height)):
            check_pixels(width, height, len(data))
        check_bytes(sizes.raw_width * sizes.raw_height * _BYTES_A_PIXEL, len(data))
        width, height = _turned_size(sizes)
        half = max(width, height) >= 2 * long_side
        samples = _developed(file, kind, half)
    if not half:
        height, width = samples.shape[:2]
    return Raster(
        samples=samples,
        channels=3,
        width=width,
        height=height,
        white=65535.0,
        space=named(SOURCE, spaces.PRIMARIES_BY_CODE[9], spaces.SRGB_CURVE, 3),
    )


def stored_size(data: bytes) -> tuple[int, int, int]:
    """Return width and height as stored, and how the picture is turned, as LibRaw numbers it.

    Raises:
        RejectError: As `read`.
    """
    with _opened(data) as file:
        return file.sizes.width, file.sizes.height, file.sizes.flip


def _turned_size(sizes: Any) -> tuple[int, int]:
    """Return the size of the developed picture, whose pixels are square and which is turned."""
    width, height = sizes.width, sizes.height
    if sizes.pixel_aspect < 1:
        height = round(height / sizes.pixel_aspect)
    elif sizes.pixel_aspect > 1:
        width = round(width * sizes.pixel_aspect)
    return (height, width) if sizes.flip in (5, 6) else (width, height)


def _developed(file: rawpy.RawPy, kind: str, half: bool) -> Samples:
    import rawpy

    try:
        samples: Samples = file.postprocess(
            half_size=half,
            use_camera_wb=True,
            no_auto_bright=True,
            adjust_maximum_thr=0.0,  # else white would be the brightest sample of the picture
            output_bps=16,
            output_color=rawpy.ColorSpace.Rec2020,
            gamma=_CURVE_OF_SRGB,
        )
    except rawpy.LibRawError as error:
        raise _rejection(kind, error) from error
    return samples


def _rejection(kind: str, error: Exception) -> Exception:
    import rawpy

    text = error.args[0] if error.args else b""
    said = text.decode(errors="replace") if isinstance(text, bytes) else str(text)
    if isinstance(error, rawpy.LibRawFileUnsupportedError | rawpy.LibRawNotImplementedError):
        return RejectError(Reason.UNSUPPORTED, f"the file is {kind} of a camera that LibRaw does not know ({said})")
    if isinstance(error, rawpy.LibRawUnsufficientMemoryError | rawpy.LibRawTooBigError):
        return MemoryError(said)
    return ValueError(f"LibRaw says {said!r} of a file that is {kind}")


def _opened(data: bytes, kind: str = "camera raw") -> rawpy.RawPy:
    try:
        import rawpy
    except ModuleNotFoundError as error:
        raise RejectError(
            Reason.UNSUPPORTED, f"the file is {kind}; camera raw is read after `pip install 'kt-batch[raw]'`"
        ) from error
    try:
        return rawpy.imread(io.BytesIO(data))
    except rawpy.LibRawError as error:
        raise _rejection(kind, error) from error
