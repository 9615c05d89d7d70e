"""A plan of a stranger sends no request to a store that the caller did not name."""

from __future__ import annotations

from pathlib import Path

import pytest

from kt_batch.errors import UsageError
from kt_batch.pipelines.inputs import check_origins
from kt_batch.report.sources import follows
from kt_batch.store.locations import open_location
from kt_batch.store.places import origin_of
from kt_batch.store.plans import Item, make_units
from tests.support.collection import Collection
from tests.support.tiny import draw, translate_request, translated


@pytest.mark.parametrize(
    ("uri", "origin"),
    [
        ("/photos/a.jpg", None),
        ("file:///photos/a.jpg", None),
        ("s3://bucket/a.jpg", "s3://bucket"),
        ("S3A://bucket/a.jpg", "s3://bucket"),
        ("https://host:8080/a.jpg?x=1", "https://host:8080"),
        ("https://host?x=1", "https://host"),
    ],
)
def test_the_origin_of_a_place_is_who_gets_the_request(uri: str, origin: str | None) -> None:
    assert origin_of(uri) == origin


def test_planned_images_in_a_store_that_was_not_named_are_refused(tmp_path: Path) -> None:
    location = open_location(str(tmp_path))
    units = make_units([Item("1" * 16, "s3://stranger/a.jpg", "a.jpg")], 8)
    with pytest.raises(UsageError, match=r"plans the image 's3://stranger/a\.jpg', in a store that you did not name"):
        check_origins(["/photos", "s3://mine/photos"], location, units)
    check_origins(["s3a://stranger/elsewhere"], location, units)
    check_origins([], open_location("s3://stranger/run"), units)


def test_a_run_whose_plan_names_a_store_is_not_continued(collection: Collection, tmp_path: Path) -> None:
    draw(tmp_path / "a.png", 21)
    job = translate_request(collection.library, tmp_path / "run", collection.index)
    from kt_batch.store.units import Ledger

    ledger = Ledger(open_location(str(tmp_path / "run")))
    ledger.plan(
        [Item("1" * 16, "https://stranger/a.jpg", "a.jpg")], 8, job.config.model_dump(mode="json"), job.config.digest()
    )
    with pytest.raises(UsageError, match=r"https://stranger/a\.jpg"):
        translated([tmp_path / "a.png"], job)


def test_only_the_bucket_of_a_run_is_followed_from_its_files() -> None:
    run = open_location("s3://mine/run")
    assert follows(run, "s3://mine/library")
    assert follows(run, "/local/library")
    assert not follows(run, "s3://other/library")
    assert not follows(open_location("/local/run"), "s3://mine/library")
