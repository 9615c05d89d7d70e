"""A file that kills the image reader costs only its reject row."""

from __future__ import annotations

import os
import shutil
import sys
from functools import partial
from pathlib import Path

import pytest

from kt_batch.errors import Reason, RejectError
from kt_batch.pipelines import reading
from kt_batch.pipelines.inputs import read_image
from kt_batch.store.images.file_bytes import Data
from kt_batch.store.images.files import WorkingImage, image_id
from kt_batch.store.images.reader_process import ImageReaderProcess
from kt_batch.store.plans import Item
from tests.support.collection import Collection
from tests.support.tiny import draw, extracted, hashes, patches, rows, translate_request, translated

CHILD = """
import os
from kt_batch.store.images import reader_child
from kt_batch.store.images import files as images
def decode(data, size):
    if data == b"fatal":
        os.abort()
    return images.decode(data, size)
reader_child.main(decode)
"""
pytestmark = pytest.mark.usefixtures("new_readers")
FRAGILE = partial(ImageReaderProcess, command=(sys.executable, "-P", "-c", CHILD))


def test_a_file_that_kills_the_image_reader_costs_one_row_of_a_library(
    collection: Collection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "ImageReaderProcess", FRAGILE)
    shutil.copytree(collection.paintings, tmp_path / "in")
    (tmp_path / "in/fatal.png").write_bytes(b"fatal")
    summary = extracted([tmp_path / "in"], tmp_path / "library")
    assert (summary.images, summary.rejected) == (4, 1)
    (reject,) = rows(tmp_path / "library", "rejects")
    assert (Path(reject["uri"]).name, reject["stage"], reject["reason"]) == ("fatal.png", "decode", Reason.DECODER_DIED)
    assert "SIGABRT" in reject["message"]
    assert patches(tmp_path / "library") == patches(collection.library)


def test_a_file_that_kills_the_image_reader_costs_one_row_of_a_run(
    collection: Collection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "ImageReaderProcess", FRAGILE)
    draw(tmp_path / "in/a.png", 31)
    (tmp_path / "in/fatal.png").write_bytes(b"fatal")
    translated([tmp_path / "in"], translate_request(collection.library, tmp_path / "run", collection.index))
    assert [reject["reason"] for reject in rows(tmp_path / "run", "rejects")] == [Reason.DECODER_DIED]
    assert list(hashes(tmp_path / "run", "images")) == ["images/a.png.png"]


def test_no_child_process_remains_after_the_work(tmp_path: Path) -> None:
    draw(tmp_path / "in/a.png", 1)
    before = children()
    extracted([tmp_path / "in"], tmp_path / "library")
    assert children() == before


def children() -> set[str]:
    return set(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())


def test_bytes_that_cannot_be_decoded_are_not_read_again_from_another_place(tmp_path: Path) -> None:
    tried = []

    def decode(data: Data) -> WorkingImage:
        tried.append(data)
        raise RejectError(Reason.DECODER_SLOW, "slow")

    names = ("a", "b", "c")
    for name in names[1:]:
        (tmp_path / name).write_bytes(b"same")
    items = [Item(image_id(b"same"), str(tmp_path / name), name) for name in names]
    with pytest.raises(RejectError) as caught:
        read_image(items, decode)
    assert tried == [b"same"]
    assert caught.value.reason == Reason.UNREADABLE  # of the first place, as always
