"""The paper's method on small pictures, with the shipped networks."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from kt_batch.config import EncoderConfig, IndexConfig, SearchConfig
from kt_batch.errors import WeightsError
from kt_batch.index.ids import pack_ids
from kt_batch.index.index import Index
from kt_batch.index.search import search
from kt_batch.kernels.colour import luminance
from kt_batch.kernels.grid import without_grid
from kt_batch.kernels.patches import positions, unfold
from kt_batch.kernels.swap import blend, geometric_swap
from kt_batch.methods import knowledge
from kt_batch.methods.base import PatchProvenance, Resources
from kt_batch.methods.features import decode, decode_styled, encode, to_pixels, to_tensor
from kt_batch.methods.knowledge import KnowledgeConfig, KnowledgeTransfer
from kt_batch.models.decoder import Decoder
from kt_batch.models.encoder import Encoder, Preprocess
from kt_batch.models.weights import EncoderSource, load_decoder, load_encoder
from tests.support.synthetic import index_of

LAYER = "relu3_1"
SIZE = 48  # 12 x 12 cells, 121 patches
EVERY = SearchConfig(probes=10**6)


@cache
def networks() -> tuple[Encoder, Decoder]:
    encoder = load_encoder(EncoderSource())
    return encoder.network, load_decoder(encoder, "kt-vgg", LAYER, None).network


def picture(seed: int) -> Tensor:
    """Return blotches of colour, `(3, SIZE, SIZE)`, none near black or white."""
    small = torch.rand(1, 3, 6, 6, generator=torch.Generator().manual_seed(seed))
    return 0.3 + 0.4 * torch.nn.functional.interpolate(small, SIZE, mode="bicubic").clamp(0, 1)[0]


@cache
def library_of(seed: int, payload: Literal["4bit", "5bit", "float16"] = "float16") -> Index:
    """Return a library of every patch of one picture."""
    features = encode(networks()[0], picture(seed), LAYER)
    rows, cols = positions(SIZE // 4, SIZE // 4, stride=1, cover=True)
    ids = pack_ids(f"{seed:016x}", rows.numpy(), cols.numpy())
    return index_of(unfold(features, rows, cols), IndexConfig(max_leaf=16, merge=1, payload=payload), ids)


@dataclass(frozen=True)
class Translated:
    """A result with patch provenance: the fields of both."""

    image: Tensor
    rows: Tensor
    cols: Tensor
    patch_ids: Tensor
    ncc: Tensor
    weights: Tensor
    certified: Tensor
    libraries: Tensor | None
    seconds: dict[str, float]


def translated(config: KnowledgeConfig, resources: Resources, image: Tensor) -> Translated:
    result = KnowledgeTransfer(config, resources).translate(image)
    assert isinstance(result.output, Tensor)
    assert isinstance(result.provenance, PatchProvenance)
    return Translated(image=result.output, seconds=result.seconds, **vars(result.provenance))


def values_of(index: Index, patch_ids: Tensor) -> Tensor:
    """Return the raw patches `(m, 4, C)` of ids `(m, 12)`."""
    row_of = {bytes(patch_id): row for row, patch_id in enumerate(index.patch_ids(torch.arange(index.count)))}
    return index.values(torch.tensor([row_of[bytes(patch_id)] for patch_id in patch_ids.numpy()]))


def translate(content: int, library: int | Index, **options: Any) -> Translated:
    config = KnowledgeConfig(
        encoder=EncoderConfig(weights_sha256="0" * 64, layer=LAYER),
        decoder_sha256="0" * 64,
        index_digest="0" * 16,
        **({"search": EVERY} | options),
    )
    index = library_of(library) if isinstance(library, int) else library
    return translated(config, Resources(*networks(), index), picture(content))


def through_the_networks(seed: int, swap: str = "geometric", detail_weight: float = 1.0) -> Tensor:
    """Return a picture encoded and decoded as a swap does, which leaves no grid of a decoder if it is geometric."""
    encoder, decoder = networks()
    decoded = decode(decoder, encode(encoder, picture(seed), LAYER), detail_weight=detail_weight)
    return without_grid(decoded, decoder.scale) if swap == "geometric" else decoded


def swapped_map(found: Translated, library: int) -> Tensor:
    """Return the feature map of a geometric swap with details, from translation matches."""
    n, k = found.ncc.shape
    values = values_of(library_of(library), found.patch_ids.flatten(0, 1)).view(n, k, 4, -1)
    return geometric_swap(blend(values, found.weights), found.rows, found.cols, SIZE // 4, SIZE // 4)


@pytest.mark.parametrize("swap", ["geometric", "statistics"])
def test_alpha_zero_only_encodes_and_decodes_the_picture(swap: str) -> None:
    assert translate(1, 2, swap=swap, alpha=0).image.equal(through_the_networks(1, "statistics"))


def test_alpha_one_changes_the_picture() -> None:
    assert (translate(1, 2).image - through_the_networks(1)).abs().mean() > 0.01


def test_a_picture_finds_its_own_patches_in_a_library_of_itself() -> None:
    found = translate(1, 1)
    assert found.ncc.shape == (121, 1)
    torch.testing.assert_close(found.ncc, torch.ones(121, 1), atol=1e-5, rtol=0)
    own = pack_ids(f"{1:016x}", found.rows.numpy(), found.cols.numpy())
    assert found.patch_ids[:, 0].tolist() == own.tolist()
    assert found.certified.all()


@pytest.mark.parametrize(("swap", "detail_weight"), [("geometric", 0.0), ("statistics", 1.0)])
def test_a_library_of_the_picture_itself_changes_it_only_by_rounding(swap: str, detail_weight: float) -> None:
    # Within half a level of 255: the library keeps float16, and statistics swap smooths its maps.
    expected = through_the_networks(1, swap, detail_weight)
    torch.testing.assert_close(translate(1, 1, swap=swap).image, expected, atol=2e-3, rtol=0)


@pytest.mark.parametrize("swap", ["geometric", "statistics"])
@pytest.mark.parametrize("payload", ["4bit", "5bit"])
def test_quantised_patches_reproduce_the_picture_to_45_db(swap: str, payload: Literal["4bit", "5bit"]) -> None:
    # Of a library of the picture itself every patch is found again, so that both are made of the same matches.
    expected = translate(1, 1, swap=swap)
    found = translate(1, library_of(1, payload), swap=swap)
    assert found.patch_ids.equal(expected.patch_ids)
    assert not found.image.equal(expected.image)
    assert -10 * (found.image - expected.image).square().mean().log10() > 45


def details_at_the_end(features: Tensor, fill: Tensor | float) -> Tensor:
    """Return the same features `(C, h, w)` with other details."""
    changed = features.clone()
    changed[-networks()[1].details :] = fill
    return changed


@pytest.mark.parametrize("top_k", [1, 4])
def test_a_complete_geometric_swap_restores_no_details(top_k: int) -> None:
    decoder = networks()[1]
    assert decoder.details > 0
    found = translate(1, 2, alpha=1, search=SearchConfig(probes=10**6, top_k=top_k))
    swapped = swapped_map(found, 2)
    assert (found.image - decode_styled(decoder, swapped, swapped, 1.0, 1.0)).abs().max() > 0.01  # the library's
    own = details_at_the_end(swapped, encode(networks()[0], picture(1), LAYER)[-decoder.details :])
    assert (found.image - decode_styled(decoder, own, own, 1.0, 1.0)).abs().max() > 0.01  # the photograph's
    for fill in (0.0, 1000.0):
        filled = details_at_the_end(swapped, fill)
        expected = decode_styled(decoder, filled, filled, 0.0, 0.0)
        torch.testing.assert_close(found.image, expected, atol=1e-5, rtol=0)


def test_a_quarter_geometric_swap_restores_three_quarters_of_the_details() -> None:
    encoder, decoder = networks()
    found, features = translate(1, 2, alpha=0.25), encode(encoder, picture(1), LAYER)
    mixed = features + 0.25 * (swapped_map(found, 2) - features)
    torch.testing.assert_close(found.image, decode_styled(decoder, mixed, features, 0.75, 0.75), atol=1e-5, rtol=0)
    lacking = decode_styled(decoder, mixed, mixed, 0.75, 0.75)
    assert (found.image - lacking).abs().max() > 0.01  # not what the mixed map lacks


@torch.no_grad()
@pytest.mark.parametrize("codes", [{}, {"relu1_1": 3}])
def test_a_statistics_swap_yields_negative_values_only_in_codes(codes: dict[str, int]) -> None:
    # The networks are the pixels themselves and their negative: only what lies below zero is seen in the result.
    encoder = Encoder(("conv1_1", "relu1_1"), {"conv1_1": (3,)}, Preprocess(mean=(0, 0, 0), std=(1, 1, 1)), codes=codes)
    decoder = Decoder(3, ("out",))
    for parameter in (*encoder.parameters(), *decoder.parameters()):
        parameter.zero_()
    encoder.get_parameter("conv1_1.0.weight")[:, :, 1, 1] = torch.eye(3)
    if codes:
        encoder.get_parameter("code_relu1_1.weight")[:, :, 0, 0] = torch.eye(3)
    decoder.get_parameter("block0.weight")[:, :, 1, 1] = -torch.eye(3)
    stripes = torch.tensor([0.0, 1.0]).repeat(4).expand(3, 8, 8).contiguous()
    rows, cols = positions(8, 8, stride=1, cover=True)
    dark = unfold(0.01 * picture(1)[:, :8, :8], rows, cols)
    index = index_of(dark, IndexConfig(max_leaf=16, merge=1), pack_ids("00" * 8, rows.numpy(), cols.numpy()))
    config = KnowledgeConfig(
        encoder=EncoderConfig(weights_sha256="0" * 64, layer="relu1_1"),
        decoder_sha256="0" * 64,
        index_digest="0" * 16,
        swap="statistics",
        search=EVERY,
    )
    image = translated(config, Resources(encoder, decoder, index), stripes).image
    # Source: mean 1/2, deviation 1/2; the match is nearly black, the ratio its bound: (x - 1/2)/3 = -1/6 where x is 0.
    expected = torch.tensor([1 / 6, 0.0]).repeat(4).expand(3, 8, 8) if codes else torch.zeros(3, 8, 8)
    torch.testing.assert_close(image, expected, atol=0.02, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_weights_that_produce_nan_raise_one_sentence(value: float) -> None:
    encoder = Encoder(("conv1_1", "relu1_1"), {"conv1_1": (3,)}, Preprocess(mean=(0, 0, 0), std=(1, 1, 1)))
    encoder.get_parameter("conv1_1.0.bias")[1] = value
    with pytest.raises(WeightsError, match=r"^With these weights the encoder's relu1_1 holds NaN or infinity; .*\.$"):
        encode(encoder, picture(1), "relu1_1")


def test_every_second_patch_still_covers_every_cell() -> None:
    found = translate(1, 2, query_stride=2)
    cells = {(row + r, col + c) for row, col in zip(found.rows.tolist(), found.cols.tolist(), strict=True)
             for r in (0, 1) for c in (0, 1)}  # fmt: skip
    assert len(found.rows) == 36
    assert cells == {(row, col) for row in range(12) for col in range(12)}
    assert found.image.shape == (3, SIZE, SIZE)


def test_preserved_colour_combines_the_luminance_of_the_result_and_the_chroma_of_the_content() -> None:
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


def test_a_top_k_beyond_the_library_returns_all_its_patches() -> None:
    found = translate(1, 2, search=SearchConfig(probes=1, top_k=64))
    assert found.ncc.shape == (121, 64)
    assert all(len(row.unique(dim=0)) == 64 for row in found.patch_ids)
    torch.testing.assert_close(found.weights.sum(1), torch.ones(121))


def test_ncc_is_that_of_the_raw_patches_in_any_match_space() -> None:
    features = encode(networks()[0], picture(1), LAYER)
    rows, cols = positions(SIZE // 4, SIZE // 4, stride=1, cover=True)
    queries = unfold(features, rows, cols).flatten(1).double()
    library = encode(networks()[0], picture(2), LAYER)
    patches = unfold(library, rows, cols)
    ids = pack_ids("00" * 8, rows.numpy(), cols.numpy())
    index = index_of(patches, IndexConfig(max_leaf=16, merge=1, match_space="centred"), ids)
    config = KnowledgeConfig(
        encoder=EncoderConfig(weights_sha256="0" * 64), decoder_sha256="0", index_digest="0", search=EVERY
    )
    found = translated(config, Resources(*networks(), index), picture(1))
    matched = values_of(index, found.patch_ids[:, 0]).flatten(1).double()
    expected = (queries * matched).sum(1) / queries.norm(dim=1) / matched.norm(dim=1)
    torch.testing.assert_close(found.ncc[:, 0].double(), expected, atol=1e-6, rtol=0)
    scores = search(index, unfold(features, rows, cols), EVERY).scores[:, 0]
    assert (found.ncc[:, 0].double() - scores).abs().max() > 0.01


def test_translating_twice_gives_the_same_bytes() -> None:
    one, other = (translate(1, 2, swap="statistics").image for _ in range(2))
    assert one.numpy().tobytes() == other.numpy().tobytes()


@pytest.mark.parametrize("threads", [1, 2])
def test_matches_are_the_same_when_read_in_parts_or_at_once(monkeypatch: pytest.MonkeyPatch, threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        whole = translate(1, 2, search=SearchConfig(top_k=3))
        monkeypatch.setattr(knowledge, "MATCHES_PER_TASK", 5)
        parts = translate(1, 2, search=SearchConfig(top_k=3))
    finally:
        torch.set_num_threads(before)
    assert parts.ncc.equal(whole.ncc)
    assert parts.image.equal(whole.image)


def test_every_stage_is_timed() -> None:
    assert list(translate(1, 2).seconds) == ["encode", "search", "swap", "decode"]


def test_pixels_and_tensors_convert_without_loss() -> None:
    image = picture(1)
    assert to_pixels(image).shape == (SIZE, SIZE, 3)
    assert to_tensor(to_pixels(image)).equal(image)
