"""Filter banks on the command line: trained by the job, listed, tried and used."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from PIL import Image

from jobs import train_stylebank
from kt_batch.models.banks import shipped_banks
from tests.cli.conftest import Say
from tests.support.tiny import draw, draw_all

TINY = ("--runner", "local", "--size", 16, "--style-size", 32, "--batch", 2, "--channels", 8, "--threads", 1)


@pytest.fixture
def weights(kt: Say, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """Two banks and their network, trained by the job for two steps."""
    photographs, paintings = draw_all(tmp_path / "photographs", [11]), draw_all(tmp_path / "paintings", [1, 2])
    words = ("--style", paintings, "--images", photographs, "--out", tmp_path / "out", "--steps", 2, *TINY)
    said = kt(*words, "--json", of=train_stylebank.load_app())
    assert (said.code, said.json["banks"]) == (0, ["1.bank.safetensors", "2.bank.safetensors"])
    return tmp_path / "out" / "weights"


def test_banks_are_listed_tried_and_used_and_a_damaged_one_is_a_line(
    kt: Say, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = kt("banks", weights.parent, "--json").json["banks"]
    assert [(row["file"], list(row["images"].values()), row["kernel"], row["steps"]) for row in listed] == [
        ("weights/1.bank.safetensors", ["1.png"], 3, 2),
        ("weights/2.bank.safetensors", ["2.png"], 3, 2),
    ]
    assert listed[0]["bytes"] == (weights / "1.bank.safetensors").stat().st_size
    (weights / "3.bank.safetensors").write_bytes(b"\x80\x04pickled")
    printed = kt("banks", weights.parent).out
    assert printed.startswith("name  style image  kernel  style loss  steps  size  network")
    assert "cannot be read: weights/3.bank.safetensors: 'file://" in printed
    (weights / "3.bank.safetensors").write_bytes((weights / "1.bank.safetensors").read_bytes()[:-2])
    printed = kt("banks", weights.parent).out
    assert re.search(r"cannot be read: .*3.bank.safetensors' has [\d,]+ bytes, and its header and its filters", printed)
    assert "no filter bank at" in kt("banks", tmp_path / "paintings").out
    missing = kt("banks", weights / "1.bank.safetensors")
    assert (missing.code, "is no folder; name a folder" in missing.err) == (1, True)

    monkeypatch.chdir(tmp_path)
    mixed = (
        "--method",
        "stylebank",
        "--bank",
        f"{weights}/1.bank.safetensors=3",
        "--bank",
        f"{weights}/2.bank.safetensors",
    )
    tried = kt("try", "photographs/11.png", *mixed, "--size", 64, "--threads", 1, "--json")
    assert (tried.code, tried.json["shares"]) == (0, {"1.png": 0.75, "2.png": 0.25})
    halves = Image.new("L", (64, 48))
    halves.paste(1, (32, 0, 64, 48))
    halves.resize((72, 56), Image.Resampling.NEAREST).save("halves.png")
    one_each = [str(word).removesuffix("=3") for word in mixed]
    tried = kt("try", "photographs/11.png", *one_each, "--mask", "halves.png", "--out", "halved.png", "--json")
    assert (tried.code, tried.json["shares"]) == (0, {"1.png": 0.5, "2.png": 0.5})
    used = kt("translate", "photographs", *mixed, "--size", 64, "--threads", 1, "--out", "run")
    assert used.code == 0
    assert Path("run/images/11.png.png").read_bytes()[-2000:-100] in Path("11-kt.png").read_bytes()
    assert (
        "Shares of the whole picture, not of the pixel:\n  75.0%  1.png"
        in kt("explain", "run", "images/11.png.png", "--at", "5,5").out
    )


def test_a_bank_is_added_to_a_network(kt: Say, weights: Path, tmp_path: Path) -> None:
    (network,) = weights.glob("network-*")
    words = ("--style", draw(tmp_path / "more" / "3.png", 3), "--images", tmp_path / "photographs", "--add-to", network)
    job = train_stylebank.load_app()
    shared = [word for word in TINY if word not in ("--channels", 8)]
    said = kt(*words, "--out", tmp_path / "added", "--steps", 1, "--bank-kernel", 7, *shared, of=job)
    assert said.code == 0
    (row,) = kt("banks", tmp_path / "added", "--json").json["banks"]
    assert (row["kernel"], row["added"], row["network"][:16]) == (7, True, network.name[8:24])
    refused = kt(*words, "--out", tmp_path / "other", *TINY, of=job)
    assert (refused.code, "--channels 8 has no effect with --add-to" in refused.err) == (2, True)
    for option, value, allowed in (("--bank-kernel", 4, "an odd number"), ("--size", 30, "a multiple of 4")):
        refused = kt(*words, "--out", tmp_path / "other", *shared, option, value, of=job)
        assert (refused.code, f"{option} {value} is not allowed; give {allowed}" in refused.err) == (2, True)


def test_shipped_banks_are_listed_and_used_by_name_and_a_file_of_that_name_comes_first(
    kt: Say, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = kt("banks", "--json").json["banks"]
    names = [row["name"] for row in rows]
    assert names == sorted(shipped_banks())
    monkeypatch.chdir(tmp_path)
    photo = draw(tmp_path / "photo.png", 11)
    words = ("--method", "stylebank", "--size", 64, "--threads", 1, "--json")
    for row in rows:
        tried = kt("try", photo, *words, "--bank", row["name"], "--out", f"{row['name']}.png")
        assert (tried.code, tried.json["shares"]) == (0, dict.fromkeys(row["images"].values(), 1.0))
    assert len({Path(f"{name}.png").read_bytes() for name in names}) == len(names)
    mixed = kt("try", photo, *words, "--bank", f"{names[0]}=3", "--bank", names[1], "--out", "mixed.png")
    assert sorted(mixed.json["shares"].values()) == [0.25, 0.75]
    network = next(weights.glob("network-*"))
    (tmp_path / names[0]).write_bytes((weights / "1.bank.safetensors").read_bytes())
    own = kt("try", photo, *words, "--bank", names[0], "--network", network, "--out", "own.png")
    assert (own.code, own.json["shares"]) == (0, {"1.png": 1.0})


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--method", "stylebank"), "needs --bank"),
        (("--method", "stylebank", "--bank", "a", "--style", "b"), "does not use --style"),
        (("--method", "stylebank", "--bank", "a", "--layer", "relu1_1"), "does not use --layer"),
        (("--method", "adain", "--style", "b", "--bank", "a"), "adain does not use --bank"),
        (("--method", "adain"), "adain needs --style"),
    ],
)
def test_try_refuses_what_a_method_does_not_use(kt: Say, tmp_path: Path, words: tuple[str, ...], said: str) -> None:
    refused = kt("try", draw(tmp_path / "photo.png", 1), *words, "--out", tmp_path / "out.png")
    assert (refused.code, said in refused.err) == (2, True)
