"""Shards of outputs: what is in them, where it lies, and that their bytes depend on nothing else."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from kt_batch.errors import RejectError, StorageError
from kt_batch.store import output_shards
from kt_batch.store.output_shards import Form, Sample, Section, ShardWriter, SourceShare, sample_key

SOURCES = (SourceShare("b" * 16, 0.75), SourceShare("a" * 16, 0.25))
FIRST = Sample(
    output="images/park/a.jpg.png",
    input_name="park/a.jpg",
    uri="s3://photos/park/a.jpg",
    image_id="0" * 16,
    sha256="1" * 64,
    width=64,
    height=50,
    method="knowledge",
    library="c" * 16,
    sources=SOURCES,
)
SECOND = replace(FIRST, output="images/b.png.png", input_name="b.png")
PICTURES = [(FIRST, b"first picture"), (SECOND, b"second" * 1000)]


def written(path: Path, form: Form, pictures: Sequence[tuple[Sample, bytes]] = PICTURES) -> tuple[bytes, list[int]]:
    """Return the bytes of a shard and the offsets of its pictures."""
    with ShardWriter(path, form) as writer:
        for sample, data in pictures:
            writer.add(sample, io.BytesIO(data), len(data))
        finished = writer.finish()
        assert finished is not None
        sha256, size, offsets = finished
        data = path.read_bytes()
    assert (hashlib.sha256(data).hexdigest(), len(data)) == (sha256, size)
    return data, offsets


@pytest.mark.parametrize("form", ["tar", "parquet"])
def test_the_bytes_of_a_picture_lie_in_one_piece_where_the_offset_says(form: Form, tmp_path: Path) -> None:
    data, offsets = written(tmp_path / "shard", form)
    assert [data[at : at + len(picture)] for at, (_, picture) in zip(offsets, PICTURES, strict=True)] == [
        picture for _, picture in PICTURES
    ]


@pytest.mark.parametrize("form", ["tar", "parquet"])
def test_the_same_pictures_make_the_same_bytes_and_leave_no_scratch_file(form: Form, tmp_path: Path) -> None:
    assert written(tmp_path / "one", form) == written(tmp_path / "other", form)
    assert list(tmp_path.iterdir()) == []


def test_a_tar_holds_each_picture_and_then_its_sidecar_without_owner_and_time(tmp_path: Path) -> None:
    data, _ = written(tmp_path / "shard", "tar")
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        members = tar.getmembers()
        assert [member.name for member in members] == [
            "park_a_jpg-3245aedb594e9167.png",
            "park_a_jpg-3245aedb594e9167.json",
            "b_png-9f6edb7985fa7cf8.png",
            "b_png-9f6edb7985fa7cf8.json",
        ]
        assert {(each.mtime, each.uid, each.gid, each.mode, each.uname, each.gname) for each in members} == {
            (0, 0, 0, 0o644, "", "")
        }
        sidecar = tar.extractfile(members[1])
        assert sidecar is not None
        assert json.load(sidecar) == {
            "key": "park_a_jpg-3245aedb594e9167",
            "output": "images/park/a.jpg.png",
            "input_name": "park/a.jpg",
            "uri": "s3://photos/park/a.jpg",
            "image_id": "0" * 16,
            "sha256": "1" * 64,
            "width": 64,
            "height": 50,
            "method": "knowledge",
            "library": "c" * 16,
            "sources": [{"image_id": "b" * 16, "share": 0.75}, {"image_id": "a" * 16, "share": 0.25}],
        }


def test_a_parquet_shard_has_a_row_for_each_picture_and_says_that_images_are_images(tmp_path: Path) -> None:
    data, _ = written(tmp_path / "shard", "parquet")
    table = pq.read_table(io.BytesIO(data))
    first = table.to_pylist()[0]
    assert first.pop("image") == {"bytes": b"first picture", "path": "park_a_jpg-3245aedb594e9167.png"}
    assert first.pop("sources") == [{"image_id": "b" * 16, "share": 0.75}, {"image_id": "a" * 16, "share": 0.25}]
    assert (first["key"], first["input_name"], first["width"]) == ("park_a_jpg-3245aedb594e9167", "park/a.jpg", 64)
    features = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]
    assert features["image"] == {"_type": "Image"}
    assert features["width"] == {"_type": "Value", "dtype": "uint32"}
    assert list(features["sources"][0]) == ["image_id", "share"]


def test_row_groups_are_bounded_in_bytes_and_a_larger_picture_has_one_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output_shards, "GROUP_BYTES", 100)
    sizes = [40, 60, 1, 300, 99]
    pictures = [(replace(FIRST, output=f"images/{n}.png"), bytes([n]) * size) for n, size in enumerate(sizes)]
    data, offsets = written(tmp_path / "shard", "parquet", pictures)
    described = pq.read_metadata(io.BytesIO(data))
    assert [described.row_group(n).num_rows for n in range(described.num_row_groups)] == [2, 1, 1, 1]
    for at, (_, picture) in zip(offsets, pictures, strict=True):
        assert data[at : at + len(picture)] == picture


def test_a_picture_that_no_row_of_parquet_can_hold_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output_shards, "MOST_ROW_BYTES", 10)
    with (
        ShardWriter(tmp_path / "shard", "parquet") as writer,
        pytest.raises(RejectError, match=r"^The picture of 'park/a.jpg' has 13 bytes; a row of Parquet holds 10;"),
    ):
        writer.add(FIRST, io.BytesIO(b"first picture"), 13)


def test_a_shard_without_a_picture_is_no_file(tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "shard", "tar") as writer:
        assert writer.finish() is None
        assert not writer.path.exists()


def test_a_picture_that_comes_after_the_end_makes_no_file(tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "shard", "tar") as writer:
        pass
    with pytest.raises(StorageError, match="is closed"):
        writer.add(FIRST, io.BytesIO(b"late"), 4)
    assert list(tmp_path.iterdir()) == []


def test_a_shard_that_cannot_be_written_is_one_sentence() -> None:
    with (
        ShardWriter(Path("/dev/full/shard"), "tar") as writer,
        pytest.raises(StorageError, match=r"^cannot write /dev/full/shard: Not a directory$"),
    ):
        writer.add(FIRST, io.BytesIO(b"x"), 1)


@pytest.mark.parametrize(
    "output",
    ["images/a.b/c.d.jpg.png", "images/über/日本.jpg.png", f"images/{'long ' * 50}.jpg.png", "images/.png.png"],
)
def test_a_key_is_short_plain_text_without_dots(output: str) -> None:
    key = sample_key(output)
    assert key.isascii()
    assert key.replace("-", "").replace("_", "").isalnum()
    assert len(key) <= 97


def test_names_that_look_alike_as_keys_have_different_keys() -> None:
    names = ["images/a.b.png", "images/a_b.png", "images/a/b.png", "images/A.b.png", "images/a.b.jpg"]
    assert len({sample_key(name) for name in names}) == len(names)


def test_a_section_reads_as_a_file_of_its_own_and_closes_the_file() -> None:
    file = io.BytesIO(b"before|picture|behind")
    section = Section(file, 7, 7)
    assert section.read() == b"picture"
    assert section.read() == b""
    assert (section.seek(-2, io.SEEK_END), section.read(10)) == (5, b"re")
    assert (section.seek(100), section.read(1)) == (100, b"")
    section.close()
    assert file.closed
