from __future__ import annotations

import io
import json
import sys
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kt_batch.errors import DamagedError, KtBatchError, RejectError, StorageError, UsageError
from kt_batch.pipelines.inputs import find_images
from kt_batch.pipelines.progress import no_progress
from kt_batch.store.inputs import Found, read_input
from kt_batch.store.manifest_files import MAX_TAG, MAX_TAGS, read_manifest
from kt_batch.store.manifests import Row
from tests.support.hostile_archives import END, A, B, tar_entry, zipped
from tests.support.s3_server import S3Server, moto_server  # noqa: F401  # the fixture


def listed(manifest: Path | str) -> Found:
    return find_images((), [read_manifest(str(manifest))], no_progress)


def names(manifest: Path | str) -> list[str]:
    return [source.name for source in listed(manifest).inputs]


def written(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def standard_input(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))


# ---- formats


ROWS = [Row("/data/a.png", ("season=winter", "year=1890")), Row("/data/b.png", ("season=summer",))]


def parquet(path: Path, columns: dict[str, Any]) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", "uri,season,year\n/data/a.png,winter,1890\n/data/b.png,summer,\n"),
        ("a.csv", '\ufeffyear,"season",uri\r\n1890,"winter",/data/a.png\r\n\r\n,summer,"/data/b.png"\r\n'),
        ("a.tsv", "uri\tseason\tyear\n/data/a.png\twinter\t1890\n/data/b.png\tsummer\t\n"),
        (
            "a.jsonl",
            '{"uri": "/data/a.png", "season": "winter", "year": 1890}\n\n{"season": "summer", "uri": "/data/b.png"}',
        ),
        ("a.ndjson", '{"uri":"/data/a.png","season":"winter","year":"1890"}\n{"uri":"/data/b.png","season":"summer"}'),
    ],
)  # fmt: skip
def test_columns_beside_the_place_are_tags(tmp_path: Path, name: str, content: str) -> None:
    assert read_manifest(str(written(tmp_path / name, content))).rows == ROWS


def test_columns_of_parquet_are_tags(tmp_path: Path) -> None:
    places = ["/data/a.png", "/data/b.png"]
    columns = {"uri": places, "season": ["winter", "summer"], "year": pa.array([1890, None])}
    assert read_manifest(str(parquet(tmp_path / "a.parquet", columns))).rows == ROWS


def test_values_of_parquet_and_json_are_tags_as_they_are_written(tmp_path: Path) -> None:
    columns = {
        "uri": ["/a.png"], "day": [date(1890, 7, 27)], "price": [Decimal("82.50")], "sold": [True], "ratio": [0.5],
        "missing": [float("nan")], "tags": [["dusk", "oil"]], "kind": pa.array(["x"]).dictionary_encode(),
        "thumbnail": [b"\x00"], "large": pa.array(["text"], pa.large_string()), "__index_level_0__": [7],
    }  # fmt: skip
    manifest = read_manifest(str(parquet(tmp_path / "a.parquet", columns)))
    expected = ("day=1890-07-27", "dusk", "kind=x", "large=text", "oil", "price=82.50", "ratio=0.5", "sold=true")
    assert manifest.rows == [Row("/a.png", expected)]
    assert manifest.columns == ("thumbnail", "__index_level_0__")
    line = {"uri": "/a.png", "sold": False, "tags": "dusk", "size": {"w": 1}, "empty": "", "none": None, "n": [1, 2]}
    manifest = read_manifest(str(written(tmp_path / "a.jsonl", json.dumps(line))))
    assert manifest.rows == [Row("/a.png", ("dusk", "n=1", "n=2", "sold=false"))]
    assert manifest.columns == ("size",)


@pytest.mark.parametrize("name", ["a.txt", "a.lst", "list"])
def test_text_has_one_place_in_each_line(tmp_path: Path, name: str) -> None:
    path = written(tmp_path / name, "/data/a b.png\r\n\n   \n/data/c,d.png\n/data/# e.png")
    assert [row.place for row in read_manifest(str(path)).rows] == ["/data/a b.png", "/data/c,d.png", "/data/# e.png"]


def test_standard_input_has_one_place_in_each_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path / "a.png", A)
    monkeypatch.chdir(tmp_path)
    standard_input(monkeypatch, f"a.png\n{tmp_path}/a.png\n".encode())
    assert [(source.uri, source.name) for source in listed("-").inputs] == [(f"{tmp_path}/a.png", "a.png")]


# ---- places


def test_relative_places_are_relative_to_the_folder_of_the_manifest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("set/lists/x/a.png", "set/b.png"):
        written(tmp_path / name, A)
    path = written(tmp_path / "set/lists/all.txt", "x/a.png\n../b.png\n./x/../x/a.png\n")
    monkeypatch.chdir("/")
    uris = [source.uri for source in listed(path).inputs]
    assert sorted(uris) == [f"{tmp_path}/set/b.png", f"{tmp_path}/set/lists/x/a.png"]
    monkeypatch.chdir(tmp_path / "set")
    assert [source.uri for source in listed("lists/all.txt").inputs] == uris
    assert [source.uri for source in listed(path.as_uri()).inputs] == uris


def test_names_are_below_the_manifest_or_else_whole_places(tmp_path: Path) -> None:
    path = written(
        tmp_path / "all.txt",
        "x/a.png\n/elsewhere/b.png\ns3://bucket/c.png\nhttps://host/d.png?size=2\n../up.png\nx/../../../../../../e.png\n",
    )
    assert names(path) == sorted([
        "x/a.png", "elsewhere/b.png", "bucket/c.png", "host/d.png", f"{tmp_path.parent}/up.png"[1:], "e.png",
    ])  # fmt: skip


def test_a_row_may_be_a_folder_a_pattern_or_an_archive_and_its_tags_are_those_of_each_image(tmp_path: Path) -> None:
    for name in ("photos/a.png", "photos/notes.txt", "more/1.png", "more/2.png"):
        written(tmp_path / name, A)
    written(tmp_path / "shards/000.tar", tar_entry("t.png", A) + END)
    written(tmp_path / "b.zip", zipped({"z.png": B, "z.json": b"{}"}))
    path = written(
        tmp_path / "all.csv", "uri,from\nphotos,folder\nmore/*.png,pattern\nshards/*.tar,shards\nb.zip,zip\n"
    )
    found = listed(path)
    assert {source.name: source.tags for source in found.inputs} == {
        "photos/a.png": ("from=folder",),
        "more/1.png": ("from=pattern",),
        "more/2.png": ("from=pattern",),
        "shards/000.tar/t.png": ("from=shards",),
        "b.zip/z.png": ("from=zip",),
    }
    assert found.passed_over == {".txt": 1, ".json": 1}


@pytest.mark.parametrize(
    "place",
    ["gone.png", "gone", "gone/*.png", "gone.tar", "ftp://host/a.png", "file://elsewhere/a.png", "folder of text",
     "x" * 300],
)  # fmt: skip
def test_a_row_that_names_nothing_is_a_reject_and_the_others_are_read(tmp_path: Path, place: str) -> None:
    written(tmp_path / "folder of text/a.txt", "x")
    written(tmp_path / "a.png", A)
    found = listed(written(tmp_path / "all.txt", f"a.png\n{place}\n"))
    read, rejected = {}, []
    for source in found.inputs:
        try:
            read[source.name] = read_input(source.uri)
        except RejectError as error:
            rejected.append(error.message)
    assert read == {"a.png": A}
    assert len(rejected) == 1


def test_a_place_that_is_listed_twice_counts_once_with_all_its_tags(tmp_path: Path) -> None:
    written(tmp_path / "a.png", A)
    path = written(tmp_path / "all.csv", f"uri,tags\na.png,one\n./a.png,two\n{tmp_path}/a.png,one\n")
    (source,) = listed(path).inputs
    assert (source.name, source.tags) == ("a.png", ("one", "two"))
    found = find_images([str(tmp_path / "a.png")], [read_manifest(str(path))], no_progress)
    assert [(each.uri, each.tags) for each in found.inputs] == [(f"{tmp_path}/a.png", ("one", "two"))]


def test_rows_without_a_place_are_counted(tmp_path: Path) -> None:
    path = written(tmp_path / "all.csv", "uri,n\n/a.png,1\n,2\n,3\n")
    assert listed(path).passed_over == {"row without a place": 2}


def test_a_name_that_is_not_utf8_is_read_from_a_text(tmp_path: Path) -> None:
    folder = bytes(tmp_path)
    Path(str(tmp_path) + "/caf\udce9.png").write_bytes(A)
    found = listed(written(tmp_path / "all.txt", folder + b"/caf\xe9.png\ncaf\xe9.png\n"))
    assert [(source.uri, source.name) for source in found.inputs] == [(f"file://{tmp_path}/caf%E9.png", "caf%E9.png")]
    assert read_input(found.inputs[0].uri) == A


# ---- object storage


def test_a_manifest_in_a_bucket_names_objects_beside_it(
    moto_server: S3Server,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    location = moto_server.new_location(monkeypatch)
    bucket = location.uri.removesuffix("/some/prefix")
    for name, data in (("lists/x/a.png", A), ("b.png", B), ("lists/000.tar", tar_entry("t.png", A) + END)):
        assert location.put_if_absent(name, data)
    text = f"uri,n\nx/a.png,1\n../b.png,2\n{location.uri}/lists/*.tar,3\n../../../../../gone.png,4\n"
    assert location.put_if_absent("lists/all.csv", text.encode())
    found = listed(f"{location.uri}/lists/all.csv")
    tags = {source.name: source.tags for source in found.inputs}
    place = location.uri.removeprefix("s3://")
    assert tags == {
        "x/a.png": ("n=1",),
        f"{place}/b.png": ("n=2",),
        "000.tar/t.png": ("n=3",),
        f"{bucket.removeprefix('s3://')}/gone.png": ("n=4",),
    }
    by_name = {source.name: source.uri for source in found.inputs}
    assert read_input(by_name["000.tar/t.png"]) == A
    assert read_input(by_name[f"{place}/b.png"]) == B


# ---- what is no manifest


DEEP = "[" * 100_000

REFUSED: list[tuple[str, str | bytes, str]] = [
    ("a.txt", "", r"^the manifest '.*a\.txt' names no image; allowed are lines of UTF-8 text"),
    ("a.txt", "\n  \n", "names no image"),
    ("a.csv", "", r"^the manifest '.*a\.csv' needs one column 'uri'; its columns are none$"),
    ("a.csv", "url,n\n/a.png,1\n", r"needs one column 'uri'; its columns are 'url', 'n'$"),
    ("a.csv", "uri,uri\n/a.png,1\n", "needs one column 'uri'"),
    ("a.csv", "uri,n,n\n/a.png,1,2\n", "has two columns of one name"),
    ("a.csv", "uri;n\n/a.png;1\n", r"its columns are 'uri;n'$"),
    ("a.csv", "uri,n\n", "names no image"),
    ("a.csv", "uri,n\n/a.png,1,2\n", r"^row 1 of the manifest '.*' has 3 values; its header has 2$"),
    ("a.csv", 'uri,n\n/a.png,"open', r"cannot be read as CSV: unexpected end of data in line 2$"),
    ("a.csv", "uri,n\n/a.png," + "x" * 200_000, "cannot be read as CSV: field larger than field limit"),
    ("a.csv", b"uri,n\n/caf\xe9.png,1\n", "cannot be read as CSV: byte 10 is not UTF-8$"),
    ("a.csv", "uri,n\n/a.png,1\n".encode("utf-16"), "is no list of places: it holds NUL bytes"),
    ("a.txt", A + bytes(9), "is no list of places: it holds NUL bytes"),
    ("a.txt", "x" * (2**20 + 1), r"^line 1 of the manifest '.*' has 1048577 bytes; allowed are 1048576$"),
    ("a.txt", "https://user:secret@host/a.png", r"^row 1 of the manifest '.*': a https:// place holds credentials"),
    ("a.jsonl", "", "has no column 'uri'"),
    ("a.jsonl", '{"url": "/a.png"}', "has no column 'uri'"),
    ("a.jsonl", '{"uri": "/a.png"}\n{', "cannot be read as JSON lines: .* in line 2$"),
    ("a.jsonl", '["/a.png"]', "is no JSON object"),
    ("a.jsonl", DEEP, "cannot be read as JSON lines: .* in line 1$"),
    ("a.jsonl", '{"uri": "/a.png", "n": 1' + "0" * 9999 + "}", "cannot be read as JSON lines: .* in line 1$"),
    ("a.jsonl", '{"uri": 7}', r"^row 1 of the manifest '.*' has the place 7; allowed is text$"),
    ("a.jsonl", r'{"uri": "/a\ud800.png"}', r"^row 1 of the manifest '.*' has the place .*, which is not UTF-8$"),
    ("a.jsonl", r'{"uri": "s3://b/a\udce9.png"}', "which is not UTF-8$"),
    ("a.jsonl", r'{"uri": "/a.png", "n": "\udce9"}', "has a tag that is not UTF-8$"),
    ("a.jsonl", json.dumps({"uri": "/a.png", "n": "x" * MAX_TAG}), f"allowed are {MAX_TAGS} tags of {MAX_TAG} char"),
    ("a.jsonl", json.dumps({"uri": "/a.png", "n": list(range(MAX_TAGS + 1))}), f"has {MAX_TAGS + 1} tags, the longest"),
    ("a.parquet", b"", "is not readable as Parquet"),
    ("a.parquet", b"PAR1" + bytes(50) + b"PAR1", "is not readable as Parquet"),
]


@pytest.mark.parametrize(
    ("name", "content", "message"), REFUSED, ids=[f"{n}-{e[2][:40]}" for n, e in enumerate(REFUSED)]
)
def test_what_is_no_manifest_is_one_sentence(tmp_path: Path, name: str, content: str | bytes, message: str) -> None:
    with pytest.raises(KtBatchError, match=message) as caught:
        listed(written(tmp_path / name, content))
    assert isinstance(caught.value, UsageError | DamagedError)
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


def test_parquet_without_a_column_of_places_or_with_another_type_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"needs one column 'uri'; its columns are 'url'$"):
        listed(parquet(tmp_path / "a.parquet", {"url": ["/a.png"]}))
    with pytest.raises(UsageError, match=r"has the column 'uri' of type int64; allowed is text$"):
        listed(parquet(tmp_path / "b.parquet", {"uri": [1]}))


@pytest.mark.parametrize("column", [[{"w": 1, "h": 2}], [[[1], [2]]]])
def test_parquet_with_columns_of_columns_is_one_sentence(tmp_path: Path, column: list[Any]) -> None:
    with pytest.raises(DamagedError, match=r"^the manifest '.*' is not (a plain table: .* has parts|readable)"):
        listed(parquet(tmp_path / "a.parquet", {"uri": ["/a.png"], "size": column}))


def test_parquet_that_repeats_a_long_text_is_refused_before_it_takes_memory(tmp_path: Path) -> None:
    place = pa.DictionaryArray.from_arrays(pa.array([0] * 10_000, pa.int32()), pa.array(["x" * (1 << 20)]))
    pq.write_table(pa.table({"uri": place}), tmp_path / "a.parquet", use_dictionary=["uri"])
    with pytest.raises(DamagedError, match=r"would take 10486888595 bytes from a file of \d+ bytes; allowed are"):
        listed(tmp_path / "a.parquet")


def test_a_manifest_that_cannot_be_read_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"^the manifest cannot be used: cannot read .*gone\.csv"):
        read_manifest(str(tmp_path / "gone.csv"))
    with pytest.raises(StorageError, match="it is not a regular file"):
        read_manifest(str(tmp_path))
    (tmp_path / "large.txt").touch()
    with (tmp_path / "large.txt").open("r+b") as file:
        file.truncate(2**30 + 1)
    with pytest.raises(UsageError, match=r"has 1073741825 bytes; allowed are 1073741824$"):
        read_manifest(str(tmp_path / "large.txt"))


def test_an_empty_standard_input_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    standard_input(monkeypatch, b"")
    with pytest.raises(UsageError, match=r"^standard input names no image; allowed are"):
        read_manifest("-")
