"""Tell formats apart by the first bytes of a file, also those that are not read. Names of files say nothing here."""

from __future__ import annotations

import re

from kt_batch.store.images import jpeg2000, jpegxl, raw
from kt_batch.store.images.file_bytes import Data
from kt_batch.store.images.headers import FORMATS

HEIF, JPEG_XL, JPEG_2000 = "HEIF", "JPEG XL", "JPEG 2000"
ALLOWED = (*FORMATS, "HEIC", "AVIF", JPEG_XL, JPEG_2000, "camera raw")

_BRANDS_OF_PICTURES = frozenset(
    (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"avif", b"avis", b"mif1", b"mif2",
     b"mif3", b"msf1", b"miaf", b"jpeg", b"jpgs", b"avci", b"avcs", b"j2ki", b"j2is", b"vvic", b"vvis")
)  # fmt: skip
_MAX_BRANDS = 4096  # bytes

_TEXT = 4096  # bytes in which an SVG or a web page shows what it is

# Signatures of what people hand over beside pictures, and what it is.
_FOREIGN = (
    (re.compile(rb"%PDF-"), "a PDF document"),
    (re.compile(rb"%!PS|\xc5\xd0\xd3\xc6"), "a PostScript document"),
    (re.compile(rb"8BPS"), "a Photoshop document (PSD)"),
    (re.compile(rb"\x76\x2f\x31\x01"), "an OpenEXR image"),
    (re.compile(rb"#\?RADIANCE|#\?RGBE"), "a Radiance HDR image"),
    (re.compile(rb"gimp xcf"), "a GIMP document (XCF)"),
    (re.compile(rb"II\xbc"), "a JPEG XR image"),
    (re.compile(rb"qoif"), "a QOI image"),
    (re.compile(rb"DDS "), "a DDS texture"),
    (re.compile(rb"\x00\x00[\x01\x02]\x00[\x01-\xff]\x00"), "an icon (ICO)"),
    (re.compile(rb"icns"), "an icon (ICNS)"),
    (re.compile(rb"AT&TFORM"), "a DjVu document"),
    (re.compile(rb"BPG\xfb"), "a BPG image"),
    (re.compile(rb"SIMPLE  ="), "a FITS image"),
    (re.compile(rb".{128}DICM", re.DOTALL), "a DICOM image"),
    (re.compile(rb"RIFF....AVI |\x1aE\xdf\xa3|FLV\x01|\x00\x00\x01[\xba\xb3]|\x30\x26\xb2\x75", re.DOTALL), "a video"),
    (re.compile(rb".{4}(ftyp|moov|mdat|wide)", re.DOTALL), "a video (MP4 or QuickTime)"),
    (re.compile(rb"RIFF....WAVE|ID3|fLaC|OggS", re.DOTALL), "a sound"),
    (re.compile(rb"PK(\x03\x04|\x05\x06)"), "a ZIP archive"),
    (re.compile(rb"\x1f\x8b"), "a gzip archive"),
)
_XML = re.compile(rb"(?:\xef\xbb\xbf)?\s*<")
_SVG, _HTML = re.compile(rb"<svg[\s>:]", re.IGNORECASE), re.compile(rb"<(!doctype html|html[\s>])", re.IGNORECASE)


def kind_of(data: Data) -> str | None:
    """Name the kind of a file of `HEIF`, `JPEG_XL`, `JPEG_2000`, or of camera raw; None for all others."""
    head = data[:16]
    if head.startswith((jpegxl.CODESTREAM, jpegxl.CONTAINER)):
        return JPEG_XL
    if head.startswith((jpeg2000.FILE, jpeg2000.CODESTREAM)):
        return JPEG_2000
    if head[4:8] == b"ftyp" and _brands(data[:_MAX_BRANDS]) & _BRANDS_OF_PICTURES:
        return HEIF
    return raw.kind_of(data)


def _brands(data: bytes) -> set[bytes]:
    end = min(int.from_bytes(data[:4], "big"), len(data))
    return {data[at : at + 4] for at in (8, *range(16, end - 3, 4))}


def foreign_kind(data: Data) -> str | None:
    """Say what a file is that is no picture, or a picture of a format that is not read; None where it is unknown."""
    start = data[:_TEXT]
    for signature, kind in _FOREIGN:
        if signature.match(start):
            return kind
    if _XML.match(start):
        if _SVG.search(start):
            return "an SVG drawing"
        if _HTML.search(start):
            return "a web page"
    return None
