"""Laws of the names of inputs that lists and archives give."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kt_batch.errors import RejectError
from kt_batch.pipelines.inputs import find_images
from kt_batch.pipelines.progress import no_progress
from kt_batch.store.archives import enter
from kt_batch.store.images.files import image_id
from kt_batch.store.inputs import Input, read_input
from kt_batch.store.manifests import Manifest, Row
from tests.support.hostile_archives import END, A, picture, tar_entry, zipped

PARTS = st.sampled_from(["a", "b", "A", "..", ".", "%2E", "é", "a\nb", "c\\d", "~", "x y"])
PATHS = st.lists(PARTS, min_size=1, max_size=3).map(lambda parts: "/".join([*parts, "p.png"]))
PLACES = st.one_of(
    PATHS.map(lambda path: f"/set/{path}"),
    PATHS.map(lambda path: f"/{path}"),
    PATHS.map(lambda path: f"s3://bucket/{path}"),
    PATHS.map(lambda path: f"https://host/{path}"),
)


def names_of(places: list[str]) -> dict[str, str]:
    manifest = Manifest("/set/all.txt", "/set", [Row(place) for place in places])
    return {source.uri: source.name for source in find_images((), [manifest], no_progress).inputs}


@given(st.lists(PLACES, min_size=1, max_size=12), st.randoms(use_true_random=False))
def test_names_of_a_manifest_are_unique_and_the_same_in_any_order(places: list[str], chance: random.Random) -> None:
    names = names_of(places)
    assert len(set(names.values())) == len(names)
    shuffled = [*places, *places[:3]]
    chance.shuffle(shuffled)
    assert names_of(shuffled) == names


@given(st.lists(PLACES, min_size=1, max_size=8), PLACES)
def test_a_new_row_renames_no_other_unless_it_wants_the_same_name(places: list[str], new: str) -> None:
    before, after = names_of(places), names_of([*places, new])
    wanted = names_of([new]).popitem()[1]
    assert all(after[uri] == name for uri, name in before.items() if name != wanted)


@settings(max_examples=40)
@given(st.lists(PATHS, min_size=1, max_size=8))
def test_members_of_archives_have_unique_names_that_depend_on_no_order_of_arguments(paths: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for number in range(2):
            data = b"".join(tar_entry(path, A + bytes(place)) for place, path in enumerate(paths))
            (Path(folder) / f"{number}.tar").write_bytes(data + END)
        places = [f"{folder}/0.tar", f"{folder}/1.tar"]
        found = find_images(places, (), no_progress).inputs
        assert len({source.name for source in found}) == len(found) == 2 * len(paths)
        assert found == find_images(places[::-1], (), no_progress).inputs


SOUND = {
    "tar": b"".join(tar_entry(f"{n}.png", picture(n)) for n in range(3)) + END,
    "zip": zipped({f"{n}.png": picture(n) for n in range(3)}),
}


@pytest.mark.parametrize("form", ["tar", "zip"])
@given(st.data())
def test_whatever_changes_in_an_archive_costs_rejects_and_what_is_left_is_what_was_identified(
    form: str, data: st.DataObject
) -> None:
    content = bytearray(SOUND[form])
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    length = data.draw(st.one_of(st.just(len(content)), st.integers(0, len(content))))
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder) / f"a.{form}"
        archive.write_bytes(content[:length])
        entered = enter(Input(str(archive), archive.name))
        assert entered.inputs or entered.passed_over
        for source in entered.inputs:
            if source.image_id:
                assert image_id(read_input(source.uri)) == source.image_id
            else:
                with pytest.raises(RejectError):
                    read_input(source.uri)
