"""HEIC and AVIF: the primary picture of a HEIF file as samples.

HEVC is decoded by libheif and libde265 (pi-heif), AV1 by libavif (imagecodecs), which keeps more than 8 bits where
Pillow does not. Only the primary picture is decoded: no thumbnail, gain map or depth map, no further picture, no frame
of a sequence.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import imagecodecs
import numpy as np
import pi_heif

from kt_batch.errors import Reason, RejectError
from kt_batch.store.images.boxes import BoxError, boxes
from kt_batch.store.images.colour import SRGB, Space, space_of
from kt_batch.store.images.exif import says_adobe_rgb, tags_of_tiff
from kt_batch.store.images.headers import check_bytes, check_pixels
from kt_batch.store.images.heif_items import CODINGS, CodePoints, Items, colours_of, cut_of, items_of, orientation_of
from kt_batch.store.images.samples import Raster, Samples
from kt_batch.store.images.video_headers import VideoHeader, av1_header, hevc_header

CODE_POINTS = "the colour box nclx, or the coded picture"

_KINDS_OF_AVIF = (b"av01", b"grid")
_FIRST_BYTES = 4096  # of an AV1 picture, in which its sequence header stands
_CHANNELS = {"L": 1, "I": 1, "LA": 1, "La": 1, "RGB": 3, "RGBA": 3, "RGBa": 3}  # modes of pi-heif
_SEQUENCE_OR_PICTURE = slice(8, 12)  # the major brand, by which libavif chooses

# One thread beside this one is enough, and nothing but the picture is wanted.
pi_heif.options.DECODE_THREADS = 0
pi_heif.options.THUMBNAILS = False
pi_heif.options.DEPTH_IMAGES = False
pi_heif.options.AUX_IMAGES = False


@dataclass(frozen=True)
class Declared:
    """What a file says about its primary picture, before anything is decoded.

    coding: `HEIC` or `AVIF`. width, height: Of the picture as it is stored. areas: Pixels that a decoder makes of the
    picture, of the tiles of a grid, and of the transparency.
    """

    items: Items
    coding: str
    width: int
    height: int
    areas: tuple[tuple[int, int], ...]
    video: VideoHeader
    alpha: bool

    @property
    def bytes(self) -> int:
        """Return the bytes of the samples."""
        area = max(width * height for width, height in self.areas)
        return area * (self.video.channels + self.alpha) * (2 if self.video.bits > 8 else 1)


def declared(data: bytes) -> Declared:
    """Read what a file declares.

    Raises:
        RejectError: It holds no still picture, or one of another coding.
        ValueError: Its boxes or headers contradict themselves.
    """
    items = items_of(data)
    if items is None:
        raise _without_items(data)
    primary, alpha = items.primary, items.alpha(items.primary)
    tiles = items.coded(primary)
    kinds = {items.item(tile).kind for tile in tiles}
    codings = {CODINGS.get(kind) for kind in kinds}
    coding = codings.pop()
    if coding is None or codings or (coding == "AVIF" and items.item(primary).kind not in _KINDS_OF_AVIF):
        kinds |= {items.item(primary).kind}
        names = ", ".join(repr(kind.decode("latin-1")) for kind in sorted(kinds))
        raise RejectError(
            Reason.UNSUPPORTED, f"the picture is coded as {names}; allowed are HEVC (hvc1) and AV1 (av01)"
        )
    for number in (primary, alpha):
        if number is not None:
            items.check_places(items.coded(number))
    header = max(_headers(items, tiles), key=lambda header: header.width * header.height)
    areas = tuple(area for number in (primary, alpha) if number is not None for area in _areas(items, number))
    return Declared(items, coding, *items.size(primary), areas, header, alpha is not None)


def _without_items(data: bytes) -> Exception:
    """Return the error for a file that describes no picture."""
    kinds = {box.kind for box in boxes(data, 0, len(data))}
    if b"moov" in kinds:
        return RejectError(Reason.UNSUPPORTED, "the file holds a video or a sequence, and no still picture")
    if b"mini" in kinds:
        return RejectError(Reason.UNSUPPORTED, "the picture is described by a box `mini`; allowed is a box `meta`")
    return BoxError("it describes no picture")


def _headers(items: Items, tiles: list[int]) -> Iterator[VideoHeader]:
    """Yield the headers of coded items; one that several items share is read once."""
    seen: set[int] = set()
    for tile in dict.fromkeys(tiles):
        item = items.item(tile)
        if item.kind == b"av01":
            yield av1_header(items.content(tile, _FIRST_BYTES))
            continue
        box = next(item.named(b"hvcC"), None)
        if box is None:
            raise BoxError(f"item {tile} has no configuration of HEVC")
        if box.start not in seen:
            seen.add(box.start)
            yield hevc_header(box.content())


def _areas(items: Items, number: int) -> Iterator[tuple[int, int]]:
    """Yield the sizes that a picture declares: its own, that of its coded parts, and of all tiles side by side."""
    yield items.size(number)
    tiles = items.coded(number)
    if any(items.item(tile).kind not in CODINGS for tile in tiles):
        return
    for header in _headers(items, tiles):
        yield header.width, header.height
        yield header.width * len(tiles), header.height


def read(data: bytes) -> Raster:
    """Read the primary picture.

    Raises:
        RejectError: It is of a kind that is not read, or too large.
    """
    found = declared(data)
    for area in found.areas:
        check_pixels(*area, len(data))
    check_bytes(found.bytes, len(data))
    return _read_hevc(data, found) if found.coding == "HEIC" else _read_av1(data, found)


def _read_hevc(data: bytes, found: Declared) -> Raster:
    _check_threads()
    file = pi_heif.open_heif(io.BytesIO(data), convert_hdr_to_8bit=False, hdr_to_16bit=False)
    picture = file[file.primary_index]
    if not picture.info["primary"]:
        raise BoxError("the primary picture cannot be decoded")
    name, _, bits = picture.mode.partition(";")
    samples = np.array(picture)  # a copy: the array of pi-heif points into memory that ends with `picture`
    height, width = samples.shape[:2]
    if (width, height) != _shown_size(found):
        raise BoxError(
            f"the picture is {width} x {height}, and the file declares {found.width} x {found.height} pixels"
        )
    return Raster(
        samples=samples.reshape(height, width, -1),
        channels=_CHANNELS[name],
        width=width,
        height=height,
        white=float(2 ** int(bits or 8) - 1),
        alpha=name[-1] in "Aa",
        premultiplied=name[-1] == "a",
        space=space(found, _CHANNELS[name]),  # libheif turns and cuts the picture
    )


def _shown_size(found: Declared) -> tuple[int, int]:
    """Return the size of the picture as libheif gives it: cut and turned."""
    item = found.items.item(found.items.primary)
    left, top, right, bottom = cut_of(item, found.width, found.height) or (0, 0, found.width, found.height)
    size = right - left, bottom - top
    return (size[1], size[0]) if orientation_of(item) > 4 else size


def _check_threads() -> None:
    """Reject where no thread can be started: libde265 needs one, and would end the process without it."""
    try:
        thread = threading.Thread(target=lambda: None)
        thread.start()
    except RuntimeError as error:
        raise RejectError(
            Reason.UNSUPPORTED, "HEIC is decoded in a thread, and this system lets the image reader start none"
        ) from error
    thread.join()


def _read_av1(data: bytes, found: Declared) -> Raster:
    as_picture = bytearray(data)
    as_picture[_SEQUENCE_OR_PICTURE] = b"avif"
    samples: Samples = imagecodecs.avif_decode(bytes(as_picture), numthreads=1)
    if samples.ndim not in (2, 3) or samples.shape[:2] != (found.height, found.width):
        raise BoxError(f"the samples are {samples.shape}, and the file declares {found.width} x {found.height} pixels")
    samples = samples.reshape(*samples.shape[:2], -1)
    item = found.items.item(found.items.primary)
    if cut := cut_of(item, found.width, found.height):
        left, top, right, bottom = cut
        samples = samples[top:bottom, left:right]
    height, width, count = samples.shape
    channels = 1 if count < 3 else 3
    return Raster(
        samples=samples,
        channels=channels,
        width=width,
        height=height,
        white=255.0 if samples.dtype == np.uint8 else float(2**found.video.bits - 1),
        alpha=count in (2, 4),  # libavif divides premultiplied samples by it
        orientation=orientation_of(item),
        space=space(found, channels),
    )


def space(found: Declared, channels: int) -> Space:
    """Decide the colour space of the picture, whose samples have been made RGB or grey.

    An ICC profile counts more than code points, and those of the file more than those of the coded picture.

    Raises:
        RejectError: The colours are of a kind that is not converted.
    """
    items = found.items
    points, profile = colours_of(items.item(items.primary))
    if points is None and profile is None and items.coded(items.primary) != [items.primary]:
        points, profile = colours_of(items.item(items.coded(items.primary)[0]))
    if profile and (decided := space_of(channels, profile, {}, lambda: False)) != SRGB:
        return decided
    if points is None and found.video.colours:
        points = CodePoints(*found.video.colours)
    chunks = {b"cICP": bytes((points.primaries, points.transfer, 0, 1))} if points and points.is_known else {}
    return space_of(channels, None, chunks, lambda: says_adobe_rgb(lambda: tags_of_tiff(exif(items))), CODE_POINTS)


def exif(items: Items) -> bytes:
    """Return the block of EXIF of the primary picture; empty without one."""
    for number in items.describing(items.primary, b"cdsc"):
        if items.item(number).kind == b"Exif":
            content = items.content(number)
            return content[4 + int.from_bytes(content[:4], "big") :]
    return b""
