"""A run into shards holds what a run into files holds, and everything that reads a run reads it."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import Image

from kt_batch.config import RunOptions
from kt_batch.errors import DamagedError, MismatchError, UsageError
from kt_batch.maintenance.gc import gc
from kt_batch.maintenance.recompute import Recompute, recompute
from kt_batch.maintenance.verify import verify
from kt_batch.pipelines.progress import no_progress
from kt_batch.pipelines.translate.finish import translate
from kt_batch.pipelines.translate.plan import TranslateRequest
from kt_batch.pipelines.translate.sources import Choice, choose
from kt_batch.report.inspect import inspect
from kt_batch.report.session import Session
from kt_batch.report.sheet import write_sheet
from kt_batch.report.views import connect
from kt_batch.runners.local import LocalRunner
from kt_batch.store.opening import open_run
from kt_batch.store.run import read_output
from tests.support.collection import Collection, Meddler, Recorder
from tests.support.tiny import draw, draw_all, hashes, rows, translate_request, translated

FORMS = ["tar", "parquet"]
KEYS = {  # the first 16 digits of the SHA-256 of `images/11.png.png`, and so on
    name: f"{name.replace('.', '_')}-{hashlib.sha256(f'images/{name}.png'.encode()).hexdigest()[:16]}"
    for name in ("11.png", "12.png", "13.png")
}


@pytest.fixture(scope="module")
def made(collection: Collection, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with three runs of the same photographs, `files`, `tar` and `parquet`, two photographs per unit."""
    folder = tmp_path_factory.mktemp("shards")
    for form in ("files", *FORMS):
        translated(
            [collection.photos], translate_request(collection.library, folder / form, collection.index, output=form)
        )
    return folder


def shards(run: Path) -> list[Path]:
    return sorted((run / "shards").iterdir())


def in_tar(run: Path) -> dict[str, bytes]:
    """Return the members of all shards by name."""
    members: dict[str, bytes] = {}
    for path in shards(run):
        with tarfile.open(path) as tar:
            for member in tar:
                content = tar.extractfile(member)
                assert content is not None
                assert member.name not in members
                members[member.name] = content.read()
    return members


def in_parquet(run: Path) -> dict[str, dict[str, Any]]:
    """Return the rows of all shards by key."""
    return {row["key"]: row for path in shards(run) for row in pq.read_table(path).to_pylist()}


def abouts(run: Path, form: str) -> list[dict[str, Any]]:
    """Return what stands beside each picture."""
    if form == "parquet":
        return list(in_parquet(run).values())
    return [json.loads(data) for name, data in in_tar(run).items() if name.endswith(".json")]


def damage(path: Path, at: int) -> None:
    """Flip one bit of a file."""
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.unlink()
    path.write_bytes(bytes(data))


# ---- what is in them -------------------------------------------------------------------------------------------------


def test_a_tar_holds_the_pictures_of_the_run_with_a_sidecar_for_each(collection: Collection, made: Path) -> None:
    members = in_tar(made / "tar")
    assert sorted(members) == sorted(f"{key}.{end}" for key in KEYS.values() for end in ("json", "png"))
    provenance = rows(made / "tar", "provenance")
    for name, key in KEYS.items():
        picture, about = members[f"{key}.png"], json.loads(members[f"{key}.json"])
        assert picture == (made / f"files/images/{name}.png").read_bytes()
        assert about["sha256"] == hashlib.sha256(picture).hexdigest()
        assert (about["key"], about["input_name"], about["output"]) == (key, name, f"images/{name}.png")
        assert (about["uri"], about["method"]) == (str(collection.photos / name), "knowledge")
        assert (about["width"], about["height"]) == (64, 50)
        matched = [row["source_image_id"].hex() for row in provenance if row["output"] == about["output"]]
        assert {each["image_id"]: each["share"] for each in about["sources"]} == {
            source: round(matched.count(source) / len(matched), 6) for source in set(matched)
        }


def test_a_parquet_shard_holds_the_same_pictures_and_facts(made: Path) -> None:
    members, table = in_tar(made / "tar"), in_parquet(made / "parquet")
    assert sorted(table) == sorted(KEYS.values())
    for key, row in table.items():
        assert row.pop("image") == {"bytes": members[f"{key}.png"], "path": f"{key}.png"}
        assert row == json.loads(members[f"{key}.json"])


def test_pictures_in_shards_are_not_stored_as_files_too(made: Path) -> None:
    for form in FORMS:
        assert not (made / form / "images").exists()
        assert [path.suffix for path in shards(made / form)] == [f".{form}"] * 2
        assert list((made / form).glob(".tmp-*")) == []


def test_the_summary_of_the_run_lists_the_shards_and_where_each_output_is(made: Path) -> None:
    summary = json.loads((made / "tar/run.json").read_text())
    assert sorted(shard["name"] for shard in summary["shards"]) == [
        f"shards/{path.name}" for path in shards(made / "tar")
    ]
    for shard in summary["shards"]:
        data = (made / "tar" / shard["name"]).read_bytes()
        assert (shard["bytes"], shard["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())
    assert sum(shard["pictures"] for shard in summary["shards"]) == 3
    output = summary["outputs"]["images/11.png.png"]
    with tarfile.open(made / "tar" / output["shard"]) as tar:
        assert f"{output['key']}.png" in tar.getnames()


def test_a_run_into_files_says_nothing_of_shards(made: Path) -> None:
    summary = json.loads((made / "files/run.json").read_text())
    assert "shards" not in summary
    assert "output" not in summary["config"]
    for path in (made / "files/receipts").iterdir():
        assert "shard" not in json.loads(path.read_text())


def test_the_content_of_a_run_has_the_same_digest_in_files_and_in_shards(made: Path) -> None:
    summaries = [verify(str(made / form), no_progress) for form in ("files", *FORMS)]
    assert [summary.faults for summary in summaries] == [(), (), ()]
    assert [(summary.orphans, summary.foreign) for summary in summaries] == [(0, 0)] * 3
    assert len({summary.digest for summary in summaries}) == 1
    assert summaries[0].digest is not None


@pytest.mark.parametrize("form", FORMS)
def test_photographs_at_their_full_size_go_into_shards_unchanged(form: str, tmp_path: Path) -> None:
    draw_all(tmp_path / "photos", [1, 2])
    for place in ("files", form):
        config, sources = choose("identity", {"format": "jpg", "output": place}, Choice())
        images, options = [str(tmp_path / "photos")], RunOptions(threads=1)
        request = TranslateRequest(images, str(tmp_path / place), config, sources, options)
        assert translate(request, LocalRunner(), no_progress).images == 2
    run = open_run(str(tmp_path / form))
    for output in run.outputs.values():
        assert read_output(run, output) == (tmp_path / "files" / output.name).read_bytes()
    for about in abouts(tmp_path / form, form):
        assert (about["width"], about["height"]) == (72, 56)
        assert about["sources"] == [{"image_id": about["image_id"], "share": 1.0}]


# ---- how they are made -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_a_shard_size_is_the_size_of_a_unit(collection: Collection, tmp_path: Path, form: str) -> None:
    request = translate_request(collection.library, tmp_path / "run", collection.index, output=form)
    summary = translated([collection.photos], replace(request, shard_size=3), unit_size=1)
    assert (summary.shards, len(shards(tmp_path / "run"))) == (1, 1)


@pytest.mark.parametrize(("form", "folder"), [("files", "images"), ("tar", "shards"), ("parquet", "shards")])
def test_the_bytes_that_a_pilot_adds_up_are_those_of_the_files(made: Path, form: str, folder: str) -> None:
    counted = sum(receipt.output_bytes for receipt in open_run(str(made / form)).committed.receipts.values())
    assert counted == sum(path.stat().st_size for path in (made / form / folder).iterdir())


def test_a_shard_size_beside_files_is_refused(collection: Collection, tmp_path: Path) -> None:
    request = translate_request(collection.library, tmp_path / "run", collection.index)
    with pytest.raises(UsageError, match=r"^--shard-size 3 is for --output tar or parquet; with --output files, each"):
        translated([collection.photos], replace(request, shard_size=3))
    assert not (tmp_path / "run").exists()


def test_a_run_into_files_is_not_continued_into_shards(collection: Collection, made: Path) -> None:
    request = translate_request(collection.library, made / "files", collection.index, output="tar")
    with pytest.raises(MismatchError, match=r'differ in output \(unset there, "tar" here\)$'):
        translated([collection.photos], request)


@pytest.mark.parametrize("form", FORMS)
def test_a_run_that_was_interrupted_ends_with_the_same_shards(
    collection: Collection, made: Path, tmp_path: Path, form: str
) -> None:
    request = translate_request(collection.library, tmp_path / "run", collection.index, output=form)
    with pytest.raises(ZeroDivisionError):
        translated([collection.photos], request, Recorder(stop_at=1))
    assert len(shards(tmp_path / "run")) == 1
    done = len(open_run(str(tmp_path / "run")).outputs)
    assert translated([collection.photos], request).new_images == 3 - done
    assert hashes(tmp_path / "run", "shards") == hashes(made / form, "shards")
    assert (tmp_path / "run/run.json").read_bytes() == (made / form / "run.json").read_bytes()


@pytest.mark.parametrize("form", FORMS)
def test_a_reject_is_in_no_shard_and_a_retry_puts_it_into_one_of_its_own(
    collection: Collection, tmp_path: Path, form: str
) -> None:
    shutil.copytree(collection.photos, tmp_path / "photos")
    request = translate_request(collection.library, tmp_path / "run", collection.index, output=form)
    hidden = (tmp_path / "photos/12.png").rename(tmp_path / "12.png")
    (tmp_path / "photos/12.png").write_bytes(hidden.read_bytes())
    gone = Meddler((tmp_path / "photos/12.png").unlink)
    summary = translated([tmp_path / "photos"], request, gone, unit_size=3)
    assert (summary.images, summary.rejected, summary.shards) == (2, 1, 1)
    hidden.rename(tmp_path / "photos/12.png")
    again = replace(request, options=request.options.model_copy(update={"retry_rejected": True}))
    summary = translated([tmp_path / "photos"], again, unit_size=3)
    assert (summary.images, summary.rejected, summary.shards) == (3, 0, 2)
    assert verify(str(tmp_path / "run"), no_progress).faults == ()


def test_a_unit_of_rejects_makes_no_shard(collection: Collection, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/a.png").write_bytes(b"no picture")
    request = translate_request(collection.library, tmp_path / "run", collection.index, output="tar")
    summary = translated([tmp_path / "photos"], request)
    assert (summary.images, summary.rejected, summary.shards) == (0, 1, 0)
    assert not (tmp_path / "run/shards").exists()
    assert verify(str(tmp_path / "run"), no_progress).faults == ()


def test_a_photograph_that_was_changed_before_its_turn_has_one_output_in_the_end(
    collection: Collection, tmp_path: Path
) -> None:
    """No file's name decides between the two, so the second one waits for a retry."""
    path = draw(tmp_path / "in/11.png", 11)
    request = translate_request(collection.library, tmp_path / "run", collection.index, output="tar")
    with pytest.raises(ZeroDivisionError):
        translated([tmp_path / "in"], request, Recorder(stop_at=0))
    draw(path, 22)
    summary = translated([tmp_path / "in"], request)
    assert (summary.images, summary.rejected) == (0, 1)
    again = replace(request, options=request.options.model_copy(update={"retry_rejected": True}))
    summary = translated([tmp_path / "in"], again)
    assert (summary.images, summary.rejected) == (1, 0)
    assert verify(str(tmp_path / "run"), no_progress).faults == ()
    assert len(in_tar(tmp_path / "run")) == 2


def test_two_names_of_one_photograph_are_two_samples(collection: Collection, tmp_path: Path) -> None:
    for name in ("a/x.png", "a_x.png"):
        draw(tmp_path / "in" / name, 11)
    request = translate_request(collection.library, tmp_path / "run", collection.index, output="tar")
    assert translated([tmp_path / "in"], request).images == 2
    names = sorted(name for name in in_tar(tmp_path / "run") if name.endswith(".png"))
    assert [name.rpartition("-")[0] for name in names] == ["a_x_png", "a_x_png"]


# ---- what reads them -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_a_pixel_of_a_picture_in_a_shard_is_explained_as_one_in_a_file(made: Path, form: str) -> None:
    expected = Session.open(str(made / "files")).explain("11.png", 20, 30)
    session = Session.open(str(made / form))
    for name in ("11.png", "images/11.png.png", KEYS["11.png"], f"{KEYS['11.png']}.json"):
        assert session.explain(name, 20, 30) == replace(expected, run=session.run.location.uri)


@pytest.mark.parametrize("form", FORMS)
def test_a_contact_sheet_shows_the_pictures_in_shards(made: Path, tmp_path: Path, form: str) -> None:
    of_files = write_sheet({"A": str(made / "files")}, tmp_path / "files")
    of_shards = write_sheet({"A": str(made / form)}, tmp_path / form)
    pictures = {path.name for path in of_files.parent.iterdir() if path.suffix != ".html"}
    assert {path.name for path in of_shards.parent.iterdir() if path.suffix != ".html"} == pictures


@pytest.mark.parametrize("form", FORMS)
def test_tables_and_numbers_of_a_run_in_shards_are_those_of_files(made: Path, form: str) -> None:
    query = "SELECT output, name, patches, ncc_mean FROM outputs"
    assert connect(str(made / form)).execute(query).fetchall() == connect(str(made / "files")).execute(query).fetchall()
    found = inspect(str(made / form))
    assert (found["output"], found["bytes"]["images"]) == (form, inspect(str(made / "files"))["bytes"]["images"])


@pytest.mark.parametrize("form", FORMS)
def test_pictures_in_shards_are_equal_when_done_once_more(made: Path, form: str) -> None:
    before = hashes(made / form)
    summary = recompute(str(made / form), Recompute(2), no_progress)
    assert (len(summary.equal), summary.checked) == (2, 2)
    assert hashes(made / form) == before


@pytest.mark.parametrize("form", FORMS)
def test_pictures_of_another_numerics_class_are_compared_within_shards(
    collection: Collection, made: Path, tmp_path: Path, form: str
) -> None:
    shutil.copytree(made / form, tmp_path / "run")
    for path in (tmp_path / "run/receipts").iterdir():
        receipt = json.loads(path.read_text())
        receipt["numerics"]["torch"] = "0.0"
        path.unlink()
        path.write_text(json.dumps(receipt))
    assert len(recompute(str(tmp_path / "run"), Recompute(2), no_progress).close) == 2


# ---- damage and leftovers --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_one_damaged_byte_is_found_and_the_picture_is_named(made: Path, tmp_path: Path, form: str) -> None:
    shutil.copytree(made / form, tmp_path / "run")
    output = open_run(str(tmp_path / "run")).outputs["images/12.png.png"]
    assert output.shard is not None
    damage(tmp_path / "run" / output.shard, output.offset + 20)
    faults = verify(str(tmp_path / "run"), no_progress).faults
    assert [fault.partition(" at ")[0] for fault in faults] == [
        f"'images/12.png.png' in '{output.shard}'", f"'{output.shard}'",
    ]  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("at", [0, -1])
def test_one_damaged_byte_outside_of_the_pictures_is_found(made: Path, tmp_path: Path, form: str, at: int) -> None:
    shutil.copytree(made / form, tmp_path / "run")
    damage(shards(tmp_path / "run")[0], at)
    (fault,) = verify(str(tmp_path / "run"), no_progress).faults
    assert f"'shards/{shards(tmp_path / 'run')[0].name}'" in fault


def test_a_missing_and_a_shortened_shard_are_found(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "tar", tmp_path / "run")
    first, second = shards(tmp_path / "run")
    first.unlink()
    second.write_bytes(second.read_bytes()[:-512])
    faults = verify(str(tmp_path / "run"), no_progress).faults
    assert len(faults) == 2
    assert any(first.name in fault for fault in faults)
    assert any(f"'shards/{second.name}'" in fault and "bytes, not" in fault for fault in faults)


def edited(run: Path, change: Any) -> None:
    """Change the shard in every receipt of a run."""
    for path in (run / "receipts").iterdir():
        receipt = json.loads(path.read_text())
        receipt["shard"] = change(receipt["shard"])
        path.unlink()
        path.write_text(json.dumps(receipt))


def test_a_receipt_that_has_pictures_where_none_can_be_is_a_fault(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "tar", tmp_path / "run")
    edited(tmp_path / "run", lambda shard: {**shard, "offsets": [2**52 for _ in shard["offsets"]]})
    faults = verify(str(tmp_path / "run"), no_progress).faults
    assert len(faults) == 2
    assert all("where it cannot be" in fault for fault in faults)
    with pytest.raises(DamagedError, match=r"^'images/11.png.png' at '.*' is not an image.$"):
        Session.open(str(tmp_path / "run")).explain("11.png", 0, 0)


def test_a_receipt_without_the_shard_of_its_run_is_not_used(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "tar", tmp_path / "run")
    edited(tmp_path / "run", lambda _: None)
    with pytest.raises(DamagedError, match=r"has outputs as files, but the run has them as tar$"):
        verify(str(tmp_path / "run"), no_progress)


def test_a_receipt_with_too_few_offsets_is_not_used(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "tar", tmp_path / "run")
    edited(tmp_path / "run", lambda shard: {**shard, "offsets": []})
    with pytest.raises(DamagedError, match="has offsets of other outputs than the receipt"):
        open_run(str(tmp_path / "run")).outputs  # noqa: B018


@pytest.mark.parametrize("form", FORMS)
def test_a_shard_that_no_receipt_names_is_swept_and_the_others_stay(made: Path, tmp_path: Path, form: str) -> None:
    shutil.copytree(made / form, tmp_path / "run")
    kept = hashes(tmp_path / "run")
    unit = shards(tmp_path / "run")[0].name.split("-")[1]
    left = [f"shards/part-{unit}-{'0' * 16}.{form}", f".tmp-{'0' * 24}.{form}"]
    for name in left:
        (tmp_path / "run" / name).write_bytes(b"left by a lost race")
    (tmp_path / "run/shards/mine.tar").write_bytes(b"not ours")
    found = gc(str(tmp_path / "run"), no_progress, delete=True)
    assert (sorted(orphan.name for orphan in found.orphans), found.foreign) == (sorted(left), 1)
    (tmp_path / "run/shards/mine.tar").unlink()
    assert hashes(tmp_path / "run") == kept


def test_shards_can_be_inputs_of_another_run(collection: Collection, made: Path, tmp_path: Path) -> None:
    request = translate_request(collection.library, tmp_path / "run", collection.index)
    summary = translated(shards(made / "tar"), request)
    assert (summary.images, summary.rejected) == (3, 0)


def test_metadata_of_a_photograph_is_carried_into_shards(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    exif = Image.Exif()
    exif[0x010E] = "a boat"
    Image.new("RGB", (40, 30), (90, 20, 30)).save(tmp_path / "in/a.jpg", exif=exif)
    config, sources = choose("identity", {"output": "tar"}, Choice())
    request = TranslateRequest([str(tmp_path / "in")], str(tmp_path / "run"), config, sources, RunOptions(threads=1))
    translate(request, LocalRunner(), no_progress)
    (picture,) = (data for name, data in in_tar(tmp_path / "run").items() if name.endswith(".png"))
    with Image.open(io.BytesIO(picture)) as image:
        assert image.getexif()[0x010E] == "a boat"
