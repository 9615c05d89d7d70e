"""The jobs do the work of the commands and return exit codes for a cluster."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer

from jobs import build_library, evaluate, translate
from kt_batch.cli import app as cli
from kt_batch.cli.exit_codes import allowed_rejects, job_code
from kt_batch.cli.training import STEPS, parse_steps
from kt_batch.errors import UsageError
from kt_batch.training.recipes import RECIPES
from tests.cli.conftest import KEYS, QUICK, Say
from tests.support.pairs import draw_pairs
from tests.support.tiny import draw_all, hashes, rows

CONFIGS = Path(__file__).resolve().parents[2] / "jobs/configs"
APPS: dict[str, typer.Typer] = {"build_library": build_library.load_app(), "translate": translate.load_app()}


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """Three valid paintings and one file that is not an image."""
    draw_all(tmp_path / "mixed", [1, 2, 3])
    (tmp_path / "mixed/bad.jpg").write_bytes(b"no image")
    return tmp_path / "mixed"


@pytest.mark.parametrize(
    ("bounds", "code"),
    [
        ([], 0),
        (["--max-rejects", "1"], 0),
        (["--max-rejects", "0"], 1),
        (["--max-rejects", "25%"], 0),
        (["--max-rejects", "24%"], 1),
        (["--strict"], 3),
    ],
)
def test_a_job_ends_with_0_while_rejects_stay_within_the_bound(
    kt: Say, mixed: Path, tmp_path: Path, bounds: list[str], code: int
) -> None:
    build = build_library.load_app()
    arguments = [mixed, "--library", tmp_path / "library", *QUICK, "--runner", "local", "--max-patches", "30", "--json"]
    said = kt(*arguments, *bounds, of=build)
    assert said.code == code
    assert (said.json["extract"]["rejected"], said.json["index"]["patches"]) == (1, 90)


def test_the_configuration_for_fivek_makes_a_paired_library_and_its_fit(kt: Say, tmp_path: Path) -> None:
    before, after = draw_pairs(tmp_path, [1, 2, 3])
    lines = [f"{before}/{seed}.png,{after}/{seed}.png" for seed in (1, 2, 3)]
    (tmp_path / "pairs.csv").write_text("\n".join(["before,after", *lines]))
    here = ("--pairs", tmp_path / "pairs.csv", "--library", tmp_path / "library", "--runner", "local", "--json")
    said = kt("--config", CONFIGS / "fivek.yaml", "--trust-config", *here, of=build_library.load_app())
    assert said.code == 0, said.err
    assert (said.json["extract"]["pairs"], said.json["fit"]["pairs"]) == (3, 3)
    (row, *_) = rows(tmp_path / "library", "pairs")
    assert row["tags"] == ["fivek", "expert-c"]
    refused = kt("--config", CONFIGS / "fivek.yaml", of=build_library.load_app())
    assert (refused.code, refused.out) == (2, "")
    assert "--trust-config" in refused.err


def test_the_jobs_give_the_results_of_the_commands(kt: Say, library: Path, photos: Path, tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    common = [photos, "--library", library, "--threads", 1, "--json"]
    assert kt("translate", *common, "--out", one).code == 3
    said = kt(*common, "--out", other, "--runner", "local", of=translate.load_app())
    assert (said.code, said.json.keys() >= KEYS) == (0, True)
    assert hashes(one, "images") == hashes(other, "images")
    assert [path.name.split("-")[0] for path in (other / "options").iterdir()] == ["translate"]
    said = kt(*common, "--out", other, "--runner", "local", "--strict", of=translate.load_app())
    assert said.code == 3


def test_the_jobs_have_the_options_and_defaults_of_their_commands() -> None:
    def options(app: typer.Typer, *names: str) -> dict[str, tuple[tuple[str, ...], object]]:
        group = typer.main.get_command(app)
        found = [getattr(group, "commands", {}).get(name, group) for name in names or [""]]
        return {p.name or "": (tuple(p.opts), p.default) for command in found for p in command.params}

    of_jobs_alone = {"max_rejects", "strict"}
    of_a_job = {  # jobs are for clusters, build an index for every key, and report on none
        build_library.load_app: (["index", "extract"], {"runner", "at", "status"}),
        translate.load_app: (["translate"], {"runner"}),
    }
    for load, (commands, others) in of_a_job.items():
        theirs, ours = options(cli.app, *commands), options(load())
        assert ours.keys() - theirs.keys() == of_jobs_alone
        different = {name for name in theirs if theirs[name] != ours.get(name)}
        assert different == others


def test_the_job_that_measures_has_every_command_that_measures_with_its_options() -> None:
    job = typer.main.get_command(evaluate.load_app()).commands  # type: ignore[attr-defined]
    commands = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined]
    commands = {**commands["evaluate"].commands, "compare": commands["compare"]}
    assert job.keys() == commands.keys()
    for name, command in commands.items():
        assert [(p.opts, p.default) for p in job[name].params] == [(p.opts, p.default) for p in command.params]


@pytest.mark.parametrize("name", ["build_library", "translate"])
def test_an_invalid_bound_is_refused_before_the_work(
    kt: Say, library: Path, photos: Path, tmp_path: Path, name: str
) -> None:
    words = [photos, "--library", library if name == "translate" else tmp_path / "new", "--max-rejects", "few"]
    words += ["--out", tmp_path / "new"] if name == "translate" else []
    said = kt(*words, "--runner", "local", of=APPS[name])
    assert (said.code, "--max-rejects is a number or a percentage" in said.err) == (2, True)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(("text", "total", "allowed"), [("12", 5, 12), ("5%", 200, 10), ("0", 9, 0), ("100%", 3, 3)])
def test_a_bound_is_a_number_or_a_share(text: str, total: int, allowed: float) -> None:
    assert allowed_rejects(text, total) == allowed


@pytest.mark.parametrize("text", ["", "%", "-1", "nan", "inf", "five", "5%%"])
def test_other_bounds_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        allowed_rejects(text, 10)


def test_the_exit_code_of_a_job_depends_on_rejects_and_bound() -> None:
    assert [job_code(n, 10, "20%", strict=False) for n in (0, 2, 3)] == [0, 0, 1]
    assert [job_code(n, 10, "20%", strict=True) for n in (0, 1, 3)] == [0, 3, 3]


# ---- the steps of a training ----


def test_steps_are_parsed_from_their_option() -> None:
    assert parse_steps("relu3_1=2600,relu1_1=200") == {"relu3_1": 2600, "relu1_1": 200}
    assert set(parse_steps(STEPS)) == set(RECIPES["default"].blocks) == set(RECIPES["paper"].blocks)


@pytest.mark.parametrize(
    "text", ["", "relu3_1", "relu3_1=", "relu3_1=0", "relu3_1=-1", "relu3_1=1.5", "conv1_1=3", "relu1_1=2,,", "100"]
)
def test_invalid_steps_are_wrong_usage(text: str) -> None:
    with pytest.raises(UsageError, match=r"^--steps got '.*'; give CUT=STEPS, CUT one of relu1_1, .*\.$"):
        parse_steps(text)
