"""Exit codes, counts and messages of `--retry-rejected`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from jobs import build_library, translate
from kt_batch.errors import Reason, RejectError
from kt_batch.pipelines import inputs
from kt_batch.store.plans import Item
from tests.cli.conftest import QUICK, Say
from tests.support.tiny import draw_all

JOB = ["--runner", "local"]


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Reject every image called 2.png as too large until undone."""

    def read_image(items: Sequence[Item], *rest: Any) -> Any:
        if items[0].name.endswith("2.png"):
            raise RejectError(Reason.TOO_MANY_PIXELS, "2.png is too large")
        return inputs.read_image(items, *rest)

    monkeypatch.setattr("kt_batch.pipelines.reading.read_image", read_image)
    return monkeypatch


def test_extract_retries_rejects_on_request_and_ends_with_0(
    kt: Say, refused: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    words = ["extract", draw_all(tmp_path / "in", [1, 2]), "--library", tmp_path / "library", *QUICK]
    first = kt(*words)
    assert first.code == 3
    assert "--retry-rejected tries them once more" in first.out
    refused.undo()
    assert kt(*words).code == 3
    dry = kt(*words, "--retry-rejected", "--dry-run")
    assert dry.code == 0
    assert "2 images found, 1 done already, 1 to do" in dry.out
    assert "0 rejected earlier, 1 more to be tried again" in dry.out
    again = kt(*words, "--retry-rejected", "--json")
    assert (again.code, again.json["images"], again.json["rejected"]) == (0, 2, 0)
    last = kt(*words)
    assert last.code == 0
    assert "--retry-rejected" not in last.out


def test_translate_retries_rejects_on_request(
    kt: Say, library: Path, refused: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    words = ["translate", draw_all(tmp_path / "in", [1, 2]), "--library", library, "--out", tmp_path / "run"]
    words += ["--threads", 1]
    first = kt(*words)
    assert first.code == 3
    assert "--retry-rejected tries them once more" in first.out
    assert kt(*words, "--retry-rejected", "--json").json["rejected"] == 1
    refused.undo()
    again = kt(*words, "--retry-rejected", "--json")
    assert (again.code, again.json["images"], again.json["new_images"], again.json["rejected"]) == (0, 2, 1, 0)


def test_the_bound_of_a_job_counts_only_uncured_rejects(
    kt: Say, library: Path, refused: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = draw_all(tmp_path / "in", [1, 2])
    bound = [*JOB, "--max-rejects", 0]
    making = [folder, "--library", tmp_path / "library", *QUICK, *bound]
    using = [folder, "--library", library, "--out", tmp_path / "run", "--threads", 1, *bound]
    assert kt(*making, of=build_library.load_app()).code == kt(*using, of=translate.load_app()).code == 1
    refused.undo()
    assert kt(*making, of=build_library.load_app()).code == kt(*using, of=translate.load_app()).code == 1
    made = kt(*making, "--retry-rejected", "--json", of=build_library.load_app())
    assert (made.code, made.json["extract"]["rejected"], made.json["index"]["built"]) == (0, 0, True)
    used = kt(*using, "--retry-rejected", "--json", of=translate.load_app())
    assert (used.code, used.json["rejected"]) == (0, 0)


def test_the_retry_option_is_not_saved_with_the_options(kt: Say, tmp_path: Path) -> None:
    words = ["extract", draw_all(tmp_path / "in", [1]), "--library", tmp_path / "library", *QUICK]
    assert kt(*words, "--retry-rejected").code == 0
    (saved,) = (tmp_path / "library/options").iterdir()
    assert "retry_rejected" not in yaml.safe_load(saved.read_text())
