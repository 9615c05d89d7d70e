"""A library does not depend on the unit size, the order or interruptions of extract."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from kt_batch.config import ExtractConfig, RunOptions
from kt_batch.errors import KtBatchError, MismatchError, Reason, StorageError, UsageError
from kt_batch.kernels.patches import unfold
from kt_batch.methods.features import encode, to_tensor
from kt_batch.models.weights import EncoderSource, load_encoder
from kt_batch.pipelines.extract.plan import disk_estimate, find_owned_by_other_units, image_owners, images_to_do
from kt_batch.pipelines.progress import Step
from kt_batch.store.images.files import decode, image_id, pad_to
from kt_batch.store.local import LocalLocation
from kt_batch.store.plans import Item
from kt_batch.store.schemas import from_fixed_binary
from kt_batch.store.units import Ledger
from tests.support.collection import PATCHES, Collection, Meddler, Recorder
from tests.support.tiny import SIZE, column, draw, draw_all, encoder_config, extracted, hashes, parts, patches, rows


def names(recorder: Recorder) -> list[str]:
    return sorted(item.name for unit in recorder.units for item in unit.items)


# ---- output ----------------------------------------------------------------------------------------------------------


def test_a_library_contains_every_patch_of_every_image(collection: Collection) -> None:
    table = patches(collection.library)
    assert table.num_rows == 4 * PATCHES
    ids = {image_id(path.read_bytes()) for path in collection.paintings.iterdir()}
    assert {value.hex() for value in table["image_id"].to_pylist()} == ids
    assert len(set(table["patch_id"].to_pylist())) == table.num_rows
    assert (max(table["row"].to_pylist()), max(table["col"].to_pylist())) == (11, 14)
    images = rows(collection.library, "images")
    assert {(row["width"], row["height"], row["original_width"], row["original_height"]) for row in images} == {
        (64, 50, 72, 56)
    }


def test_a_stored_vector_is_the_encoder_output_at_its_row_and_column(collection: Collection) -> None:
    network = load_encoder(EncoderSource()).network
    data = (collection.paintings / "2.png").read_bytes()
    features = encode(network, to_tensor(pad_to(decode(data, SIZE).pixels, 4)), "relu3_1")
    table = patches(collection.library)
    here = table.filter([value.hex() == image_id(data) for value in table["image_id"].to_pylist()])
    rows_, cols = (torch.from_numpy(here[name].to_numpy().astype(np.int64)) for name in ("row", "col"))
    stored = from_fixed_binary(here["vector"], "<f2", (4, features.shape[0]))
    assert np.array_equal(stored, unfold(features.half(), rows_, cols).numpy())


def test_a_patch_id_encodes_image_row_and_column(collection: Collection) -> None:
    for row in patches(collection.library).select(["patch_id", "image_id", "row", "col"]).to_pylist():
        assert row["patch_id"] == row["image_id"] + row["row"].to_bytes(2, "big") + row["col"].to_bytes(2, "big")


def test_a_sample_of_patches_is_a_reproducible_subset(collection: Collection, tmp_path: Path) -> None:
    for place in ("a", "b"):
        extracted([collection.paintings], tmp_path / place, max_patches=20, seed=3)
    assert patches(tmp_path / "a") == patches(tmp_path / "b")
    some = set(column(tmp_path / "a", "patches", "patch_id"))
    assert len(some) == 4 * 20
    assert some < set(column(collection.library, "patches", "patch_id"))
    extracted([collection.paintings], tmp_path / "c", max_patches=20, seed=4)
    assert set(column(tmp_path / "c", "patches", "patch_id")) != some


def test_a_stride_takes_every_second_patch(collection: Collection, tmp_path: Path) -> None:
    extracted([collection.paintings / "1.png"], tmp_path / "library", stride=2)
    found = patches(tmp_path / "library")
    assert set(found["row"].to_pylist()) == {0, 2, 4, 6, 8, 10}
    assert set(found["col"].to_pylist()) == {0, 2, 4, 6, 8, 10, 12, 14}


@pytest.mark.parametrize("unit_size", [1, 3, 8])
def test_rows_do_not_depend_on_the_unit_size(collection: Collection, tmp_path: Path, unit_size: int) -> None:
    extracted([collection.paintings], tmp_path / "library", options=RunOptions(threads=1, unit_size=unit_size))
    assert len(parts(tmp_path / "library", "patches")) == {1: 4, 3: 2, 8: 1}[unit_size]
    assert patches(tmp_path / "library") == patches(collection.library)
    assert rows(tmp_path / "library", "images") == rows(collection.library, "images")


def test_part_files_of_equal_unit_size_have_the_same_bytes_in_any_order(collection: Collection, tmp_path: Path) -> None:
    backwards = sorted(collection.paintings.iterdir(), reverse=True)
    extracted(backwards, tmp_path / "library")
    kinds = ("images", "patches")
    assert [hashes(tmp_path / "library", kind) for kind in kinds] == [
        hashes(collection.library, kind) for kind in kinds
    ]
    assert (tmp_path / "library/library.json").read_bytes() == (collection.library / "library.json").read_bytes()


def test_the_summary_counts_the_whole_library_and_the_new_images(collection: Collection, tmp_path: Path) -> None:
    images = sorted(collection.paintings.iterdir())
    first = extracted(images[:1], tmp_path / "library")
    assert (first.images, first.new_images, first.patches, first.rejected) == (1, 1, PATCHES, 0)
    both = extracted(images, tmp_path / "library")
    assert (both.images, both.new_images, both.patches) == (4, 3, 4 * PATCHES)
    summary = json.loads((tmp_path / "library/library.json").read_text())
    assert (summary["images"], summary["patches"], summary["rejects"]) == (4, 4 * PATCHES, 0)


# ---- continuing ------------------------------------------------------------------------------------------------------


def test_a_second_extract_does_nothing(collection: Collection, tmp_path: Path) -> None:
    library = shutil.copytree(collection.library, tmp_path / "library")
    before, recorder = hashes(library), Recorder()
    again = extracted([collection.paintings], library, recorder)
    assert recorder.units == []
    assert (again.images, again.new_images, again.new_rejected) == (4, 0, 0)
    assert hashes(library) == before


def test_adding_images_does_not_redo_finished_ones(collection: Collection, tmp_path: Path) -> None:
    library = shutil.copytree(collection.library, tmp_path / "library")
    before, recorder = hashes(library), Recorder()
    draw_all(tmp_path / "more", [1, 5])  # 1.png is in the library already
    shutil.copytree(collection.paintings, tmp_path / "more", dirs_exist_ok=True)
    extracted([tmp_path / "more"], library, recorder)
    assert names(recorder) == ["5.png"]
    after = hashes(library)
    changed = {name for name in before if after[name] != before[name]}
    assert changed == {"library.json"}
    assert patches(library).num_rows == 5 * PATCHES


def test_after_a_worker_failure_only_the_remaining_units_are_done(collection: Collection, tmp_path: Path) -> None:
    library = tmp_path / "library"
    with pytest.raises(ZeroDivisionError):
        extracted([collection.paintings], library, Recorder(stop_at=1))
    assert not (library / "library.json").exists()
    recorder = Recorder()
    summary = extracted([collection.paintings], library, recorder)
    assert (len(recorder.units), summary.images, summary.new_images) == (1, 4, 2)
    assert patches(library) == patches(collection.library)


def test_an_extract_of_one_image_finishes_pending_units_of_another(collection: Collection, tmp_path: Path) -> None:
    library = tmp_path / "library"
    with pytest.raises(ZeroDivisionError):
        extracted([collection.paintings], library, Recorder(stop_at=0))
    assert extracted([collection.paintings / "1.png"], library).images == 4


def test_other_options_are_refused_with_both_digests(collection: Collection, tmp_path: Path) -> None:
    library = shutil.copytree(collection.library, tmp_path / "library")
    before = hashes(library)
    with pytest.raises(
        MismatchError, match=r"digest [0-9a-f]{16}, this job has [0-9a-f]{16}.* stride \(1 there, 2 here"
    ):
        extracted([collection.paintings], library, stride=2)
    with pytest.raises(MismatchError, match=r"encoder.size \(64 there, 48 here\)"):
        extracted([collection.paintings], library, encoder=encoder_config(48))
    assert hashes(library) == before


# ---- one image under two names ---------------------------------------------------------------------------------------


def test_equal_bytes_under_two_names_are_one_image_with_two_uris(tmp_path: Path) -> None:
    draw(tmp_path / "in/a.png", 1)
    shutil.copy(tmp_path / "in/a.png", tmp_path / "in/b.png")
    extracted([tmp_path / "in"], tmp_path / "library")
    (image,) = rows(tmp_path / "library", "images")
    assert image["uris"] == [str(tmp_path / "in/a.png"), str(tmp_path / "in/b.png")]
    assert patches(tmp_path / "library").num_rows == PATCHES


def test_a_second_name_listed_later_is_not_extracted_again(tmp_path: Path) -> None:
    draw(tmp_path / "in/a.png", 1)
    extracted([tmp_path / "in"], tmp_path / "library")
    shutil.copy(tmp_path / "in/a.png", tmp_path / "in/b.png")
    steps: list[Step] = []
    summary = extracted([tmp_path / "in"], tmp_path / "library", progress=steps.append)
    assert (summary.images, summary.new_images, summary.patches) == (1, 0, PATCHES)
    assert len(set(column(tmp_path / "library", "patches", "patch_id"))) == PATCHES
    assert (steps[-1].done, steps[-1].total) == (1, 1)


def test_an_unusable_image_is_a_reject_under_every_name_even_a_later_one(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / "in" / name).write_bytes(b"no image")
    assert extracted([tmp_path / "in"], tmp_path / "library").rejected == 2
    (tmp_path / "in/c.png").write_bytes(b"no image")
    assert extracted([tmp_path / "in"], tmp_path / "library").rejected == 3
    assert [Path(uri).name for uri in column(tmp_path / "library", "rejects", "uri")] == ["a.png", "b.png", "c.png"]


def test_units_know_which_images_belong_to_another_unit(tmp_path: Path) -> None:
    ledger = Ledger(LocalLocation(tmp_path))
    one, two = Item("0" * 16, "/a", "a"), Item("0" * 16, "/b", "b")
    other = Item("1" * 16, "/c", "c")
    ledger.plan([one], 8, {}, "0" * 16)
    assert images_to_do(ledger, [one, two, other]) == 2
    first, second = ledger.plan([two, other], 8, {}, "0" * 16)
    assert find_owned_by_other_units([first, second], image_owners(ledger)) == {(second.id, "0" * 16)}


# ---- rejects and refusals --------------------------------------------------------------------------------------------


def test_an_unusable_image_costs_one_row_and_nothing_else(collection: Collection, tmp_path: Path) -> None:
    shutil.copytree(collection.paintings, tmp_path / "in")
    (tmp_path / "in/bad.png").write_bytes(b"no image")
    summary = extracted([tmp_path / "in"], tmp_path / "library")
    assert (summary.images, summary.rejected) == (4, 1)
    (reject,) = rows(tmp_path / "library", "rejects")
    assert (Path(reject["uri"]).name, reject["stage"], reject["reason"]) == ("bad.png", "decode", Reason.NOT_AN_IMAGE)
    assert patches(tmp_path / "library") == patches(collection.library)


def test_a_file_changed_after_planning_is_rejected_and_extracted_by_the_next_command(tmp_path: Path) -> None:
    path = draw(tmp_path / "in/a.png", 1)
    summary = extracted([tmp_path / "in"], tmp_path / "library", Meddler(lambda: draw(path, 2)))
    assert (summary.images, summary.rejected) == (0, 1)
    assert column(tmp_path / "library", "rejects", "reason") == [Reason.CHANGED]
    again = extracted([tmp_path / "in"], tmp_path / "library")
    assert (again.images, again.new_images, again.patches) == (1, 1, PATCHES)


def test_a_file_that_vanished_is_rejected(tmp_path: Path) -> None:
    path = draw(tmp_path / "in/a.png", 1)
    extracted([tmp_path / "in"], tmp_path / "library", Meddler(path.unlink))
    assert column(tmp_path / "library", "rejects", "reason") == [Reason.UNREADABLE]


def test_a_dangling_link_is_rejected_as_unreadable(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.png").symlink_to(tmp_path / "nowhere")
    assert extracted([tmp_path / "in"], tmp_path / "library").rejected == 1
    assert column(tmp_path / "library", "rejects", "reason") == [Reason.UNREADABLE]


def test_too_little_space_is_one_sentence_before_any_write(
    collection: Collection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LocalLocation, "free_bytes", lambda self: 100_000)
    with pytest.raises(StorageError, match=r"needs up to \d+\.\d MB more at '.*', where 0\.1 MB are free\.$"):
        extracted([collection.paintings], tmp_path / "library")
    assert not (tmp_path / "library").exists()


def test_the_estimated_size_of_a_library_is_reported_before_the_work(collection: Collection, tmp_path: Path) -> None:
    steps: list[Step] = []
    extracted([collection.paintings], tmp_path / "library", progress=steps.append)
    (note,) = [step.note for step in steps if step.note]
    assert note.startswith("The library will take up to ")
    again: list[Step] = []
    extracted([collection.paintings], tmp_path / "library", progress=again.append)
    assert not any(step.note for step in again)


def test_the_estimate_exceeds_the_size_of_the_library(collection: Collection) -> None:
    estimate = disk_estimate(4, ExtractConfig(encoder=encoder_config()), EncoderSource())
    assert sum(part.bytes for part in parts(collection.library, "patches")) < estimate
    assert disk_estimate(0, ExtractConfig(encoder=encoder_config()), EncoderSource()) == 0


def test_an_extract_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        extracted([], tmp_path / "library")
    with pytest.raises(UsageError, match="does not exist"):
        extracted([tmp_path / "nowhere"], tmp_path / "library")
    assert not (tmp_path / "library").exists()


@pytest.mark.usefixtures("threads")
def test_units_of_another_numerics_class_are_not_mixed_by_default(collection: Collection, tmp_path: Path) -> None:
    library = tmp_path / "library"
    images = sorted(collection.paintings.iterdir())
    extracted(images[:1], library)
    with pytest.raises(MismatchError, match=r"threads 1 -> 2.*--mix-numerics"):
        extracted(images, library, options=RunOptions(threads=2))
    mixed = extracted(images, library, options=RunOptions(threads=2, mix_numerics=True))
    assert mixed.images == 4


def test_a_library_in_an_unwritable_place_is_one_sentence(collection: Collection, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(KtBatchError, match="cannot write"):
        extracted([collection.paintings], tmp_path / "file" / "library")
