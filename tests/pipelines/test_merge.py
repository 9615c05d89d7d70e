"""`merge` joins libraries without encoding again: what the new one holds, and what it refuses."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kt_batch.config import RunOptions
from kt_batch.errors import KtBatchError, MismatchError, MissingError, StorageError, UsageError
from kt_batch.maintenance.gc import gc
from kt_batch.maintenance.verify import verify
from kt_batch.pipelines.merge.finish import MergeRequest, MergeSummary, merge
from kt_batch.pipelines.progress import Step, no_progress
from kt_batch.store.locations import open_location
from kt_batch.store.opening import open_library
from kt_batch.store.units import Ledger
from kt_batch.store.working import WorkingImages
from tests.support.tiny import draw, draw_all, extracted, hashes, indexed, parts, patches, rows, translate_request
from tests.support.tiny import translated as translated_run


def merged(libraries: Sequence[Path], into: Path, *, mix: bool = False) -> MergeSummary:
    return merge(MergeRequest([str(each) for each in libraries], str(into), mix), no_progress)


def digest(place: Path) -> str | None:
    found = verify(str(place), no_progress)
    assert (found.faults, found.pending, found.orphans, found.foreign) == ((), 0, 0, 0)
    return found.digest


def content(place: Path) -> dict[str, str]:
    """Return the hashes of all files but receipts, whose attempts and times differ."""
    return {name: sha256 for name, sha256 in hashes(place).items() if not name.startswith("receipts/")}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders a and b that share one painting and a broken file, and a library of each and of both.

    a: paintings 1, 2 and 3. b: 3 (under another name), 4 and 5. none: a folder of rejects alone.
    """
    root = tmp_path_factory.mktemp("merge")
    draw_all(root / "a", [1, 2, 3])
    draw_all(root / "b", [4, 5])
    draw(root / "b/again.png", 3)
    draw_all(root / "c", [6])
    (root / "none").mkdir()
    for name in ("a/bad-a.png", "b/bad-b.png", "none/bad.png"):
        (root / name).write_bytes(f"no image {name}".encode())
    for name in ("a", "b", "c", "none"):
        extracted([root / name], root / f"{name}.lib", keep_images=True)
    extracted([root / "a", root / "b"], root / "both.lib", keep_images=True)
    extracted([root / "a", root / "c"], root / "a+c.lib", keep_images=True)
    return root


def test_a_merge_has_the_digest_of_a_library_of_all_folders(root: Path, tmp_path: Path) -> None:
    before = hashes(root / "a.lib"), hashes(root / "b.lib")
    summary = merged([root / "a.lib", root / "b.lib"], tmp_path / "new")
    assert (summary.images, summary.shared, summary.rejected) == (5, 1, 2)
    assert digest(tmp_path / "new") == digest(root / "both.lib")
    assert patches(tmp_path / "new").equals(patches(root / "both.lib"))
    assert before == (hashes(root / "a.lib"), hashes(root / "b.lib"))


def test_parts_of_libraries_that_share_no_image_are_copied_as_they_are(root: Path, tmp_path: Path) -> None:
    merged([root / "a.lib", root / "c.lib"], tmp_path / "new")
    sources = [
        ref
        for name in ("a.lib", "c.lib")
        for kind in ("images", "patches", "working")
        for ref in parts(root / name, kind)
    ]
    taken = [ref for kind in ("images", "patches", "working") for ref in parts(tmp_path / "new", kind)]
    assert sorted(ref.sha256 for ref in taken) == sorted(ref.sha256 for ref in sources)
    assert digest(tmp_path / "new") == digest(root / "a+c.lib")


def test_the_index_of_a_merge_is_that_of_a_library_of_all_folders(root: Path, tmp_path: Path) -> None:
    merged([root / "a.lib", root / "b.lib"], tmp_path / "new")
    shutil.copytree(root / "both.lib", tmp_path / "both")
    one, other = indexed(tmp_path / "new"), indexed(tmp_path / "both")
    name = "index/{}/tree.safetensors"
    trees = [hashes(tmp_path / place)[name.format(built.index)] for place, built in (("new", one), ("both", other))]
    assert trees[0] == trees[1]
    assert hashes(tmp_path / "new", "index/shards") == hashes(tmp_path / "both", "index/shards")
    draw(tmp_path / "photo.png", 11)
    runs = []
    for place, built in (("new", one), ("both", other)):
        request = translate_request(tmp_path / place, tmp_path / f"{place}.run", built.index)
        translated_run([tmp_path / "photo.png"], request)
        runs.append(hashes(tmp_path / f"{place}.run", "images"))
    assert runs[0] == runs[1] != {}


def test_a_merge_does_not_depend_on_anything_but_libraries_and_their_order(root: Path, tmp_path: Path) -> None:
    for name in ("one", "other"):
        merged([root / "b.lib", root / "none.lib", root / "a.lib"], tmp_path / name)
    assert content(tmp_path / "one") == content(tmp_path / "other")
    extracted([root / "b", root / "none", root / "a"], tmp_path / "at once", keep_images=True)
    assert digest(tmp_path / "one") == digest(tmp_path / "at once")


def test_of_equal_libraries_the_first_gives_everything(root: Path, tmp_path: Path) -> None:
    shutil.copytree(root / "a.lib", tmp_path / "copy")
    summary = merged([root / "a.lib", tmp_path / "copy"], tmp_path / "new")
    assert (summary.images, summary.shared, summary.rejected) == (3, 3, 1)
    assert digest(tmp_path / "new") == digest(root / "a.lib")
    assert content(tmp_path / "new") == content(root / "a.lib")


def test_a_library_with_rejects_alone_gives_its_rejects(root: Path, tmp_path: Path) -> None:
    summary = merged([root / "none.lib", root / "c.lib"], tmp_path / "new")
    assert (summary.images, summary.rejected) == (1, 1)
    assert [row["uri"] for row in rows(tmp_path / "new", "rejects")] == [str(root / "none/bad.png")]
    both = merged([root / "none.lib", Path(shutil.copytree(root / "none.lib", tmp_path / "n"))], tmp_path / "rejects")
    assert (both.images, both.rejected) == (0, 1)
    assert digest(tmp_path / "rejects") == digest(root / "none.lib")


def test_a_reject_is_gone_where_another_library_has_the_image(root: Path, tmp_path: Path) -> None:
    mended = tmp_path / "pictures/bad.png"
    mended.parent.mkdir()
    mended.write_bytes(b"no image")
    extracted([mended.parent], tmp_path / "bad.lib", keep_images=True)
    draw(mended, 7)
    extracted([mended.parent], tmp_path / "good.lib", keep_images=True)
    for number, order in enumerate((("bad.lib", "good.lib"), ("good.lib", "bad.lib"))):
        summary = merged([tmp_path / name for name in order], tmp_path / f"new{number}")
        assert (summary.images, summary.rejected) == (1, 0)
        assert digest(tmp_path / f"new{number}") == digest(tmp_path / "good.lib")


def test_a_reject_that_was_mended_in_its_own_library_stays_superseded(root: Path, tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures/bad.png").write_bytes(b"no image")
    extracted([tmp_path / "pictures"], tmp_path / "mended", keep_images=True)
    draw(tmp_path / "pictures/bad.png", 7)
    assert extracted([tmp_path / "pictures"], tmp_path / "mended", keep_images=True).rejected == 0
    summary = merged([root / "none.lib", tmp_path / "mended"], tmp_path / "new")
    assert (summary.images, summary.rejected) == (1, 1)
    assert [row["uri"] for row in rows(tmp_path / "new", "rejects")] == [str(root / "none/bad.png")]


def test_one_image_under_one_name_in_two_folders_keeps_both_places(root: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        draw(tmp_path / name / "same.png", 7)
        extracted([tmp_path / name], tmp_path / f"{name}.lib")
    merged([tmp_path / "two.lib", tmp_path / "one.lib"], tmp_path / "new")
    (row,) = rows(tmp_path / "new", "images")
    assert row["uris"] == [str(tmp_path / "one/same.png"), str(tmp_path / "two/same.png")]
    extracted([tmp_path / "one", tmp_path / "two"], tmp_path / "at once")
    assert digest(tmp_path / "new") == digest(tmp_path / "at once")


def test_a_merge_of_a_merge_is_the_merge_of_all(root: Path, tmp_path: Path) -> None:
    a, b, c, none = (root / f"{name}.lib" for name in ("a", "b", "c", "none"))
    merged([a, b], tmp_path / "ab")
    merged([c, none], tmp_path / "cn")
    merged([tmp_path / "ab", tmp_path / "cn"], tmp_path / "steps")
    merged([a, b, c, none], tmp_path / "once")
    assert content(tmp_path / "steps") == content(tmp_path / "once")


def test_each_image_keeps_its_texts_and_the_configuration_has_the_common_ones(root: Path, tmp_path: Path) -> None:
    extracted([root / "a"], tmp_path / "one", tags=("art", "oil"), license="CC0", attribution="us")
    extracted([root / "b"], tmp_path / "two", tags=("wood", "art"), license="CC-BY", attribution="us")
    merged([tmp_path / "one", tmp_path / "two"], tmp_path / "new")
    config = open_library(str(tmp_path / "new")).config
    assert (config.tags, config.license, config.attribution) == (("art",), "", "us")
    found = {row["uris"][0].split("/")[-1]: row for row in rows(tmp_path / "new", "images")}
    assert (found["1.png"]["tags"], found["1.png"]["license"]) == (["art", "oil"], "CC0")
    assert (found["4.png"]["tags"], found["4.png"]["license"]) == (["wood", "art"], "CC-BY")
    assert (found["3.png"]["tags"], found["3.png"]["license"]) == (["art", "oil", "wood"], "CC0")
    assert found["3.png"]["uris"] == [str(root / "a/3.png"), str(root / "b/again.png")]


def test_a_merge_is_a_library_into_which_more_is_extracted(root: Path, tmp_path: Path) -> None:
    merged([root / "a.lib", root / "b.lib"], tmp_path / "new")
    again = extracted([root / "a", root / "b"], tmp_path / "new", keep_images=True)
    assert (again.new_images, again.images) == (0, 6)
    more = extracted([root / "c"], tmp_path / "new", keep_images=True)
    assert (more.new_images, more.images) == (1, 7)
    assert digest(tmp_path / "new")
    extracted([root / "a", root / "b", root / "c"], tmp_path / "at once", keep_images=True)
    assert patches(tmp_path / "new").equals(patches(tmp_path / "at once"))
    for kind in ("images", "working"):
        assert rows(tmp_path / "new", kind) == rows(tmp_path / "at once", kind)
    assert merged([root / "a.lib", root / "b.lib"], tmp_path / "new").new_units == 0


def test_kept_images_of_a_merge_are_those_of_its_libraries(root: Path, tmp_path: Path) -> None:
    merged([root / "a.lib", root / "b.lib"], tmp_path / "new")
    kept, before = (
        WorkingImages(open_library(str(tmp_path / "new"))),
        WorkingImages(open_library(str(root / "both.lib"))),
    )
    assert sorted(kept) == sorted(before)
    assert all((kept[image] == before[image]).all() for image in before)
    kept.close()
    before.close()


def test_further_keys_are_taken_over(root: Path, tmp_path: Path) -> None:
    for name, folders in (("one", "a"), ("two", "b"), ("both", "ab")):
        extracted([root / folder for folder in folders], tmp_path / name, also=("relu4_1@64",))
    merged([tmp_path / "one", tmp_path / "two"], tmp_path / "new")
    assert digest(tmp_path / "new") == digest(tmp_path / "both")


@pytest.mark.parametrize("folder", ["plan", "patches", "working", "receipts"])
@pytest.mark.parametrize("number", [0, 1])
def test_a_merge_that_stopped_anywhere_is_continued(root: Path, tmp_path: Path, folder: str, number: int) -> None:
    merged([root / "a.lib", root / "b.lib"], tmp_path / "whole")
    place = Path(shutil.copytree(tmp_path / "whole", tmp_path / "new"))
    (place / "library.json").unlink()
    order = ["plan", "images", "patches", "working", "rejects", "receipts"]
    later = order[order.index(folder) + 1 :]
    for name in sorted(hashes(place)):
        kind, kept = name.split("/")[0], sorted(hashes(place, name.split("/")[0]))
        if kind in later or (kind == folder and folder != "plan" and name in kept[number:]):
            (place / name).unlink()
    merged([root / "a.lib", root / "b.lib"], place)
    assert content(place) == content(tmp_path / "whole")
    assert gc(str(place), no_progress, delete=False).orphans == ()
    assert digest(place) == digest(tmp_path / "whole")


# ---- laws ----


@cache
def _library(folder: Path, seeds: tuple[int, ...], unit_size: int) -> Path:
    name = "-".join(map(str, seeds)) + f"x{unit_size}"
    extracted(
        [draw(folder / f"{seed}.png", seed, 40, 32) for seed in seeds],
        folder / name,
        options=RunOptions(threads=1, unit_size=unit_size),
    )
    return folder / name


@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    chosen=st.lists(
        st.tuples(st.frozensets(st.integers(1, 5), min_size=1), st.sampled_from([1, 2, 4])),
        min_size=2,
        max_size=3,
        unique=True,
    )
)
def test_any_libraries_of_one_folder_make_the_library_of_their_images(
    tmp_path_factory: pytest.TempPathFactory, root: Path, chosen: list[tuple[frozenset[int], int]]
) -> None:
    folder = root / "law"
    libraries = [_library(folder, tuple(sorted(seeds)), unit_size) for seeds, unit_size in chosen]
    everything = _library(folder, tuple(sorted({seed for seeds, _ in chosen for seed in seeds})), 3)
    new = tmp_path_factory.mktemp("law") / "new"
    merged(libraries, new)
    assert digest(new) == digest(everything)


# ---- refusals ----


def refusal(libraries: Sequence[Path], into: Path, kind: type[KtBatchError]) -> str:
    with pytest.raises(kind) as caught:
        merged(libraries, into)
    return str(caught.value)


def test_a_setting_that_differs_is_named_with_both_values(root: Path, tmp_path: Path) -> None:
    extracted([root / "c"], tmp_path / "other", keep_images=True, stride=2)
    said = refusal([root / "a.lib", tmp_path / "other"], tmp_path / "new", MismatchError)
    assert "stride is 1 in the first and 2 in the second" in said
    extracted([root / "c"], tmp_path / "bare")
    assert "keep_images is true" in refusal([root / "a.lib", tmp_path / "bare"], tmp_path / "new", MismatchError)
    assert not (tmp_path / "new").exists()


def test_places_that_cannot_be_joined_are_refused(root: Path, tmp_path: Path) -> None:
    a, b = root / "a.lib", root / "b.lib"
    (tmp_path / "link").symlink_to(a)
    assert "named twice" in refusal([a, tmp_path / "link"], tmp_path / "new", UsageError)
    assert "b.lib' is --into" in refusal([a, b], b, UsageError)
    assert "lies in the same folder as --into" in refusal([a, b], b / "new", UsageError)
    assert "lies in the same folder as --into" in refusal([a, b], root, UsageError)
    assert "allowed are two and more" in refusal([a], tmp_path / "new", UsageError)
    assert "has no plan" in refusal([a, tmp_path / "nothing"], tmp_path / "new", MissingError)
    assert "is a library already" in refusal([a, b], root / "c.lib", MismatchError)
    merged([a, b], tmp_path / "ab")
    assert "is a library already" in refusal([b, a], tmp_path / "ab", MismatchError)


def test_a_library_that_is_not_finished_is_refused(root: Path, tmp_path: Path) -> None:
    shutil.copytree(root / "a.lib", tmp_path / "part")
    next((tmp_path / "part/receipts").iterdir()).unlink()
    said = refusal([root / "b.lib", tmp_path / "part"], tmp_path / "new", UsageError)
    assert "is not fully extracted: 1 of its 2 units are pending" in said


def test_another_numerics_class_needs_permission(root: Path, tmp_path: Path) -> None:
    for path in Path(shutil.copytree(root / "c.lib", tmp_path / "far")).glob("receipts/*.json"):
        text = path.read_text()
        path.unlink()
        path.write_text(text.replace('"threads":"1"', '"threads":"7"'))
    said = refusal([root / "a.lib", tmp_path / "far"], tmp_path / "new", MismatchError)
    assert "(threads 1 -> 7); allow the mix with --mix-numerics" in said
    merged([root / "a.lib", tmp_path / "far"], tmp_path / "new", mix=True)
    threads = {
        receipt.numerics["threads"] for receipt in Ledger(open_location(str(tmp_path / "new"))).receipts().values()
    }
    assert threads == {"1", "7"}


@pytest.mark.parametrize("kind", ["images", "patches", "working", "rejects"])
def test_a_damaged_part_is_one_sentence_and_nothing_of_its_unit_is_committed(
    root: Path, tmp_path: Path, kind: str
) -> None:
    broken = Path(shutil.copytree(root / "a.lib", tmp_path / "broken"))
    for path in (broken / kind).iterdir():
        data = bytearray(path.read_bytes())
        data[len(data) // 3] ^= 1
        path.unlink()
        path.write_bytes(bytes(data))
    said = refusal([broken, root / "c.lib"], tmp_path / "new", StorageError)
    assert f"/{kind}/part-" in said
    assert not list((tmp_path / "new").glob("receipts/*"))


def test_a_part_that_is_gone_is_one_sentence(root: Path, tmp_path: Path) -> None:
    broken = Path(shutil.copytree(root / "a.lib", tmp_path / "broken"))
    for path in (broken / "patches").iterdir():
        path.unlink()
    assert "patches/part-" in refusal([broken, root / "c.lib"], tmp_path / "new", MissingError)


def test_progress_counts_units(root: Path, tmp_path: Path) -> None:
    steps: list[Step] = []
    merge(MergeRequest([str(root / "a.lib"), str(root / "c.lib")], str(tmp_path / "new")), steps.append)
    assert [(step.done, step.total) for step in steps if step.stage == "merge"] == [(0, 3), (1, 3), (2, 3), (3, 3)]


def test_a_dry_run_writes_nothing(root: Path, tmp_path: Path) -> None:
    request = MergeRequest([str(root / "a.lib"), str(root / "b.lib")], str(tmp_path / "new"), dry_run=True)
    summary = merge(request, no_progress)
    assert (summary.images, summary.rejected, summary.new_units, summary.dry_run) == (5, 2, summary.units, True)
    assert not (tmp_path / "new").exists()
