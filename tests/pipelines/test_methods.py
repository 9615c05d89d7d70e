"""The pipeline runs a method without encoder, decoder, index or patch provenance."""

from __future__ import annotations

import io
import shutil
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field
from torch import Tensor

from kt_batch.config import Layer, MethodConfig, RunOptions
from kt_batch.errors import MismatchError, MissingError, UsageError
from kt_batch.methods.base import Need, Resources, Result, SourceProvenance
from kt_batch.methods.table import METHODS
from kt_batch.pipelines.estimate import DryRunRequest, estimate_translate
from kt_batch.pipelines.progress import no_progress
from kt_batch.pipelines.translate.finish import TranslateSummary, translate
from kt_batch.pipelines.translate.plan import TranslateRequest
from kt_batch.pipelines.translate.resources import load_resources
from kt_batch.pipelines.translate.sources import Choice, choose
from kt_batch.report.explain import explain
from kt_batch.report.inspect import inspect
from kt_batch.report.run_report import run_report
from kt_batch.report.sheet import write_sheet
from kt_batch.runners.local import LocalRunner
from kt_batch.store.images.conversion import OUTPUT_PROFILES
from kt_batch.store.images.files import decode
from kt_batch.store.opening import open_run
from tests.support.collection import Collection
from tests.support.tiny import hashes, rows


class GainConfig(MethodConfig):
    """The gain of every pixel."""

    method: Literal["gain"] = "gain"
    gain: float = Field(1.0, gt=0.0)


class Gain:
    """Multiplies the pixels of a photograph, without a network, citing an invented source."""

    config_type: ClassVar[type[MethodConfig]] = GainConfig
    needs: ClassVar[frozenset[Need]] = frozenset()
    stages: ClassVar[tuple[str, ...]] = ("fit",)
    layer: ClassVar[Layer | None] = None
    stride = 1

    def __init__(self, config: GainConfig, resources: Resources) -> None:
        assert resources == Resources()
        self.gain = config.gain

    def translate(self, image: Tensor) -> Result:
        return Result(self, SourceProvenance({"0123456789abcdef": 0.75, "fedcba9876543210": 0.25}), {"fit": 0.25})

    def apply(self, pixels: NDArray[np.float32], top: int, height: int) -> NDArray[np.float32]:
        edited: NDArray[np.float32] = np.clip(pixels * np.float32(self.gain), 0, 1)
        return edited


@pytest.fixture(autouse=True)
def gain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS, "gain", Gain)


def gained(photos: Path, run: Path, runner: Any = None, **options: Any) -> TranslateSummary:
    return translate(request(photos, run, **options), runner or LocalRunner(), no_progress)


def request(photos: Path, run: Path, gain: float = 0.5, **options: Any) -> TranslateRequest:
    config, sources = choose("gain", {"gain": gain}, Choice(size=48))
    return TranslateRequest([str(photos)], str(run), config, sources, RunOptions(threads=1, unit_size=2, **options))


def test_an_edit_is_applied_to_the_pixels_of_the_photograph(collection: Collection, tmp_path: Path) -> None:
    same = gained(collection.photos, tmp_path / "same", gain=1.0)
    assert (same.images, same.library, same.index, same.ncc_mean) == (3, None, None, None)
    gained(collection.photos, tmp_path / "run")
    plain, edited = (
        np.asarray(Image.open(tmp_path / name / "images/11.png.png")).astype(float) for name in ("same", "run")
    )
    assert plain.shape == (56, 72, 3)  # the photograph's own size, not that of the working image
    assert np.abs(edited - plain / 2).max() <= 1


def test_outputs_are_in_the_wanted_space_and_say_so(collection: Collection, tmp_path: Path) -> None:
    config, sources = choose("gain", {"gain": 0.5, "output_space": "p3"}, Choice(size=48))
    wide = TranslateRequest([str(collection.photos)], str(tmp_path / "p3"), config, sources, RunOptions(threads=1))
    translate(wide, LocalRunner(), no_progress)
    gained(collection.photos, tmp_path / "plain")
    tagged, plain = ((tmp_path / name / "images/11.png.png").read_bytes() for name in ("p3", "plain"))
    assert Image.open(io.BytesIO(tagged)).info["icc_profile"] == OUTPUT_PROFILES["p3"]
    assert Image.open(io.BytesIO(plain)).info["icc_profile"] == OUTPUT_PROFILES["srgb"]
    np.testing.assert_allclose(decode(tagged, 48).pixels, decode(plain, 48).pixels, atol=3 / 255)
    with pytest.raises(MismatchError, match="output_space"):
        gained(collection.photos, tmp_path / "p3")


def test_the_provenance_is_a_share_for_each_source(collection: Collection, tmp_path: Path) -> None:
    gained(collection.photos, tmp_path / "run")
    table = [row for row in rows(tmp_path / "run", "provenance") if row["output"] == "images/11.png.png"]
    assert [(row["source_image_id"].hex(), row["share"]) for row in table] == [
        ("0123456789abcdef", 0.75),
        ("fedcba9876543210", 0.25),
    ]


def test_a_run_is_continued_and_a_dry_run_predicts_it(collection: Collection, tmp_path: Path) -> None:
    gained(collection.photos, tmp_path / "run")
    before = hashes(tmp_path / "run")
    assert gained(collection.photos, tmp_path / "run").new_images == 0
    assert hashes(tmp_path / "run") == before
    estimate = estimate_translate(
        request(collection.photos, tmp_path / "new"), DryRunRequest(pilot=1), LocalRunner(), no_progress
    )
    assert (estimate.found, estimate.done, estimate.to_do) == (3, 0, 3)
    assert estimate.pilot is not None
    assert estimate.pilot.rejected == 0
    assert not (tmp_path / "new").exists()


def test_other_settings_of_a_run_are_refused(collection: Collection, tmp_path: Path) -> None:
    gained(collection.photos, tmp_path / "run")
    with pytest.raises(MismatchError, match=r"gain \(0.5 there, 0.25 here\)"):
        gained(collection.photos, tmp_path / "run", gain=0.25)


def test_a_broken_image_is_a_reject(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/broken.png").write_bytes(b"no picture")
    summary = gained(tmp_path / "photos", tmp_path / "run")
    assert (summary.images, summary.rejected, summary.ncc_mean) == (0, 1, None)


def test_every_report_works_for_it(collection: Collection, tmp_path: Path) -> None:
    gained(collection.photos, tmp_path / "run")
    run = str(tmp_path / "run")
    assert open_run(run).header.method == "gain"
    found = inspect(run)
    assert (found["kind"], found["method"], found["images"]) == ("run", "gain", 3)
    stages = [stage.stage for stage in run_report(run).stages]
    assert sorted(stages) == ["fit", "read", "write"]
    explained = explain(run, "11.png", 10, 10)
    assert [source.share for source in explained.sources] == [0.75, 0.25]
    assert write_sheet({"gain": run}, tmp_path / "page").is_file()


# ---- needs of a method ----


def test_unused_inputs_are_refused(collection: Collection) -> None:
    with pytest.raises(UsageError, match="The method gain does not use --library"):
        choose("gain", {}, Choice(library=str(collection.library)))
    with pytest.raises(UsageError, match="The method knowledge does not use --style"):
        choose("knowledge", {}, Choice(library=str(collection.library), styles=[str(collection.paintings)]))


@pytest.mark.parametrize(
    ("choice", "option"),
    [
        (Choice(encoder="kt-vgg"), "--encoder"),
        (Choice(encoder_weights="encoder.safetensors"), "--encoder-weights"),
        (Choice(layer="relu3_1"), "--layer"),
        (Choice(decoder_weights="decoder.safetensors"), "--decoder-weights"),
        (Choice(index="0123"), "--index"),
    ],
)
def test_weights_are_refused_by_a_method_without_an_encoder(choice: Choice, option: str) -> None:
    with pytest.raises(UsageError, match=f"The method gain does not use {option}; leave it out"):
        choose("gain", {}, choice)


@pytest.mark.parametrize("name", ["encoder", "decoder_sha256", "index_digest", "styles", "size"])
def test_a_setting_cannot_name_a_resource(name: str, collection: Collection) -> None:
    with pytest.raises(UsageError, match=f"{name} is no setting of the method knowledge"):
        choose("knowledge", {name: "x"}, Choice(library=collection.library))


def test_a_library_has_its_own_encoder_and_layer(collection: Collection) -> None:
    for choice in (
        Choice(library=collection.library, encoder="vgg19"),
        Choice(library=collection.library, layer="relu4_1"),
    ):
        with pytest.raises(UsageError, match="is for methods without a library"):
            choose("knowledge", {}, choice)


def test_style_images_are_loaded_for_a_method_without_an_encoder(
    collection: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Gain, "needs", frozenset({Need.STYLES}))
    config, sources = choose("gain", {}, Choice(styles=collection.paintings, size=32))
    styles = load_resources(config, sources).styles
    assert styles is not None
    assert list(styles) == sorted(styles) == list(config.styles)
    assert [tuple(style.shape) for style in styles.values()] == [(3, 25, 32)] * 4  # 72 x 56 at a long side of 32


def test_a_run_among_the_style_images_is_passed_over_and_named(
    collection: Collection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Gain, "needs", frozenset({Need.STYLES}))
    shutil.copytree(collection.paintings, tmp_path / "in")
    (tmp_path / "in/run/plan").mkdir(parents=True)
    (tmp_path / "in/run/plan/000000.parquet").touch()
    shutil.copy(collection.photos / "11.png", tmp_path / "in/run")
    config, sources = choose("gain", {}, Choice(styles=tmp_path / "in", size=32))
    assert (len(config.styles), sources.passed_over) == (4, (f"{tmp_path}/in/run",))


def test_the_refusal_names_the_missing_input() -> None:
    with pytest.raises(UsageError, match="The method knowledge needs --library"):
        choose("knowledge", {}, Choice())


def test_a_method_that_needs_statistics_needs_a_library_that_has_them(
    collection: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Gain, "needs", frozenset({Need.STATISTICS}))
    with pytest.raises(UsageError, match="The method gain needs --library"):
        choose("gain", {}, Choice())
    with pytest.raises(MissingError, match="has no statistics of what it holds now; run: kt-batch statistics"):
        choose("gain", {}, Choice(library=str(collection.library)))


def test_knowledge_uses_the_encoder_of_its_library(collection: Collection) -> None:
    config, sources = choose("knowledge", {"swap": "statistics"}, Choice(library=str(collection.library), size=32))
    assert config.encoder is not None
    assert (config.encoder.layer, config.encoder.size, config.index_digest) == ("relu3_1", 32, collection.index)
    assert sources.library == str(collection.library)
