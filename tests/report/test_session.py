"""A session opens a run once for any number of pixels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from kt_batch.errors import MissingError
from kt_batch.report.explain import explain
from kt_batch.report.session import KEPT_TABLES, Session
from kt_batch.store.locations import LocalLocation
from tests.report.conftest import Made
from tests.support.gain import make_gain_run

PARK = "images/park/a.jpg.png"


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Count the reads of each file below each directory of a library or a run."""
    counted: Counter[str] = Counter()

    def counting(method: Callable[..., object]) -> Callable[..., object]:
        def read(location: LocalLocation, name: str, *how: object) -> object:
            counted[f"{location.root.name}/{name}"] += 1
            return method(location, name, *how)

        return read

    for method in (LocalLocation.read_bytes, LocalLocation.read_range, LocalLocation.open):
        monkeypatch.setattr(LocalLocation, method.__name__, counting(method))
    return counted


def of(reads: Counter[str], folder: str) -> list[int]:
    return [count for name, count in sorted(reads.items()) if name.split("/")[1] == folder]


def test_two_pixels_read_plan_receipts_and_provenance_once(made: Made, reads: Counter[str]) -> None:
    session = Session.open(str(made.blended))
    first = session.explain(PARK, 9, 10)
    once = Counter(reads)
    second = session.explain(PARK, 30, 30)
    assert first.contributions != second.contributions
    assert of(reads, "plan") == [1, 1]  # of the run and of the library
    assert set(of(reads, "receipts")) == {1}
    assert set(of(reads, "provenance")) == {1}
    assert once == reads  # the second pixel needs no further read


def test_a_session_gives_the_explanations_of_the_convenience_function(made: Made) -> None:
    session = Session.open(str(made.blended))
    for x, y in ((0, 0), (9, 10), (59, 55)):
        assert session.explain(PARK, x, y) == explain(str(made.blended), PARK, x, y)


def test_pixels_of_one_output_per_source_read_it_once(tmp_path: Path, reads: Counter[str]) -> None:
    session = Session.open(str(make_gain_run(tmp_path)))
    reads.clear()
    session.explain("a.jpg", 0, 0)
    session.explain("a.jpg", 1, 1)
    assert set(reads.values()) == {1}


def test_the_number_of_tables_in_memory_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = Session.open(str(make_gain_run(tmp_path)))
    output = next(iter(session.run.outputs.values()))
    monkeypatch.setattr("kt_batch.report.session.provenance_of", lambda _, output, level: output.name)
    for number in range(KEPT_TABLES + 3):
        named = replace(output, name=f"images/{number}.png")
        assert session.provenance(named) == named.name
    assert len(session._tables) == KEPT_TABLES


def test_images_are_fetched_once(made: Made, reads: Counter[str]) -> None:
    session = Session.open(str(made.blended))
    ids = [source.image_id for source in session.explain(PARK, 9, 10).contributions]
    before = Counter(reads)
    assert session.images(ids).keys() == set(ids)
    assert session.images(["ff" * 8]) == session.images(["ff" * 8]) == {}
    assert {name: count for name, count in reads.items() if count != before[name]} == {}


def test_a_library_that_is_named_and_missing_is_an_error(made: Made, tmp_path: Path) -> None:
    session = Session.open(str(make_gain_run(tmp_path)), library=str(tmp_path / "nowhere"))
    with pytest.raises(MissingError):
        _ = session.library
    with pytest.raises(MissingError):
        explain(str(made.blended), PARK, 9, 10, str(tmp_path / "nowhere"))
