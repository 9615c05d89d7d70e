"""`gc` removes exactly the files that no commit names."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kt_batch.cli.app import app
from kt_batch.cli.exit_codes import run_app
from kt_batch.config import RunOptions
from kt_batch.errors import DamagedError, MissingError, StorageError, UsageError
from kt_batch.maintenance.gc import GcSummary, gc
from kt_batch.maintenance.verify import verify
from kt_batch.pipelines.index.finish import build_index
from kt_batch.pipelines.progress import Step, no_progress
from kt_batch.pipelines.translate import resources
from kt_batch.runners.local import LocalRunner
from kt_batch.store.cache import CachePlace
from kt_batch.store.indexes import read_index_summary
from kt_batch.store.locations import LocalLocation, Location, exists, open_location
from kt_batch.store.names import Names
from tests.support.collection import Collection
from tests.support.s3_server import S3Server, moto_server  # noqa: F401  # the fixture
from tests.support.tiny import TREE, draw, extracted, hashes, indexed, translate_request, translated

SHA = "c0ffee" * 10 + "cafe"
TEMPORARY = f".tmp-{'0' * 24}"
FOREIGN = (  # beside, among and almost what kt_batch writes
    "notes.txt",
    "images/holiday.png",
    "images/11.jpg",
    "patches/part-of-something.parquet",
    "elsewhere/part-0123456789abcdef-0123456789abcdef.parquet",
    "patches/part-0123456789abcdef-0123456789abcdef.parquet",  # of a unit in no plan
    "receipts/0123456789abcdef.json",  # likewise
    "receipts/readme.json",
    "plan/draft.parquet",
    "options/mine.yaml",
    "index/notes/index.json",
    "index/shards/readme",
)


def found_in(place: Path | Location) -> GcSummary:
    return gc(str(place) if isinstance(place, Path) else place.uri, no_progress)


def removed_from(place: Path | Location, *, force: bool = False) -> GcSummary:
    return gc(str(place) if isinstance(place, Path) else place.uri, no_progress, delete=True, force=force)


def names(found: GcSummary) -> set[str]:
    return {orphan.name for orphan in found.orphans}


def put(place: Path, name: str, content: bytes = b"left") -> str:
    (place / name).parent.mkdir(parents=True, exist_ok=True)
    (place / name).write_bytes(content)
    return name


def unit_of(place: Path) -> str:
    return min(path.stem for path in (place / "receipts").iterdir())


@pytest.fixture
def library(collection: Collection, tmp_path: Path) -> Path:
    return Path(shutil.copytree(collection.library, tmp_path / "library"))


@pytest.fixture(scope="module")
def finished_run(collection: Collection, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("finished") / "run"
    translated([collection.photos], translate_request(collection.library, run, collection.index))
    return run


@pytest.fixture
def run(finished_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished_run, tmp_path / "run"))


# ---- what is removed ----


def test_a_place_without_orphans_has_nothing_to_remove(library: Path, run: Path) -> None:
    for place, kind in ((library, "library"), (run, "run")):
        before = hashes(place)
        found = removed_from(place)
        assert (found.kind, found.orphans, found.bytes, found.foreign) == (kind, (), 0, 0)
        assert (found.pending, found.unfinished, found.deleted) == (0, 0, True)
        assert hashes(place) == before


def test_orphaned_parts_are_listed_with_sizes_and_removed_on_request(library: Path) -> None:
    lost = put(library, f"patches/part-{unit_of(library)}-{'0' * 16}.parquet", b"a lost attempt")
    found = found_in(library)
    assert [(orphan.name, orphan.bytes) for orphan in found.orphans] == [(lost, 14)]
    assert (found.bytes, found.deleted) == (14, False)
    assert (library / lost).exists()
    assert removed_from(library).deleted
    assert not (library / lost).exists()
    assert found_in(library).orphans == ()


def test_a_part_of_a_kind_unknown_to_runs_is_foreign_in_a_run(run: Path) -> None:
    put(run, f"patches/part-{unit_of(run)}-{'0' * 16}.parquet")
    lost = put(run, f"provenance/part-{unit_of(run)}-{'0' * 16}.parquet")
    found = removed_from(run)
    assert (names(found), found.foreign) == ({lost}, 1)


def test_the_output_of_an_input_that_is_finally_rejected_is_an_orphan(collection: Collection, tmp_path: Path) -> None:
    """The attempt that wrote it died, and the file was damaged before the next attempt."""
    photo = draw(tmp_path / "in/a.png", 11)
    draw(tmp_path / "in/b.png", 12)
    job = translate_request(collection.library, tmp_path / "run", collection.index)
    translated([tmp_path / "in"], job)
    for receipt in (tmp_path / "run/receipts").iterdir():
        receipt.unlink()
    photo.write_bytes(b"spoilt")
    assert translated([tmp_path / "in"], job).rejected > 0
    found = removed_from(tmp_path / "run")
    assert "images/a.png.png" in names(found)
    assert [path.name for path in (tmp_path / "run/images").iterdir()] == ["b.png.png"]
    assert verify(str(tmp_path / "run"), no_progress).faults == ()


@pytest.mark.parametrize("folder", ["", "patches/", "receipts/", "plan/", "index/shards/"])
def test_temporary_files_of_killed_writers_are_removed_from_every_directory(library: Path, folder: str) -> None:
    left = {put(library, f"{folder}{TEMPORARY}"), put(library, f"{folder}.tmp-{'1' * 24}.parquet")}
    put(library, f"{folder}.tmp-mine")
    assert names(removed_from(library)) == left
    assert (library / folder / ".tmp-mine").exists()


def old_found(place: Path, *, delete: bool = False) -> GcSummary:
    return gc(str(place), no_progress, delete=delete, old_indexes=True)


def test_old_indexes_go_with_the_shards_that_no_other_index_names(library: Path, tmp_path: Path) -> None:
    earlier = {name for name in hashes(library) if name.startswith("index/")}
    extracted([draw(tmp_path / "more/9.png", 9)], library)
    assert old_found(library).orphans == ()  # nothing else can be searched yet
    fresh = build_index(str(library), TREE, RunOptions(threads=1), LocalRunner(), no_progress, fresh=True)
    kept = hashes(library).items() - {(name, sha) for name, sha in hashes(library).items() if name in earlier}
    found = old_found(library)
    assert names(found) == earlier
    assert (found.old_indexes, found.deleted) == ((summary_digest(earlier),), False)
    assert found.orphans[0].name.endswith("index.json")  # no summary names a shard that is gone
    assert old_found(library, delete=True).deleted
    assert hashes(library).items() == kept
    assert verify(str(library), no_progress).faults == ()
    assert read_index_summary(LocalLocation(library), fresh.index)
    assert old_found(library).orphans == ()


def summary_digest(index_files: set[str]) -> str:
    return next(name.split("/")[1] for name in index_files if name.endswith("index.json"))


def test_what_a_present_index_has_grown_from_is_kept_and_earlier_growth_is_not(library: Path, tmp_path: Path) -> None:
    generation = summary_digest(set(hashes(library)))
    (tmp_path / "bad.png").write_bytes(b"no image")
    extracted([tmp_path / "bad.png"], library)
    step = indexed(library)
    extracted([draw(tmp_path / "more/9.png", 9)], library)
    last = indexed(library)
    assert (step.generation, last.generation) == (generation, generation)
    found = old_found(library, delete=True)
    assert found.old_indexes == (step.index,)
    assert names(found) == {
        f"index/{step.index}/{name}"
        for name in ("index.json", "tree.safetensors", "leaves.safetensors", "members.parquet")
    }
    assert verify(str(library), no_progress).faults == ()


def test_a_removal_of_old_indexes_that_was_killed_can_be_repeated(library: Path, tmp_path: Path) -> None:
    extracted([draw(tmp_path / "more/9.png", 9)], library)
    build_index(str(library), TREE, RunOptions(threads=1), LocalRunner(), no_progress, fresh=True)
    first = old_found(library)
    (library / first.orphans[0].name).unlink()
    rest = removed_from(library)
    assert rest.unfinished == 0
    assert names(rest) == {orphan.name for orphan in first.orphans[1:]}


def test_an_open_index_can_be_searched_while_it_is_removed(
    library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resources, "IN_MEMORY_BYTES", 0)  # so that its shards are mapped
    summary = read_index_summary(LocalLocation(library), summary_digest(set(hashes(library))))
    assert summary is not None
    index = resources.open_index(LocalLocation(library), summary, CachePlace(str(tmp_path / "cache")))
    every = torch.arange(index.count)
    before = index.values(every)
    extracted([draw(tmp_path / "more/9.png", 9)], library)
    build_index(str(library), TREE, RunOptions(threads=1), LocalRunner(), no_progress, fresh=True)
    assert old_found(library, delete=True).old_indexes == (summary.digest,)
    assert index.values(every).equal(before)
    index.check_files()


def test_old_indexes_are_those_of_a_library(run: Path) -> None:
    with pytest.raises(UsageError, match=r"has no indexes; --old-indexes is for a knowledge library"):
        old_found(run)
    assert run_app(app, ["gc", "--cache", "--old-indexes"]) == 2


def test_orphaned_shards_are_removed(library: Path) -> None:
    kept = sorted((library / "index/shards").iterdir())
    left = put(library, f"index/shards/{SHA}")
    assert names(removed_from(library)) == {left}
    assert sorted((library / "index/shards").iterdir()) == kept


def test_the_index_of_an_earlier_snapshot_is_kept(library: Path, tmp_path: Path) -> None:
    extracted([draw(tmp_path / "more/9.png", 9)], library)
    indexed(library)
    before = hashes(library)
    assert removed_from(library).orphans == ()
    assert hashes(library) == before


def test_leftovers_of_a_finished_build_are_removed(library: Path, collection: Collection) -> None:
    build = f"index/{collection.index}/build"
    left = {
        put(library, f"{build}/receipts/{'0' * 16}.json"),
        put(library, f"{build}/sample/part-{'0' * 16}-{'0' * 16}.parquet"),
        put(library, f"{build}/routed/{SHA}"),
        put(library, f"{build}/clusters/{SHA}"),
        put(library, f"{build}/top/{SHA}"),
        put(library, f"{build}/subtrees/{SHA}"),
    }
    put(library, f"{build}/mine.txt")
    found = removed_from(library)
    assert (names(found), found.foreign, found.unfinished) == (left, 1, 0)


def test_an_index_with_an_unreadable_summary_is_removed_with_its_shards_and_can_be_rebuilt(
    library: Path, collection: Collection
) -> None:
    before = hashes(library)
    summary = library / f"index/{collection.index}/index.json"
    summary.unlink()
    summary.write_bytes(b'{"format": "kt-ba')
    found = removed_from(library)
    assert names(found) == {name for name in before if name.startswith("index/")}
    assert found.orphans[-1].name.endswith("index.json")  # a removal that is killed is the same removal again
    assert indexed(library).built
    assert hashes(library, "index") == {name: digest for name, digest in before.items() if name.startswith("index/")}


def test_an_index_of_another_version_and_all_shards_are_kept(library: Path, collection: Collection) -> None:
    summary = library / f"index/{collection.index}/index.json"
    content = json.loads(summary.read_bytes()) | {"format": "kt-batch-index/99", "novelty": 1}
    summary.unlink()
    summary.write_text(json.dumps(content))
    put(library, f"index/{collection.index}/build/top/{SHA}")
    before = hashes(library)
    found = removed_from(library)
    assert found.orphans == ()
    assert found.foreign == sum(name.startswith("index/") for name in before)
    assert hashes(library) == before


# ---- what is kept ----


def test_foreign_names_are_counted_and_kept(library: Path, run: Path) -> None:
    for place in (library, run):
        for name in FOREIGN:
            put(place, name)
        before = hashes(place)
        assert (found := removed_from(place)).orphans == ()
        assert found.foreign == len(FOREIGN)
        assert hashes(place) == before


def test_saved_options_and_summaries_are_neither_orphans_nor_foreign(library: Path) -> None:
    put(library, "options/extract-0123abcd.yaml")
    assert (library / "library.json").exists()
    found = removed_from(library)
    assert (found.orphans, found.foreign) == ((), 0)


def test_a_run_without_its_summary_keeps_everything_too(run: Path) -> None:
    (run / "run.json").unlink()
    assert removed_from(run).orphans == ()


@pytest.mark.parametrize("pattern", ["receipts/*.json", "plan/*.parquet"])
def test_nothing_is_removed_if_a_receipt_or_plan_cannot_be_read(run: Path, pattern: str) -> None:
    put(run, TEMPORARY)
    broken = min(run.glob(pattern))
    broken.unlink()
    broken.write_bytes(b"{")
    with pytest.raises(DamagedError):
        removed_from(run, force=True)
    assert (run / TEMPORARY).exists()


# ---- running work ----


def test_files_of_pending_units_are_listed_but_only_force_removes_them(run: Path) -> None:
    unit = unit_of(run)
    (run / f"receipts/{unit}.json").unlink()
    before, found = hashes(run), found_in(run)
    assert found.pending == 1
    assert {name.split("/")[0] for name in names(found)} == {"images", "provenance"}
    with pytest.raises(UsageError, match=r"has 1 pending unit: .* finish the work first, or, .*, add --force\.$"):
        removed_from(run)
    assert hashes(run) == before
    removed_from(run, force=True)
    assert hashes(run).keys() == before.keys() - names(found)


def test_a_unit_committed_during_the_listing_keeps_its_files(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = run / f"receipts/{unit_of(run)}.json"
    receipt = path.read_bytes()
    path.unlink()
    list_names = LocalLocation.list

    def listed_as_the_receipt_is_put(place: LocalLocation, prefix: str = "") -> Names:
        found = list_names(place, prefix)
        if not prefix:
            place.put_if_absent(f"receipts/{path.name}", receipt)
        return found

    monkeypatch.setattr(LocalLocation, "list", listed_as_the_receipt_is_put)
    found = removed_from(run)
    assert (found.orphans, found.pending) == ((), 0)


def test_after_a_forced_removal_unfinished_work_starts_anew(run: Path, collection: Collection) -> None:
    digest = verify(str(run), no_progress).digest
    for receipt in (run / "receipts").iterdir():
        receipt.unlink()
    removed_from(run, force=True)
    translated([collection.photos], translate_request(collection.library, run, collection.index))
    assert verify(str(run), no_progress).digest == digest


def test_removing_an_index_without_a_summary_takes_force(library: Path, collection: Collection) -> None:
    before = hashes(library)
    (library / f"index/{collection.index}/index.json").unlink()
    receipt = put(library, f"index/{collection.index}/build/receipts/{'0' * 16}.json")
    put(library, f"index/{collection.index}/build/members/part-{'0' * 16}-{'0' * 16}.parquet")
    with pytest.raises(UsageError, match="has 1 unfinished index: "):
        removed_from(library)
    found = removed_from(library, force=True)
    assert found.orphans[0].name == receipt  # a build that is gone on with must not believe in what is gone
    assert not [name for name in hashes(library) if name.startswith("index/")]
    assert indexed(library).built
    assert hashes(library) == before


def test_the_refusal_counts_both_kinds_of_unfinished_work(library: Path) -> None:
    for receipt in (library / "receipts").iterdir():
        receipt.unlink()
    for digest in ("0" * 16, "1" * 16):
        put(library, f"index/{digest}/build/top/{SHA}")
    with pytest.raises(UsageError, match="has 2 pending units and 2 unfinished indexes: "):
        removed_from(library)


# ---- failures ----


def test_a_place_that_is_neither_library_nor_run_is_refused(tmp_path: Path) -> None:
    put(tmp_path, TEMPORARY)
    with pytest.raises(MissingError, match="is neither a knowledge library nor a run"):
        removed_from(tmp_path, force=True)
    assert (tmp_path / TEMPORARY).exists()


def test_a_failed_removal_raises_one_sentence_with_its_progress(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = put(library, f"index/shards/{SHA}"), put(library, f"patches/{TEMPORARY}")
    delete = LocalLocation.delete

    def refuse(place: LocalLocation, name: str) -> None:
        if name == second:
            raise StorageError(f"cannot write {name}: Read-only file system")
        delete(place, name)

    monkeypatch.setattr(LocalLocation, "delete", refuse)
    with pytest.raises(StorageError) as caught:
        removed_from(library)
    assert str(caught.value) == (
        f"'{second}' at '{library.as_uri()}' cannot be removed, after 1 of 2 were: "
        f"cannot write {second}: Read-only file system"
    )
    assert not (library / first).exists()


def test_an_already_deleted_orphan_is_not_a_failure(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(library, f"index/shards/{SHA}")
    monkeypatch.setattr(LocalLocation, "size", vanished)
    assert removed_from(library).orphans == ()


def vanished(place: LocalLocation, name: str) -> int:
    raise MissingError(f"nothing lies at {name}")


def test_a_link_out_of_the_place_is_not_followed(library: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    put(outside, f"part-{unit_of(library)}-{'0' * 16}.parquet")
    put(outside, TEMPORARY)
    shutil.rmtree(library / "rejects", ignore_errors=True)
    (library / "rejects").symlink_to(outside)
    assert removed_from(library).orphans == ()
    assert len(list(outside.iterdir())) == 2


# ---- in a bucket ----


def test_removal_in_a_bucket_works_as_in_a_directory(
    run: Path,
    monkeypatch: pytest.MonkeyPatch,
    moto_server: S3Server,  # noqa: F811
) -> None:
    lost = put(run, f"provenance/part-{unit_of(run)}-{'0' * 16}.parquet", b"a lost attempt")
    put(run, "images/holiday.png")
    here, there = open_location(str(run)), moto_server.new_location(monkeypatch)
    for name in here.list():
        there.put_if_absent(name, here.read_bytes(name))
    digest = verify(there.uri, no_progress).digest
    found = found_in(there)
    assert (names(found), found.bytes, found.foreign) == ({lost}, 14, 1)
    assert exists(there, lost)
    assert removed_from(there).orphans == found.orphans
    assert there.list() == [name for name in here.list() if name != lost]
    after = verify(there.uri, no_progress)
    assert (after.digest, after.orphans, after.foreign) == (digest, 0, 1)


# ---- the law ----


@settings(max_examples=12, deadline=None)
@given(
    debris=st.lists(
        st.sampled_from(
            ["provenance/part-{unit}-{hash}.parquet", "rejects/part-{unit}-{hash}.parquet", ".tmp-{hash}" + "0" * 8]
        ),
        max_size=5,
    ),
    strangers=st.lists(st.sampled_from(FOREIGN), max_size=5, unique=True),
    contents=st.binary(max_size=9),
)
def test_a_removal_keeps_the_digest_of_a_run_and_leaves_no_orphan(
    finished_run: Path, debris: Sequence[str], strangers: Sequence[str], contents: bytes
) -> None:
    before = verify(str(finished_run), no_progress)
    with tempfile.TemporaryDirectory() as folder:
        run = Path(shutil.copytree(finished_run, Path(folder) / "run"))
        for number, form in enumerate(debris):
            digest = hashlib.sha256(bytes([number])).hexdigest()[:16]
            put(run, form.format(unit=unit_of(run), hash=digest), contents)
        for name in strangers:
            put(run, name, contents)
        found = removed_from(run)
        assert (len(found.orphans), found.foreign) == (len(debris), len(strangers))
        assert found.bytes == len(contents) * len(debris)
        after = verify(str(run), no_progress)
        assert (after.digest, after.files, after.faults) == (before.digest, before.files, ())
        assert (after.orphans, after.foreign) == (0, len(strangers))
        assert hashes(run).keys() == hashes(finished_run).keys() | set(strangers)


# ---- the command ----


def test_every_removal_advances_the_progress(library: Path) -> None:
    put(library, f"index/shards/{SHA}")
    steps: list[Step] = []
    gc(str(library), steps.append, delete=True)
    assert [(step.done, step.total) for step in steps] == [(0, 1), (1, 1)]


def test_the_command_lists_then_removes_and_reports_both(library: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lost = put(library, f"index/shards/{SHA}")
    put(library, "notes.txt")
    assert run_app(app, ["gc", str(library)]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].endswith(": library, 1 file, 4 bytes: to remove with --delete")
    assert said[1:] == [f"  {lost} (4 bytes)", "  1 file of others: left alone"]
    assert run_app(app, ["verify", str(library)]) == 0
    assert "beside them 1 file that nothing committed names" in capsys.readouterr().out
    assert run_app(app, ["gc", str(library), "--delete", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["orphans"] == [{"name": lost, "bytes": 4}]
    assert (answer["deleted"], answer["bytes"], answer["foreign"]) == (True, 4, 1)
    assert not (library / lost).exists()


def test_the_command_refuses_while_work_is_pending_as_wrong_usage(
    library: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    min((library / "receipts").iterdir()).unlink()
    assert run_app(app, ["gc", str(library)]) == 0
    assert "not finished there: units 1, indexes 0; " in capsys.readouterr().out
    assert run_app(app, ["gc", str(library), "--delete"]) == 2
    assert "has 1 pending unit: " in capsys.readouterr().err
    assert run_app(app, ["gc", str(library), "--delete", "--force"]) == 0
