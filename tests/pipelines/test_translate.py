"""Every output of a run has provenance, and no output of another image is adopted."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from kt_batch.config import SearchConfig
from kt_batch.errors import DamagedError, MismatchError, Reason, UsageError
from kt_batch.kernels.patches import unfold
from kt_batch.methods.features import encode, to_tensor
from kt_batch.models.weights import EncoderSource, load_encoder
from kt_batch.pipelines.encoders import library_encoder
from kt_batch.pipelines.progress import Step
from kt_batch.pipelines.translate import worker as translate_pipeline
from kt_batch.pipelines.translate.plan import TranslateRequest, find_changed, find_name_conflicts
from kt_batch.report.sources import library_of, source_images
from kt_batch.store import local
from kt_batch.store.images.files import decode, pad_to
from kt_batch.store.local import LocalLocation
from kt_batch.store.locations import open_location
from kt_batch.store.opening import open_library, open_run
from kt_batch.store.plans import Item, Unit
from kt_batch.store.publish import publish
from kt_batch.store.run import provenance_of
from kt_batch.store.schemas import from_fixed_binary
from kt_batch.store.units import Ledger
from tests.support.collection import PATCHES, Collection, Meddler, Recorder
from tests.support.tiny import (
    SIZE,
    column,
    draw,
    extracted,
    hashes,
    indexed,
    parts,
    patches,
    results,
    rows,
    translate_request,
    translated,
)


@pytest.fixture
def job(collection: Collection, tmp_path: Path) -> TranslateRequest:
    return translate_request(collection.library, tmp_path / "run", collection.index)


@pytest.fixture(scope="module")
def undisturbed(collection: Collection, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the photographs, two per unit, without interruption."""
    run = tmp_path_factory.mktemp("translate") / "run"
    translated([collection.photos], translate_request(collection.library, run, collection.index))
    return run


# ---- output ----------------------------------------------------------------------------------------------------------


def test_every_photograph_becomes_an_image_of_its_working_size(undisturbed: Path) -> None:
    found = sorted((undisturbed / "images").iterdir())
    assert [path.name for path in found] == ["11.png.png", "12.png.png", "13.png.png"]
    for path in found:
        with Image.open(path) as image:
            assert (image.size, image.mode, image.format) == ((64, 50), "RGB", "PNG")


def test_every_query_patch_has_one_row_that_names_a_patch_of_the_library(
    collection: Collection, undisturbed: Path
) -> None:
    found = rows(undisturbed, "provenance")
    assert len({(row["output"], row["row"], row["col"]) for row in found}) == len(found) == 3 * PATCHES
    kept = set(column(collection.library, "patches", "patch_id"))
    for row in found:
        place = row["source_row"].to_bytes(2, "big") + row["source_col"].to_bytes(2, "big")
        assert row["source_image_id"] + place in kept
        assert (row["rank"], row["weight"], row["library"]) == (0, 1.0, str(collection.library))


def test_the_ncc_of_a_row_is_that_of_the_stored_vector(collection: Collection, undisturbed: Path) -> None:
    library, network = patches(collection.library), load_encoder(EncoderSource()).network
    vectors = from_fixed_binary(library["vector"], "<f2", (-1,)).astype(np.float64)
    where = {value: number for number, value in enumerate(library["patch_id"].to_pylist())}
    run, seen = open_run(str(undisturbed)), 0
    for output in run.outputs.values():
        pixels = pad_to(decode(Path(output.uri).read_bytes(), SIZE).pixels, 4)
        features = encode(network, to_tensor(pixels), "relu3_1")
        for row in provenance_of(run, output).to_pylist()[::7]:
            query = unfold(features, torch.tensor([row["row"]]), torch.tensor([row["col"]])).double().flatten().numpy()
            place = row["source_row"].to_bytes(2, "big") + row["source_col"].to_bytes(2, "big")
            source = vectors[where[row["source_image_id"] + place]]
            ncc = query @ source / (np.linalg.norm(query) * np.linalg.norm(source))
            assert row["ncc"] == pytest.approx(ncc, abs=0.005)
            seen += 1
    assert seen == 3 * 26


def test_the_best_k_are_sorted_by_rank_and_their_weights_sum_to_one(collection: Collection, tmp_path: Path) -> None:
    job = translate_request(collection.library, tmp_path / "run", collection.index, search=SearchConfig(top_k=3))
    summary = translated([collection.photos / "11.png"], job)
    table = provenance_of(open_run(job.run), open_run(job.run).outputs["images/11.png.png"])
    weights = table["weight"].to_numpy().reshape(-1, 3)
    ncc = table["ncc"].to_numpy().astype(np.float64).reshape(-1, 3)
    assert table["rank"].to_pylist() == [0, 1, 2] * PATCHES
    assert weights.sum(1) == pytest.approx(np.ones(PATCHES), abs=1e-6)
    assert (np.diff(weights) <= 0).all()
    assert summary.ncc_mean == pytest.approx(ncc[:, 0].mean(), abs=1e-6)
    assert summary.patches == PATCHES


def test_receipts_without_match_sums_are_summed_from_the_provenance(collection: Collection, tmp_path: Path) -> None:
    job = translate_request(
        collection.library, tmp_path / "run", collection.index, search=SearchConfig(top_k=3, certify=True)
    )
    summary = translated([collection.photos], job)
    path, receipts = tmp_path / "run" / "run.json", sorted((tmp_path / "run" / "receipts").rglob("*.json"))
    expected = path.read_bytes()
    assert summary.certified_share == 1
    assert len(receipts) == 2
    for receipt in receipts:
        content = json.loads(receipt.read_bytes())
        assert content.pop("certified") == content["patches"]
        assert 0 < content.pop("ncc_sum") < content["patches"]
        receipt.write_text(json.dumps(content))
    path.unlink()
    translated([collection.photos], job)
    assert path.read_bytes() == expected


def test_alpha_zero_takes_nothing_from_the_library(collection: Collection, tmp_path: Path) -> None:
    swaps = ("geometric", "statistics")
    jobs = [
        translate_request(collection.library, tmp_path / swap, collection.index, alpha=0.0, swap=swap) for swap in swaps
    ]
    for job in jobs:
        translated([collection.photos / "11.png"], job)
    plain, other = (hashes(job.run, "images") for job in jobs)
    assert plain == other


def test_each_option_of_the_swap_changes_the_picture(collection: Collection, tmp_path: Path, undisturbed: Path) -> None:
    seen = {hashes(undisturbed, "images")["images/11.png.png"]}
    options: list[dict[str, Any]] = [
        {"alpha": 0.5},
        {"swap": "statistics"},
        {"preserve_colour": True},
        {"query_stride": 2},
        {"alpha": 0.0},
    ]
    for number, option in enumerate(options):
        job = translate_request(collection.library, tmp_path / str(number), collection.index, **option)
        translated([collection.photos / "11.png"], job)
        seen.add(hashes(job.run, "images")["images/11.png.png"])
    assert len(seen) == 1 + len(options)


@pytest.mark.parametrize(("kind", "written"), [("jpg", "JPEG"), ("webp", "WEBP")])
def test_outputs_have_the_requested_format(collection: Collection, tmp_path: Path, kind: str, written: str) -> None:
    job = translate_request(collection.library, tmp_path / "run", collection.index, format=kind, quality=80)
    translated([collection.photos / "11.png"], job)
    with Image.open(tmp_path / f"run/images/11.png.{kind}") as image:
        assert (image.format, image.size) == (written, (64, 50))


def test_the_summary_maps_each_output_to_its_input_and_its_rows(collection: Collection, undisturbed: Path) -> None:
    summary = json.loads((undisturbed / "run.json").read_text())
    assert sorted(summary["outputs"]) == [f"images/{n}.png.png" for n in (11, 12, 13)]
    run = open_run(str(undisturbed))
    for name, entry in summary["outputs"].items():
        output = run.outputs[name]
        assert (entry["provenance"], entry["row_group"]) == (output.part.name, output.row_group)
        assert set(provenance_of(run, output)["output"].to_pylist()) == {name}
        assert Path(entry["uri"]).parent == collection.photos


# ---- unit size, order, interruption ----------------------------------------------------------------------------------


@pytest.mark.parametrize("unit_size", [1, 3, 8])
def test_outputs_and_rows_do_not_depend_on_the_unit_size(
    collection: Collection, job: TranslateRequest, undisturbed: Path, unit_size: int
) -> None:
    translated([collection.photos], job, unit_size=unit_size)
    assert len(parts(job.run, "provenance")) == {1: 3, 3: 1, 8: 1}[unit_size]
    assert results(job.run) == results(undisturbed)


def test_part_files_of_equal_unit_size_have_the_same_bytes_in_any_order(
    collection: Collection, job: TranslateRequest, undisturbed: Path
) -> None:
    translated(sorted(collection.photos.iterdir(), reverse=True), job)
    assert hashes(job.run, "provenance") == hashes(undisturbed, "provenance")
    assert hashes(job.run)["run.json"] == hashes(undisturbed)["run.json"]


def test_a_second_translate_does_nothing(collection: Collection, job: TranslateRequest) -> None:
    translated([collection.photos], job)
    before, recorder = hashes(job.run), Recorder()
    again = translated([collection.photos], job, recorder)
    assert (recorder.units, again.images, again.new_images) == ([], 3, 0)
    assert hashes(job.run) == before


def test_adding_photographs_does_not_redo_finished_ones(collection: Collection, job: TranslateRequest) -> None:
    first = sorted(collection.photos.iterdir())[:2]
    translated(first, job)
    before, recorder = hashes(job.run, "images"), Recorder()
    summary = translated([collection.photos], job, recorder)
    assert [item.name for unit in recorder.units for item in unit.items] == ["13.png"]
    assert (summary.images, summary.new_images) == (3, 1)
    assert before.items() < hashes(job.run, "images").items()


def test_after_a_worker_failure_only_the_remaining_units_are_done(
    collection: Collection, job: TranslateRequest, undisturbed: Path
) -> None:
    with pytest.raises(ZeroDivisionError):
        translated([collection.photos], job, Recorder(stop_at=1))
    recorder = Recorder()
    translated([collection.photos], job, recorder)
    assert len(recorder.units) == 1
    assert results(job.run) == results(undisturbed)


def test_an_output_of_an_uncommitted_attempt_is_adopted(
    collection: Collection, job: TranslateRequest, undisturbed: Path
) -> None:
    shutil.copytree(undisturbed / "images", Path(job.run) / "images")
    translated([collection.photos], job)
    assert results(job.run) == results(undisturbed)


def test_other_options_are_refused_with_both_digests(collection: Collection, job: TranslateRequest) -> None:
    translated([collection.photos / "11.png"], job)
    before = hashes(job.run)
    other = translate_request(collection.library, job.run, collection.index, alpha=0.5)
    with pytest.raises(
        MismatchError, match=r"digest [0-9a-f]{16}, this job has [0-9a-f]{16}.*alpha \(1.0 there, 0.5 h"
    ):
        translated([collection.photos], other)
    assert hashes(job.run) == before


def test_a_run_planned_by_an_earlier_version_names_only_real_differences(
    collection: Collection, job: TranslateRequest
) -> None:
    content = job.config.model_dump(mode="json", exclude={"method", "styles", "size"})
    content["search"]["searcher"] = "ours"
    items = [Item("0" * 16, "photo.png", "photo.png")]
    Ledger(open_location(job.run)).plan(items, 1, content, job.config.digest())
    other = translate_request(collection.library, job.run, collection.index, alpha=0.5)
    with pytest.raises(MismatchError, match=r"they differ in alpha \(1.0 there, 0.5 here\)$"):
        translated([collection.photos], other)
    assert translated([collection.photos], job).images == 3


@pytest.mark.usefixtures("threads")
def test_units_of_another_numerics_class_are_not_mixed_by_default(
    collection: Collection, job: TranslateRequest
) -> None:
    translated([collection.photos / "11.png"], job)
    job = translate_request(collection.library, job.run, collection.index)
    with pytest.raises(MismatchError, match="threads 1 -> 2"):
        translated([collection.photos], with_threads(job, 2))
    mixed = translate_request(collection.library, job.run, collection.index, mix_numerics=True)
    summary = translated([collection.photos], with_threads(mixed, 2))
    assert summary.images == 3


def test_a_scanning_run_is_not_continued_on_another_gpu(
    collection: Collection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def begun() -> TranslateRequest:
        search = SearchConfig(searcher="scan")
        return translate_request(collection.library, tmp_path / "run", collection.index, search=search)

    monkeypatch.setattr(translate_pipeline, "search_device", lambda name: f"cpu and a GPU for {name}")
    translated([collection.photos / "11.png"], begun())
    receipts = Ledger(open_location(str(tmp_path / "run"))).receipts().values()
    assert [receipt.numerics["device"] for receipt in receipts] == ["cpu and a GPU for scan"]
    monkeypatch.setattr(translate_pipeline, "search_device", lambda name: "cpu")
    with pytest.raises(MismatchError, match="device cpu and a GPU for scan -> cpu"):
        translated([collection.photos], begun())


@pytest.mark.parametrize("unit_size", [1, 8])
def test_a_scan_finds_the_same_for_any_unit_size(collection: Collection, tmp_path: Path, unit_size: int) -> None:
    runs = [tmp_path / "one", tmp_path / "other"]
    for run, size in zip(runs, [2, unit_size], strict=True):
        job = translate_request(collection.library, run, collection.index, search=SearchConfig(searcher="scan"))
        translated([collection.photos], job, unit_size=size)
    assert results(runs[0]) == results(runs[1])


def with_threads(job: TranslateRequest, threads: int) -> TranslateRequest:
    return replace(job, options=job.options.model_copy(update={"threads": threads}))


# ---- names -----------------------------------------------------------------------------------------------------------


def test_equal_bytes_under_two_names_are_translated_once_and_written_twice(
    collection: Collection, job: TranslateRequest, tmp_path: Path
) -> None:
    for name in ("a.png", "b/c.png"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(collection.photos / "11.png", tmp_path / "in" / name)
    summary = translated([tmp_path / "in"], job)
    found = hashes(job.run, "images")
    assert (summary.images, sorted(found)) == (2, ["images/a.png.png", "images/b/c.png.png"])
    assert len(set(found.values())) == 1
    assert set(column(job.run, "provenance", "output")) == set(found)


def test_a_name_listed_later_gets_its_own_output(collection: Collection, job: TranslateRequest, tmp_path: Path) -> None:
    shutil.copytree(collection.photos, tmp_path / "in")
    translated([tmp_path / "in"], job)
    shutil.copy(tmp_path / "in/11.png", tmp_path / "in/copy.png")
    assert translated([tmp_path / "in"], job).images == 4
    found = hashes(job.run, "images")
    assert found["images/copy.png.png"] == found["images/11.png.png"]


def test_one_name_in_two_folders_makes_two_outputs(job: TranslateRequest, tmp_path: Path) -> None:
    draw(tmp_path / "in/x/a.png", 21)
    draw(tmp_path / "in/y/a.png", 22)
    translated([tmp_path / "in"], job)
    assert sorted(hashes(job.run, "images")) == ["images/x/a.png.png", "images/y/a.png.png"]


def test_two_arguments_are_listed_under_their_own_names(job: TranslateRequest, tmp_path: Path) -> None:
    draw(tmp_path / "in/x/a.png", 21)
    draw(tmp_path / "in/y/a.png", 22)
    translated([tmp_path / "in/x", tmp_path / "in/y"], job)
    assert sorted(hashes(job.run, "images")) == ["images/x/a.png.png", "images/y/a.png.png"]


def test_a_changed_photograph_is_a_reject_and_the_others_are_done(job: TranslateRequest, tmp_path: Path) -> None:
    draw(tmp_path / "x/a.png", 21)
    translated([tmp_path / "x"], job)
    before = hashes(job.run, "images")
    draw(tmp_path / "x/a.png", 22)
    draw(tmp_path / "x/b.png", 23)
    notes: list[Step] = []
    summary = translated([tmp_path / "x"], job, progress=notes.append)
    assert (summary.images, summary.new_images, summary.rejected) == (2, 1, 1)
    (row,) = rows(job.run, "rejects")
    assert (row["reason"], row["uri"]) == ("changed", str(tmp_path / "x/a.png"))
    assert "'images/a.png.png' was made from other bytes than" in row["message"]
    assert "translate it into another run" in row["message"]
    assert any("rejected: 'a.png'" in step.note for step in notes)
    assert hashes(job.run, "images").items() >= before.items()


def test_a_changed_photograph_is_rejected_once_and_its_old_bytes_are_done_already(
    job: TranslateRequest, tmp_path: Path
) -> None:
    draw(tmp_path / "x/a.png", 21)
    translated([tmp_path / "x"], job)
    draw(tmp_path / "x/a.png", 22)
    for retry in (False, False, True, True):
        again = replace(job, options=job.options.model_copy(update={"retry_rejected": retry}))
        assert translated([tmp_path / "x"], again).rejected == 1
    draw(tmp_path / "x/a.png", 21)
    assert translated([tmp_path / "x"], job).new_images == 0


def test_a_photograph_that_goes_back_and_forth_is_a_reject_exactly_while_it_differs(
    job: TranslateRequest, tmp_path: Path
) -> None:
    rejected = []
    for number in (21, 22, 22, 21, 21, 22, 22, 23, 21, 23, 22, 21):
        draw(tmp_path / "x/a.png", number)
        rejected.append(translated([tmp_path / "x"], job).rejected)
    assert rejected == [0, 1, 1, 0, 0, 1, 1, 1, 0, 1, 1, 0]
    assert column(job.run, "provenance", "output")[:1] == ["images/a.png.png"]


def test_another_folder_with_a_file_of_the_same_name_is_rejected_in_the_same_way(
    job: TranslateRequest, tmp_path: Path
) -> None:
    draw(tmp_path / "x/a.png", 21)
    translated([tmp_path / "x"], job)
    draw(tmp_path / "y/a.png", 22)
    draw(tmp_path / "y/c.png", 24)
    assert (translated([tmp_path / "y"], job).new_images, column(job.run, "rejects", "reason")) == (1, ["changed"])


def test_a_name_that_the_target_refuses_costs_one_image(
    job: TranslateRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on an encrypted file system, whose names have at most 143 bytes."""
    draw(tmp_path / "x/a.png", 21)
    draw(tmp_path / f"x/{'b' * 150}.png", 22)
    too_long = "File name too long"
    monkeypatch.setattr(LocalLocation, "refusal", lambda _, name: too_long if len(name) > 143 else None)
    assert (translated([tmp_path / "x"], job).images, column(job.run, "rejects", "reason")) == (1, ["name_refused"])


@pytest.mark.parametrize("error", [errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL])
def test_a_name_that_is_refused_only_when_it_is_written_costs_one_image(
    job: TranslateRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    """As on a mount whose character set lacks a letter."""
    draw(tmp_path / "x/a.png", 21)
    draw(tmp_path / "x/\u00e9.png", 22)

    def refuse(source: Path, target: Path, root: Path) -> bool:
        if not target.name.isascii():
            raise OSError(error, os.strerror(error))
        return publish(source, target, root)

    monkeypatch.setattr(local, "publish", refuse)
    summary = translated([tmp_path / "x"], job)
    assert (summary.images, summary.rejected, column(job.run, "rejects", "reason")) == (1, 1, ["name_refused"])
    assert set(column(job.run, "provenance", "output")) == {"images/a.png.png"}
    assert translated([tmp_path / "x"], job).rejected == 1


def test_names_that_differ_in_case_alone_are_two_outputs_on_every_file_system(
    job: TranslateRequest, tmp_path: Path
) -> None:
    for number, name in enumerate(("A.png", "a.png", "12:30?.png", "CON.png")):
        draw(tmp_path / "x" / name, 21 + number)
    assert translated([tmp_path / "x"], job).images == 4
    outputs = open_run(job.run).outputs
    assert sorted(output.input_name for output in outputs.values()) == ["12:30?.png", "A.png", "CON.png", "a.png"]
    assert len({name.lower() for name in outputs}) == 4
    assert {"images/12%3A30%3F.png.png", "images/%43ON.png.png"} < set(outputs)
    assert set(column(job.run, "provenance", "output")) == set(outputs)
    assert translated([tmp_path / "x"], job).new_images == 0


def test_a_rejected_file_may_return_repaired(job: TranslateRequest, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.png").write_bytes(b"no image")
    assert translated([tmp_path / "in"], job).rejected == 1
    draw(tmp_path / "in/a.png", 21)
    summary = translated([tmp_path / "in"], job)
    assert (summary.images, summary.new_images, sorted(hashes(job.run, "images"))) == (1, 1, ["images/a.png.png"])


def test_a_file_changed_after_planning_is_rejected_and_translated_by_the_next_command(
    job: TranslateRequest, tmp_path: Path
) -> None:
    path = draw(tmp_path / "in/a.png", 21)
    summary = translated([tmp_path / "in"], job, Meddler(lambda: draw(path, 22)))
    assert (summary.images, column(job.run, "rejects", "reason")) == (0, [Reason.CHANGED])
    assert hashes(job.run, "images") == {}
    assert translated([tmp_path / "in"], job).new_images == 1


@pytest.mark.parametrize("mix", [False, True])
def test_an_uncommitted_output_of_a_changed_file_is_never_adopted(
    collection: Collection, job: TranslateRequest, tmp_path: Path, mix: bool
) -> None:
    """The process dies between output and receipt, and the input is replaced."""
    path = draw(tmp_path / "in/a.png", 21)
    translated([tmp_path / "in"], job)
    for receipt in (Path(job.run) / "receipts").iterdir():
        receipt.unlink()
    draw(path, 22)
    draw(tmp_path / "in/b.png", 23)
    again = translate_request(collection.library, job.run, collection.index, mix_numerics=mix)
    for new_images in (1, 0):
        summary = translated([tmp_path / "in"], again)
        assert (summary.images, summary.new_images, summary.rejected) == (1, new_images, 1)
    messages = [row["message"] for row in rows(job.run, "rejects") if "no receipt" in row["message"]]
    assert "'images/a.png.png' at " in messages[0]
    assert "remove it and use --retry-rejected" in messages[0]
    assert set(column(job.run, "provenance", "output")) == {"images/b.png.png"}
    (Path(job.run) / "images/a.png.png").unlink()
    retried = replace(again, options=again.options.model_copy(update={"retry_rejected": True}))
    summary = translated([tmp_path / "in"], retried)
    assert (summary.images, summary.rejected) == (2, 0)


def test_the_receipt_has_the_hash_of_an_adopted_output_of_another_numerics_class(
    collection: Collection, tmp_path: Path
) -> None:
    job = translate_request(collection.library, tmp_path / "run", collection.index, mix_numerics=True)
    (tmp_path / "run/images").mkdir(parents=True)
    other = (collection.photos / "12.png").read_bytes()
    (tmp_path / "run/images/11.png.png").write_bytes(other)
    translated([collection.photos / "11.png"], job)
    (receipt,) = Ledger(LocalLocation(tmp_path / "run")).receipts().values()
    assert receipt.outputs == ((hashes(job.run, "images")["images/11.png.png"], len(other)),)


def test_an_existing_output_with_other_content_is_refused(collection: Collection, job: TranslateRequest) -> None:
    (Path(job.run) / "images").mkdir(parents=True)
    (Path(job.run) / "images/11.png.png").write_bytes(b"something else")
    with pytest.raises(DamagedError, match="there already with other content"):
        translated([collection.photos / "11.png"], job)
    assert (Path(job.run) / "images/11.png.png").read_bytes() == b"something else"


def test_outputs_that_would_be_a_file_and_a_folder_at_once_get_other_paths(
    job: TranslateRequest, tmp_path: Path
) -> None:
    draw(tmp_path / "in/a.jpg", 21)
    draw(tmp_path / "in/a.jpg.png/b.png", 22)
    assert translated([tmp_path / "in"], job).images == 2
    one, two = sorted(output.input_name for output in open_run(job.run).outputs.values())
    assert (one, two) == ("a.jpg", "a.jpg.png/b.png")


def planned(tmp_path: Path, *items: Item) -> tuple[Ledger, list[Unit]]:
    ledger = Ledger(LocalLocation(tmp_path))
    return ledger, [unit for item in items for unit in ledger.plan([item], 8, {}, "0" * 16)]


def test_names_planned_for_two_images_are_name_conflicts(tmp_path: Path) -> None:
    _, units = planned(tmp_path, Item("1" * 16, "/a", "a"), Item("1" * 16, "/b", "b"), Item("2" * 16, "/a", "a"))
    assert find_name_conflicts(units) == {"a"}


def test_the_image_that_was_planned_first_keeps_a_name(tmp_path: Path) -> None:
    ledger, units = planned(tmp_path, Item("1" * 16, "/a", "a"), Item("2" * 16, "/b", "a"))
    assert find_changed(ledger.attempts()) == {(units[-1].id, "a")}


def test_a_file_that_was_changed_before_its_turn_is_not_bound_by_its_earlier_bytes(tmp_path: Path) -> None:
    ledger, _ = planned(tmp_path, Item("1" * 16, "/a", "a"), Item("2" * 16, "/a", "a"))
    assert find_changed(ledger.attempts()) == frozenset()


# ---- rejects, libraries ----------------------------------------------------------------------------------------------


def test_an_unusable_image_costs_one_row_for_each_of_its_names(
    collection: Collection, job: TranslateRequest, tmp_path: Path
) -> None:
    shutil.copytree(collection.photos, tmp_path / "in")
    for name in ("bad.png", "worse.png"):
        (tmp_path / "in" / name).write_bytes(b"no image")
    steps: list[Step] = []
    summary = translated([tmp_path / "in"], job, progress=steps.append)
    assert (summary.images, summary.rejected) == (3, 2)
    assert [Path(uri).name for uri in column(job.run, "rejects", "uri")] == ["bad.png", "worse.png"]
    assert (steps[-1].done, steps[-1].total, steps[-1].rejects) == (5, 5, 2)


def test_a_run_of_rejects_only_has_no_mean(job: TranslateRequest, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"no image")
    summary = translated([tmp_path / "bad.png"], job)
    assert (summary.images, summary.rejected, summary.patches, summary.ncc_mean) == (0, 1, 0, None)


@pytest.mark.parametrize("size", [(1, 1), (3, 90), (90, 3)])
def test_images_smaller_than_a_patch_and_thin_ones_keep_their_shape(
    job: TranslateRequest, tmp_path: Path, size: tuple[int, int]
) -> None:
    translated([draw(tmp_path / "small.png", 1, *size)], job)
    with Image.open(Path(job.run) / "images/small.png.png") as image:
        assert image.size == tuple(max(1, round(side * min(1, SIZE / max(size)))) for side in size)


def test_a_library_of_another_encoder_is_refused(collection: Collection, tmp_path: Path) -> None:
    other = tmp_path / "other.safetensors"
    other.write_bytes(_another_encoder())
    with pytest.raises(
        MismatchError, match=r"was made with encoder 'kt-vgg' [0-9a-f]{16}, these weights are [0-9a-f]{16}"
    ):
        library_encoder(open_library(str(collection.library)), str(other))


def _another_encoder() -> bytes:
    from kt_batch.models.weights import encoder_bytes

    network = load_encoder(EncoderSource()).network
    with torch.no_grad():
        next(network.parameters()).add_(0.5)
    return encoder_bytes(network, "other")


def test_a_missing_index_is_one_sentence(collection: Collection, tmp_path: Path) -> None:
    job = translate_request(collection.library, tmp_path / "run", "0123456789abcdef")
    with pytest.raises(DamagedError, match=r"The index 0123456789abcdef of .* is gone"):
        translated([collection.photos / "11.png"], job)


def test_an_index_of_an_earlier_snapshot_translates_unchanged_and_is_explained(
    collection: Collection, undisturbed: Path, tmp_path: Path
) -> None:
    library = Path(shutil.copytree(collection.library, tmp_path / "library"))
    extracted([draw(tmp_path / "new.png", 9)], library)
    indexed(library)
    job = translate_request(library, tmp_path / "run", collection.index)
    translated([collection.photos], job)
    assert hashes(job.run, "images") == hashes(undisturbed, "images")
    plain = [{name: row[name] for name in row if name != "library"} for row in rows(job.run, "provenance")]
    assert plain == [{name: row[name] for name in row if name != "library"} for row in rows(undisturbed, "provenance")]
    run = open_run(job.run)
    for output in run.outputs.values():
        sources = {i.hex() for i in provenance_of(run, output)["source_image_id"].to_pylist()}
        assert source_images(library_of(run), sources).keys() == sources


def test_a_damaged_tree_and_a_cut_shard_are_one_sentence(collection: Collection, tmp_path: Path) -> None:
    library = Path(shutil.copytree(collection.library, tmp_path / "library"))
    job = translate_request(library, tmp_path / "run", collection.index)
    shard = next((library / "index/shards").iterdir())
    whole = shard.read_bytes()
    shard.unlink()
    shard.write_bytes(whole[:-1])
    with pytest.raises(DamagedError, match=f"has {len(whole) - 1} bytes, not {len(whole)}"):
        translated([collection.photos / "11.png"], job)
    tree = library / f"index/{collection.index}/tree.safetensors"
    content = bytearray(tree.read_bytes())
    content[-1] ^= 1
    tree.unlink()
    tree.write_bytes(bytes(content))
    with pytest.raises(DamagedError, match=r"does not have the content that index.json says"):
        translated([collection.photos / "11.png"], job)


def test_a_translate_without_photographs_is_refused(job: TranslateRequest, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    arguments: Sequence[Path]
    for arguments in ([], [tmp_path / "nowhere"], [tmp_path / "empty"]):
        with pytest.raises(UsageError):
            translated(arguments, job)
    assert not Path(job.run).exists()


def test_a_name_is_cut_to_what_the_file_system_takes(
    job: TranslateRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on an encrypted file system, whose names have at most 143 bytes."""
    monkeypatch.setattr(LocalLocation, "longest_component", lambda _: 143)
    for letter in "bc":
        draw(tmp_path / "x" / f"{'a' * 150}{letter}.png", 21)
    assert translated([tmp_path / "x"], job).images == 2
    assert {len(Path(name).name) for name in hashes(job.run, "images")} == {143}
    assert translated([tmp_path / "x"], job).new_images == 0
