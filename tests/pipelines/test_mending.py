"""Work interrupted, moved, renamed or damaged half-way recovers or is refused."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from kt_batch.config import EncoderConfig, ExtractConfig
from kt_batch.errors import DamagedError, MismatchError, StorageError, UsageError
from kt_batch.kernels.haar import haar
from kt_batch.pipelines.extract.worker import LARGEST_HALF
from kt_batch.store.locations import LocalLocation
from kt_batch.store.opening import open_library, open_run
from kt_batch.store.run import provenance_of
from kt_batch.store.schemas import from_fixed_binary
from kt_batch.store.scratch import scratch_file
from tests.support.tiny import column, draw, extracted, hashes, indexed, patches, results, translate_request, translated


class Stopped(Exception):
    """A runner that stops after planning, as a killed driver that leaves only a plan."""


class StoppingRunner:
    def run(self, factory: Any, units: Sequence[Any], quarantine: Any = None) -> Iterator[Any]:
        raise Stopped
        yield from ()  # makes it a generator, as runners are

    def hosts(self) -> int:
        return 1


@pytest.fixture
def library(tmp_path: Path) -> tuple[Path, str]:
    """A library of one painting, and its index's digest."""
    draw(tmp_path / "paintings/p.png", 1)
    extracted([tmp_path / "paintings"], tmp_path / "library")
    return tmp_path / "library", indexed(tmp_path / "library").index


def test_an_image_renamed_before_its_unit_is_read_under_its_new_name(tmp_path: Path) -> None:
    old = draw(tmp_path / "in/one.png", 1)
    with pytest.raises(Stopped):
        extracted([tmp_path / "in"], tmp_path / "library", StoppingRunner())
    old.rename(tmp_path / "in/two.png")
    summary = extracted([tmp_path / "in"], tmp_path / "library")
    assert summary.rejected == 0
    assert len(patches(tmp_path / "library")) == summary.patches > 0


def test_a_missing_image_is_extracted_when_it_returns_under_another_name(tmp_path: Path) -> None:
    old = draw(tmp_path / "in/one.png", 1)
    draw(tmp_path / "in/other.png", 2)
    with pytest.raises(Stopped):
        extracted([tmp_path / "in"], tmp_path / "library", StoppingRunner())
    old.rename(tmp_path / "away.png")
    assert extracted([tmp_path / "in"], tmp_path / "library").rejected == 1
    (tmp_path / "away.png").rename(tmp_path / "in/two.png")
    assert extracted([tmp_path / "in"], tmp_path / "library").images == 2
    found = patches(tmp_path / "library")["patch_id"].to_pylist()
    assert len(found) == len(set(found))
    assert len(column(tmp_path / "library", "images", "image_id")) == 2


def test_a_name_planned_for_a_pending_file_is_not_given_to_another(library: tuple[Path, str], tmp_path: Path) -> None:
    draw(tmp_path / "a/photo.png", 3)
    draw(tmp_path / "b/photo.png", 4)
    job = translate_request(library[0], tmp_path / "run", library[1])
    with pytest.raises(Stopped):
        translated([tmp_path / "a"], job, StoppingRunner())
    summary = translated([tmp_path / "b"], job)
    assert (summary.images, [(each.uri, each.reason) for each in summary.rejects]) == (
        1,
        [(str(tmp_path / "b/photo.png"), "changed")],
    )


@pytest.mark.parametrize("folder", ["photos", "my photos", "Fotos München", "100%25", "a#b?c"])
def test_a_run_inside_its_own_input_folder_does_not_translate_its_outputs(
    library: tuple[Path, str], tmp_path: Path, folder: str
) -> None:
    draw(tmp_path / folder / "photo.png", 3)
    job = translate_request(library[0], tmp_path / folder / "run", library[1], cache=str(tmp_path / "cache"))
    assert translated([tmp_path / folder], job).images == 1
    again = translated([tmp_path / folder], job)
    assert (again.images, again.new_images, again.new_rejected) == (1, 0, 0)


def test_a_leftover_tree_of_another_build_is_replaced_before_the_commit(
    library: tuple[Path, str], tmp_path: Path
) -> None:
    draw(tmp_path / "photos/photo.png", 3)
    translated([tmp_path / "photos"], translate_request(library[0], tmp_path / "before", library[1]))
    folder = library[0] / "index" / library[1]
    (folder / "index.json").unlink()
    for name in ("tree.safetensors", "members.parquet"):
        data = bytearray((folder / name).read_bytes())
        data[-1] ^= 1
        (folder / name).write_bytes(data)
    assert indexed(library[0]).built
    translated([tmp_path / "photos"], translate_request(library[0], tmp_path / "after", library[1]))
    assert results(tmp_path / "after")[0] == results(tmp_path / "before")[0]


def test_a_run_is_not_accepted_as_a_library_nor_a_library_as_a_run(library: tuple[Path, str], tmp_path: Path) -> None:
    draw(tmp_path / "photos/photo.png", 3)
    translated([tmp_path / "photos"], translate_request(library[0], tmp_path / "run", library[1]))
    with pytest.raises(MismatchError, match="is a run; name a knowledge library"):
        open_library(str(tmp_path / "run"))
    with pytest.raises(UsageError, match="is a knowledge library"):
        open_run(str(library[0]))


def test_a_copied_library_has_the_same_digest(library: tuple[Path, str], tmp_path: Path) -> None:
    shutil.copytree(library[0], tmp_path / "copy")
    assert open_library(str(tmp_path / "copy")).committed.snapshot == open_library(str(library[0])).committed.snapshot


def test_an_option_at_its_default_does_not_change_the_digest() -> None:
    config = ExtractConfig(encoder=EncoderConfig(weights_sha256="0" * 64), stride=2)
    text = '{"encoder":{"weights_sha256":"' + "0" * 64 + '"},"stride":2}'
    assert config.digest() == hashlib.sha256(text.encode()).hexdigest()[:16]


def test_a_truncated_provenance_part_is_damaged(library: tuple[Path, str], tmp_path: Path) -> None:
    draw(tmp_path / "photos/photo.png", 3)
    translated([tmp_path / "photos"], translate_request(library[0], tmp_path / "run", library[1]))
    run = open_run(str(tmp_path / "run"))
    (output,) = run.outputs.values()
    part = tmp_path / "run" / output.part.name
    part.write_bytes(part.read_bytes()[:-40])
    with pytest.raises(DamagedError, match=r"has \d+ bytes, but its receipt says \d+"):
        provenance_of(run, output)


def test_features_too_large_for_a_float16_band_are_clamped() -> None:
    cells = torch.full((1, 4, 2), LARGEST_HALF).half()
    assert torch.isfinite(haar(cells.float()).half()).all()
    assert not torch.isfinite(haar((2 * cells).float()).half()).all()


def test_features_far_below_zero_are_clamped_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A code may have any sign.
    features = {"relu3_1": torch.tensor([-1e6, 1e6]).expand(1, 2, 2)}
    monkeypatch.setattr("kt_batch.pipelines.extract.worker.encode_layers", lambda *_: features)
    extracted([draw(tmp_path / "in/1.png", 1)], tmp_path / "library")
    vectors = from_fixed_binary(patches(tmp_path / "library")["vector"], "<f2", (4,))
    assert vectors.tolist() == [[-LARGEST_HALF, LARGEST_HALF, -LARGEST_HALF, LARGEST_HALF]]


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_a_library_with_patches_that_are_not_finite_is_refused_by_index_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    # Written by hand, since `extract` clamps such values.
    features = torch.rand(2, 9, 9)
    features[1, 4, 4] = value
    monkeypatch.setattr("kt_batch.pipelines.extract.worker.encode_layers", lambda *_: {"relu3_1": features})
    monkeypatch.setattr("kt_batch.pipelines.extract.worker.LARGEST_HALF", torch.inf)
    extracted([draw(tmp_path / "in/1.png", 1)], tmp_path / "library")
    (part,) = [name for name in hashes(tmp_path / "library") if name.startswith("patches/")]
    with pytest.raises(DamagedError, match=rf"^'{part}' at '.*/library' holds patches with NaN or infinity; .*\.$"):
        indexed(tmp_path / "library")


def test_an_unwritable_place_is_one_sentence(tmp_path: Path) -> None:
    with (
        pytest.raises(StorageError, match="cannot write"),
        scratch_file(LocalLocation(tmp_path), ".shard") as path,
    ):
        (path / "below a file").write_bytes(b"")
