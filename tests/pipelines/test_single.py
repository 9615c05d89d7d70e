"""`try` translates one photograph after a few paintings without writing intermediates."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kt_batch.config import IndexConfig, SearchConfig
from kt_batch.errors import Reason, RejectError, UsageError
from kt_batch.methods.knowledge import KnowledgeConfig, KnowledgeTransfer
from kt_batch.methods.painting.method import Painting, PaintingConfig
from kt_batch.methods.table import advised
from kt_batch.models.weights import EncoderSource
from kt_batch.pipelines.single import MAX_PAINTINGS, SingleSummary, load_networks, translate_one
from tests.support.collection import PATCHES, Collection
from tests.support.tiny import SIZE, draw_all, encoder_config, extracted, hashes, indexed, translate_request, translated

ALL = SearchConfig(searcher="exact")


def tried(photo: Path, *paintings: Path, **config: object) -> tuple[bytes, SingleSummary]:
    networks = load_networks(EncoderSource(), KnowledgeTransfer, "relu3_1", None)
    identity = {"encoder": encoder_config(), **networks.digests}
    settings = KnowledgeConfig.model_validate({**advised(KnowledgeTransfer), **identity, **config})
    return translate_one(str(photo), [str(each) for each in paintings], networks, KnowledgeTransfer, settings, 1)


def painted(photo: Path, *paintings: Path, **config: object) -> tuple[bytes, SingleSummary]:
    networks = load_networks(EncoderSource(), Painting, "relu4_1", None)
    encoder = encoder_config().model_copy(update={"layer": "relu4_1"})
    settings = PaintingConfig.model_validate({"encoder": encoder, **networks.digests, **config})
    return translate_one(str(photo), [str(each) for each in paintings], networks, Painting, settings, 1)


def test_a_photograph_is_painted_without_a_library(collection: Collection) -> None:
    data, summary = painted(collection.photos / "11.png", collection.paintings)
    with Image.open(io.BytesIO(data)) as image:
        assert (image.size, image.format) == ((64, 50), "PNG")
    assert sum(summary.shares.values()) == pytest.approx(1, abs=0.001)
    assert set(summary.stage_seconds) == {"extract", "index", *Painting.stages}


def test_painted_at_no_strength_a_photograph_has_no_source(collection: Collection) -> None:
    data, summary = painted(collection.photos / "11.png", collection.paintings, strength=0.0)
    assert (summary.patches, summary.shares, summary.ncc_mean) == (0, {}, None)
    with Image.open(collection.photos / "11.png") as photo:
        expected = photo.convert("RGB").resize((64, 50), Image.Resampling.LANCZOS)
    ours = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), int)
    assert np.abs(ours - np.asarray(expected, int)).mean() < 2  # our own resizing differs a little from Pillow's


def test_a_large_picture_is_painted_at_the_size_of_the_paintings_and_enlarged(collection: Collection) -> None:
    small, plain = painted(collection.photos / "11.png", collection.paintings)
    data, summary = painted(collection.photos / "11.png", collection.paintings, size=72)
    assert (summary.shares, summary.patches) == (plain.shares, plain.patches)
    with Image.open(io.BytesIO(data)) as large, Image.open(io.BytesIO(small)) as image:
        assert (large.size, image.size) == ((72, 56), (64, 50))
        reduced = np.asarray(large.convert("RGB").resize(image.size, Image.Resampling.LANCZOS), int)
        assert np.abs(reduced - np.asarray(image.convert("RGB"), int)).mean() < 16


def test_the_result_has_the_shape_of_the_photograph(collection: Collection) -> None:
    data, summary = tried(collection.photos / "11.png", collection.paintings / "1.png")
    with Image.open(io.BytesIO(data)) as image:
        assert (image.size, image.format) == ((64, 50), "PNG")
    assert summary.patches == PATCHES
    assert summary.ncc_mean is not None
    assert 0 < summary.ncc_mean <= 1


def test_the_result_equals_that_of_a_library_of_the_paintings(collection: Collection, tmp_path: Path) -> None:
    """The search is exact and nothing is merged, so that the two trees cannot differ."""
    plain = IndexConfig(merge=1.0)
    extracted([collection.paintings], tmp_path / "library")
    digest = indexed(tmp_path / "library", config=plain).index
    translated(
        [collection.photos / "11.png"], translate_request(tmp_path / "library", tmp_path / "run", digest, search=ALL)
    )
    data, _ = tried(collection.photos / "11.png", collection.paintings, search=ALL)
    (tmp_path / "try/images").mkdir(parents=True)
    (tmp_path / "try/images/11.png.png").write_bytes(data)
    ours, theirs = (np.asarray(Image.open(tmp_path / place / "images/11.png.png"), int) for place in ("try", "run"))
    assert hashes(tmp_path / "try", "images").keys() == hashes(tmp_path / "run", "images").keys()
    assert np.abs(ours - theirs).max() <= 1


def test_every_painting_has_a_share_and_shares_sum_to_one(collection: Collection) -> None:
    _, summary = tried(collection.photos / "11.png", collection.paintings)
    assert set(summary.shares) <= {str(path) for path in collection.paintings.iterdir()}
    assert sum(summary.shares.values()) == pytest.approx(1, abs=0.001)
    assert list(summary.shares.values()) == sorted(summary.shares.values(), reverse=True)


def test_a_painting_translated_with_itself_finds_every_patch(collection: Collection) -> None:
    path = collection.paintings / "1.png"
    _, summary = tried(path, collection.paintings, search=ALL)
    assert summary.ncc_mean is not None
    assert summary.ncc_mean > 0.99
    assert next(iter(summary.shares)) == str(path)


def test_the_same_painting_twice_counts_once(collection: Collection, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in ("a.png", "b.png"):
        shutil.copy(collection.paintings / "1.png", tmp_path / "in" / name)
    _, summary = tried(collection.photos / "11.png", tmp_path / "in")
    assert summary.shares == {str(tmp_path / "in/a.png"): 1.0}


def test_a_run_among_the_paintings_is_passed_over_and_named(collection: Collection, tmp_path: Path) -> None:
    shutil.copytree(collection.paintings, tmp_path / "in")
    job = translate_request(collection.library, tmp_path / "in/run", collection.index)
    translated([collection.photos / "11.png"], job)
    _, summary = tried(collection.photos / "11.png", tmp_path / "in")
    assert summary.passed_over == (f"{tmp_path}/in/run",)
    assert {Path(uri).parent for uri in summary.shares} == {tmp_path / "in"}


def test_the_same_call_gives_the_same_bytes(collection: Collection) -> None:
    first, second = (tried(collection.photos / "12.png", collection.paintings)[0] for _ in range(2))
    assert first == second


def test_an_unusable_image_is_one_sentence(collection: Collection, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"no image")
    with pytest.raises(RejectError) as photo:
        tried(tmp_path / "bad.png", collection.paintings)
    with pytest.raises(RejectError) as painting:
        tried(collection.photos / "11.png", tmp_path / "bad.png")
    with pytest.raises(RejectError) as absent:
        tried(tmp_path / "nowhere.png", collection.paintings)
    reasons = [error.value.reason for error in (photo, painting, absent)]
    assert reasons == [Reason.NOT_AN_IMAGE, Reason.NOT_AN_IMAGE, Reason.UNREADABLE]
    assert "bad.png" in str(photo.value)
    assert "bad.png" in str(painting.value)


def test_too_many_paintings_are_refused(collection: Collection, tmp_path: Path) -> None:
    draw_all(tmp_path / "many", range(MAX_PAINTINGS + 1))
    with pytest.raises(UsageError, match=f"up to {MAX_PAINTINGS} paintings, not {MAX_PAINTINGS + 1}"):
        tried(collection.photos / "11.png", tmp_path / "many")


def test_the_size_constants_of_these_tests_match_the_working_image(collection: Collection) -> None:
    data, _ = tried(collection.photos / "11.png", collection.paintings / "1.png", encoder=encoder_config(32))
    with Image.open(io.BytesIO(data)) as image:
        assert max(image.size) == 32 < SIZE
