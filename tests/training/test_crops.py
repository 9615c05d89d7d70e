"""A stream of batches of crops in an order determined by the seed."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from kt_batch.errors import RejectError
from kt_batch.store.inputs import read_input
from kt_batch.training import crops as crops_module
from kt_batch.training.crops import crops
from tests.support.tiny_training import pictures


def test_crops_are_in_range_and_determined_by_the_seed(tmp_path: Path) -> None:
    uris = [str(path) for path in pictures(tmp_path / "images", 3)]
    first, again, other = (next(crops(uris, 2, 32, seed)) for seed in (1, 1, 2))
    assert first.shape == (2, 3, 32, 32)
    assert first.dtype == torch.float32
    assert 0 <= float(first.min()) <= float(first.max()) <= 1
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (2000, 3)])
def test_an_image_of_any_shape_can_be_cropped(tmp_path: Path, shape: tuple[int, int]) -> None:
    Image.fromarray(np.full((*shape, 3), 128, dtype=np.uint8)).save(tmp_path / "odd.png")
    assert next(crops([str(tmp_path / "odd.png")], 4, 16, seed=0)).isfinite().all()


def test_the_buffer_of_crops_is_limited_and_a_batch_mixes_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crops_module, "BUFFER", 40)
    uris = [str(path) for path in pictures(tmp_path / "images", 12)]
    read: list[str] = []

    def noted(uri: str) -> bytes:
        read.append(uri)
        return read_input(uri)

    monkeypatch.setattr(crops_module, "read_input", noted)
    stream = crops(uris, 4, 16, seed=0)
    next(stream)
    assert len(read) == 3  # 16 crops per image: 40 buffered and 4 drawn
    for _ in range(47):
        next(stream)
    assert len(read) == 15  # 48 batches of 4, and 40 buffered: 232 crops of 14.5 images
    assert len(set(read[:12])) == 12  # every image once before any comes again


def test_a_batch_mixes_many_images(tmp_path: Path) -> None:
    # Each image is of one colour; crops of one colour are of one image. Colours are varied, so the images are counted
    # over a batch of as many crops as one image gives.
    for number in range(8):
        Image.fromarray(np.full((20, 20, 3), 30 * number, dtype=np.uint8)).save(tmp_path / f"{number}.png")
    batch = next(crops([str(tmp_path / f"{number}.png") for number in range(8)], 16, 8, seed=0))
    assert len({round(float(crop.mean()) * 50) for crop in batch}) > 4


def test_an_unreadable_image_is_skipped(tmp_path: Path) -> None:
    good = [str(path) for path in pictures(tmp_path / "images", 2)]
    (tmp_path / "broken.png").write_bytes(b"no image")
    with_broken = crops([good[0], str(tmp_path / "broken.png"), str(tmp_path / "absent.png"), good[1]], 8, 16, seed=0)
    for batch in islice(with_broken, 20):  # more than there are crops in an epoch
        assert batch.shape == (8, 3, 16, 16)


def test_crops_of_unreadable_images_only_are_rejected(tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no image")
    with pytest.raises(RejectError):
        next(crops([str(tmp_path / "broken.png"), str(tmp_path / "absent.png")], 2, 16, seed=0))
