"""`kt-batch inspect IMAGE`: what is understood of a file."""

from __future__ import annotations

import json
import os
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kt_batch.cli.app import app
from kt_batch.cli.exit_codes import run_app
from kt_batch.errors import Reason, RejectError
from kt_batch.report.inspect_image import image_at, inspect_image
from kt_batch.store.images.reader_process import ImageReaderProcess
from tests.support.charts import CHARTS
from tests.support.format_files import JxlColours, avif, dng, jp2, jxl_with
from tests.support.heif_files import box, full_box, heic, heif, icc_box, nclx, picture_item
from tests.support.hostile import deep, deep_png, exif, picture, picture_values, saved, tiff


def facts_of(folder: Path, name: str, data: bytes) -> dict[str, Any]:
    file = folder / name
    file.write_bytes(data)
    return inspect_image(str(file))


def test_a_photograph_is_described_as_it_is_read(tmp_path: Path) -> None:
    profile = CHARTS["Adobe RGB"].profile("my camera")
    data = saved(picture(), "JPEG", exif=exif(6), icc_profile=profile, xmp=b"<x:xmpmeta xmlns:x='adobe:ns:meta/'/>")
    facts = facts_of(tmp_path, "photo.png", data)
    assert facts == {
        "kind": "image",
        "place": str(tmp_path / "photo.png"),
        "bytes": len(data),
        "image_id": facts["image_id"],
        "format": "JPEG",
        "width": 32,
        "height": 48,
        "stored_width": 48,
        "stored_height": 32,
        "orientation": 6,
        "orientation_is": "turned right by 90 degrees",
        "bits": 8,
        "samples": "unsigned",
        "colours": "RGB",
        "transparency": None,
        "space": {
            "decided_by": "the ICC profile",
            "is": "converted to sRGB",
            "high_dynamic_range": None,
            "narrow_range": False,
        },
        "profile": {"bytes": len(profile), "description": "my camera", "colours": "RGB", "version": "2.4"},
        "metadata": {"exif": len(exif(6)) - 6, "xmp": 37, "icc": len(profile)},
        "taken": None,
        "gain_map": False,
        "more_pictures": False,
        "reject": None,
    }


# What differs from an 8-bit sRGB picture without anything more, by file.
FILES: dict[str, tuple[bytes, dict[str, Any]]] = {
    "deep.png": (deep_png(deep(4)), {"format": "PNG", "bits": 16, "transparency": "straight"}),
    "grey.tif": (tiff(deep(1)[..., 0], photometric="minisblack"), {"format": "TIFF", "bits": 16, "colours": "grey"}),
    "float.tif": (
        tiff((deep() / 65535).astype(np.float32), photometric="rgb"),
        {"format": "TIFF", "bits": 32, "samples": "float"},
    ),
    "pages.tif": (
        tiff(np.stack([deep()] * 2), photometric="rgb"),
        {"format": "TIFF", "bits": 16, "more_pictures": True},
    ),
    "ten.heic": (heic(deep() >> 6, 10), {"format": "HEIC", "bits": 10}),
    "turned.heic": (
        heic(picture_values(), 8, box(b"irot", b"\3")),
        {"format": "HEIC", "orientation": 6, "orientation_is": "turned right by 90 degrees", "width": 32, "height": 48},
    ),
    "two.heic": (
        heif([picture_item(picture_values()), picture_item(picture_values())]),
        {"format": "HEIC", "more_pictures": True},
    ),
    "ten.avif": (avif(deep() >> 6, 10), {"format": "AVIF", "bits": 10}),
    "twelve.jxl": (jxl_with(deep() >> 4, 12, JxlColours(), 3), {"format": "JPEG XL", "bits": 12, "orientation": 3,
                                                               "orientation_is": "turned by 180 degrees"}),
    "sixteen.jp2": (jp2(deep(), 16), {"format": "JPEG 2000", "bits": 16}),
    "sensor.dng": (dng(deep(1)[..., 0], orientation=6), {"format": "camera raw (DNG)", "bits": 16, "orientation": 6,
                   "orientation_is": "turned right by 90 degrees", "width": 32, "height": 48}),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_format_depth_channels_and_turns_are_those_of_the_reader(tmp_path: Path, name: str) -> None:
    data, differing = FILES[name]
    facts = facts_of(tmp_path, name, data)
    plain = {
        "width": 48, "height": 32, "stored_width": 48, "stored_height": 32, "orientation": 1, "bits": 8,
        "orientation_is": "as stored", "samples": "unsigned", "colours": "RGB", "transparency": None,
        "more_pictures": False, "reject": None,
    }  # fmt: skip
    expected = plain | differing
    assert {key: facts[key] for key in expected} == expected


def test_the_statement_that_decided_about_colours_is_named(tmp_path: Path) -> None:
    decided = {
        "a.heic": (heic(picture_values(), 8, nclx(12, 13, 0)), "the colour box nclx, or the coded picture"),
        "b.heic": (heic(picture_values(), 8, icc_box(CHARTS["sRGB"].profile("Adobe RGB"))), "the ICC profile"),
        "c.jxl": (jxl_with(picture_values(), 8, JxlColours(primaries=11)), "the colour encoding of JPEG XL"),
        "d.jpg": (saved(picture(), "JPEG"), "nothing"),
    }
    for name, (data, source) in decided.items():
        assert facts_of(tmp_path, name, data)["space"]["decided_by"] == source
    named = facts_of(tmp_path, "b.heic", decided["b.heic"][0])
    assert named["profile"]["description"] == "Adobe RGB"  # what it says counts for nothing
    assert named["space"]["is"] == "sRGB"


def test_high_dynamic_range_and_a_gain_map_are_told(tmp_path: Path) -> None:
    gain = picture_item(
        picture_values()[..., 0].copy(), 8, full_box(b"auxC", b"urn:com:apple:photo:2020:aux:hdrgainmap\0")
    )
    gain.references = {b"auxl": (1,)}
    bright = picture_item(deep() >> 6, 10, nclx(9, 16, 0))
    facts = facts_of(tmp_path, "bright.heic", heif([bright, gain]))
    assert facts["space"]["high_dynamic_range"] == "PQ"
    assert facts["gain_map"] is True
    assert facts["more_pictures"] is False


def test_of_a_rejected_file_the_reason_is_told_and_the_exit_code_is_3(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "broken.heic"
    file.write_bytes(heic(picture_values())[:-99])
    assert run_app(app, ["inspect", str(file)]) == 3
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == str(file)
    assert lines[1].startswith("  rejected     truncated: the image is cut or damaged")
    assert lines[2].startswith("  file         HEIF")


def test_what_is_no_picture_is_called_what_it_is(tmp_path: Path) -> None:
    facts = facts_of(tmp_path, "photo.jpg", b"%PDF-1.7 " + bytes(99))
    assert facts["reject"]["reason"] == "not_an_image"
    assert facts["reject"]["message"].startswith("the file is a PDF document")
    assert facts["format"] is None


def test_one_screen_for_a_person_and_one_object_for_a_program(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "photo.avif"
    file.write_bytes(avif(picture_values(), 8, icc_box(CHARTS["Display P3"].profile("Display P3"))))
    assert run_app(app, ["inspect", str(file)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) < 24
    assert "  size         48 x 32, stored as 48 x 32" in lines
    assert "  samples      RGB, 8 bits unsigned, no transparency" in lines
    assert "  colours      converted to sRGB, decided by the ICC profile" in lines
    assert run_app(app, ["inspect", str(file), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["profile"]["description"] == "Display P3"


def test_texts_of_a_file_cannot_steer_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "photo.jpg"
    file.write_bytes(saved(picture(), "JPEG", icc_profile=CHARTS["Display P3"].profile("red \x1b[31m\nline")))
    assert run_app(app, ["inspect", str(file)]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "\nline" not in out


def test_an_image_is_a_file_and_a_folder_is_a_library_or_a_run(tmp_path: Path) -> None:
    (tmp_path / "photo").write_bytes(saved(picture(), "PNG"))
    assert image_at(str(tmp_path / "photo")) == str(tmp_path / "photo")
    assert image_at(str(tmp_path)) is None
    assert image_at(str(tmp_path / "absent.jpg")) is None


def test_sql_is_not_for_an_image(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "photo.png").write_bytes(saved(picture(), "PNG"))
    assert run_app(app, ["inspect", str(tmp_path / "photo.png"), "--sql"]) == 2
    assert "--sql is for a library or a run" in capsys.readouterr().err


def test_the_bytes_are_parsed_in_another_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int | None] = []
    real = ImageReaderProcess.facts

    def facts(reader: ImageReaderProcess, data: bytes) -> dict[str, Any]:
        found = real(reader, data)
        asked.append(reader.pid)
        return found

    monkeypatch.setattr(ImageReaderProcess, "facts", facts)
    facts_of(tmp_path, "photo.png", saved(picture(), "PNG"))
    assert asked
    assert asked[0] not in (None, os.getpid())


FALSE = """
import struct, sys
from kt_batch.store.images.reader_child import HELLO, REQUEST
sys.stdout.buffer.write(HELLO)
sys.stdout.buffer.flush()
head = sys.stdin.buffer.read(REQUEST.size)
sys.stdin.buffer.read(REQUEST.unpack(head)[0])
sys.stdout.buffer.write({answer})
sys.stdout.buffer.flush()
"""


@pytest.mark.parametrize(
    "text", [b"", b"[]", b"7", b"{", b"[" * 60000, b"\xff"], ids=["empty", "list", "number", "cut", "deep", "no text"]
)
def test_facts_that_make_no_sense_end_the_child_and_are_a_reject(text: bytes) -> None:
    answer = struct.pack("<B4Q", 3, len(text), 0, 0, 0) + text
    with ImageReaderProcess(command=(sys.executable, "-c", FALSE.format(answer=answer))) as reader:
        with pytest.raises(RejectError) as caught:
            reader.facts(b"data")
        assert caught.value.reason == Reason.DECODER_DIED


def test_pixels_in_place_of_facts_are_refused_and_facts_in_place_of_pixels() -> None:
    cases: list[tuple[bytes, Callable[[ImageReaderProcess], object]]] = [
        (struct.pack("<B4Q", 1, 1, 1, 1, 1) + bytes(12), lambda reader: reader.facts(b"data")),
        (struct.pack("<B4Q", 3, 2, 0, 0, 0) + b"{}", lambda reader: reader.decode(b"data", 64)),
    ]
    for answer, ask in cases:
        with ImageReaderProcess(command=(sys.executable, "-c", FALSE.format(answer=answer))) as reader:
            with pytest.raises(RejectError) as caught:
                ask(reader)
            assert caught.value.reason == Reason.DECODER_DIED
