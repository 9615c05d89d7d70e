"""Weights of style images: read, shared by the images of a place, and followed by every method that mixes styles."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from kt_batch.config import EncoderConfig, RunOptions
from kt_batch.errors import MismatchError, UsageError
from kt_batch.maintenance.recompute import Recompute, recompute
from kt_batch.methods.base import Resources
from kt_batch.methods.ift import IftConfig
from kt_batch.methods.table import method_named, parse_config
from kt_batch.models.weights import EncoderSource
from kt_batch.pipelines.inputs import find_images
from kt_batch.pipelines.progress import no_progress
from kt_batch.pipelines.single import load_networks
from kt_batch.pipelines.translate.finish import translate
from kt_batch.pipelines.translate.plan import TranslateRequest
from kt_batch.pipelines.translate.sources import Choice, choose
from kt_batch.pipelines.translate.style_images import StylePlaces, style_groups, style_places, style_weights
from kt_batch.runners.local import LocalRunner
from kt_batch.store.images.files import image_id
from tests.support.collection import Collection
from tests.support.small_pictures import picture, translated
from tests.support.tiny import SIZE, rows
from tests.support.tiny import draw as draw_picture

ONE, OTHER = f"{1:016x}", f"{2:016x}"


def test_a_style_may_end_in_a_weight_and_one_without_counts_once_beside_it() -> None:
    assert style_places(["a.jpg=0.5", "monet"]) == StylePlaces(("a.jpg", "monet"), (0.5, 1.0))
    assert style_places(["a.jpg", "monet"]) == StylePlaces(("a.jpg", "monet"))
    with pytest.raises(UsageError, match=r"The style 'a.jpg' has the weight 0; allowed is above 0, up to 1000"):
        style_places(["a.jpg=0"])


def test_a_file_whose_name_ends_like_a_weight_is_that_file(tmp_path: Path) -> None:
    (tmp_path / "e=2").touch()
    named = str(tmp_path / "e=2")
    assert style_places([named, f"{named}=3"]) == StylePlaces((named, named), (1.0, 3.0))


def weights_of(*given: str) -> dict[str, float]:
    places = style_places(given)
    groups = style_groups(places, find_images(places.places, (), no_progress))
    ids = sorted({image for group in groups for image in group})
    return dict(zip(ids, style_weights(places, groups), strict=False))


def test_the_images_of_a_place_share_its_weight_and_all_weights_sum_to_one(
    collection: Collection, tmp_path: Path
) -> None:
    other = draw_picture(tmp_path / "other.png", 77)
    weights = weights_of(f"{collection.paintings}=3", str(other))
    assert weights.pop(image_id(other.read_bytes())) == 0.25
    assert list(weights.values()) == [0.75 / 4] * 4
    one = collection.paintings / "1.png"
    twice = weights_of(f"{collection.paintings}=2", f"{one}=2")
    assert twice[image_id(one.read_bytes())] == 0.625  # 1/2 and a quarter of 1/2
    assert weights_of(f"{one}=2", f"{other}=2") == {}  # alike, as without weights


# ---- in the methods ----


def made(name: str, weights: tuple[float, ...], styles: dict[str, Tensor], **settings: Any) -> Any:
    method = method_named(name)
    networks = load_networks(EncoderSource(), method, "relu4_1", None)
    encoder = EncoderConfig(weights_sha256=networks.encoder.sha256, layer="relu4_1")
    content = {"method": name, "encoder": encoder, "styles": tuple(styles), "style_weights": weights, **settings}
    return method(parse_config(content), Resources(**networks.resources, styles=styles))


QUICK: dict[str, dict[str, Any]] = {
    "adain": {},
    "wct": {"levels": 1},
    "ift": {"levels": 1},
    "gatys": {"iterations": 4},
    "gatys_refined": {"iterations": 4},
}


@pytest.mark.parametrize("name", QUICK)
def test_a_style_of_almost_all_weight_gives_almost_what_it_gives_alone(name: str) -> None:
    photo, styles = picture(1), {ONE: picture(2), OTHER: picture(3)}
    alone = translated(made(name, (), {ONE: styles[ONE]}, **QUICK[name]), photo)
    factor = 2 if name == "ift" else 1  # each of two equal styles has the whole `style_weight`
    usual = IftConfig.model_fields["style_weight"].default
    settings = QUICK[name] | ({"style_weight": usual / factor} if name == "ift" else {})
    heavy = made(name, (1 - 1e-6, 1e-6), styles, **settings)
    torch.testing.assert_close(translated(heavy, photo), alone, atol=2e-3, rtol=0)
    assert not torch.allclose(translated(made(name, (0.25, 0.75), styles, **settings), photo), alone, atol=2e-3)


@pytest.mark.parametrize("name", QUICK)
def test_shares_are_the_weights(name: str) -> None:
    method = made(name, (0.25, 0.75), {ONE: picture(2), OTHER: picture(3)}, **QUICK[name])
    assert vars(method.translate(picture(1)).provenance) == {"shares": {ONE: 0.25, OTHER: 0.75}}


# ---- as a run ----


def test_a_run_records_weights_and_cannot_go_on_with_others(collection: Collection, tmp_path: Path) -> None:
    one, other = collection.paintings / "1.png", collection.paintings / "2.png"

    def run(*styles: str) -> int:
        config, sources = choose("adain", {}, Choice(styles=styles, size=SIZE))
        options = RunOptions(threads=1)
        request = TranslateRequest([str(collection.photos)], str(tmp_path / "run"), config, sources, options)
        return translate(request, LocalRunner(), no_progress).new_images

    assert run(f"{one}=3", str(other)) == 3
    assert run(str(other), f"{one}=3") == 0
    shares = {(row["source_image_id"].hex(), row["share"]) for row in rows(tmp_path / "run", "provenance")}
    assert shares == {(image_id(one.read_bytes()), 0.75), (image_id(other.read_bytes()), 0.25)}
    assert len(recompute(str(tmp_path / "run"), Recompute(1), no_progress).equal) == 1
    with pytest.raises(MismatchError, match="style_weights"):
        run(str(one), str(other))


def test_equal_weights_are_no_weights(collection: Collection) -> None:
    one, other = collection.paintings / "1.png", collection.paintings / "2.png"
    digests = {
        choose("wct", {}, Choice(styles=styles, size=SIZE))[0].digest()
        for styles in ([str(one), str(other)], [f"{one}=7", f"{other}=7"])
    }
    assert len(digests) == 1


def test_weights_without_an_effect_are_refused(collection: Collection) -> None:
    styles = [f"{collection.paintings / '1.png'}=2", str(collection.paintings / "2.png")]
    with pytest.raises(UsageError, match=r"The method patch_swap has no use for the weight of --style .*1.png=2"):
        choose("patch_swap", {}, Choice(styles=styles, size=SIZE))
    with pytest.raises(UsageError, match="has no effect with --source random"):
        choose("adain", {}, Choice(styles=styles, size=SIZE, draw="random"))
