"""A shard whose hash fits, but whose norms no patch has, costs one sentence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import load, save

from kt_batch.cli.app import app
from kt_batch.cli.exit_codes import run_app
from kt_batch.index.shards import FORMAT
from tests.support.forged import put_shard
from tests.support.tiny import draw, draw_all, extracted, indexed


def forge_norms(library: Path, value: float) -> None:
    """Give all patches of a library's index one norm, under hashes that fit."""
    summary = next(library.glob("index/*/index.json"))
    content = json.loads(summary.read_text())
    for shard in content["shards"]:
        tensors = load((library / "index/shards" / shard["sha256"]).read_bytes())
        tensors["norms"].fill_(value)
        shard.update(put_shard(library, save(tensors, {"format": FORMAT})).model_dump())
    summary.write_text(json.dumps(content))


def test_scores_that_are_not_finite_are_the_fault_of_the_index(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    library, photo = tmp_path / "library", draw(tmp_path / "photo.png", 3)
    extracted([draw_all(tmp_path / "paintings", [1, 2])], library)
    indexed(library)
    forge_norms(library, 1e12)  # beyond float16, in which patches are
    words = ("translate", str(photo), "--library", str(library), "--out", str(tmp_path / "run"), "--threads", "1")
    assert run_app(app, words) == 1
    said = capsys.readouterr().err
    assert "a score that is not finite" in said
    assert str(library) in said
    assert "Warning" not in said
