"""`--method`, `--preset` and the method options, all derived from the table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
import torch
import typer
import yaml
from pydantic import Field
from torch import Tensor

from jobs import translate as job
from kt_batch.cli.app import make_app
from kt_batch.cli.jobs import translate_app
from kt_batch.cli.settings import method_options
from kt_batch.config import Layer, MethodConfig
from kt_batch.methods.base import Need, PatchProvenance, Resources, Result
from kt_batch.methods.table import METHODS
from tests.cli.conftest import Say
from tests.support.tiny import draw

NOWHERE = torch.zeros(1, dtype=torch.int64)
ONE = torch.ones(1, 1)
NO_MATCH = PatchProvenance(NOWHERE, NOWHERE, torch.zeros(1, 1, 12, dtype=torch.uint8), ONE, ONE, torch.tensor([False]))


class DimConfig(MethodConfig):
    method: Literal["dim"] = "dim"
    darkness: float = Field(0.5, ge=0, le=1, description="how dark the picture gets")
    alpha: float = Field(0.25, description="How much of it.")


class Dim:
    """Darkens an image; needs neither networks nor a library."""

    config_type: ClassVar[type[MethodConfig]] = DimConfig
    needs: ClassVar[frozenset[Need]] = frozenset()
    stages: ClassVar[tuple[str, ...]] = ("dim",)
    layer: ClassVar[Layer | None] = None
    stride = 1

    def __init__(self, config: DimConfig, resources: Resources) -> None:
        self.config = config

    def translate(self, image: Tensor) -> Result:
        dimmed = image * (1 - self.config.alpha * self.config.darkness)
        return Result(dimmed, NO_MATCH, {"dim": 0.0})


@pytest.fixture
def with_dim(monkeypatch: pytest.MonkeyPatch) -> typer.Typer:
    """The command line with one more method in the table."""
    for name in set(METHODS) - {"knowledge"}:
        monkeypatch.delitem(METHODS, name)
    monkeypatch.setitem(METHODS, "dim", Dim)
    return make_app()


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    return draw(tmp_path / "a.png", 11)


def saved_options(run: Path) -> dict[str, Any]:
    (saved,) = (run / "options").iterdir()
    content = yaml.safe_load(saved.read_text())
    assert isinstance(content, dict)
    return content


# ---- a new method ----


def test_the_help_lists_the_options_of_a_method_in_the_table(
    kt: Say, with_dim: typer.Typer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    text = kt("translate", "--help", of=with_dim).out
    assert "<knowledge|dim>" in text
    assert "How dark the picture gets. Default: 0.5." in text
    assert "Default: knowledge: 1.0; dim: 0.25." in text
    titles = [f"Settings of {owners} " for owners in ("knowledge", "knowledge, dim", "dim")]
    assert [text.count(title) for title in titles] == [1, 1, 1]
    assert "--darkness" in kt("--help", of=translate_app()).out
    assert "--darkness" not in kt("translate", "--help").out


def test_a_method_in_the_table_runs_with_its_options(
    kt: Say, with_dim: typer.Typer, photo: Path, tmp_path: Path
) -> None:
    words = ["translate", photo, "--out", tmp_path / "run", "--threads", 1]
    said = kt(*words, "--method", "dim", "--darkness", 0.25, "--json", of=with_dim)
    assert (said.code, said.json["method"], said.json["images"]) == (0, "dim", 1)
    saved = saved_options(tmp_path / "run")
    assert (saved["method"], saved["darkness"], saved["alpha"]) == ("dim", 0.25, 0.25)
    assert "swap" not in saved
    assert (
        kt("translate", "--config", next((tmp_path / "run/options").iterdir()), "--trust-config", of=with_dim).code == 0
    )
    said = kt(*words, "--method", "dim", "--darkness", 0.5, of=with_dim)
    assert (said.code, "darkness (0.25 there, 0.5 here)" in said.err) == (1, True)


def test_a_setting_shared_by_two_methods_needs_one_type(monkeypatch: pytest.MonkeyPatch) -> None:
    class WordConfig(DimConfig):
        alpha: str = "much"  # type: ignore[assignment]

    class Word(Dim):
        config_type = WordConfig

    for name in set(METHODS) - {"knowledge"}:
        monkeypatch.delitem(METHODS, name)
    monkeypatch.setitem(METHODS, "word", Word)
    with pytest.raises(TypeError, match="knowledge, word have settings of different types called alpha"):
        method_options()


# ---- wrong usage ----


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ["--method", "dim", "--swap", "geometric"],
            "The method dim has no option --swap; it has --darkness, --alpha.",
        ),
        (["--method", "knowledge", "--darkness", 0.1], "The method knowledge has no option --darkness; it has "),
        (["--method", "dim", "--darkness", 2], "the option darkness got 2.0: "),
        (["--method", "dim", "--library", "lib"], "The method dim does not use --library"),
        (["--method", "fog"], "There is no method 'fog'; there are knowledge, dim."),
        (["--preset", "fog"], "There is no preset 'fog'; there are paper, painting, fast, comic, season, hdr."),
        (["--preset", "paper", "--method", "dim"], "The preset paper is for the method knowledge, not for dim."),
        ([], "The method knowledge needs --library."),
        (["--index", "abcd", "--method", "dim"], "The method dim does not use --index; leave it out."),
        (["--library", "lib", "--layer", "relu4_1"], "--layer relu4_1 is for methods without a library; 'lib' has its"),
        (["--library", "lib", "--encoder", "vgg19"], "--encoder vgg19 is for methods without a library; 'lib' has its"),
        (["--library", "lib", "--searcher", "fog"], "the option searcher got 'fog': Input should be 'tree', "),
    ],
)
def test_an_inapplicable_option_is_wrong_usage(
    kt: Say,
    with_dim: typer.Typer,
    library: Path,
    photo: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: list[object],
    sentence: str,
) -> None:
    (tmp_path / "lib").symlink_to(library)
    monkeypatch.chdir(tmp_path)
    said = kt("translate", photo, "--out", tmp_path / "run", *words, of=with_dim)
    assert (said.code, said.out, said.err.count("\n")) == (2, "", 1)
    assert said.err.startswith(f"kt-batch: {sentence}")
    assert not (tmp_path / "run").exists()


def test_mutually_exclusive_values_raise_one_sentence(kt: Say, library: Path, photo: Path, tmp_path: Path) -> None:
    words = ["translate", photo, "--library", library, "--out", tmp_path / "run", "--certify", "--searcher", "hkm"]
    expected = "kt-batch: certify is for the searchers tree and exact, not for hkm.\n"
    assert (kt(*words).code, kt(*words).err) == (2, expected)


# ---- presets ----

PAPER = ["--swap", "geometric", "--alpha", 1, "--temperature", 0.05, "--query-stride", 1, "--searcher", "bhkm"]
PAPER += ["--bands", 1, "--probes", 1, "--top-k", 1, "--details", 0]


def test_a_preset_equals_its_values_given_one_by_one(kt: Say, library: Path, photo: Path, tmp_path: Path) -> None:
    words = ["translate", photo, "--library", library, "--threads", 1]
    one, other = tmp_path / "one", tmp_path / "other"
    assert kt(*words, "--out", one, "--preset", "paper").code == 0
    assert kt(*words, "--out", other, *PAPER).code == 0
    by_preset, by_options = saved_options(one), saved_options(other)
    assert by_preset.pop("preset") == "paper"
    assert {**by_preset, "out": ""} == {**by_options, "out": ""}
    digests = {json.loads((run / "run.json").read_text())["config_digest"] for run in (one, other)}
    assert len(digests) == 1
    assert "nothing to do" in kt(*words, "--out", one, *PAPER).out


def test_an_explicit_option_overrides_the_preset(kt: Say, library: Path, photo: Path, tmp_path: Path) -> None:
    words = ["translate", photo, "--library", library, "--out", tmp_path / "run", "--threads", 1, "--preset", "paper"]
    assert kt(*words, "--top-k", 3, "--temperature", 0.2).code == 0
    saved = saved_options(tmp_path / "run")
    assert (saved["top_k"], saved["temperature"], saved["bands"]) == (3, 0.2, 1)


def test_the_jobs_accept_presets(kt: Say, library: Path, photo: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = [photo, "--library", library, "--out", run, "--runner", "local", "--threads", 1]
    assert kt(*words, "--preset", "paper", of=job.load_app()).code == 0
    assert saved_options(run)["searcher"] == "bhkm"


# ---- settings of other kinds ----


class KindsConfig(MethodConfig):
    """Settings of kinds that the shipped methods do not have."""

    method: Literal["kinds"] = "kinds"
    keep: bool = Field(True, description="Keep it.")
    parts: tuple[float, ...] = Field((1.0, 2.0), description="Some numbers.")


class Kinds(Dim):
    """Has a switch that is on, and a list of numbers."""

    config_type: ClassVar[type[MethodConfig]] = KindsConfig

    def translate(self, image: Tensor) -> Result:
        assert isinstance(self.config, KindsConfig)
        assert (self.config.keep, self.config.parts) == (False, (3.0, 4.0))
        return Result(image, NO_MATCH, {"dim": 0.0})


def test_a_switch_can_be_turned_off_and_a_list_repeated(
    kt: Say, photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(METHODS, "kinds", Kinds)
    words = ["translate", photo, "--out", tmp_path / "run", "--method", "kinds", "--threads", 1]
    assert kt(*words, "--no-keep", "--parts", 3, "--parts", 4, of=make_app()).code == 0


class ClashConfig(MethodConfig):
    """A setting called after an option of the command."""

    method: Literal["clash"] = "clash"
    layer: str = "x"


class Clash(Dim):
    config_type: ClassVar[type[MethodConfig]] = ClashConfig


def test_a_setting_cannot_be_called_after_another_option(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS, "clash", Clash)
    with pytest.raises(TypeError, match="The method clash has a setting called layer, which is another option"):
        make_app()
