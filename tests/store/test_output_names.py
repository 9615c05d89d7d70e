"""Names of outputs: portable, distinct on every file system, and independent of order."""

from __future__ import annotations

import hashlib
import random
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kt_batch.errors import UsageError
from kt_batch.store.input_names import input_component
from kt_batch.store.names import is_safe_name
from kt_batch.store.output_names import folded, name_outputs, plain_output, portable_component

ONE, TWO, THREE = "1" * 16, "2" * 16, "3" * 16


def paths(*wanted: tuple[str, str], planned: tuple[tuple[str, str], ...] = ()) -> list[str]:
    found = name_outputs(planned, wanted, "png")
    return [found[key] for key in wanted]


@pytest.mark.parametrize(
    ("name", "format", "expected"),
    [
        ("a.jpg", "png", "images/a.jpg.png"),
        ("photos/2024/a.TIFF", "webp", "images/photos/2024/a.TIFF.webp"),
        ("x" * 251, "png", "images/" + "x" * 251 + ".png"),  # 255 bytes: fits
    ],
)
def test_an_output_is_named_after_its_input(name: str, format: str, expected: str) -> None:  # noqa: A002
    assert plain_output(name, format) == expected


def test_long_components_are_shortened_and_stay_distinct() -> None:
    first, second = (plain_output("d" * 300 + "/" + "\u5c71" * 100 + last, "png") for last in ("1.jpg", "2.jpg"))
    assert first != second
    for name in (first, second):
        assert name.endswith(".png")
        assert all(len(part.encode()) <= 255 for part in name.split("/"))


def test_a_path_too_long_for_a_key_is_shortened_and_stays_distinct() -> None:
    deep = "/".join(["d" * 200] * 15)
    first, second, third = (plain_output(name, "png") for name in (f"{deep}/a.jpg", f"{deep}/b.jpg", f"{deep}/x/a.jpg"))
    assert len({first, second, third}) == 3
    for name in (first, second, third):
        assert len(name) <= 768
        assert name.startswith("images/deep-")
    assert first.endswith("/a.jpg.png")
    with pytest.raises(UsageError):
        plain_output(f"{deep}/../a.jpg", "png")


@pytest.mark.parametrize("name", ["../a.jpg", "/etc/passwd", "a//b.jpg", "a/./b.jpg", "", "a\nb.jpg"])
def test_an_output_cannot_leave_its_run(name: str) -> None:
    with pytest.raises(UsageError):
        plain_output(name, "png")


@given(st.text(st.characters(exclude_characters="/", exclude_categories=["Cs"]), min_size=1))
def test_any_component_becomes_a_safe_component(part: str) -> None:
    assert is_safe_name(plain_output(input_component(part), "png"))


@pytest.mark.parametrize(
    ("part", "portable"),
    [
        ("a.jpg", "a.jpg"),
        ("caf\u00e9 (1) #2 50%.jpg", "caf\u00e9 (1) #2 50%.jpg"),
        ("12:30.jpg", "12%3A30.jpg"),
        ('who? "me" <a|b> *.jpg', "who%3F %22me%22 %3Ca%7Cb%3E %2A.jpg"),
        ("con", "%63on"),
        ("CON.jpg", "%43ON.jpg"),
        ("nul .jpg", "%6Eul .jpg"),
        ("com1.tar.gz", "%63om1.tar.gz"),
        ("LPT\u00b2", "%4CPT\u00b2"),
        ("console.jpg", "console.jpg"),
        ("com10.jpg", "com10.jpg"),
    ],
)
def test_a_component_that_some_file_system_refuses_gets_percent_codes(part: str, portable: str) -> None:
    assert portable_component(part) == portable


def test_a_directory_does_not_end_in_a_dot_or_a_space() -> None:
    assert portable_component("etc.", directory=True) == "etc%2E"
    assert portable_component("etc ", directory=True) == "etc%20"
    assert paths(("etc./a.", ONE)) == ["images/etc%2E/a..png"]


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("A.jpg", "a.jpg"),
        ("caf\u00e9.jpg", "cafe\u0301.jpg"),
        ("stra\u00dfe.jpg", "STRASSE.jpg"),
        ("a:b.jpg", "a%3Ab.jpg"),
        ("\ufb01n.jpg", "fin.jpg"),
        ("a\u200bb.jpg", "ab.jpg"),
    ],
)
def test_names_that_some_file_system_takes_for_one_both_hold_their_image_id(one: str, two: str) -> None:
    first, second = paths((one, ONE), (two, TWO))
    assert (f"-{ONE}.jpg.png" in first, f"-{TWO}.jpg.png" in second) == (True, True)
    assert folded(first) != folded(second)


def hash_of(directory: str) -> str:
    return hashlib.sha256(directory.encode()).hexdigest()[:16]


def test_directories_that_some_file_system_takes_for_one_get_a_hash_of_their_names() -> None:
    """Else both would be one directory there, and a copy from there would miss the outputs of the other spelling."""
    upper, lower = f"images/Photos-{hash_of('Photos')}", f"images/photos-{hash_of('photos')}"
    assert paths(("Photos/a.jpg", ONE), ("photos/b.jpg", TWO), ("photos/x/b.jpg", TWO)) == [
        f"{upper}/a.jpg.png",
        f"{lower}/b.jpg.png",
        f"{lower}/x/b.jpg.png",
    ]
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    assert paths((f"{composed}/a.jpg", ONE), (f"{decomposed}/b.jpg", TWO)) == [
        f"images/{composed}-{hash_of(composed)}/a.jpg.png",
        f"images/{decomposed}-{hash_of(decomposed)}/b.jpg.png",
    ]


def test_a_directory_keeps_the_path_that_its_planned_outputs_have() -> None:
    first = (("Photos/a.jpg", "images/Photos/a.jpg.png"),)
    assert paths(("Photos/b.jpg", ONE), ("photos/c.jpg", TWO), planned=first) == [
        "images/Photos/b.jpg.png",
        f"images/photos-{hash_of('photos')}/c.jpg.png",
    ]
    tagged = f"images/Photos-{hash_of('Photos')}"
    assert paths(("Photos/b.jpg", ONE), planned=(("Photos/a.jpg", f"{tagged}/a.jpg.png"),)) == [f"{tagged}/b.jpg.png"]


def test_a_directory_of_an_earlier_version_that_some_refuse_is_not_used_for_more_outputs() -> None:
    before = (("12:30/a.jpg", "images/12:30/a.jpg.png"),)
    assert paths(("12:30/b.jpg", ONE), planned=before) == ["images/12%3A30/b.jpg.png"]


def test_a_file_system_that_takes_only_short_names_gets_them() -> None:
    """eCryptfs takes 143 bytes."""
    key = ("d" * 150 + "/" + "\u5c71" * 60 + ".jpg", ONE)
    path = name_outputs((), [key], "png", 143)[key]
    folder, file = path.removeprefix("images/").split("/")
    assert (len(folder.encode()), len(file.encode())) == (143, 141)  # a character of three bytes is not cut
    assert file.endswith(".png")
    assert name_outputs((), [("a.jpg", ONE)], "png", 143)["a.jpg", ONE] == "images/a.jpg.png"


def test_an_output_that_is_planned_keeps_its_path_and_only_the_new_one_gets_its_id() -> None:
    assert paths(("A.jpg", TWO), planned=(("a.jpg", "images/a.jpg.png"),)) == [f"images/A-{TWO}.jpg.png"]


def test_a_file_that_was_changed_keeps_the_path_of_its_name() -> None:
    assert paths(("a.jpg", TWO), planned=(("a.jpg", "images/a.jpg.png"),)) == ["images/a.jpg.png"]


def test_no_output_is_a_directory_of_another() -> None:
    first, second = paths(("a", ONE), ("a.png/b", TWO))
    assert first == f"images/a-{ONE}.png"
    assert not second.startswith(f"{first}/")
    (later,) = paths(("a.png/b", TWO), planned=(("a", "images/a.png"),))
    assert later.startswith("images/deep-")
    (other,) = paths(("a", TWO), planned=(("a.png/b", "images/a.png/b.png"),))
    assert other == f"images/a-{TWO}.png"


COMPONENT = st.sampled_from(
    ["a", "A", "b", "B", "a.png", "CON", "x:", "x%3A", "e\u0301", "\u00e9", "d ", "d%20", "\u5c71" * 90]
)
NAMES = st.lists(st.lists(COMPONENT, min_size=1, max_size=3).map("/".join), min_size=1, max_size=12, unique=True)


@given(NAMES, st.randoms(use_true_random=False), st.integers(0, 6))
def test_paths_are_portable_distinct_and_independent_of_order(
    names: list[str], chance: random.Random, before: int
) -> None:
    keys = [(name, f"{number:016x}") for number, name in enumerate(names)]
    first = name_outputs((), keys[:before], "png")
    planned = [(name, path) for (name, _), path in first.items()]
    rest = keys[before:]
    found = name_outputs(planned, rest, "png")
    chance.shuffle(rest)
    chance.shuffle(planned)
    assert name_outputs(planned, rest, "png") == found
    made = [folded(path) for path in (*first.values(), *found.values())]
    assert len(set(made)) == len(made)
    for path in (*first.values(), *found.values()):
        assert is_safe_name(path)
        assert path.startswith("images/")
        assert not set(path) & set('"*:<>?|')
        assert all(len(part.encode()) <= 255 and part[-1] not in ". " for part in path.split("/"))
        assert not any(folded(path).startswith(f"{other}/") for other in made)
    folders = {path.rpartition("/")[0] for path in (*first.values(), *found.values())}
    above = {"/".join(folder.split("/")[:depth]) for folder in folders for depth in range(1, 5)}
    assert len({folded(folder) for folder in above}) == len(above)


def test_unicode_forms_fold_as_the_file_systems_of_macs_do() -> None:
    for text in ("caf\u00e9", "\u1e9b\u0323", "\uac00"):
        assert len({folded(unicodedata.normalize(form, text)) for form in ("NFC", "NFD", "NFKC", "NFKD")}) == 1
