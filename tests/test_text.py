"""Foreign text as a person may see it."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kt_batch.text import printable, printable_json, printable_lines

HOSTILE = {
    "\x1b[2J": r"\x1b[2J",  # clear the screen
    "\x1b]0;title\x07": r"\x1b]0;title\x07",  # OSC: the title of the window
    "\x1b]8;;https://example.org\x1b\\": r"\x1b]8;;https://example.org\x1b" + "\\",  # OSC: a link
    "\x9b2J": r"\x9b2J",  # CSI as one C1 character
    "\x9d0;x\x9c": r"\x9d0;x\x9c",  # OSC as C1
    "\x90q\x9c": r"\x90q\x9c",  # DCS: a picture
    "a\nkt-batch: done": r"a\nkt-batch: done",
    "a\rb": r"a\rb",
    "a\x08b": r"a\x08b",
    "a\tb": r"a\tb",
    "\x00": r"\x00",
    "\x7f": r"\x7f",
    "\x85": r"\x85",  # a line end
    "\u2028\u2029": r"\u2028\u2029",  # line and paragraph separators
    "gpj.\u202egnp": r"gpj.\u202egnp",  # right to left override
    "\u202a\u202b\u202c\u202d": r"\u202a\u202b\u202c\u202d",
    "\u2066\u2067\u2068\u2069": r"\u2066\u2067\u2068\u2069",
    "\u200e\u200f\u061c": r"\u200e\u200f\u061c",
    "\u200b\ufeff\u2060\u00ad": r"\u200b\ufeff\u2060\xad",  # invisible
    "\U000e0041": r"\U000e0041",  # a tag character
    "\udcff": r"\udcff",  # a byte that is not UTF-8
    "\ufff9\ufffb": r"\ufff9\ufffb",  # interlinear annotation
    "\ue000": r"\ue000",  # private use
}
HARMLESS = ["photo.jpg", "été 2024.jpg", "月の写真　一.png", "Ωμέγα", "صورة", "😀", "a\u00a0b", "back\\slash", ""]


@pytest.mark.parametrize(("text", "shown"), HOSTILE.items())
def test_what_steers_a_terminal_is_shown_as_an_escape(text: str, shown: str) -> None:
    assert printable(f"a{text}b") == f"a{shown}b"


@pytest.mark.parametrize("text", HARMLESS)
def test_names_of_any_language_stay_as_they_are(text: str) -> None:
    assert printable(text) == text
    assert printable_json(text) == json.dumps(text, ensure_ascii=False)


@pytest.mark.parametrize("text", [*HOSTILE, *HARMLESS])
def test_json_means_the_same_with_the_escapes(text: str) -> None:
    written = printable_json({text: [text, {"a": text}]})
    assert json.loads(written) == {text: [text, {"a": text}]}
    assert printable(written) == written
    assert printable_json(text, only_ascii=True).isascii()


@given(st.text(st.characters(codec=None)))
def test_nothing_but_visible_characters_is_left(text: str) -> None:
    assert all(each.isprintable() or each.isspace() for each in printable(text))
    assert not set(printable(text)) & set(map(chr, [*range(32), *range(0x7F, 0xA0), 0x2028, 0x2029]))
    assert json.loads(printable_json(text)) == json.loads(json.dumps(text))


def test_only_our_own_line_ends_make_lines() -> None:
    assert printable_lines("a\nb\x85c\u2028d\re\n") == ["a", r"b\x85c\u2028d\re"]
