"""`verify` detects missing and damaged files; its digest depends only on content."""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow as pa
import pytest

from kt_batch.config import RunOptions
from kt_batch.errors import MissingError
from kt_batch.maintenance.verify import VerifySummary, rows_digest, verify
from kt_batch.pipelines.progress import Step, no_progress
from tests.support.collection import Collection, Recorder
from tests.support.tiny import extracted, translate_request, translated

TABLE = pa.table({"name": ["a", "b", "a"], "count": pa.array([1, 2, 1], pa.uint16())})


def check(place: Path) -> VerifySummary:
    return verify(str(place), no_progress)


@pytest.fixture
def run(collection: Collection, tmp_path: Path) -> Path:
    translated([collection.photos], translate_request(collection.library, tmp_path / "run", collection.index))
    return tmp_path / "run"


@pytest.fixture
def library(collection: Collection, tmp_path: Path) -> Path:
    return Path(shutil.copytree(collection.library, tmp_path / "library"))


def damage(path: Path) -> None:
    """Flip one bit in the middle of a file without changing its size."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.unlink()
    path.write_bytes(bytes(data))


# ---- the digest ----


def test_the_digest_depends_on_the_multiplicity_of_rows_but_not_on_their_order() -> None:
    assert rows_digest("x", TABLE) == rows_digest("x", TABLE.take([2, 1, 0]))
    assert rows_digest("x", TABLE) != rows_digest("x", TABLE.take([0, 1]))


def test_a_table_in_two_parts_has_the_sum_of_their_digests() -> None:
    parts = rows_digest("x", TABLE.slice(0, 1)) + rows_digest("x", TABLE.slice(1))
    assert rows_digest("x", TABLE) == parts % (1 << 256)


def test_equal_rows_of_different_kinds_have_different_digests() -> None:
    assert rows_digest("images", TABLE) != rows_digest("rejects", TABLE)


def test_moving_a_value_to_the_next_column_changes_the_digest() -> None:
    assert rows_digest("x", pa.table({"a": ["ab"], "b": ["c"]})) != rows_digest(
        "x", pa.table({"a": ["a"], "b": ["bc"]})
    )


def test_a_dictionary_column_is_hashed_by_its_values() -> None:
    encoded = TABLE.set_column(0, "name", TABLE["name"].dictionary_encode())
    assert rows_digest("x", encoded) == rows_digest("x", TABLE)


@pytest.mark.parametrize("unit_size", [1, 3, 64])
def test_a_library_has_the_same_digest_for_any_unit_size(
    collection: Collection, tmp_path: Path, unit_size: int
) -> None:
    extracted([collection.paintings], tmp_path / "again", options=RunOptions(threads=1, unit_size=unit_size))
    assert check(tmp_path / "again").digest == check(collection.library).digest


def test_an_interrupted_and_continued_run_has_the_digest_of_an_undisturbed_run(
    collection: Collection, run: Path, tmp_path: Path
) -> None:
    job = translate_request(collection.library, tmp_path / "stopped", collection.index)
    with pytest.raises(ZeroDivisionError):
        translated([collection.photos], job, Recorder(stop_at=1), unit_size=1)
    half = check(tmp_path / "stopped")
    assert half.pending > 0
    assert half.digest != check(run).digest
    translated([collection.photos], job, unit_size=1)
    assert check(tmp_path / "stopped").digest == check(run).digest


def test_different_options_have_different_digests(collection: Collection, run: Path, tmp_path: Path) -> None:
    job = translate_request(collection.library, tmp_path / "other", collection.index, alpha=0.5)
    translated([collection.photos], job)
    assert check(tmp_path / "other").digest != check(run).digest


# ---- faults ----


def test_intact_places_have_no_faults(run: Path, library: Path) -> None:
    steps: list[Step] = []
    found = verify(str(run), steps.append)
    assert (found.kind, found.faults, found.pending) == ("run", (), 0)
    assert found.digest is not None
    assert steps[-1].done == steps[-1].total == found.files
    assert check(library).kind == "library"
    assert check(library).faults == ()


@pytest.mark.parametrize("pattern", ["images/*.png", "provenance/*.parquet"])
def test_a_flipped_bit_in_a_run_is_detected(run: Path, pattern: str) -> None:
    broken = min(run.glob(pattern))
    damage(broken)
    found = check(run)
    assert len(found.faults) == 1
    assert broken.name in found.faults[0]
    assert found.digest is None


@pytest.mark.parametrize("pattern", ["images/*.png", "provenance/*.parquet"])
def test_a_file_missing_from_a_run_is_detected(run: Path, pattern: str) -> None:
    gone = min(run.glob(pattern))
    gone.unlink()
    assert gone.name in check(run).faults[0]


@pytest.mark.parametrize(
    "pattern", ["patches/*.parquet", "index/shards/*", "index/*/tree.safetensors", "index/*/leaves.safetensors"]
)
def test_a_flipped_bit_in_a_library_or_its_index_is_detected(library: Path, pattern: str) -> None:
    damage(min(library.glob(pattern)))
    assert len(check(library).faults) == 1


def test_files_without_a_receipt_are_counted_and_are_not_faults(run: Path, library: Path) -> None:
    before = check(run)
    assert (before.orphans, before.foreign) == (0, 0)
    (run / "images" / "stranger.png").write_bytes(b"not ours")
    (run / "provenance" / f".tmp-{'0' * 24}").write_bytes(b"half")
    found = check(run)
    assert (found.faults, found.orphans, found.foreign, found.digest) == ((), 1, 1, before.digest)
    assert (check(library).orphans, check(library).foreign) == (0, 0)


def test_files_of_an_interrupted_attempt_are_orphans_until_its_unit_is_done(
    run: Path, collection: Collection, tmp_path: Path
) -> None:
    receipt = min((run / "receipts").iterdir())
    receipt.unlink()
    found = check(run)
    assert (found.pending, found.faults, found.foreign) == (1, (), 0)
    assert found.orphans > 1  # images and their provenance
    translated([collection.photos], translate_request(collection.library, run, collection.index))
    assert check(run).orphans == 0


def test_a_place_that_is_neither_library_nor_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="is neither a knowledge library nor a run"):
        check(tmp_path)
