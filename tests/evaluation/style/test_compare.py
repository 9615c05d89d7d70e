"""Methods, folders of finished pictures and peers compared on real pictures by the shipped networks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save_file
from torch import Tensor

from kt_batch.errors import MissingError, UsageError, WeightsError
from kt_batch.evaluation.style.compare import compare
from kt_batch.evaluation.style.contenders import Contender, Finished, OwnMethod, Unedited, check_names
from kt_batch.evaluation.style.evaluate import StylePictures, spread_pairs
from kt_batch.evaluation.style.measures import StyleMeasures
from kt_batch.evaluation.style.peers import load_peers
from kt_batch.evaluation.style.pictures import StylePicture, read_pictures
from kt_batch.evaluation.style.report import MethodReport, PairReport
from kt_batch.models.weights import EncoderSource, load_encoder
from kt_batch.pipelines.progress import no_progress
from tests.models.test_peers import published
from tests.support import style

SIZE = 192


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> StylePictures:
    """Two photographs and two paintings."""
    folder = tmp_path_factory.mktemp("pictures")
    for side, draw in (("photographs", style.photograph), ("paintings", style.painting)):
        (folder / side).mkdir()
        for seed in (1, 2):
            draw(seed).save(folder / side / f"{side}-{seed}.png")
    photographs, paintings = (read_pictures([str(folder / side)], SIZE, side) for side in ("photographs", "paintings"))
    return StylePictures(photographs, paintings, SIZE)


@pytest.fixture(scope="module")
def measures() -> StyleMeasures:
    return StyleMeasures(load_encoder(EncoderSource()).network, None)


def ignore(photograph: StylePicture, painting: StylePicture, method: str, result: Tensor) -> None:
    """Show nothing."""


def compared(
    pictures: StylePictures, measures: StyleMeasures, *contenders: Contender
) -> tuple[Mapping[str, MethodReport], tuple[PairReport, ...]]:
    """Return the methods by name, and the pairs."""
    methods, pairs = compare(pictures.photographs, pictures.paintings, contenders, measures, ignore, no_progress)
    return {method.name: method for method in methods}, pairs


def named(name: str, method: str, layer: str | None = None, **values: Any) -> OwnMethod:
    return OwnMethod(name, method, values, layer, SIZE)


def save_result(folder: Path, photograph: StylePicture, painting: StylePicture, picture: StylePicture) -> None:
    folder.mkdir(exist_ok=True)
    style.as_picture(picture.image).save(folder / f"{photograph.name}__{painting.name}.png")


def test_a_method_takes_patches_of_the_painting_and_the_photograph_does_not(
    pictures: StylePictures, measures: StyleMeasures
) -> None:
    methods, pairs = compared(pictures, measures, Unedited(), named("swap", "knowledge"), named("none", "identity"))
    assert [method.pairs for method in methods.values()] == [4, 4, 4]
    for pair in pairs:
        assert pair.values["swap"].patch_realism > pair.values["photograph"].patch_realism
        assert pair.values["none"] == pair.values["photograph"]
    swap = methods["swap"]
    assert swap.settings == {"method": "knowledge", "layer": "relu3_1"}
    assert swap.seconds is not None
    assert methods["photograph"].seconds is None


def test_the_strength_of_a_method_leads_from_the_photograph_to_the_painting(
    pictures: StylePictures, measures: StyleMeasures
) -> None:
    contenders = [named(f"adain {alpha}", "adain", alpha=alpha) for alpha in (0.1, 1.0)]
    methods, _ = compared(pictures, measures, *contenders)
    weak, strong = (methods[contender.name] for contender in contenders)
    assert strong.means["patch_distance"].mean < weak.means["patch_distance"].mean
    assert strong.curve == weak.curve


def test_finished_pictures_get_the_values_of_the_method_that_made_them(
    pictures: StylePictures, measures: StyleMeasures, tmp_path: Path
) -> None:
    def save(photograph: StylePicture, painting: StylePicture, method: str, result: Tensor) -> None:
        style.as_picture(result).save(tmp_path / f"{photograph.name}__{painting.name}.png")

    _, pairs = compare(
        pictures.photographs, pictures.paintings, [named("swap", "knowledge")], measures, save, no_progress
    )
    _, again = compared(pictures, measures, Finished("theirs", tmp_path, SIZE))
    assert [pair.values["swap"] for pair in pairs] == [pair.values["theirs"] for pair in again]


def test_the_painting_as_a_result_has_its_style(
    pictures: StylePictures, measures: StyleMeasures, tmp_path: Path
) -> None:
    for photograph in pictures.photographs:
        for painting in pictures.paintings:
            save_result(tmp_path, photograph, painting, painting)
    methods, _ = compared(pictures, measures, Finished("painting", tmp_path, SIZE))
    assert methods["painting"].means["patch_distance"].mean == 0
    assert methods["painting"].means["patch_realism"].mean == pytest.approx(1, abs=1e-5)


def test_a_finished_picture_may_be_named_by_ids_and_have_another_size(
    pictures: StylePictures, measures: StyleMeasures, tmp_path: Path
) -> None:
    photograph, painting = pictures.photographs[0], pictures.paintings[0]
    larger = style.as_picture(painting.image).resize((250, 170))
    larger.save(tmp_path / f"{photograph.id}__{painting.id}.jpg", quality=100)
    methods, _ = compared(pictures, measures, Finished("theirs", tmp_path, SIZE))
    assert methods["theirs"].pairs == 1


def test_missing_and_damaged_pictures_are_counted_and_named(
    pictures: StylePictures, measures: StyleMeasures, tmp_path: Path
) -> None:
    one, other = pictures.photographs
    for painting in pictures.paintings:
        save_result(tmp_path, one, painting, one)
    (tmp_path / f"{other.name}__{pictures.paintings[0].name}.png").write_bytes(b"no picture")
    methods, pairs = compared(pictures, measures, Finished("theirs", tmp_path, SIZE))
    theirs = methods["theirs"]
    assert (theirs.pairs, len(theirs.missing), theirs.absent) == (2, 2, None)
    assert any(f"{other.name}__{pictures.paintings[1].name}.png" in reason for reason in theirs.missing)
    assert sum("theirs" in pair.values for pair in pairs) == 2


def test_a_folder_without_any_result_says_so(pictures: StylePictures, measures: StyleMeasures, tmp_path: Path) -> None:
    methods, _ = compared(pictures, measures, Unedited(), Finished("theirs", tmp_path, SIZE))
    assert methods["theirs"].absent == "none of its pictures could be used"
    assert methods["theirs"].means == {}


def test_a_comparison_gives_the_same_values_every_time(pictures: StylePictures, measures: StyleMeasures) -> None:
    once, again = (compared(pictures, measures, named("swap", "knowledge")) for _ in range(2))
    assert [asdict(pair.values["swap"]) for pair in once[1]] == [asdict(pair.values["swap"]) for pair in again[1]]
    assert once[0]["swap"].means == again[0]["swap"].means


def test_two_methods_of_one_name_are_refused(pictures: StylePictures, measures: StyleMeasures) -> None:
    with pytest.raises(UsageError, match="Two methods are called 'photograph'"):
        compared(pictures, measures, Unedited(), Unedited())


def test_a_method_that_learns_from_pairs_is_refused() -> None:
    with pytest.raises(UsageError, match="retouch needs pairs, which no painting gives"):
        named("edit", "retouch")


def test_two_pictures_of_one_name_are_refused(pictures: StylePictures) -> None:
    first, second = pictures.photographs
    with pytest.raises(UsageError, match=f"Two photographs are called '{first.name}'"):
        check_names([first, StylePicture(second.id, first.name, second.uri, second.working)], "photographs")


def test_a_folder_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="of --results theirs does not exist"):
        Finished("theirs", tmp_path / "none", SIZE)


def test_the_first_pairs_of_a_page_have_every_photograph_and_painting(pictures: StylePictures) -> None:
    first = spread_pairs(pictures, 2)
    assert {photograph for photograph, _ in first} == {picture.id for picture in pictures.photographs}
    assert {painting for _, painting in first} == {picture.id for picture in pictures.paintings}
    assert len(set(spread_pairs(pictures, 9))) == 4


# ---- peers ----


def test_peers_without_their_files_are_absent_with_the_names_of_the_files(tmp_path: Path) -> None:
    peers, absent = load_peers(tmp_path)
    assert peers == []
    assert set(absent) == {"AdaIN", "WCT", "style-swap"}
    assert "decoder_adain_relu4_1.safetensors" in absent["AdaIN"]
    assert "vgg19_caffe_relu3_1.safetensors" in absent["style-swap"]


def full_vgg(last: str) -> dict[str, Tensor]:
    """Return random weights of VGG-19 with its own widths."""
    return style.vgg_state(last, {"conv1": 64, "conv2": 128, "conv3": 256, "conv4": 512})


def test_style_swap_runs_with_its_own_networks(
    pictures: StylePictures, measures: StyleMeasures, tmp_path: Path
) -> None:
    save_file(full_vgg("conv3_1"), tmp_path / "vgg19_caffe_relu3_1.safetensors", {"preprocess": "caffe"})
    save_file(published(), tmp_path / "decoder_styleswap_inverse_relu3_1.safetensors")
    peers, absent = load_peers(tmp_path)
    assert (set(absent), [peer.name for peer in peers]) == ({"AdaIN", "WCT"}, ["style-swap"])
    methods, _ = compared(pictures, measures, *peers)
    assert (methods["style-swap"].kind, methods["style-swap"].pairs) == ("peer", 4)


def test_a_damaged_file_of_a_peer_is_an_error(tmp_path: Path) -> None:
    for name in ("vgg19_caffe_relu3_1.safetensors", "decoder_styleswap_inverse_relu3_1.safetensors"):
        (tmp_path / name).write_bytes(b"nothing")
    with pytest.raises(WeightsError, match=r"vgg19_caffe_relu3_1\.safetensors"):
        load_peers(tmp_path)
