"""WCT on hand-computed numbers, and the complete method with the shipped networks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError
from torch import Tensor

from kt_batch.config import EncoderConfig, RunOptions
from kt_batch.errors import UsageError
from kt_batch.kernels.whitening import coloured, principal_axes, whiten_and_colour, whitened
from kt_batch.methods.base import Resources
from kt_batch.methods.features import decode_styled, encode
from kt_batch.methods.wct import LAYERS, Wct, WctConfig
from kt_batch.models.weights import EncoderSource, load_encoder
from kt_batch.pipelines.progress import no_progress
from kt_batch.pipelines.statistics.finish import build_statistics
from kt_batch.pipelines.translate.finish import TranslateSummary
from kt_batch.pipelines.translate.library_images import load_decoders
from kt_batch.pipelines.translate.sources import Choice, choose
from kt_batch.runners.local import LocalRunner
from tests.support.collection import Collection
from tests.support.small_pictures import picture, translated
from tests.support.tiny import SIZE, encoder_config, extracted, hashes, rows, translated_after


def random_map(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def covariance(features: Tensor) -> Tensor:
    return torch.cov(features.flatten(1).double())


def test_whitened_cells_have_mean_zero_and_the_identity_as_covariance() -> None:
    white = whitened(random_map(1, 3, 8, 9) * torch.tensor([1.0, 5.0, 0.2])[:, None, None] + 4)
    torch.testing.assert_close(white.mean(1), torch.zeros(3, dtype=torch.float64), atol=1e-9, rtol=0)
    torch.testing.assert_close(torch.cov(white), torch.eye(3, dtype=torch.float64), atol=1e-9, rtol=0)


def test_one_channel_is_moved_and_stretched_to_the_styles() -> None:
    # Mean 2 and sample deviation 1; the style has mean 10 and deviation 3: 1 -> 7, 2 -> 10, 3 -> 13.
    features, style = torch.tensor([[[1.0, 2.0, 3.0]]]), torch.tensor([[[7.0, 10.0, 13.0]]])
    torch.testing.assert_close(whiten_and_colour(features, style), style)


@given(st.integers(0, 2**31), st.integers(2, 5))
def test_features_get_the_mean_and_the_covariance_of_the_style(seed: int, channels: int) -> None:
    style = random_map(seed + 1, channels, 7, 9) * 3 + 1
    styled = whiten_and_colour(random_map(seed, channels, 8, 8), style)
    torch.testing.assert_close(styled.mean((1, 2)), style.mean((1, 2)), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(covariance(styled), covariance(style), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(("photo", "style"), [(0.0, 1.0), (1.0, 0.0), (0.0, 0.0)])
def test_flat_colours_give_the_mean_of_the_style_and_never_a_nan(photo: float, style: float) -> None:
    flat = torch.full((4, 5, 5), 2.0)
    wanted = random_map(2, 4, 5, 5) * style + 3
    styled = whiten_and_colour(random_map(1, 4, 5, 5) * photo + flat, wanted)
    assert styled.isfinite().all()
    if 0.0 in (photo, style):
        torch.testing.assert_close(styled, wanted.mean((1, 2), keepdim=True).expand(4, 5, 5), atol=1e-5, rtol=1e-5)


def test_a_style_of_one_colour_has_no_axes() -> None:
    axes = principal_axes(torch.full((3, 4, 4), 0.5))
    assert axes.variances.numel() == 0
    assert coloured(random_map(1, 3, 6).double(), axes).equal(torch.full((3, 6), 0.5))


# ---- with the shipped networks ----


def made(*styles: Tensor, layer: str = "relu4_1", **settings: Any) -> Wct:
    encoder = load_encoder(EncoderSource())
    decoders = {layer: each.network for layer, each in load_decoders(encoder, "kt-vgg", LAYERS).items()}
    named = {f"{number:016x}": style for number, style in enumerate(styles)}
    config = WctConfig(
        encoder=EncoderConfig(weights_sha256=encoder.sha256, layer=layer), styles=tuple(named), **settings
    )
    return Wct(config, Resources(encoder.network, decoders=decoders, styles=named))


def test_the_levels_go_from_the_layer_of_the_encoder_to_the_finest() -> None:
    assert made(picture(2)).plan == ("relu4_1", "relu3_1", "relu2_1", "relu1_1")
    assert made(picture(2), layer="relu3_1", levels=1).plan == ("relu3_1",)
    assert made(picture(2), layer="relu2_1").plan == ("relu2_1", "relu1_1")


def test_a_picture_after_itself_is_only_encoded_and_decoded() -> None:
    photo = picture(1)
    method = made(photo, levels=1, alpha=1.0)
    features = encode(method.encoder, photo, "relu4_1")
    decoded = decode_styled(method.decoders["relu4_1"], features, features, 0.0, 0.0)
    torch.testing.assert_close(translated(method, photo), decoded, atol=0.02, rtol=0)


def test_alpha_zero_keeps_a_pattern_of_the_photograph_that_repeats_from_cell_to_cell() -> None:
    bars = torch.where(torch.arange(48) % 8 < 2, 0.7, 0.2).expand(3, 64, 48).contiguous()
    assert translated(made(picture(2), alpha=0.0), bars).std() > bars.std() / 3  # a tenth without it


def test_two_equal_styles_are_one_and_have_equal_shares() -> None:
    two = made(picture(2), picture(2))
    one, both = translated(made(picture(2)), picture(1)), two.translate(picture(1))
    assert isinstance(both.output, Tensor)
    torch.testing.assert_close(one, both.output, atol=1e-4, rtol=0)
    assert vars(both.provenance) == {"shares": {f"{0:016x}": 0.5, f"{1:016x}": 0.5}}
    assert list(both.seconds) == list(Wct.stages)


def test_alpha_leads_from_the_photograph_to_the_style() -> None:
    photo = picture(1)
    away = [float((translated(made(picture(2), alpha=alpha), photo) - photo).norm()) for alpha in (0.0, 0.5, 1.0)]
    assert away == sorted(away)


def test_flat_pictures_are_translated_without_a_nan() -> None:
    flat = torch.full((3, 64, 48), 0.25)
    for photo, style in ((flat, picture(2)), (picture(1), flat), (flat, flat)):
        assert translated(made(style), photo).isfinite().all()


def test_a_transfer_without_a_style_is_refused() -> None:
    encoder = EncoderConfig(weights_sha256="0" * 64)
    with pytest.raises(ValidationError, match="wct takes styles or the statistics of a library"):
        WctConfig(encoder=encoder, styles=())
    with pytest.raises(UsageError, match="needs an encoder, decoders and style images"):
        Wct(WctConfig(encoder=encoder, styles=("0" * 16,)), Resources())


# ---- as a run ----


def styled(photos: Path, run: Path, *styles: Path, unit_size: int) -> TranslateSummary:
    options = RunOptions(threads=1, unit_size=unit_size)
    return translated_after(Choice(styles=styles, size=SIZE), photos, run, "wct", options, levels=2)


def test_a_run_has_the_same_bytes_for_any_unit_size_and_order_of_styles(collection: Collection, tmp_path: Path) -> None:
    one, other = collection.paintings / "1.png", collection.paintings / "2.png"
    assert styled(collection.photos, tmp_path / "run", one, other, unit_size=2).images == 3
    styled(collection.photos, tmp_path / "again", other, one, unit_size=8)
    assert hashes(tmp_path / "run", "images") == hashes(tmp_path / "again", "images")


# ---- after a library -------------------------------------------------------------------------------------------------


def test_a_library_of_one_image_gives_what_the_image_gives_as_a_style(collection: Collection, tmp_path: Path) -> None:
    painting, library = collection.paintings / "1.png", tmp_path / "library"
    extracted([painting], library, encoder=encoder_config().model_copy(update={"layer": "relu4_1"}))
    build_statistics(str(library), RunOptions(threads=1), LocalRunner(), no_progress)
    pictures = []
    for name, choice in (("one", Choice(library=str(library))), ("other", Choice(styles=[str(painting)], size=SIZE))):
        run = tmp_path / name
        assert translated_after(choice, collection.photos, run, "wct", RunOptions(threads=1), levels=1).images == 3
        assert {row["share"] for row in rows(run, "provenance")} == {1.0}
        pictures.append(np.asarray(Image.open(run / "images/11.png.png")).astype(int))
    assert np.abs(pictures[0] - pictures[1]).max() <= 2  # libraries hold float16
    with pytest.raises(UsageError, match="wct after a library has one level, that of its statistics, and levels is 4"):
        choose("wct", {}, Choice(library=str(library)))
