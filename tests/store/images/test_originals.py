"""Images at their full size and depth: rows come one by one and are those of the whole file."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from kt_batch.errors import Reason, RejectError
from kt_batch.store.images import originals
from kt_batch.store.images.conversion import GREY_PROFILE, OUTPUT_PROFILES
from kt_batch.store.images.file_bytes import Data, FileBytes, large_file
from kt_batch.store.images.files import decode, image_id
from kt_batch.store.images.originals import Original, read_original
from kt_batch.store.images.png_rows import PngRows
from kt_batch.store.images.reader_process import ImageReaderProcess
from kt_batch.store.images.tiff_rows import TiffRows

P3 = OUTPUT_PROFILES["p3"]


def noise(*shape: int, dtype: Any = np.uint16, seed: int = 0) -> NDArray[Any]:
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, shape, dtype=dtype, endpoint=True)


def tiff(samples: NDArray[Any], **options: Any) -> bytes:
    file = io.BytesIO()
    if options.get("planarconfig") == "separate":
        samples = np.moveaxis(samples, -1, 0)
    tifffile.imwrite(file, samples, **{"photometric": "rgb", "metadata": None, **options})
    return file.getvalue()


def deep_png(samples: NDArray[Any], level: int = 6) -> bytes:
    return bytes(imagecodecs.png_encode(samples, level=level))


def whole(data: Data, *, ink: bool = True, grey: bool = True) -> tuple[Original, NDArray[Any]]:
    original, bands = read_original(data, ink=ink, grey=grey)
    return original, np.concatenate(list(bands))


@pytest.fixture(autouse=True)
def many_bands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(originals, "BAND_BYTES", 2**14)


LAYOUTS: list[dict[str, Any]] = [
    {},
    {"rowsperstrip": 7},
    {"rowsperstrip": 7, "byteorder": ">"},
    {"planarconfig": "separate"},
    {"compression": "zlib"},
    {"compression": "zlib", "predictor": True, "rowsperstrip": 5},
    {"compression": "lzw", "tile": (32, 48)},
    {"compression": "zstd", "tile": (16, 16), "planarconfig": "separate"},
    {"tile": (64, 64), "bigtiff": True},
]


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_samples_of_a_tiff_come_as_they_are(layout: dict[str, Any]) -> None:
    samples = noise(133, 101, 3)
    original, read = whole(tiff(samples, **layout))
    assert (original.height, original.width, original.channels, original.deep) == (133, 101, 3, True)
    np.testing.assert_array_equal(read, samples)


@given(st.data())
@settings(deadline=None, max_examples=60)
def test_any_rows_of_a_tiff_are_those_of_the_whole(data: st.DataObject) -> None:
    """The reference is tifffile's array of all samples."""
    height, width, channels = (data.draw(st.integers(1, 40)) for _ in range(3))
    layout = data.draw(st.sampled_from(LAYOUTS))
    dtype = data.draw(st.sampled_from([np.uint8, np.uint16, np.float32]))
    samples = noise(height, width, channels + 1).astype(dtype)
    file = tiff(samples, **{**layout, "photometric": "minisblack"})
    with tifffile.TiffFile(io.BytesIO(file)) as opened:
        rows = TiffRows(opened.pages.first, file)
        reference = opened.pages.first.asarray()
    if layout.get("planarconfig") == "separate":
        reference = np.moveaxis(reference, 0, -1)
    for _ in range(3):
        top, count = data.draw(st.integers(0, height)), data.draw(st.integers(0, height))
        np.testing.assert_array_equal(rows[top : top + count], reference.reshape(rows.shape)[top : top + count])


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_samples_of_a_deep_png_come_as_they_are(channels: int) -> None:
    samples = noise(133, 101, channels)
    original, read = whole(deep_png(samples if channels > 1 else np.ascontiguousarray(samples[..., 0])))
    assert (original.channels, original.alpha, original.deep) == ((1, 1, 3, 3)[channels - 1], channels in (2, 4), True)
    np.testing.assert_array_equal(read, samples)


@given(st.data())
@settings(deadline=None, max_examples=40)
def test_any_rows_of_a_png_are_those_of_the_whole(data: st.DataObject) -> None:
    """The reference is libpng's array of all samples; smooth rows make it use all filters."""
    height, width = (data.draw(st.integers(1, 40)) for _ in range(2))
    slopes = np.cumsum(noise(height, width, 3).astype(np.uint32) // 400, axis=data.draw(st.integers(0, 1)))
    samples = (slopes % 65536).astype(np.uint16)
    rows = PngRows(deep_png(samples, level=data.draw(st.integers(0, 9))))
    for _ in range(3):
        top, count = data.draw(st.integers(0, height)), data.draw(st.integers(0, height))
        np.testing.assert_array_equal(rows[top : top + count], samples[top : top + count])


@pytest.mark.parametrize("cut", [60, 200, 5000])
def test_a_cut_png_is_rejected_as_by_libpng(cut: int) -> None:
    data = deep_png(noise(60, 40, 3))[:-cut]
    with pytest.raises(RejectError) as rejected:
        whole(data)
    assert rejected.value.reason == Reason.TRUNCATED
    with pytest.raises(RejectError) as also:
        decode(data, 16)
    assert str(also.value) == str(rejected.value)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_comes_upright(orientation: int) -> None:
    samples = noise(40, 30, 3)
    data = tiff(samples, extratags=[(274, "H", 1, orientation, True)])
    original, read = whole(data)
    expected = {
        1: samples, 2: samples[:, ::-1], 3: samples[::-1, ::-1], 4: samples[::-1],
        5: samples.swapaxes(0, 1), 6: samples.swapaxes(0, 1)[:, ::-1],
        7: samples.swapaxes(0, 1)[::-1, ::-1], 8: samples.swapaxes(0, 1)[::-1],
    }[orientation]  # fmt: skip
    assert (original.height, original.width) == expected.shape[:2]
    np.testing.assert_array_equal(read, expected)


def test_other_depths_become_sixteen_bits() -> None:
    twelve_bits = io.BytesIO()
    tifffile.imwrite(twelve_bits, np.array([[0, 2048, 4095, 1]], np.uint16), bitspersample=12)
    assert whole(twelve_bits.getvalue())[1][0, :, 0].tolist() == [0, 32776, 65535, 16]  # x * 65535 / 4095
    floats = tiff(np.array([[[0.0, 0.5, 1.0], [-1.0, 2.0, 0.25]]], np.float32))
    assert whole(floats)[1].reshape(-1).tolist() == [0, 32768, 65535, 0, 65535, 16384]
    white_is_zero = tiff(np.array([[0, 1000, 65535]], np.uint16), photometric="miniswhite")
    assert whole(white_is_zero)[1].reshape(-1).tolist() == [65535, 64535, 0]


def test_a_float_that_is_no_number_is_rejected() -> None:
    with pytest.raises(RejectError) as rejected:
        whole(tiff(np.full((4, 4, 3), np.nan, np.float32)))
    assert rejected.value.reason == Reason.NON_FINITE


def test_alpha_is_straight() -> None:
    samples = np.array([[[100, 50, 0, 200], [0, 0, 0, 0]]], np.uint8).repeat(20, axis=0).astype(np.uint16) * 257
    data = tiff(samples, extrasamples=["assocalpha"])
    read = whole(data)[1]
    assert read[0].tolist() == [[32768, 16384, 0, 51400], [0, 0, 0, 0]]  # 25700 * 65535 / 51400 = 32767.5


def test_the_profile_tells_what_the_samples_are() -> None:
    deep = noise(8, 8, 3)
    assert whole(tiff(deep, iccprofile=P3))[0].profile == P3
    assert whole(tiff(deep))[0].profile == OUTPUT_PROFILES["srgb"]
    assert whole(deep_png(noise(8, 8)))[0].profile == GREY_PROFILE


def test_ink_is_kept_or_becomes_srgb() -> None:
    ink = np.zeros((4, 4, 4), np.uint16)
    ink[:, :2, 1] = 65535  # magenta
    data = tiff(ink, photometric="separated")
    original, kept = whole(data, ink=True)
    assert (original.channels, original.profile) == (4, b"")
    np.testing.assert_array_equal(kept, ink)
    original, colours = whole(data, ink=False)
    assert (original.channels, original.profile) == (3, OUTPUT_PROFILES["srgb"])
    assert colours[0, 0].tolist() == [65535, 0, 65535]
    assert colours[0, 3].tolist() == [65535] * 3


# ---- open files ------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["tiff", "deep png", "jpeg", "no image"])
def some_file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    jpeg = io.BytesIO()
    Image.fromarray(noise(50, 70, 3, dtype=np.uint8)).save(jpeg, "JPEG")
    contents = {
        "tiff": tiff(noise(50, 70, 3), compression="zlib", rowsperstrip=8),
        "deep png": deep_png(noise(50, 70, 3)),
        "jpeg": jpeg.getvalue(),
        "no image": b"no image at all",
    }
    path = tmp_path / "file"
    path.write_bytes(contents[request.param])
    return path


def outcome(work: Any) -> Any:
    try:
        return work()
    except RejectError as error:
        return error.reason, str(error)


def decoded(reader: ImageReaderProcess, data: Data) -> bytes:
    return reader.decode(data, 32).pixels.tobytes()


def test_an_open_file_is_read_as_its_bytes_are(some_file: Path) -> None:
    data, file = some_file.read_bytes(), FileBytes(some_file.open("rb"))
    assert (len(file), file[3:9], file[-4:], file[:], image_id(file)) == (
        len(data), data[3:9], data[-4:], data, image_id(data),
    )  # fmt: skip
    of_bytes, of_file = (outcome(lambda each=each: decode(each, 32).pixels.tobytes()) for each in (data, file))
    assert of_bytes == of_file
    with ImageReaderProcess() as reader:
        assert outcome(lambda: decoded(reader, file)) == of_bytes
        assert outcome(lambda: decoded(reader, data)) == of_bytes


def test_only_large_regular_files_stay_open(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(100))
    assert large_file(tmp_path / "file", 101, 1000) is None
    assert large_file(tmp_path / "file", 10, 99) is None
    assert large_file(tmp_path, 0, 2**62) is None
    file = large_file(tmp_path / "file", 100, 1000)
    assert file is not None
    assert not file.is_changed
    (tmp_path / "file").write_bytes(bytes(101))
    assert file.is_changed


# ---- the reader's process --------------------------------------------------------------------------------------------


def test_the_process_hands_over_the_same_bands(some_file: Path) -> None:
    data = some_file.read_bytes()
    expected = outcome(lambda: whole(data))
    with ImageReaderProcess() as reader:
        for source in (data, FileBytes(some_file.open("rb"))):
            found = outcome(lambda source=source: _taken(reader, source))
            if isinstance(expected[0], Original):
                assert found[0] == expected[0]
                np.testing.assert_array_equal(found[1], expected[1])
            else:
                assert found == expected


def _taken(reader: ImageReaderProcess, data: Data) -> tuple[Original, NDArray[Any]]:
    original, bands = reader.original(data, ink=True)
    return original, np.concatenate(list(bands))


def test_bands_that_are_not_taken_do_not_disturb_the_next_image() -> None:
    data = tiff(noise(3000, 2000, 3), rowsperstrip=16)
    with ImageReaderProcess() as reader:
        _, bands = reader.original(data, ink=True)
        next(bands)
        bands.close()  # type: ignore[attr-defined]
        assert reader.decode(data, 32).width == 21
        np.testing.assert_array_equal(_taken(reader, data)[1], whole(data)[1])


def test_a_fault_in_the_middle_is_a_reject_and_the_process_goes_on() -> None:
    sound = tiff(noise(3000, 500, 3), compression="zlib", rowsperstrip=16)
    spoilt = bytearray(sound)
    with tifffile.TiffFile(io.BytesIO(sound)) as file:
        start = file.pages.first.dataoffsets[-2]
    spoilt[start : start + 40] = bytes(40)
    with ImageReaderProcess() as reader:
        _, bands = reader.original(bytes(spoilt), ink=True)
        with pytest.raises(RejectError) as rejected:
            list(bands)
        assert rejected.value.reason == Reason.TRUNCATED
        child = reader.pid
        np.testing.assert_array_equal(_taken(reader, sound)[1], whole(sound)[1])
        assert reader.pid == child
