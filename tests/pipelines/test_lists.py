"""Manifests and archives through the pipelines: tags, provenance, restarts, damage."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import kt_batch
from kt_batch.config import ExtractConfig, RunOptions
from kt_batch.errors import UsageError
from kt_batch.methods.knowledge import KnowledgeConfig, KnowledgeTransfer
from kt_batch.models.weights import EncoderSource
from kt_batch.pipelines.estimate import DryRunRequest, estimate_extract
from kt_batch.pipelines.extract.finish import ExtractSummary, extract
from kt_batch.pipelines.extract.plan import ExtractRequest
from kt_batch.pipelines.progress import Step, no_progress
from kt_batch.pipelines.single import load_networks, translate_one
from kt_batch.report.explain import explain
from kt_batch.runners.local import LocalRunner
from kt_batch.store.images.files import image_id
from kt_batch.store.locations import open_location
from kt_batch.store.manifest_files import read_manifest
from kt_batch.store.plans import Item, Plan, decode_plan, encode_plan, make_units
from kt_batch.store.units import Ledger
from tests.support.collection import Collection
from tests.support.hostile_archives import END, tar_entry, zipped
from tests.support.tiny import draw, encoder_config, extracted, hashes, indexed, rows, translate_request, translated


def request(library: Path, images: tuple[str, ...] = (), manifest: Path | None = None, **config: Any) -> ExtractRequest:
    settings = ExtractConfig.model_validate({"encoder": encoder_config(), **config})
    lists = [read_manifest(str(manifest))] if manifest else []
    return ExtractRequest(images, str(library), settings, EncoderSource(), RunOptions(threads=1, unit_size=2), lists)


def from_manifest(manifest: Path, library: Path, **config: Any) -> ExtractSummary:
    return extract(request(library, (), manifest, **config), LocalRunner(), no_progress)


def drawn(folder: Path, seed: int) -> bytes:
    return draw(folder / f"{seed}.png", seed).read_bytes()


@pytest.fixture
def pictures(tmp_path: Path) -> list[bytes]:
    return [drawn(tmp_path / "drawn", seed) for seed in range(1, 5)]


@pytest.fixture
def shards(tmp_path: Path, pictures: list[bytes]) -> Path:
    """Return a folder with a manifest of two tars, a zip and a file; the second tar is cut."""
    folder = tmp_path / "shards"
    folder.mkdir()
    (folder / "000.tar").write_bytes(tar_entry("a.png", pictures[0]) + tar_entry("a.json", b"{}") + END)
    (folder / "001.tar").write_bytes(tar_entry("b.png", pictures[1]) + tar_entry("lost.png", pictures[0])[:700])
    (folder / "p.zip").write_bytes(zipped({"c.png": pictures[2], "bad.png": b"no picture"}))
    (folder / "d.png").write_bytes(pictures[3])
    (folder / "all.csv").write_text("uri,painter,year\n*.tar,Monet,1890\np.zip,Sisley,\nd.png,Monet,1891\n")
    return folder


def test_columns_stand_as_tags_in_the_images_of_a_library(tmp_path: Path, shards: Path, pictures: list[bytes]) -> None:
    summary = from_manifest(shards / "all.csv", tmp_path / "library", tags=("museum", "painter=Monet"))
    assert (summary.images, summary.rejected) == (4, 3)
    tags = {row["image_id"].hex(): row["tags"] for row in rows(tmp_path / "library", "images")}
    assert tags == {
        image_id(pictures[0]): ["museum", "painter=Monet", "year=1890"],
        image_id(pictures[1]): ["museum", "painter=Monet", "year=1890"],
        image_id(pictures[2]): ["museum", "painter=Monet", "painter=Sisley"],
        image_id(pictures[3]): ["museum", "painter=Monet", "year=1891"],
    }


def test_damage_costs_its_own_rows_with_the_reason(tmp_path: Path, shards: Path) -> None:
    summary = from_manifest(shards / "all.csv", tmp_path / "library")
    assert [(reject.name, str(reject.reason)) for reject in summary.rejects] == [
        ("001.tar", "truncated"),
        ("001.tar/lost.png", "truncated"),
        ("p.zip/bad.png", "not_an_image"),
    ]
    assert "the archive ends in the middle of its content" in summary.rejects[0].message
    assert summary.passed_over_files == {".json": 1}


def test_a_second_start_adds_nothing_and_a_mended_shard_adds_its_members(
    tmp_path: Path, shards: Path, pictures: list[bytes]
) -> None:
    library = tmp_path / "library"
    from_manifest(shards / "all.csv", library)
    before = hashes(library, "")
    again = from_manifest(shards / "all.csv", library)
    assert (again.new_images, again.new_rejected) == (0, 0)
    assert hashes(library, "") == before
    new = drawn(tmp_path / "drawn", 9)
    (shards / "001.tar").write_bytes(tar_entry("b.png", pictures[1]) + tar_entry("lost.png", new) + END)
    mended = from_manifest(shards / "all.csv", library)
    assert mended.new_images == 1
    assert image_id(new) in {row["image_id"].hex() for row in rows(library, "images")}


def test_tags_are_found_from_the_provenance_of_a_run(tmp_path: Path, shards: Path, collection: Collection) -> None:
    from_manifest(shards / "all.csv", tmp_path / "library")
    digest = indexed(tmp_path / "library").index
    job = translate_request(tmp_path / "library", tmp_path / "run", digest)
    photos = tmp_path / "photos.jsonl"
    photos.write_text(f'{{"uri": "{collection.photos}/11.png", "client": "Smith"}}\n')
    named = replace(job, manifests=[read_manifest(str(photos))])
    assert translated([], named).images == 1
    (output,) = (name for name in hashes(tmp_path / "run", "images"))
    contributions = explain(str(tmp_path / "run"), output, 20, 20).contributions
    known = {tuple(row["tags"]) for row in rows(tmp_path / "library", "images")}
    assert {part.tags for part in contributions} <= known
    assert all(part.tags for part in contributions)
    (unit,) = Ledger(open_location(str(tmp_path / "run"))).units()
    assert [item.tags for item in unit.items] == [("client=Smith",)]


def test_without_tags_a_library_from_a_manifest_is_that_of_the_files(tmp_path: Path, collection: Collection) -> None:
    (collection.paintings / "all.txt").write_text("1.png\n2.png\n3.png\n4.png\n1.png\n")
    try:
        from_manifest(collection.paintings / "all.txt", tmp_path / "library")
    finally:
        (collection.paintings / "all.txt").unlink()
    for kind in ("images", "patches"):
        assert hashes(tmp_path / "library", kind) == hashes(collection.library, kind)
    assert set(hashes(tmp_path / "library", "plan")) == {"plan/000000.parquet"}
    assert hashes(tmp_path / "library", "plan") == hashes(collection.library, "plan")


def test_a_photograph_from_a_shard_gives_the_picture_that_it_gives_from_a_file(
    tmp_path: Path, collection: Collection
) -> None:
    data = (collection.photos / "11.png").read_bytes()
    (tmp_path / "photos.tar").write_bytes(tar_entry("x/11.png", data) + END)
    translated([tmp_path / "photos.tar"], translate_request(collection.library, tmp_path / "one", collection.index))
    translated(
        [collection.photos / "11.png"], translate_request(collection.library, tmp_path / "two", collection.index)
    )
    one, two = hashes(tmp_path / "one", "images"), hashes(tmp_path / "two", "images")
    assert list(one) == ["images/photos.tar/x/11.png.png"]
    assert list(one.values()) == list(two.values())


def test_a_dry_run_counts_members_and_what_is_passed_over_and_writes_nothing(tmp_path: Path, shards: Path) -> None:
    asked = request(tmp_path / "library", (), shards / "all.csv")
    estimate = estimate_extract(asked, DryRunRequest(pilot=2), LocalRunner(), no_progress)
    assert (estimate.found, estimate.to_do, estimate.unreadable) == (7, 7, 2)
    assert estimate.passed_over_files == {".json": 1}
    assert estimate.pilot is not None
    assert estimate.pilot.images == 2
    assert not (tmp_path / "library").exists()


def test_what_is_passed_over_is_said_once_while_planning(tmp_path: Path, collection: Collection) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "a.png").write_bytes((collection.photos / "11.png").read_bytes())
    for name in ("a.txt", "b.txt", "c.mp4"):
        (folder / name).write_bytes(b"x")
    notes: list[str] = []

    def note(step: Step) -> None:
        notes.extend([step.note] if step.note.startswith("Passed over") else [])

    summary = extracted([folder], tmp_path / "library", progress=note)
    assert notes == ["Passed over: 2 .txt, 1 .mp4."]
    assert summary.passed_over_files == {".txt": 2, ".mp4": 1}


def test_columns_that_are_no_tags_are_said(tmp_path: Path, shards: Path) -> None:
    (shards / "all.jsonl").write_text('{"uri": "d.png", "size": {"width": 7}}\n')
    notes: list[str] = []
    extract(
        request(tmp_path / "library", (), shards / "all.jsonl"), LocalRunner(), lambda step: notes.append(step.note)
    )
    assert f"Columns of '{shards}/all.jsonl' that are no tags: 'size'." in notes


def test_the_python_functions_take_manifests(tmp_path: Path, shards: Path) -> None:
    options = RunOptions(threads=1)
    summary = kt_batch.extract((), tmp_path / "library", size=64, options=options, manifest=shards / "all.csv")
    assert (summary.images, summary.rejected) == (4, 3)
    with pytest.raises(UsageError, match="no images were given"):
        kt_batch.extract((), tmp_path / "library", size=64, options=options)


def test_a_library_is_not_made_in_the_folder_of_listed_images(tmp_path: Path, shards: Path) -> None:
    (tmp_path / "all.txt").write_text("shards/d.png\n")
    with pytest.raises(UsageError, match="is the folder of the input"):
        from_manifest(tmp_path / "all.txt", shards)


def test_paintings_of_try_and_style_images_may_lie_in_an_archive(
    tmp_path: Path, shards: Path, collection: Collection
) -> None:
    networks = load_networks(EncoderSource(), KnowledgeTransfer, "relu3_1", None)
    config = KnowledgeConfig.model_validate({"encoder": encoder_config(), **networks.digests})
    photo = str(collection.photos / "11.png")
    _, summary = translate_one(photo, [str(shards / "000.tar")], networks, KnowledgeTransfer, config, 1)
    assert list(summary.shares) == [
        f"tar+file://{shards}/000.tar#at=512&bytes={(tmp_path / 'drawn/1.png').stat().st_size}&member=a.png"
    ]
    assert summary.passed_over_files == {".json": 1}


# ---- plans


def test_a_plan_holds_tags_and_one_without_is_of_the_earlier_format() -> None:
    plain = [Item("0" * 16, "/a.png", "a.png"), Item("1" * 16, "/b.png", "b.png")]
    tagged = [plain[0], replace(plain[1], tags=("n=1", 'q="é"'))]
    assert b"kt-batch-plan/1" in encode_plan(Plan(tuple(make_units(plain, 2)), {}, "0" * 16))
    data = encode_plan(Plan(tuple(make_units(tagged, 2)), {}, "0" * 16))
    assert b"kt-batch-plan/4" in data
    (unit,) = decode_plan(data, "plan").units
    assert [item.tags for item in unit.items] == [(), ("n=1", 'q="é"')]
    assert unit.id == make_units(plain, 2)[0].id
    both = [replace(tagged[1], output="images/x.png")]
    (unit,) = decode_plan(encode_plan(Plan(tuple(make_units(both, 2)), {}, "0" * 16)), "plan").units
    assert (unit.items[0].output, unit.items[0].tags) == ("images/x.png", ("n=1", 'q="é"'))
