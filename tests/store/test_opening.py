"""One module opens libraries and runs and tells them apart by their configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kt_batch.config import EncoderConfig, ExtractConfig
from kt_batch.errors import MismatchError, MissingError, UsageError
from kt_batch.store.library import Library
from kt_batch.store.locations import LocalLocation
from kt_batch.store.opening import kind_of, open_library, open_place, open_run
from kt_batch.store.plans import Item
from kt_batch.store.run import Run
from kt_batch.store.units import Ledger

LIBRARY = ExtractConfig(encoder=EncoderConfig(weights_sha256="0" * 64)).model_dump(mode="json")
GAIN = {"method": "gain", "format": "png", "quality": 95, "gain": 1.2}
ITEM = Item("00" * 8, "/in/a.jpg", "a.jpg")


def planned(root: Path, config: dict[str, Any]) -> str:
    Ledger(LocalLocation(root)).plan([ITEM], 8, config, "00000000000000aa")
    return str(root)


def test_a_place_is_opened_as_its_own_kind(tmp_path: Path) -> None:
    library, run = open_place(planned(tmp_path / "a", LIBRARY)), open_place(planned(tmp_path / "b", GAIN))
    assert (type(library), type(run)) == (Library, Run)
    assert (kind_of(library), kind_of(run)) == ("library", "run")


def test_a_run_of_any_method_has_a_header_and_method_settings(tmp_path: Path) -> None:
    run = open_run(planned(tmp_path, GAIN))
    assert (run.header.method, run.header.format) == ("gain", "png")
    assert (run.header.encoder, run.header.index_digest) == (None, None)
    assert run.config["gain"] == 1.2


def test_a_run_without_a_method_name_is_a_knowledge_run(tmp_path: Path) -> None:
    config = {"encoder": {"weights_sha256": "0" * 64}, "index_digest": "ab" * 8, "format": "jpg"}
    header = open_run(planned(tmp_path, config)).header
    assert (header.method, header.format, header.index_digest) == ("knowledge", "jpg", "ab" * 8)
    assert header.encoder == EncoderConfig(weights_sha256="0" * 64)


@pytest.mark.parametrize("image_format", ["../x", "p'g", "", "png/"])
def test_a_format_that_could_leave_the_run_is_refused(tmp_path: Path, image_format: str) -> None:
    with pytest.raises(MismatchError, match="is not a run of this version"):
        open_run(planned(tmp_path, {**GAIN, "format": image_format}))


def test_a_place_of_the_other_kind_is_refused(tmp_path: Path) -> None:
    library, run = planned(tmp_path / "a", LIBRARY), planned(tmp_path / "b", GAIN)
    with pytest.raises(MismatchError, match="is a run; name a knowledge library"):
        open_library(run)
    with pytest.raises(UsageError, match="is a knowledge library"):
        open_run(library)


def test_a_place_without_a_plan_is_refused(tmp_path: Path) -> None:
    for open_it in (open_place, open_run):
        with pytest.raises(MissingError, match="neither a knowledge library nor a run: it has no plan"):
            open_it(str(tmp_path))
    with pytest.raises(MissingError, match="is not a knowledge library: it has no plan"):
        open_library(str(tmp_path))
