"""Training from a folder of images to weight files that load."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from kt_batch.errors import UsageError
from kt_batch.models.training import TrainSettings
from kt_batch.models.vgg19 import FEATURES
from kt_batch.models.weights import EncoderSource, load_decoder, load_encoder
from kt_batch.pipelines.train import HELD_OUT, TrainJob, crops, train_autoencoder, training_uris
from kt_batch.store.images import image_id

SHAPES = {"conv1_1": (64, 3), "conv1_2": (64, 64), "conv2_1": (128, 64), "conv2_2": (128, 128), "conv3_1": (256, 128)}


def pictures(folder: Path, count: int) -> list[Path]:
    folder.mkdir()
    random = np.random.default_rng(0)
    paths = [folder / f"{number}.png" for number in range(count)]
    for path in paths:
        Image.fromarray(random.integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(path)
    return paths


def teacher(path: Path) -> EncoderSource:
    """A VGG-19 of the true shapes and random weights."""
    generator = torch.Generator().manual_seed(0)
    state = {}
    for name, (out, into) in SHAPES.items():
        state[f"features.{FEATURES[name]}.weight"] = 0.05 * torch.randn(out, into, 3, 3, generator=generator)
        state[f"features.{FEATURES[name]}.bias"] = torch.zeros(out)
    save_file(state, path)
    return EncoderSource("vgg19", str(path))


def test_images_whose_id_begins_with_the_held_out_digit_are_never_trained_on(tmp_path: Path) -> None:
    paths = pictures(tmp_path / "images", 64)
    held_out = {str(path) for path in paths if image_id(path.read_bytes()).startswith(HELD_OUT)}
    assert held_out
    assert set(training_uris([str(tmp_path / "images")])) == {str(path) for path in paths} - held_out


def test_nothing_left_to_train_on_is_said(tmp_path: Path) -> None:
    paths = pictures(tmp_path / "images", 64)
    only = next(str(path) for path in paths if image_id(path.read_bytes()).startswith(HELD_OUT))
    job = TrainJob((only,), EncoderSource(), tmp_path / "out", 1, 1, TrainSettings())
    with pytest.raises(UsageError, match="held-out"):
        train_autoencoder(job, lambda step, losses: None)


def test_crops_are_in_range_and_follow_from_the_seed(tmp_path: Path) -> None:
    uris = [str(path) for path in pictures(tmp_path / "images", 3)]
    first, again, other = (next(crops(uris, 2, seed)) for seed in (1, 1, 2))
    assert first.shape == (2, 3, 128, 128)
    assert 0 <= float(first.min()) <= float(first.max()) <= 1
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_training_leaves_weight_files_that_belong_together(tmp_path: Path) -> None:
    pictures(tmp_path / "images", 4)
    source = teacher(tmp_path / "teacher.safetensors")
    settings = TrainSettings(steps=1, warmup_steps=1, patch_sample=32)
    job = TrainJob((str(tmp_path / "images"),), source, tmp_path / "out", 1, 1, settings)
    steps: list[int] = []
    weights = train_autoencoder(job, lambda step, losses: steps.append(step))
    assert steps == [1]
    encoder = load_encoder(EncoderSource("mine", str(weights / "kt-vgg-1.encoder.safetensors")))
    decoder = load_decoder(encoder, "mine", "relu3_1", str(weights / "kt-vgg-1.relu3_1.safetensors"))
    assert decoder.network.channels == encoder.network.channels_at("relu3_1") == 128
