"""JSON that others wrote is bounded and strict."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kt_batch.errors import DamagedError, MissingError
from kt_batch.store.documents import MOST_BYTES, parse_document, read_document
from kt_batch.store.locations import LocalLocation


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is not readable as JSON"),
        (b"{", "is not readable as JSON"),
        (b"\xff", "text that is not UTF-8"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b"[]", "holds a JSON list; allowed is an object"),
        (b"7", "holds a JSON int; allowed is an object"),
        (b"null", "holds a JSON NoneType"),
        (b'{"a": NaN}', "NaN is no JSON value"),
        (b'{"a": -Infinity}', "-Infinity is no JSON value"),
        (b'{"a": 1e999}', "the number 1e999 is too large"),
        (b'{"a": ' + b"9" * 5000 + b"}", "is not readable as JSON"),
        (b'{"a": {"b": 1, "b": 2}}', "the key 'b' stands there twice"),
        (b'{"a": "\\ud800"}', "text that is not UTF-8"),
    ],
)
def test_what_is_no_document_is_damage_in_one_sentence(data: bytes, message: str) -> None:
    with pytest.raises(DamagedError, match=message) as error:
        parse_document(data, "x.json")
    assert str(error.value).startswith("x.json ")
    assert "\n" not in str(error.value)


def test_a_document_is_parsed_as_it_is() -> None:
    assert parse_document('{"a": [1, 0.5, "\\ud83d\\ude00é", null]}', "x") == {"a": [1, 0.5, "😀é", None]}


def test_a_document_beyond_its_limit_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b" " * (MOST_BYTES + 1))
    with pytest.raises(DamagedError, match=r"a\.json has 16777217 bytes; allowed are 16777216"):
        read_document(LocalLocation(tmp_path), "a.json")


def test_a_terabyte_without_blocks_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "a.json").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(DamagedError, match=r"a\.json claims 1099511627776 bytes, and nearly all of them are a hole"):
        read_document(LocalLocation(tmp_path), "a.json")


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    place = LocalLocation(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    (tmp_path / "folder").mkdir()
    for name, message in (("pipe", "is a pipe; allowed is a regular file"), ("zero", "is a device")):
        for read in (place.read_bytes, place.open, place.size, lambda name: place.read_range(name, 0, 1)):
            with pytest.raises(DamagedError, match=message):
                read(name)
    with pytest.raises(MissingError):
        place.read_bytes("folder")
