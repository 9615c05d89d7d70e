"""Patch swap on hand-computed numbers, and the complete method with the shipped networks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from kt_batch.config import EncoderConfig, RunOptions
from kt_batch.errors import UsageError
from kt_batch.kernels.style_swap import StylePatches, style_swap, style_swap_in, style_swap_of
from kt_batch.methods.base import Resources
from kt_batch.methods.features import decode_styled, encode
from kt_batch.methods.patch_swap import PatchSwap, PatchSwapConfig
from kt_batch.models.weights import EncoderSource, load_decoder, load_encoder
from kt_batch.pipelines.progress import no_progress
from kt_batch.pipelines.translate.finish import translate
from kt_batch.pipelines.translate.plan import TranslateRequest
from kt_batch.pipelines.translate.sources import Choice, choose
from kt_batch.runners.local import LocalRunner
from kt_batch.store.images.files import image_id
from tests.support.collection import Collection
from tests.support.small_pictures import picture, translated
from tests.support.tiny import SIZE, hashes, rows


def random_map(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def slowly_swapped(features: Tensor, styles: list[Tensor]) -> Tensor:
    """Return what `style_swap_of` does, patch by patch."""
    known = [
        style[:, y : y + 3, x : x + 3]
        for style in styles
        for y in range(style.shape[1] - 2)
        for x in range(style.shape[2] - 2)
    ]
    total, count = torch.zeros_like(features), torch.zeros_like(features)
    for y in range(features.shape[1] - 2):
        for x in range(features.shape[2] - 2):
            patch = features[:, y : y + 3, x : x + 3]
            best = max(known, key=lambda each: float((each * patch).sum() / each.norm()))
            total[:, y : y + 3, x : x + 3] += best
            count[:, y : y + 3, x : x + 3] += 1
    return total / count


@given(st.integers(0, 2**31), st.integers(1, 2))
def test_a_swap_is_that_of_the_obvious_loops(seed: int, styles: int) -> None:
    features = random_map(seed, 2, 5, 4)
    known = [random_map(seed + 1 + number, 2, 4, 5) for number in range(styles)]
    swapped, counts = style_swap_of(features, StylePatches(known))
    torch.testing.assert_close(swapped, slowly_swapped(features, known))
    assert sum(counts) == 3 * 2  # the 3 x 3 patches of 5 x 4 cells


def test_features_swapped_with_themselves_stay() -> None:
    own = random_map(1, 3, 6, 7)
    torch.testing.assert_close(style_swap(own, own), own)


def test_patches_are_counted_by_style() -> None:
    own, other = random_map(1, 3, 6, 7), random_map(2, 3, 6, 7)
    assert style_swap_of(own, StylePatches([other, own]))[1] == [0, 20]


def test_a_style_of_zeros_gives_zeros_and_never_a_nan() -> None:
    assert style_swap(random_map(1, 2, 4, 4), torch.zeros(2, 5, 5)).equal(torch.zeros(2, 4, 4))


@given(st.integers(0, 2**31))
def test_a_region_has_patches_of_its_own_style_alone(seed: int) -> None:
    features = random_map(seed, 2, 6, 9)
    sets = [StylePatches([random_map(seed + 1 + number, 2, 4, 5)]) for number in (0, 1)]
    regions = torch.zeros(6 * 2, 9 * 2, dtype=torch.int64)
    regions[:, 8:] = 1  # patches whose first column is 3 or more have most of their pixels there
    swapped, counts = style_swap_in(features, sets, regions)
    assert counts == [[3 * 4], [4 * 4]]
    for number, columns in ((0, slice(0, 3)), (1, slice(5, 9))):
        alone = style_swap_of(features, sets[number])[0]
        torch.testing.assert_close(swapped[:, :, columns], alone[:, :, columns])
    small = style_swap_in(features[:, :2, :2], sets, regions[:4, :4])[0]  # less than a patch
    assert small.shape == (2, 2, 2)


@pytest.mark.parametrize("size", [(2, 5), (5, 2), (1, 1)])
def test_maps_smaller_than_a_patch_keep_their_size(size: tuple[int, int]) -> None:
    small = random_map(1, 2, *size)
    assert style_swap(small, random_map(2, 2, 4, 4)).shape == small.shape
    assert style_swap(random_map(2, 2, 4, 4), small).isfinite().all()


# ---- with the shipped networks ----


def made(*styles: Tensor) -> PatchSwap:
    encoder = load_encoder(EncoderSource())
    named = {f"{number:016x}": style for number, style in enumerate(styles)}
    config = PatchSwapConfig(encoder=EncoderConfig(weights_sha256=encoder.sha256, layer="relu3_1"), styles=tuple(named))
    decoder = load_decoder(encoder, "kt-vgg", "relu3_1", None).network
    return PatchSwap(config, Resources(encoder.network, decoder, styles=named))


def test_a_picture_after_itself_is_only_encoded_and_decoded() -> None:
    photo = picture(1)
    method = made(photo)
    features = encode(method.encoder, photo, "relu3_1")
    decoded = decode_styled(method.decoder, features, features, 0.0, 0.0)
    torch.testing.assert_close(translated(method, photo), decoded, atol=1e-4, rtol=0)


def test_shares_are_those_of_the_patches_and_every_stage_is_timed() -> None:
    result = made(picture(2), picture(1)).translate(picture(1))
    assert vars(result.provenance) == {"shares": {f"{1:016x}": 1.0}}
    assert list(result.seconds) == list(PatchSwap.stages)


def test_a_transfer_without_a_style_is_refused() -> None:
    config = PatchSwapConfig(encoder=EncoderConfig(weights_sha256="0" * 64), styles=("0" * 16,))
    with pytest.raises(UsageError, match="needs an encoder, a decoder and style images"):
        PatchSwap(config, Resources())


# ---- as a run ----


def test_a_run_records_its_styles_and_has_the_same_bytes_for_any_unit_size(
    collection: Collection, tmp_path: Path
) -> None:
    style = collection.paintings / "1.png"
    config, sources = choose("patch_swap", {}, Choice(styles=[str(style)], size=SIZE))
    assert config.encoder is not None
    assert config.encoder.layer == "relu3_1"
    for name, unit_size in (("run", 2), ("again", 8)):
        options = RunOptions(threads=1, unit_size=unit_size)
        request = TranslateRequest([str(collection.photos)], str(tmp_path / name), config, sources, options)
        assert translate(request, LocalRunner(), no_progress).images == 3
    assert hashes(tmp_path / "run", "images") == hashes(tmp_path / "again", "images")
    table = rows(tmp_path / "run", "provenance")
    assert {(row["source_image_id"].hex(), row["share"]) for row in table} == {(image_id(style.read_bytes()), 1.0)}
