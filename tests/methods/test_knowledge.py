"""The paper's method on small pictures, with the shipped networks."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from kt_batch.config import EncoderConfig, IndexConfig, SearchConfig, TranslateConfig
from kt_batch.index.ids import pack_ids
from kt_batch.index.index import Index
from kt_batch.kernels.colour import luminance
from kt_batch.kernels.patches import positions, unfold
from kt_batch.methods.knowledge import KnowledgeTransfer, Translation, decode, encode, to_pixels, to_tensor
from kt_batch.models.decoder import Decoder
from kt_batch.models.encoder import Encoder
from kt_batch.models.weights import EncoderSource, load_decoder, load_encoder
from tests.synthetic import index_of

LAYER = "relu3_1"
SIZE = 48  # 12 x 12 cells, 121 patches
EVERY = SearchConfig(probes=10**6)


@cache
def networks() -> tuple[Encoder, Decoder]:
    encoder = load_encoder(EncoderSource())
    return encoder.network, load_decoder(encoder, "kt-vgg", LAYER, None).network


def picture(seed: int) -> Tensor:
    """Blotches of colour, `(3, SIZE, SIZE)`, none of them near black or white."""
    small = torch.rand(1, 3, 6, 6, generator=torch.Generator().manual_seed(seed))
    return 0.3 + 0.4 * torch.nn.functional.interpolate(small, SIZE, mode="bicubic").clamp(0, 1)[0]


@cache
def library_of(seed: int) -> Index:
    """Every patch of one picture."""
    features = encode(networks()[0], picture(seed), LAYER)
    rows, cols = positions(SIZE // 4, SIZE // 4, stride=1, cover=True)
    ids = pack_ids(f"{seed:016x}", rows.numpy(), cols.numpy())
    return index_of(unfold(features, rows, cols), IndexConfig(max_leaf=16, merge=1), ids)


def translate(content: int, library: int, **options: Any) -> Translation:
    config = TranslateConfig(
        encoder=EncoderConfig(weights_sha256="0" * 64, layer=LAYER),
        decoder_sha256="0" * 64,
        index_digest="0" * 16,
        **({"search": EVERY} | options),
    )
    return KnowledgeTransfer(*networks(), library_of(library), config).translate(picture(content))


def through_the_networks(seed: int) -> Tensor:
    encoder, decoder = networks()
    return decode(decoder, encode(encoder, picture(seed), LAYER))


@pytest.mark.parametrize("swap", ["geometric", "statistics"])
def test_alpha_zero_is_the_picture_through_encoder_and_decoder(swap: str) -> None:
    assert translate(1, 2, swap=swap, alpha=0).image.equal(through_the_networks(1))


def test_alpha_one_is_not() -> None:
    assert (translate(1, 2).image - through_the_networks(1)).abs().mean() > 0.01


def test_a_picture_finds_its_own_patches_in_a_library_of_itself() -> None:
    found = translate(1, 1)
    assert found.ncc.shape == (121, 1)
    torch.testing.assert_close(found.ncc, torch.ones(121, 1), atol=1e-5, rtol=0)
    own = pack_ids(f"{1:016x}", found.rows.numpy(), found.cols.numpy())
    assert library_of(1).patch_ids(found.matches.rows[:, 0]).tolist() == own.tolist()
    assert found.matches.certified.all()


@pytest.mark.parametrize("swap", ["geometric", "statistics"])
def test_a_library_of_the_picture_itself_changes_next_to_nothing(swap: str) -> None:
    # Within half a level of 255: the library keeps float16, and statistics swap smooths its maps.
    torch.testing.assert_close(translate(1, 1, swap=swap).image, through_the_networks(1), atol=2e-3, rtol=0)


def test_every_second_patch_still_covers_every_cell() -> None:
    found = translate(1, 2, query_stride=2)
    cells = {(row + r, col + c) for row, col in zip(found.rows.tolist(), found.cols.tolist(), strict=True)
             for r in (0, 1) for c in (0, 1)}  # fmt: skip
    assert len(found.rows) == 36
    assert cells == {(row, col) for row in range(12) for col in range(12)}
    assert found.image.shape == (3, SIZE, SIZE)


def test_preserved_colour_has_the_light_of_the_result_and_the_chroma_of_the_content() -> None:
    plain, kept = translate(1, 2).image, translate(1, 2, preserve_colour=True).image
    chroma = picture(1) - luminance(picture(1))
    inside = ((luminance(plain) + chroma).clamp(0, 1) == luminance(plain) + chroma).all(0)
    assert inside.float().mean() > 0.9
    torch.testing.assert_close((kept - luminance(kept))[:, inside], chroma[:, inside], atol=1e-5, rtol=0)
    torch.testing.assert_close(luminance(kept)[inside], luminance(plain)[inside], atol=1e-5, rtol=0)
    assert (plain - luminance(plain) - chroma).abs().mean() > 0.01


@pytest.mark.parametrize("top_k", [1, 4])
def test_the_weights_of_the_top_k_sum_to_one(top_k: int) -> None:
    found = translate(1, 2, search=SearchConfig(probes=1, top_k=top_k))
    assert found.weights.shape == found.ncc.shape == (121, top_k)
    torch.testing.assert_close(found.weights.sum(1), torch.ones(121))
    assert (found.weights[:, :-1] >= found.weights[:, 1:]).all()


def test_more_matches_than_the_library_has_patches_are_all_it_has() -> None:
    found = translate(1, 2, search=SearchConfig(probes=1, top_k=64))
    assert found.ncc.shape == (121, 64)
    assert found.matches.rows.min() >= 0
    torch.testing.assert_close(found.weights.sum(1), torch.ones(121))


def test_ncc_is_that_of_the_raw_patches_whatever_the_match_space() -> None:
    features = encode(networks()[0], picture(1), LAYER)
    rows, cols = positions(SIZE // 4, SIZE // 4, stride=1, cover=True)
    queries = unfold(features, rows, cols).flatten(1).double()
    library = encode(networks()[0], picture(2), LAYER)
    patches = unfold(library, rows, cols)
    ids = pack_ids("00" * 8, rows.numpy(), cols.numpy())
    index = index_of(patches, IndexConfig(max_leaf=16, merge=1, match_space="centred"), ids)
    config = TranslateConfig(
        encoder=EncoderConfig(weights_sha256="0" * 64), decoder_sha256="0", index_digest="0", search=EVERY
    )
    found = KnowledgeTransfer(*networks(), index, config).translate(picture(1))
    matched = index.patches(found.matches.rows[:, 0]).flatten(1).double()
    expected = (queries * matched).sum(1) / queries.norm(dim=1) / matched.norm(dim=1)
    torch.testing.assert_close(found.ncc[:, 0].double(), expected, atol=1e-6, rtol=0)
    assert (found.ncc[:, 0].double() - found.matches.scores[:, 0]).abs().max() > 0.01


def test_translating_twice_gives_the_same_bytes() -> None:
    one, other = (translate(1, 2, swap="statistics").image for _ in range(2))
    assert one.numpy().tobytes() == other.numpy().tobytes()


def test_every_stage_says_how_long_it_took() -> None:
    assert list(translate(1, 2).seconds) == ["encode", "search", "swap", "decode"]


def test_pixels_and_tensors_are_the_same_numbers() -> None:
    image = picture(1)
    assert to_pixels(image).shape == (SIZE, SIZE, 3)
    assert to_tensor(to_pixels(image)).equal(image)
