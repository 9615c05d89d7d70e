"""The method painting, with the shipped networks and small pictures."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from kt_batch.config import EncoderConfig, ExtractConfig, IndexConfig
from kt_batch.errors import UsageError
from kt_batch.index.ids import unpack_ids
from kt_batch.kernels.patches import unfold
from kt_batch.methods.base import LevelProvenance, Resources
from kt_batch.methods.features import to_pixels
from kt_batch.methods.painting.gallery import Sources
from kt_batch.methods.painting.levels import LAYERS, LEVELS, calm, encode_levels, encode_photograph, flatness
from kt_batch.methods.painting.method import Painting, PaintingConfig
from kt_batch.models.weights import EncoderSource, load_decoder, load_encoder
from kt_batch.pipelines.extract.worker import image_patches
from kt_batch.pipelines.single import index_in_memory
from kt_batch.store.images.files import WorkingImage

SIZE = 64
LOADED = load_encoder(EncoderSource())
ENCODER = EncoderConfig(weights_sha256=LOADED.sha256, layer="relu4_1", size=SIZE)
DECODERS = {layer: load_decoder(LOADED, "kt-vgg", layer, None).network for layer in LAYERS}


def picture(seed: int, tint: tuple[float, float, float]) -> Tensor:
    """Return a picture `(3, SIZE, SIZE)` of random strokes in shades of one colour."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, SIZE // 8, SIZE // 8, generator=generator)
    strokes = torch.nn.functional.interpolate(coarse, size=(SIZE, SIZE), mode="bilinear")[0]
    return (strokes * torch.tensor(tint)[:, None, None]).clamp(0, 1)


def painter(images: Mapping[str, Tensor], **settings: object) -> Painting:
    """Return the method over a library of some images, by id."""
    config = ExtractConfig(encoder=ENCODER)
    tables = []
    for identity, image in images.items():
        working = WorkingImage(to_pixels(image), SIZE, SIZE)
        tables.append(image_patches(LOADED.network, working, identity, config))
    index = index_in_memory(pa.concat_tables(tables), LOADED.network.channels_at("relu4_1"), IndexConfig())
    resources = Resources(LOADED.network, index=index, decoders=DECODERS, images=images)
    return Painting(PaintingConfig.model_validate({"encoder": ENCODER, **settings}), resources)


RED, BLUE = "00000000000000aa", "00000000000000bb"
LIBRARY = {RED: picture(1, (1.0, 0.2, 0.2)), BLUE: picture(2, (0.2, 0.2, 1.0))}
PHOTOGRAPH = picture(3, (0.7, 0.7, 0.7))


def test_a_photograph_gets_the_colours_of_its_sources() -> None:
    red = painter({RED: LIBRARY[RED]}).translate(PHOTOGRAPH).output
    assert isinstance(red, Tensor)
    assert red.shape == PHOTOGRAPH.shape
    torch.testing.assert_close(red.mean((1, 2)), LIBRARY[RED].mean((1, 2)), atol=0.05, rtol=0)


def test_without_strength_the_photograph_stays_as_it_is() -> None:
    assert painter(LIBRARY, strength=0.0).translate(PHOTOGRAPH).output is PHOTOGRAPH


def test_more_strength_is_further_from_the_photograph() -> None:
    outputs = [painter(LIBRARY, strength=s).translate(PHOTOGRAPH).output for s in (0.25, 0.5, 0.75, 1.0)]
    distances = [float((output - PHOTOGRAPH).abs().mean()) for output in outputs if isinstance(output, Tensor)]
    assert distances == sorted(distances)
    assert len(set(distances)) == 4


def test_a_photograph_keeps_its_own_colours_where_that_is_asked_for() -> None:
    output = painter({RED: LIBRARY[RED]}, preserve_colour=True).translate(PHOTOGRAPH).output
    assert isinstance(output, Tensor)
    assert float((output[0] - output[2]).mean()) == pytest.approx(
        float((PHOTOGRAPH[0] - PHOTOGRAPH[2]).mean()), abs=0.02
    )


def test_every_level_says_where_its_patches_come_from() -> None:
    provenance = painter(LIBRARY).translate(PHOTOGRAPH).provenance
    assert isinstance(provenance, LevelProvenance)
    assert list(provenance.levels) == [level.layer for level in LEVELS]
    for layer, patches in provenance.levels.items():
        side = SIZE // LOADED.network.geometry(layer).stride - 1
        assert len(patches.rows) == side**2
        images, rows, cols = unpack_ids(patches.patch_ids[:, 0].numpy())
        assert {bytes(image).hex() for image in images} <= set(LIBRARY)
        assert rows.max() < side
        assert cols.max() < side
        assert bool((patches.ncc <= 1 + 1e-5).all())


def test_a_library_image_finds_itself() -> None:
    provenance = painter(LIBRARY, brushwork=False).translate(LIBRARY[BLUE]).provenance
    assert isinstance(provenance, LevelProvenance)
    coarse = provenance.levels["relu4_1"]
    images, rows, cols = unpack_ids(coarse.patch_ids[:, 0].numpy())
    own = (images == list(bytes.fromhex(BLUE))).all(1) & (rows == coarse.rows.numpy()) & (cols == coarse.cols.numpy())
    assert own.mean() > 0.6  # queries have the usual colours of the library, so not all


def test_a_picture_is_made_from_no_more_sources_than_asked_for() -> None:
    many = {f"{number:016x}": picture(number, (1.0, 0.6, 0.3)) for number in range(4)}
    provenance = painter(many, sources=2).translate(PHOTOGRAPH).provenance
    assert isinstance(provenance, LevelProvenance)
    for patches in provenance.levels.values():
        assert len({bytes(image) for image in unpack_ids(patches.patch_ids[:, 0].numpy())[0]}) <= 2


def test_only_matches_of_the_index_are_certified() -> None:
    """Matches that were looked for afterwards are better in another measure, and proved by nothing."""
    method = painter(LIBRARY, search={"searcher": "exact", "certify": True})
    provenance = method.translate(PHOTOGRAPH).provenance
    assert isinstance(provenance, LevelProvenance)
    coarse, *finer = provenance.levels.values()
    features = method.usual.recolour(encode_photograph(LOADED.network, PHOTOGRAPH)[1])
    found = method.search.search(unfold(features, coarse.rows, coarse.cols))
    kept = (found.patch_ids[:, 0] == coarse.patch_ids[:, 0]).all(1)
    assert coarse.certified.equal(kept)
    assert 0 < int(kept.sum()) < len(kept)
    assert not any(bool(patches.certified.any()) for patches in finer)


def test_what_was_painted_before_changes_nothing() -> None:
    method = painter(LIBRARY)
    first = method.translate(PHOTOGRAPH).output
    method.translate(picture(9, (0.1, 0.9, 0.1)))
    again = method.translate(PHOTOGRAPH).output
    assert isinstance(first, Tensor)
    assert isinstance(again, Tensor)
    assert first.equal(again)
    assert first.equal(torch.as_tensor(painter(LIBRARY).translate(PHOTOGRAPH).output))


def test_a_picture_of_one_colour_is_painted_without_a_fault() -> None:
    output = painter(LIBRARY).translate(torch.full((3, SIZE, SIZE), 0.5)).output
    assert isinstance(output, Tensor)
    assert output.isfinite().all()


NOISE = torch.rand(3, SIZE, SIZE, generator=torch.Generator().manual_seed(5))
SMALL = NOISE[:, :16, :16].contiguous()  # smaller than a piece


@pytest.mark.parametrize("source", [torch.zeros(3, SIZE, SIZE), torch.ones(3, SIZE, SIZE), SMALL])
@pytest.mark.parametrize("stroke", [1.0, 4.0])
def test_extreme_pictures_give_colours_in_range_and_finite_scores(source: Tensor, stroke: float) -> None:
    method = painter({RED: source}, stroke=stroke)
    for photograph in (torch.zeros(3, SIZE, SIZE), torch.ones(3, SIZE, SIZE), SMALL, NOISE):
        result = method.translate(photograph)
        output = torch.as_tensor(result.output)
        assert output.shape == photograph.shape
        assert bool(((output >= 0) & (output <= 1)).all())  # false for NaN, too
        assert isinstance(result.provenance, LevelProvenance)
        assert all(bool((patches.ncc.abs() <= 1 + 1e-5).all()) for patches in result.provenance.levels.values())


def test_the_similarity_of_a_form_is_that_of_codes_standardised_by_the_sources() -> None:
    """With one source and no flat part: the cosine of 2 x 2 cells, each with mean 0 and deviation 1 in its picture."""
    provenance = painter({RED: LIBRARY[RED]}).translate(NOISE).provenance
    assert isinstance(provenance, LevelProvenance)
    found = provenance.levels["relu4_1"]
    codes = [LOADED.network.encode_code(image[None], "relu4_1")[0].double() for image in (NOISE, LIBRARY[RED])]
    own, theirs = ((code - code.mean((1, 2), keepdim=True)) / _deviation(code) for code in codes)
    _, rows, cols = unpack_ids(found.patch_ids[:, 0].numpy())
    for number, (row, col) in enumerate(zip(rows.astype(int), cols.astype(int), strict=True)):
        at, left = int(found.rows[number]), int(found.cols[number])
        one, other = own[:, at : at + 2, left : left + 2].flatten(), theirs[:, row : row + 2, col : col + 2].flatten()
        assert float(found.ncc[number]) == pytest.approx(float(one @ other / one.norm() / other.norm()), abs=0.001)


def _deviation(code: Tensor) -> Tensor:
    return code.std((1, 2), correction=0, keepdim=True) + 1e-5


class Counting(dict[str, Tensor]):
    """The images of the library, and the ids that were asked for."""

    def __init__(self) -> None:
        super().__init__(LIBRARY)
        self.asked: list[str] = []

    def __getitem__(self, image_id: str) -> Tensor:
        self.asked.append(image_id)
        return super().__getitem__(image_id)


def test_sources_are_encoded_again_where_there_is_no_room_to_keep_them() -> None:
    images = Counting()
    sources = Sources(LOADED.network, images, room=0)
    cells = [sources[image].cells["relu2_1"] for image in (RED, RED, BLUE, RED)]
    assert images.asked == [RED, BLUE, RED]
    assert cells[0].equal(cells[3])


def test_the_bytes_of_a_source_image_are_those_of_all_its_tensors() -> None:
    source = Sources(LOADED.network, LIBRARY)[RED]
    expected = 0
    for level in LEVELS:
        channels = LOADED.network.code_channels(level.layer)
        expected += 4 * 2 * channels * (SIZE // LOADED.network.geometry(level.layer).stride) ** 2  # codes and tones
    for layer in LAYERS:
        channels = LOADED.network.code_channels(layer)
        expected += 8 * 3 * (channels + channels**2)  # means and covariances of three bands
    assert source.bytes == expected


def test_moments_count_towards_the_room_of_source_images() -> None:
    """With room for the cells of both images but not for their covariances, one is kept."""
    images = Counting()
    cells = sum(each.nbytes for each in Sources(LOADED.network, LIBRARY)[RED].cells.values())
    sources = Sources(LOADED.network, images, room=2 * cells)
    for image in (RED, BLUE, RED):
        sources[image]
    assert images.asked == [RED, BLUE, RED]


def test_flat_parts_are_those_without_contrast() -> None:
    image = torch.full((3, SIZE, SIZE), 0.5)
    image[:, :, SIZE // 2 :] = (torch.arange(SIZE // 2) % 2).float()  # stripes of one pixel: deviation 0.5
    flat = flatness(image, 8)
    assert flat[:, 0].tolist() == [1.0] * 8
    assert flat[:, -1].tolist() == [0.0] * 8


def test_calming_leaves_what_is_not_flat_as_it_is() -> None:
    features = torch.randn(2, 8, 8, generator=torch.Generator().manual_seed(1))
    flat = torch.zeros(8, 8)
    flat[:, :3] = 1
    calmed = calm(features, flat)
    assert calmed[:, :, 3:].equal(features[:, :, 3:])
    assert calmed[:, :, 0].std() < features[:, :, 0].std() / 2


def test_levels_are_the_codes_of_the_encoder() -> None:
    found = encode_levels(LOADED.network, PHOTOGRAPH)
    for layer, code in found.items():
        torch.testing.assert_close(code, LOADED.network.encode_code(PHOTOGRAPH[None], layer)[0], atol=1e-4, rtol=1e-4)


def test_without_images_of_the_library_there_is_no_painting() -> None:
    with pytest.raises(UsageError, match="needs an encoder, decoders, an index and its library's images"):
        Painting(PaintingConfig(encoder=ENCODER), Resources(LOADED.network, decoders=DECODERS))


def test_several_matches_of_a_patch_are_refused() -> None:
    with pytest.raises(ValidationError, match="painting takes the nearest patch alone, so top_k is 1, not 4"):
        PaintingConfig.model_validate({"encoder": ENCODER, "search": {"top_k": 4}})
