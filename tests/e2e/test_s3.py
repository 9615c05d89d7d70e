"""The main job with all files on s3:// gives the local result."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kt_batch.errors import StorageError
from kt_batch.store.images.files import image_id
from kt_batch.store.indexes import find_index
from kt_batch.store.locations import open_location
from kt_batch.store.opening import open_library, open_run
from kt_batch.store.run import read_output
from tests.e2e.conftest import Small, kt
from tests.support.hostile_archives import END, tar_entry, zipped
from tests.support.s3_server import S3Server, ceph_server, moto_server  # noqa: F401  # the fixtures
from tests.support.tiny import extracted, hashes, indexed, patches, rows, translate_request, translated


@pytest.fixture(params=["moto_server", pytest.param("ceph_server", marks=[pytest.mark.s3, pytest.mark.slow])])
def place(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return a prefix of a new bucket."""
    server: S3Server = request.getfixturevalue(request.param)
    return server.new_location(monkeypatch).uri


def without(found: list[dict[str, Any]], *names: str) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if key not in names} for row in found]


def upload(folder: Path, place: str) -> str:
    from kt_batch.store.locations import open_location

    for path in folder.iterdir():
        assert open_location(place).put_if_absent(path.name, path.read_bytes())
    return place


def test_extract_index_and_translate_on_s3_give_the_local_result(small: Small, place: str, tmp_path: Path) -> None:
    paintings, photos = upload(small.paintings, f"{place}/paintings"), upload(small.photos, f"{place}/photos")
    library, run, cache = f"{place}/library", f"{place}/run", tmp_path / "cache"
    made = extracted([paintings], library)
    assert (made.images, made.rejected) == (3, 0)
    assert patches(library) == patches(small.library)
    images = rows(library, "images")
    assert without(images, "uris") == without(rows(small.library, "images"), "uris")
    assert {uri for row in images for uri in row["uris"]} == {f"{paintings}/{n}.png" for n in (1, 2, 3)}

    digest = indexed(library).index
    assert find_index(open_library(library), None).digest == digest
    content = sorted(v for k, v in hashes(library, "index").items() if not k.endswith("index.json"))
    local = sorted(v for k, v in hashes(small.library, "index").items() if not k.endswith("index.json"))
    assert content == local

    job = translate_request(library, run, digest, cache=cache)
    summary = translated([photos], job)
    here = translate_request(small.library, tmp_path / "run", small.index)
    assert summary.ncc_mean == translated([small.photos], here).ncc_mean
    assert hashes(run, "images") == hashes(tmp_path / "run", "images")
    assert without(rows(run, "provenance"), "library") == without(rows(tmp_path / "run", "provenance"), "library")
    shards = {name.rpartition("/")[2] for name in hashes(library, "index/shards")}
    assert {path.name for path in cache.iterdir() if len(path.name) == 64} == shards
    assert cache.stat().st_mode & 0o777 == 0o700

    assert extracted([paintings], library).new_images == 0
    assert indexed(library).built is False
    assert translated([photos], job).new_images == 0


def test_local_photographs_work_with_a_library_on_s3(small: Small, place: str, tmp_path: Path) -> None:
    extracted([small.paintings / "1.png"], f"{place}/library")
    digest = indexed(f"{place}/library").index
    job = translate_request(f"{place}/library", tmp_path / "run", digest, cache=tmp_path / "cache")
    assert translated([small.photos / "11.png"], job).images == 1
    sources = {row["source_image_id"].hex() for row in rows(tmp_path / "run", "provenance")}
    assert sources == {image_id((small.paintings / "1.png").read_bytes())}


@pytest.mark.parametrize("form", ["tar", "parquet"])
def test_shards_of_outputs_in_a_bucket_are_those_on_disk_and_can_be_read_there(
    small: Small, place: str, tmp_path: Path, form: str
) -> None:
    for run in (f"{place}/run", str(tmp_path / "run")):
        request = translate_request(small.library, run, small.index, output=form)
        assert translated([small.photos], request).shards == 2
    assert hashes(f"{place}/run", "shards") == hashes(tmp_path / "run", "shards")
    there, here = open_run(f"{place}/run"), open_run(str(tmp_path / "run"))
    for name, output in there.outputs.items():
        assert read_output(there, output) == read_output(here, here.outputs[name])
    told = kt("explain", f"{place}/run", "11.png", "--at", "10,20", "--json")
    assert (told.code, told.json["width"], told.json["height"]) == (0, 64, 50)
    checked = kt("verify", f"{place}/run", "--recompute", 1, "--json")
    assert (checked.code, checked.json["faults"], checked.json["orphans"]) == (0, [], 0)
    assert (
        translated(
            [small.photos], translate_request(small.library, f"{place}/run", small.index, output=form)
        ).new_images
        == 0
    )


def test_a_missing_bucket_is_one_sentence(small: Small, place: str) -> None:
    with pytest.raises(StorageError, match=r"^there is no bucket 'kt-none', named by s3://kt-none/library; create it"):
        extracted([small.paintings], "s3://kt-none/library")
    with pytest.raises(StorageError, match="there is no bucket 'kt-none'"):
        extracted(["s3://kt-none/photos"], f"{place}/library")


def test_shards_and_a_manifest_in_a_bucket_give_the_library_of_their_files(small: Small, place: str) -> None:
    location = open_location(place)
    shards = {
        "shards/000.tar": tar_entry("1.png", (small.paintings / "1.png").read_bytes()) + END,
        "shards/001.tar": tar_entry("2.png", (small.paintings / "2.png").read_bytes()) + bytes(100),  # cut
        "more.zip": zipped({"3.png": (small.paintings / "3.png").read_bytes()}),
        "all.csv": b"uri,painter\nshards/*.tar,Monet\nmore.zip,Sisley\n",
    }
    for name, data in shards.items():
        assert location.put_if_absent(name, data)
    summary = kt(
        *("extract", "--manifest", f"{place}/all.csv", "--library", f"{place}/library"),
        *("--size", 64, "--threads", 1, "--unit-size", 2, "--json"),
    )
    assert (summary.code, summary.json["images"], summary.json["rejected"]) == (3, 3, 1)
    assert [reject["name"] for reject in summary.json["rejects"]] == ["shards/001.tar"]
    assert patches(f"{place}/library") == patches(small.library)
    images = rows(f"{place}/library", "images")
    assert without(images, "uris", "tags") == without(rows(small.library, "images"), "uris", "tags")
    assert sorted(tag for row in images for tag in row["tags"]) == ["painter=Monet", "painter=Monet", "painter=Sisley"]
    assert all(uri.startswith((f"tar+{place}/shards/", f"zip+{place}/more.zip#")) for r in images for uri in r["uris"])
