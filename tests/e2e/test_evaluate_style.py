"""The real command measures styles, and writes a page and the results."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.e2e.conftest import Ended, kt
from tests.support import style
from tests.support.browser import check_page

QUICK = ("--size", 192, "--threads", 1)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two photographs, one of them with a name that is markup, two paintings and a narrow VGG-19."""
    folder = tmp_path_factory.mktemp("images")
    for side, draw in (("photographs", style.photograph), ("paintings", style.painting)):
        (folder / side).mkdir()
        for seed, name in ((1, "first"), (2, "<b>second")):
            draw(seed).save(folder / side / f"{name}.png")
    (folder / "vgg.safetensors").write_bytes(style.vgg_file())
    return folder


def evaluate(images: Path, *options: object) -> Ended:
    return kt("evaluate", "style", images / "photographs", "--style", images / "paintings", *QUICK, *options)


@pytest.fixture(scope="module")
def everything(images: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The folder of a full evaluation, and its JSON."""
    folder = tmp_path_factory.mktemp("evaluation")
    ours = ("--method", "knowledge", "--method", "adain:alpha=0.5", "--method", "adain")
    networks = ("--peer-weights", images, "--vgg-weights", images / "vgg.safetensors")
    ended = evaluate(images, *ours, *networks, "--out", folder / "sheet", "--pictures", folder / "results", "--json")
    assert ended.code == 0, ended.err
    return folder, ended.json


def test_the_report_has_every_pair_and_the_means(everything: tuple[Path, dict[str, Any]]) -> None:
    _, report = everything
    names = ["photograph", "knowledge", "adain:alpha=0.5", "adain", "AdaIN", "WCT", "style-swap"]
    assert [method["name"] for method in report["methods"]] == names
    assert len(report["pairs"]) == 4
    assert all(list(pair["values"]) == names[:4] for pair in report["pairs"])
    photograph, knowledge = report["methods"][:2]
    assert photograph["means"]["structure"] == {"mean": 1, "low": 1, "high": 1, "pairs": 4}
    assert knowledge["means"]["patch_realism"]["mean"] > photograph["means"]["patch_realism"]["mean"]
    assert knowledge["seconds"] > 0
    assert len(report["network"]["sha256"]) == 64
    assert report["size"] == 192


def test_peers_without_weight_files_are_absent_with_a_reason(everything: tuple[Path, dict[str, Any]]) -> None:
    _, report = everything
    absent = {method["name"]: method["absent"] for method in report["methods"] if method["absent"]}
    assert set(absent) == {"AdaIN", "WCT", "style-swap"}
    assert "decoder_wct_relu3_1.safetensors" in absent["WCT"]


@pytest.mark.browser
def test_a_browser_shows_the_page(everything: tuple[Path, dict[str, Any]]) -> None:
    check_page(everything[0] / "sheet/index.html")


def test_the_page_shows_pictures_values_and_the_plot_and_escapes_names(
    everything: tuple[Path, dict[str, Any]],
) -> None:
    folder, report = everything
    page = (folder / "sheet/index.html").read_text()
    assert report["page"] == str(folder / "sheet/index.html")
    assert "2 photographs after 2 paintings" in page
    assert page.count("<img") == 4 * (4 + 1)  # four pairs: four methods and the painting
    assert page.count("<polyline") == 1  # adain at two strengths
    assert escape("<b>second") in page
    assert "<b>second" not in page
    assert "<script" not in page
    assert "decoder_adain_relu4_1.safetensors" in page


def test_written_results_are_measured_alike_when_they_are_given_as_a_folder(
    images: Path, everything: tuple[Path, dict[str, Any]]
) -> None:
    folder, report = everything
    assert sorted(path.name for path in (folder / "results").iterdir()) == ["adain", "adain-alpha=0.5", "knowledge"]
    written = sorted((folder / "results/knowledge").iterdir())
    assert len(written) == 4
    with Image.open(written[0]) as picture:
        assert picture.size == (192, 128)
    mine = ("--results", f"mine={folder / 'results/knowledge'}")
    ended = evaluate(images, *mine, "--vgg-weights", images / "vgg.safetensors", "--json")
    assert ended.code == 0, ended.err
    again = [pair["values"]["mine"] for pair in ended.json["pairs"]]
    assert again == [pair["values"]["knowledge"] for pair in report["pairs"]]


def test_without_vgg_the_table_says_what_is_left_out(images: Path) -> None:
    ended = evaluate(images)
    assert ended.code == 0, ended.err
    assert "No style distance: VGG-19 is not given" in ended.out
    assert "No structure: VGG-19 is not given" in ended.out
    assert "patch realism" in ended.out
    assert "  knowledge" in ended.out  # the default method


def test_a_missing_result_is_counted_and_named(
    images: Path, everything: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    folder, _ = everything
    (tmp_path / "some").mkdir()
    kept = "first__first.png"
    (tmp_path / "some" / kept).write_bytes((folder / "results/knowledge" / kept).read_bytes())
    ended = evaluate(images, "--results", f"some={tmp_path / 'some'}", "--out", tmp_path / "sheet")
    assert ended.code == 0, ended.err
    assert "missing results: 3; the first: " in ended.out
    assert "Missing results of some: 3; the first: " in (tmp_path / "sheet/index.html").read_text()
