"""Provenance at several levels, gathered output by output and written level by level."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kt_batch.config import Layer
from kt_batch.errors import DamagedError
from kt_batch.index.ids import pack_ids
from kt_batch.methods.base import LevelProvenance, PatchProvenance
from kt_batch.pipelines.translate.provenance import LevelRows, Libraries, source_shares
from kt_batch.store.plans import Item
from kt_batch.store.schemas import LEVELS

A, B = "00000000000000aa", "00000000000000bb"
ITEM = Item("0" * 16, "/photos/a.jpg", "a.jpg")


def matches(sources: list[str], ncc: list[float]) -> PatchProvenance:
    """Return one match for each of some patches in a row: of the patch at row 1, column 2 of a source."""
    count = len(sources)
    ids = np.concatenate([pack_ids(source, np.array([1]), np.array([2])) for source in sources])
    return PatchProvenance(
        torch.zeros(count, dtype=torch.int64),
        torch.arange(count),
        torch.from_numpy(ids)[:, None],
        torch.tensor(ncc)[:, None],
        torch.ones(count, 1),
        torch.arange(count) == 0,
    )


def levels(**ncc: list[float]) -> LevelProvenance:
    """Return a form that is three quarters of A, and a texture that is all of B."""
    coarse = matches([A, A, A, B], ncc.get("coarse", [0.5, 0.25, 0.25, 0.0]))
    return LevelProvenance({"relu4_1": coarse, "relu2_1": matches([B] * 6, ncc.get("fine", [0.7] * 6))})


def gathered(*names: str) -> LevelRows:
    keys: tuple[Layer, ...] = ("relu4_1", "relu2_1")
    rows = LevelRows(Libraries(("/lib",)), keys)
    for name in names:
        rows.add(ITEM, name, levels())
    return rows


def test_each_level_of_each_output_is_a_group_from_coarse_to_fine() -> None:
    groups = list(gathered("a", "b").row_groups())
    assert [group.schema for group in groups] == [LEVELS] * 4
    found = [(set(group["output"].to_pylist()), set(group["level"].to_pylist()), group.num_rows) for group in groups]
    assert found == [
        ({"a"}, {"relu4_1"}, 4), ({"a"}, {"relu2_1"}, 6), ({"b"}, {"relu4_1"}, 4), ({"b"}, {"relu2_1"}, 6),
    ]  # fmt: skip


def test_the_sums_are_those_of_the_coarse_level() -> None:
    rows = gathered("a", "b")
    assert (rows.patches, rows.ncc_sum, rows.certified) == (8, 2.0, 2)


def test_an_output_that_could_not_be_stored_leaves_nothing() -> None:
    rows = gathered("a", "b")
    rows.remove({"a"})
    assert (rows.names, rows.patches, rows.ncc_sum) == (["b"], 4, 1.0)
    assert [set(group["output"].to_pylist()) for group in rows.row_groups()] == [{"b"}, {"b"}]


def test_scores_of_fine_levels_are_rounded_to_a_128th_and_coarse_ones_are_not() -> None:
    rows = LevelRows(Libraries(("/lib",)), ("relu4_1", "relu2_1"))
    rows.add(ITEM, "a", levels(coarse=[0.703125 + 1 / 2048] * 4, fine=[0.7, -0.7, 1.0, 0.0, 0.003, 0.004]))
    coarse, fine = (group["ncc"].to_numpy().astype(float).tolist() for group in rows.row_groups())
    assert coarse == [0.703125 + 1 / 2048] * 4
    assert [128 * value for value in fine] == [90, -90, 128, 0, 0, 1]  # 128 * 0.7 = 89.6, 128 * 0.004 = 0.51


def test_a_score_that_is_not_finite_is_refused_at_any_level() -> None:
    for bad in ({"coarse": [float("nan")] * 4}, {"fine": [float("inf")] * 6}):
        with pytest.raises(DamagedError, match="a score that is not finite"):
            LevelRows(Libraries(("/lib",)), ("relu4_1", "relu2_1")).add(ITEM, "a", levels(**bad))


def test_the_shares_of_a_picture_are_those_of_its_form() -> None:
    assert source_shares(levels(), ITEM) == [(A, 0.75), (B, 0.25)]


def test_a_picture_takes_little_memory_until_it_is_written() -> None:
    """A level of relu2_1 at 512 pixels has 65,025 patches of 24 bytes."""
    fine = matches([A] * 65025, [0.5] * 65025)
    rows = LevelRows(Libraries(("/lib",)), ("relu2_1",))
    rows.add(ITEM, "a", LevelProvenance({"relu2_1": fine}))
    assert sum(packed.size for packed in rows._parts[0].packed) < 65025 * 24 / 10
