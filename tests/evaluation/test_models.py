"""Model measurements on cases with known results."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from kt_batch.errors import UsageError, WeightsError
from kt_batch.evaluation.models import Pair, bench_models, fidelity, likeness, linear_fit_r2, working_images
from kt_batch.models.weights import EncoderSource, load_encoder
from kt_batch.pipelines.progress import Step
from kt_batch.store.images.files import image_id
from kt_batch.training.recipes import HELD_OUT
from tests.support.tiny import draw_all

OURS = Pair("kt-vgg", "relu3_1", EncoderSource(), None)


@pytest.fixture
def pictures(tmp_path: Path) -> str:
    draw_all(tmp_path / "pictures", range(3))
    return str(tmp_path / "pictures")


def test_a_uniform_error_of_a_tenth_of_the_range_is_twenty_decibels() -> None:
    image = np.full((16, 16, 3), 0.5, np.float32)
    assert likeness(image, image + 0.1)[0] == pytest.approx(20, abs=1e-3)  # -20 log10(0.1)


def test_the_structural_similarity_of_an_image_with_itself_is_one(generator: torch.Generator) -> None:
    image = torch.rand(16, 16, 3, generator=generator).numpy()
    assert likeness(image, image + 1e-6)[1] == pytest.approx(1, abs=1e-4)


def test_a_linear_fit_recovers_a_linear_map_and_its_constant(generator: torch.Generator) -> None:
    ours = [torch.randn(4, 9, 9, generator=generator) for _ in range(3)]
    matrix = torch.randn(6, 4, generator=generator)
    theirs = [torch.einsum("oc,chw->ohw", matrix, m) + 2 for m in ours]
    assert linear_fit_r2(ours[:2], theirs[:2], ours[2:], theirs[2:]) == pytest.approx(1, abs=1e-6)


def test_an_independent_input_explains_nothing(generator: torch.Generator) -> None:
    ours, theirs = ([torch.randn(2, 40, 40, generator=generator) for _ in range(2)] for _ in range(2))
    assert linear_fit_r2(ours[:1], theirs[:1], ours[1:], theirs[1:]) == pytest.approx(0, abs=0.02)


def test_the_reference_agrees_with_its_own_choices(pictures: str) -> None:
    encoder = load_encoder(EncoderSource()).network
    images = working_images([pictures], 64, held_out=False)
    found = fidelity(encoder, encoder, "relu3_1", images[:2], images[2:])
    assert found.ratio == found.same_patch == 1
    assert found.best_ncc == found.chosen_ncc
    assert found.r2 == pytest.approx(1, abs=0.01)  # few cells, and a ridge


def test_every_pair_has_one_row_in_the_given_order(pictures: str) -> None:
    steps: list[Step] = []
    other = Pair("again", "relu3_1", EncoderSource(), None)
    rows = bench_models(
        [pictures], [pictures], [other, OURS], None, size=48, held_out=False, threads=1, progress=steps.append
    )
    assert [(row.name, row.layer, row.images) for row in rows] == [("again", "relu3_1", 3), ("kt-vgg", "relu3_1", 3)]
    assert rows[0].psnr_mean == rows[1].psnr_mean  # the same networks
    assert rows[0].psnr_worst <= rows[0].psnr_mean
    assert rows[0].encode_seconds > 0 < rows[0].decode_seconds
    assert rows[0].fidelity is None
    assert [step.done for step in steps if step.stage == "reconstruction"] == [1, 2, 3]


def test_with_a_reference_every_row_has_a_fidelity(pictures: str) -> None:
    rows = bench_models(
        [pictures], [pictures], [OURS], EncoderSource(), size=48, held_out=False, threads=1, progress=lambda step: None
    )
    assert rows[0].fidelity is not None
    assert rows[0].fidelity.same_patch == 1


def test_only_images_excluded_from_training_are_held_out(tmp_path: Path) -> None:
    draw_all(tmp_path / "many", range(40))
    files = sorted((tmp_path / "many").iterdir())
    expected = [file for file in files if image_id(file.read_bytes()).startswith(HELD_OUT)]
    assert len(working_images([str(tmp_path / "many")], 48, held_out=True)) == len(expected) > 0


def test_an_empty_held_out_set_is_reported(tmp_path: Path) -> None:
    draw_all(tmp_path / "many", range(40))
    seen = next(f for f in sorted((tmp_path / "many").iterdir()) if image_id(f.read_bytes())[0] != HELD_OUT)
    with pytest.raises(UsageError, match="none of the 1 images is held out"):
        working_images([str(seen)], 48, held_out=True)


def test_a_decoder_that_is_not_a_weight_file_is_one_clear_error(pictures: str, tmp_path: Path) -> None:
    (tmp_path / "decoder.pth").write_bytes(b"\x80\x04pickled")
    wrong = Pair("wrong", "relu3_1", EncoderSource(), str(tmp_path / "decoder.pth"))
    with pytest.raises(WeightsError, match="pickled weights"):
        bench_models([pictures], [], [wrong], None, size=48, held_out=False, threads=1, progress=lambda step: None)
