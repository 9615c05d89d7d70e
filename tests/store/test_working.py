"""A library that keeps the working images of its sources, and the reader that returns them one at a time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kt_batch.config import ExtractConfig, RunOptions
from kt_batch.errors import DamagedError, KtBatchError, MissingError
from kt_batch.maintenance.gc import gc
from kt_batch.maintenance.recompute import Recompute, recompute
from kt_batch.maintenance.verify import verify
from kt_batch.models.weights import EncoderSource
from kt_batch.pipelines.extract.plan import disk_estimate
from kt_batch.pipelines.progress import no_progress
from kt_batch.report.inspect import inspect
from kt_batch.report.views import sql
from kt_batch.store.images.files import decode, encode, encode_lossless, image_id
from kt_batch.store.opening import open_library
from kt_batch.store.schemas import WORKING
from kt_batch.store.working import WorkingImages
from tests.support.hostile_libraries import encoded, part_of, replace_part
from tests.support.s3_server import S3Server, moto_server  # noqa: F401  # the fixture
from tests.support.tiny import SIZE, draw_all, encoder_config, extracted, hashes, parts, rows

Change = Callable[[dict[str, object]], dict[str, object]]

BLACK = np.zeros((50, 64, 3), np.float32)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Return a folder with 1.png .. 3.png of 72 x 56 pixels, whose working images have 64 x 50."""
    return draw_all(tmp_path / "pictures", [1, 2, 3])


@pytest.fixture
def library(pictures: Path, tmp_path: Path) -> Path:
    extracted([pictures], tmp_path / "library", keep_images=True)
    return tmp_path / "library"


def working(place: Path | str) -> WorkingImages:
    return WorkingImages(open_library(str(place)))


def ids(pictures: Path) -> dict[str, bytes]:
    return {image_id(path.read_bytes()): path.read_bytes() for path in sorted(pictures.iterdir())}


def forge(library: Path, change: Change) -> str:
    """Change the rows of the first part as somebody who may write there can; return its first image id."""
    part = part_of(library, "working")
    table = pq.read_table(part)
    forged = pa.Table.from_pylist([change(row) for row in table.to_pylist()], schema=WORKING)
    replace_part(library, "working", encoded(forged, row_group_size=1), forged.num_rows)
    return str(table["image_id"][0].as_py().hex())


def test_a_kept_image_is_the_working_image_rounded_to_8_bits(pictures: Path, library: Path) -> None:
    kept = working(library)
    assert sorted(kept) == sorted(ids(pictures))
    assert len(kept) == 3
    for identity, data in ids(pictures).items():
        pixels = decode(data, SIZE).pixels
        assert kept[identity].shape == (50, 64, 3)
        assert kept[identity].dtype == np.float32
        assert np.array_equal(kept[identity], np.floor(pixels * 255 + 0.5).astype(np.float32) / np.float32(255))


def test_lossless_means_that_every_value_of_8_bits_comes_back() -> None:
    values = np.arange(256, dtype=np.float32).reshape(16, 16, 1).repeat(3, axis=2) / np.float32(255)
    assert np.array_equal(decode(encode_lossless(values), 16).pixels, values)


def test_an_id_that_the_library_does_not_hold_is_no_key(library: Path) -> None:
    kept = working(library)
    for identity in ("0" * 16, "no id", ""):
        assert identity not in kept
        with pytest.raises(KeyError):
            kept[identity]
    assert all(identity in kept for identity in kept)


def test_images_are_read_with_a_single_part_open(pictures: Path, library: Path) -> None:
    kept = WorkingImages(open_library(str(library)), open_parts=1)
    assert [kept[identity].shape for identity in [*ids(pictures), *ids(pictures)]] == [(50, 64, 3)] * 6
    kept.close()


def test_a_library_without_them_is_refused_in_one_sentence(pictures: Path, tmp_path: Path) -> None:
    extracted([pictures], tmp_path / "plain")
    with pytest.raises(MissingError, match="keeps no working images; make a library with extract --keep-images"):
        working(tmp_path / "plain")


def test_all_other_tables_are_those_of_a_library_without_them(pictures: Path, library: Path, tmp_path: Path) -> None:
    extracted([pictures], tmp_path / "plain")
    plain = {name: sha for name, sha in hashes(tmp_path / "plain").items() if name.startswith(("images/", "patches/"))}
    kept = hashes(library)
    assert plain.items() <= kept.items()
    assert hashes(tmp_path / "plain", "working") == {}
    assert [ref.rows for ref in parts(library, "working")] == [2, 1]


def test_an_extract_that_keeps_images_continues_no_library_without_them(pictures: Path, library: Path) -> None:
    with pytest.raises(KtBatchError, match="keep_images"):
        extracted([pictures], library)


def test_kept_images_do_not_depend_on_the_unit_size(pictures: Path, library: Path, tmp_path: Path) -> None:
    extracted([pictures], tmp_path / "other", options=RunOptions(threads=1, unit_size=1), keep_images=True)
    assert rows(library, "working") == rows(tmp_path / "other", "working")
    assert verify(str(library), no_progress).digest == verify(str(tmp_path / "other"), no_progress).digest


def test_a_rejected_image_is_not_kept(pictures: Path, tmp_path: Path) -> None:
    (pictures / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    extracted([pictures], tmp_path / "library", keep_images=True)
    assert len(working(tmp_path / "library")) == 3
    assert verify(str(tmp_path / "library"), no_progress).faults == ()


def test_verify_reads_them_and_gc_keeps_them(library: Path) -> None:
    assert gc(str(library), no_progress).orphans == ()
    assert verify(str(library), no_progress).faults == ()
    part = part_of(library, "working")
    part.write_bytes(part.read_bytes()[:-1] + b"x")
    assert any(part.name in fault for fault in verify(str(library), no_progress).faults)


def test_done_once_more_they_are_compared_too(library: Path) -> None:
    assert len(recompute(str(library), Recompute(3), no_progress).equal) == 3
    images = pq.read_metadata(part_of(library, "working")).num_rows
    forge(library, lambda row: {**row, "pixels": encode_lossless(BLACK)})
    again = recompute(str(library), Recompute(3), no_progress)
    assert (len(again.different), len(again.equal)) == (images, 3 - images)


# ---- damage ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda row: {**row, "pixels": b"no picture"}, "no picture that can be used"),
        (lambda row: {**row, "pixels": encode_lossless(BLACK[:, :60])}, "a picture of 60 x 50 pixels"),
        (lambda row: {**row, "pixels": encode(np.zeros((900, 1200, 3), np.float32), "png", 95)}, "1200 x 900"),
        (lambda row: {**row, "width": 0}, "a size of 0 x 50"),
        (lambda row: {**row, "height": 2**32 - 1}, "a size of 64 x 4294967295"),
    ],
    ids=["no picture", "a smaller picture", "a larger picture", "no width", "a huge height"],
)
def test_a_picture_that_is_not_the_one_of_its_row_is_refused_with_the_name_of_its_file(
    library: Path, change: Change, message: str
) -> None:
    identity = forge(library, change)
    with pytest.raises(DamagedError, match=message) as error:
        working(library)[identity]
    assert "working/part-" in str(error.value)
    assert identity in str(error.value)


def test_a_picture_whose_bytes_have_changed_is_refused_although_it_decodes(library: Path) -> None:
    """Lossless WebP has no check of its own: zeroes within it become other pixels."""
    part = part_of(library, "working")
    chunk = pq.read_metadata(part).row_group(0).column(3)
    assert chunk.path_in_schema == "pixels"
    middle = chunk.data_page_offset + chunk.total_compressed_size // 2
    data = part.read_bytes()
    part.write_bytes(data[:middle] + bytes(64) + data[middle + 64 :])
    (identity,) = (raw.hex() for raw in pq.ParquetFile(part).read_row_group(0, ["image_id"])["image_id"].to_pylist())
    with pytest.raises(DamagedError, match=r"working/part-.* could not verify page integrity"):
        working(library)[identity]


def test_a_part_with_several_images_in_a_row_group_is_refused(pictures: Path, tmp_path: Path) -> None:
    library = tmp_path / "library"
    extracted([pictures], library, options=RunOptions(threads=1, unit_size=3), keep_images=True)
    table = pq.read_table(part_of(library, "working"))
    replace_part(library, "working", encoded(table), 3)
    with pytest.raises(DamagedError, match="does not hold 3 images in a row group each"):
        working(library)[table["image_id"][0].as_py().hex()]


def test_a_receipt_of_absurdly_many_images_costs_no_memory(library: Path) -> None:
    table = pq.read_table(part_of(library, "working"))
    replace_part(library, "working", encoded(table, row_group_size=1), 2**52)
    with pytest.raises(DamagedError, match=f"does not hold {2**52} images"):
        working(library)[table["image_id"][0].as_py().hex()]


def test_a_part_that_is_gone_or_cut_is_named(library: Path) -> None:
    kept = working(library)
    identities = list(kept)
    for part in (library / "working").iterdir():
        part.write_bytes(part.read_bytes()[:-10])
    with pytest.raises(DamagedError, match=r"working/part-.* bytes, but its receipt says"):
        kept[identities[0]]
    for part in (library / "working").iterdir():
        part.unlink()
    with pytest.raises(MissingError, match="working/part-"):
        kept[identities[0]]


def test_a_part_whose_rows_are_in_another_order_is_refused(pictures: Path, tmp_path: Path) -> None:
    library = tmp_path / "library"
    extracted([pictures], library, options=RunOptions(threads=1, unit_size=3), keep_images=True)
    first, second, third = pq.read_table(part_of(library, "working"))["image_id"].to_pylist()
    other = {first: second, second: first, third: third}
    forge(library, lambda row: {**row, "image_id": other[row["image_id"]]})
    with pytest.raises(DamagedError, match=f"for the image {first.hex()} the picture of another one, {second.hex()}"):
        working(library)[first.hex()]


# ---- a bucket --------------------------------------------------------------------------------------------------------


def test_kept_images_are_read_from_a_bucket(
    pictures: Path,
    moto_server: S3Server,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    place = moto_server.new_location(monkeypatch)
    extracted([pictures], place.uri, keep_images=True)
    kept = working(place.uri)
    for identity, data in ids(pictures).items():
        assert np.abs(kept[identity] - decode(data, SIZE).pixels).max() <= 0.5 / 255 + 1e-6


# ---- sizes, views ----------------------------------------------------------------------------------------------------


def test_the_disk_estimate_counts_every_byte_of_every_picture() -> None:
    plain = ExtractConfig(encoder=encoder_config())
    kept = ExtractConfig(encoder=encoder_config(), keep_images=True)
    estimates = [disk_estimate(10, config, EncoderSource()) for config in (plain, kept)]
    assert estimates[1] - estimates[0] == 10 * 64 * 64 * 3


def test_inspect_counts_them_and_its_views_select_them(library: Path, pictures: Path, tmp_path: Path) -> None:
    extracted([pictures], tmp_path / "plain")
    assert inspect(str(library))["working_images"] == 3
    assert inspect(str(tmp_path / "plain"))["working_images"] == 0
    database = duckdb.connect()
    database.execute(sql(str(library)))
    assert database.execute("SELECT count(*), max(width), max(height) FROM working").fetchone() == (3, 64, 50)
    assert "VIEW working" not in sql(str(tmp_path / "plain"))
