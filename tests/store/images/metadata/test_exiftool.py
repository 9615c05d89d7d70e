"""exiftool, the reference of photographers, reads what kt_batch writes."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from kt_batch.store.images.metadata.blocks import Blocks
from kt_batch.store.images.metadata.carry import carried
from kt_batch.store.images.metadata.embed import embed
from kt_batch.store.images.metadata.read import blocks_of
from kt_batch.store.images.metadata.xmp_edit import Made, SourceType
from kt_batch.store.images.spaces import ADOBE_CURVE, ADOBE_PRIMARIES, profile_of
from tests.support.metadata import IPTC, Exif, exiftool, plain, warnings_of, xmp

MADE = Made("transfer", "0123456789abcdef", SourceType.TRANSFER)
ICC = profile_of("made", ADOBE_PRIMARIES, ADOBE_CURVE, 3)
FORMATS = ["jpg", "png", "webp", "tiff", "avif"]
ROOT = Path(__file__).parents[4]
PLACES = [folder / "shared" / "data" / "images" for folder in ROOT.parents]
PHOTOGRAPHS = next((place for place in PLACES if place.is_dir()), PLACES[0])
OF_PICTURES = {
    "ExifIFD:ExposureTime": "1/250",
    "ExifIFD:DateTimeOriginal": "2019:08:07 06:05:04",
    "ExifIFD:SubSecTimeOriginal": 120,
    "ExifIFD:OffsetTimeOriginal": "+02:00",
    "IFD0:Make": "Maker",
    "IFD0:Copyright": "Author",
    "XMP-crs:Exposure2012": "+0.50",
    "InteropIFD:InteropIndex": "R03 - DCF option file (Adobe RGB)",
}
OURS = {
    "XMP-kt:Method": "transfer",
    "XMP-kt:Library": "0123456789abcdef",
    "XMP-iptcExt:DigitalSourceType": "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia",
    "XMP-xmpMM:HistoryAction": "edited",
}


def written(folder: Path, format: str, blocks: Blocks) -> Path:  # noqa: A002
    """Write a small picture with metadata."""
    path = folder / f"picture.{format}"
    options: dict[str, Any] = {"icc_profile": blocks.icc} if format == "avif" else {}
    path.write_bytes(embed(plain(format, **options), format, blocks))
    return path


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("format", FORMATS)
def test_exiftool_reads_all_of_it_without_a_warning(tmp_path: Path, format: str, order: str) -> None:  # noqa: A002
    before = Blocks(Exif(order).block(), xmp('crs:Exposure2012="+0.50"'), IPTC, ICC)
    path = written(tmp_path, format, carried(before, "keep", 24, 16, MADE, "input"))
    tags = exiftool(path)
    assert {name: tags.get(name) for name in OF_PICTURES} == OF_PICTURES
    assert {name: str(tags.get(name)) for name in OURS} == OURS
    assert tags["GPS:GPSLatitude"] == "48 deg 51' 29.00\""
    assert tags["IFD0:Orientation"] == "Horizontal (normal)"
    assert (tags["ExifIFD:ExifImageWidth"], tags["ExifIFD:ExifImageHeight"]) == (24, 16)
    assert "IFD1:ThumbnailLength" not in tags
    assert tags["ICC_Profile:ProfileDescription"]
    if format in ("jpg", "png", "tiff"):
        assert (tags["IPTC:ObjectName"], tags["IPTC:City"]) == ("A title", "Paris")
    assert warnings_of(path) == []


@pytest.mark.parametrize("format", FORMATS)
def test_exiftool_finds_no_place_where_none_is_wanted(tmp_path: Path, format: str) -> None:  # noqa: A002
    before = Blocks(Exif().block(), xmp('exif:GPSLatitude="48,51.5N"'), IPTC, None)
    path = written(tmp_path, format, carried(before, "keep-no-gps", 24, 16, MADE))
    assert not [name for name in exiftool(path) if "gps" in name.lower()]
    assert warnings_of(path) == []


@pytest.mark.parametrize("format", FORMATS)
def test_strip_leaves_our_words_alone(tmp_path: Path, format: str) -> None:  # noqa: A002
    before = Blocks(Exif().block(), xmp('crs:Exposure2012="+0.50"'), IPTC, ICC)
    path = written(tmp_path, format, carried(before, "strip", 24, 16, MADE))
    tags = exiftool(path)
    groups = {name.partition(":")[0] for name in tags}
    assert not groups & {"ExifIFD", "GPS", "IFD1", "IPTC", "ICC_Profile", "XMP-crs"}
    assert tags["XMP-kt:Method"] == "transfer"
    assert warnings_of(path) == []


def test_exiftool_reads_xmp_that_takes_several_segments(tmp_path: Path) -> None:
    before = Blocks(xmp=xmp("", f"<crs:Note>{'x' * 150_000}</crs:Note>"))
    path = written(tmp_path, "jpg", carried(before, "keep", 24, 16, MADE))
    tags = exiftool(path, "-b")
    assert len(tags["XMP-crs:Note"]) == 150_000
    assert tags["XMP-kt:Method"] == "transfer"
    assert warnings_of(path) == []


# ---- photographs -----------------------------------------------------------------------------------------------------


def photographs() -> list[Path]:
    """Return the photographs with EXIF of the research collection; none where it is not there."""
    paths = sorted(path for path in PHOTOGRAPHS.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png", ".tif"))
    return [path for path in paths if blocks_of(path.read_bytes()).exif is not None]


# Tags that are not metadata, that are corrected, or that belong to blocks which are not carried.
_OF_FILES = ("ExifTool:", "System:", "File:", "Composite:", "SourceFile", "JFIF:", "PNG:", "RIFF:", "QuickTime:")
_DROPPED = ("IFD1:", "Photoshop:", "Adobe:", "XMP-x:", "MPF", "ExifIFD:ColorSpace", "XMP-xmp:Thumb", "Meta:")
_OF_PIXELS = (
    "ImageWidth", "ImageHeight", "Orientation", "BitsPerSample", "Compression", "PhotometricInterpretation",
    "StripOffsets", "SamplesPerPixel", "RowsPerStrip", "StripByteCounts", "PlanarConfiguration", "SubfileType",
    "ExtraSamples", "ImageLength", "ExifImageWidth", "ExifImageHeight", "PixelXDimension", "PixelYDimension",
    "HasExtendedXMP",
)  # fmt: skip


def described(tags: dict[str, Any]) -> dict[str, Any]:
    """Return the tags that a carried file must have like the original."""
    return {
        name: value
        for name, value in tags.items()
        if not name.startswith((*_OF_FILES, *_DROPPED)) and name.partition(":")[2] not in _OF_PIXELS
    }


def faults(path: Path) -> set[str]:
    """Return warnings without the format that they name."""
    return {warning.replace(" TIFF ", " ").replace(" JPEG ", " ") for warning in warnings_of(path)}


@pytest.mark.parametrize("format", FORMATS)
def test_photographs_have_the_same_tags_before_and_after(tmp_path: Path, format: str) -> None:  # noqa: A002
    paths = photographs()
    if not paths:
        pytest.skip(f"the research images are not at {PHOTOGRAPHS}")
    for path in paths:
        original = path.read_bytes()
        out = carried(blocks_of(original), "keep", 24, 16, MADE, "input")
        with Image.open(io.BytesIO(original)) as image:
            if image.mode != "RGB":
                continue
        after = written(tmp_path, format, out)
        expected, found = described(exiftool(path)), exiftool(after)
        if format in ("webp", "avif"):
            expected = {name: value for name, value in expected.items() if not name.startswith("IPTC:")}
        history = [name for name in expected if name.startswith("XMP-xmpMM:History")]
        assert {name for name in expected if name not in found} == set(), path
        assert {n: v for n, v in expected.items() if found[n] != v and n not in history} == {}, path
        assert faults(after) <= faults(path), path
