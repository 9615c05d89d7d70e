"""Methods side by side: each in a process of its own, whose end and memory are its own."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, replace
from pathlib import Path
from statistics import fmean
from typing import Any, ClassVar, Literal

import pytest
import torch
from torch import Tensor

from kt_batch.cli.compare import compare_lines
from kt_batch.config import Layer, MethodConfig
from kt_batch.errors import UsageError
from kt_batch.evaluation.style.compare import compare
from kt_batch.evaluation.style.contenders import OwnMethod
from kt_batch.evaluation.style.evaluate import StyleNetwork, StylePictures
from kt_batch.evaluation.style.measures import StyleMeasures
from kt_batch.evaluation.style.method_process import run_method
from kt_batch.evaluation.style.one_method import Request, kind_of, make_pictures
from kt_batch.evaluation.style.painting_banks import banks_by_painting
from kt_batch.evaluation.style.pictures import read_pictures
from kt_batch.evaluation.style.side_by_side import MethodRow, Training, compare_side_by_side, for_paintings
from kt_batch.memory import peak_memory
from kt_batch.methods.base import LevelProvenance, Need, PatchProvenance, Resources, Result, SourceProvenance
from kt_batch.methods.table import METHODS
from kt_batch.models.weights import EncoderSource, load_encoder
from kt_batch.pipelines.numerics import fix_numerics
from kt_batch.pipelines.progress import no_progress
from tests.support import style
from tests.support.banks import save_bank, save_network

SIZE = 96


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> StylePictures:
    """Two photographs and a painting."""
    folder = tmp_path_factory.mktemp("pictures")
    for side, draw, seeds in (("photographs", style.photograph, (1, 2)), ("paintings", style.painting, (1,))):
        (folder / side).mkdir()
        for seed in seeds:
            draw(seed).save(folder / side / f"{side}-{seed}.png")
    photographs, paintings = (read_pictures([str(folder / side)], SIZE, side) for side in ("photographs", "paintings"))
    return StylePictures(photographs, paintings, SIZE)


def request(pictures: StylePictures, folder: Path, method: str = "identity") -> Request:
    photographs, paintings = (
        {picture.id: picture.uri for picture in side} for side in (pictures.photographs, pictures.paintings)
    )
    return Request(method, method, {}, None, SIZE, 1, photographs, paintings, str(folder))


def ignore(*_: object) -> None:
    """Take nothing."""


def test_pictures_of_processes_have_the_values_of_pictures_made_here(pictures: StylePictures) -> None:
    threads = torch.get_num_threads()
    try:
        numerics = fix_numerics(1)
        adain = OwnMethod("adain", "adain", {}, None, SIZE)
        left_out = MethodRow("retouch", {}, absent="it needs pairs")
        report = compare_side_by_side(pictures, [adain, left_out], StyleNetwork(), numerics, ignore, no_progress)
        measures = StyleMeasures(load_encoder(EncoderSource()).network, None)
        _, here = compare(pictures.photographs, pictures.paintings, [adain], measures, ignore, no_progress)
    finally:
        torch.set_num_threads(threads)
    assert [pair.values["adain"] for pair in report.pairs] == [pair.values["adain"] for pair in here]
    row, retouch = report.methods
    assert (row.pairs, row.absent, row.failures, row.explains) == (2, None, (), "shares")
    assert min(row.seconds or 0, row.preparation or 0, row.loading or 0) > 0
    assert row.seconds == round(fmean(pair.seconds["adain"] for pair in report.pairs), 3)  # of two, their median
    assert retouch == left_out
    assert report.photograph["blotchiness"].mean == 0


def test_a_painting_with_a_bank_has_pictures_and_one_without_has_the_reason(
    pictures: StylePictures, tmp_path: Path
) -> None:
    style.painting(2).save(tmp_path / "other.png")
    (other,) = read_pictures([str(tmp_path / "other.png")], SIZE, "paintings")
    (painting,) = pictures.paintings
    network = save_network(tmp_path / "w")
    path = save_bank(tmp_path / "w" / "one.bank.safetensors", network, 1, image=painting.id)
    banks = banks_by_painting([str(path)])
    stylebank = OwnMethod("stylebank", "stylebank", {}, None, SIZE, banks=banks)
    missing = "No bank was trained for 'other.png'; give one with --bank."

    absent = for_paintings(stylebank, [other])
    assert isinstance(absent, MethodRow)
    assert (absent.absent or "").startswith("The method stylebank needs banks, which no painting gives")
    method = for_paintings(stylebank, [painting, other])
    both = StylePictures(pictures.photographs, [painting, other], SIZE)
    threads = torch.get_num_threads()
    try:
        numerics = fix_numerics(1)
        report = compare_side_by_side(both, [method], StyleNetwork(), numerics, ignore, no_progress)
        measures = StyleMeasures(load_encoder(EncoderSource()).network, None)
        (here,), pairs = compare(both.photographs, both.paintings, [stylebank], measures, ignore, no_progress)
    finally:
        torch.set_num_threads(threads)
    (row,) = report.methods
    assert (row.pairs, row.absent, row.explains, row.training) == (2, None, "shares", Training(0, added=False))
    assert {(each.painting, each.reason) for each in row.failures} == {(other.id, missing)}
    assert row.settings["banks"] == {painting.id: banks[painting.id].id}
    assert (here.pairs, here.missing) == (2, (missing, missing))
    assert [pair.values for pair in report.pairs] == [
        {**there.values, **pair.values} for there, pair in zip(report.pairs, pairs, strict=True)
    ]
    assert sum("stylebank" in pair.values for pair in pairs) == 2
    printed = "\n".join(compare_lines(asdict(report)))
    assert "0 steps, joint" in printed
    assert f"missing pictures: 2; the first: {missing}" in printed


def test_two_banks_of_one_painting_are_refused(tmp_path: Path) -> None:
    network = save_network(tmp_path / "w")
    given = [str(save_bank(tmp_path / "w" / name, network, seed)) for name, seed in (("one", 1), ("two", 11))]
    with pytest.raises(UsageError, match="both trained for '1\\.jpg'"):
        banks_by_painting(given)
    assert len(banks_by_painting([given[0], given[0]])) == 1


def test_a_process_that_is_killed_keeps_its_pictures_and_gives_the_rest_a_reason(
    pictures: StylePictures, tmp_path: Path
) -> None:
    one, other = (photograph.id for photograph in pictures.photographs)
    painting = pictures.paintings[0].id
    line = {"photograph": one, "painting": painting, "seconds": 1.5, "processor_seconds": 1, "explains": "shares"}
    script = (
        "import os, sys; sys.stdin.read(); "
        f"print({json.dumps(json.dumps({**line, 'peak': 7}))}, flush=True); "
        "print('{\"half of a li', end='', flush=True); os.kill(os.getpid(), 9)"
    )
    made = run_method(request(pictures, tmp_path), ignore, (sys.executable, "-c", script))
    assert made.seconds == {(one, painting): 1.5}
    assert made.failures == {(other, painting): "its process was ended by SIGKILL, as when memory is short"}
    assert made.peak == 7


def test_the_memory_of_a_method_is_that_of_its_own_process(pictures: StylePictures, tmp_path: Path) -> None:
    ballast = bytearray(b"1") * (900 << 20)
    made = run_method(request(pictures, tmp_path), ignore)
    assert not made.failures
    assert made.peak is not None
    assert 50 << 20 < made.peak < len(ballast) <= peak_memory()


class _TouchyConfig(MethodConfig):
    method: Literal["touchy"] = "touchy"


class _Touchy:
    """A method that fails on one photograph."""

    config_type: ClassVar[type[MethodConfig]] = _TouchyConfig
    needs: ClassVar[frozenset[Need]] = frozenset()
    stages: ClassVar[tuple[str, ...]] = ()
    layer: ClassVar[Layer | None] = None
    levels: ClassVar[tuple[Layer, ...]] = ()
    stride = 1
    refused: ClassVar[Tensor]

    def __init__(self, config: Any, resources: Resources) -> None:
        del config, resources

    def translate(self, image: Tensor) -> Result:
        """Return the photograph."""
        if torch.equal(image, self.refused):
            raise ZeroDivisionError("no contrast")
        return Result(image, SourceProvenance({}), {})


def test_a_picture_that_fails_costs_itself_alone(
    pictures: StylePictures, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = pictures.photographs
    monkeypatch.setitem(METHODS, "touchy", _Touchy)
    _Touchy.refused = one.image
    threads, answers = torch.get_num_threads(), list[dict[str, Any]]()
    own = Request(**{**asdict(request(pictures, tmp_path)), "method": "touchy"})
    try:
        make_pictures(own, lambda line: answers.append(json.loads(line)))
    finally:
        torch.set_num_threads(threads)
    painting = pictures.paintings[0].id
    failed = [answer for answer in answers if "failed" in answer]
    assert [(each["photograph"], each["painting"]) for each in failed] == [(one.id, painting)]
    assert failed[0]["failed"] == "internal error, ZeroDivisionError: no contrast"
    assert [path.name for path in tmp_path.iterdir()] == [f"{other.id}__{painting}.png"]


def test_a_photograph_that_changes_meanwhile_is_the_reason(pictures: StylePictures, tmp_path: Path) -> None:
    changed = tmp_path / "photograph.png"
    style.photograph(7).save(changed)
    (before,) = read_pictures([str(changed)], SIZE, "photographs")
    style.photograph(8).save(changed)
    asked = request(StylePictures([before], pictures.paintings, SIZE), tmp_path)
    made = run_method(asked, ignore)
    assert list(made.failures.values()) == [f"'{changed}' has changed since the comparison began."]


def test_two_pictures_of_one_name_are_refused_before_anything_is_made(pictures: StylePictures) -> None:
    one, other = pictures.photographs
    alike = StylePictures([one, replace(other, name=one.name)], pictures.paintings, SIZE)
    with pytest.raises(UsageError, match="Two photographs are called"):
        compare_side_by_side(alike, [], StyleNetwork(), {"threads": "1"}, ignore, no_progress)


def test_what_a_result_explains_follows_from_its_provenance() -> None:
    none = torch.zeros(0)
    patches = PatchProvenance(none, none, none, none, none, none)
    assert kind_of(Result(none, patches, {})) == "patches"
    assert kind_of(Result(none, LevelProvenance({"relu3_1": patches}), {})) == "levels"
    assert kind_of(Result(none, SourceProvenance({"a": 1.0}), {})) == "shares"
    assert kind_of(Result(none, SourceProvenance({}), {})) == "nothing"
