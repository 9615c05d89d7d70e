"""A certificate rests on first levels, lengths and directions of an index: all are checked before a proof."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from kt_batch.config import IndexConfig, SearchConfig
from kt_batch.errors import DamagedError
from kt_batch.index.index import Index
from kt_batch.index.search import Search, find
from kt_batch.index.searchers.soundness import check_bounds
from kt_batch.index.shards import Shard
from tests.support.synthetic import brute_force, clustered, index_of, sharded_index_of

CHANNELS = 128  # D = 512: enough for patches of 4 bits a value beside 127 coordinates
PAYLOADS = ("4bit", "5bit", "float16")

Damage = Callable[[Shard], Shard]


def build(payload: str) -> Index:
    config = IndexConfig.model_validate({"max_leaf": 64, "merge": 1.0, "payload": payload})
    return index_of(clustered(700, CHANNELS, clusters=30), config)


def damaged(index: Index, damage: Damage) -> Index:
    """Return the index as a writer would have left it that applied `damage` to its only shard."""
    return Index(index.tree, [damage(index.shards[0])])


def level(change: Callable[[Tensor], object]) -> Damage:
    def damage(shard: Shard) -> Shard:
        values = shard.level.clone()
        change(values)
        return replace(shard, level=values)

    return damage


def norms(factor: float) -> Damage:
    return lambda shard: replace(shard, norms=shard.norms * factor)


def gains(factor: float) -> Damage:
    return lambda shard: replace(shard, payload=shard.payload | {"gains": shard.payload["gains"] * factor})


def bands(factor: float) -> Damage:
    return lambda shard: replace(shard, payload={name: band * factor for name, band in shard.payload.items()})


FALSE = {
    "the first level is zero": level(lambda x: x.zero_()),
    "the first level is not a number": level(lambda x: x.fill_(torch.nan)),
    "the first level is infinite": level(lambda x: x.fill_(torch.inf)),
    "the first level is half as large": level(lambda x: x.mul_(0.5)),
    "the first level is a hundredth smaller": level(lambda x: x.mul_(0.99)),
    "the first level points the other way": level(lambda x: x.neg_()),
    "the first levels are those of other patches": level(lambda x: x.copy_(x.roll(1, 0))),
    "the rest has no length": level(lambda x: x[:, -1].zero_()),
    "the rest has a negative length": level(lambda x: x[:, -1].neg_()),
    "the rest is a hundredth shorter": level(lambda x: x[:, -1].mul_(0.99)),
    "the length of the rest is not a number": level(lambda x: x[:, -1].fill_(torch.nan)),
    "one patch of all has no first level": level(lambda x: x[350].zero_()),
    "one coordinate of one patch is gone": level(lambda x: x[350, x[350].abs().argmax()].zero_()),
}
FALSE_CODES = {
    "patches are shorter than their coordinates say": gains(0.5),
    "patches are longer than their coordinates say": gains(1.01),
    "the gains are not numbers": gains(torch.nan),
    "no patch has a rest": gains(0.0),
    "no patch has a norm": norms(0.0),
}
FALSE_BANDS = {
    "the coordinates are in another order": level(lambda x: x[:, :-1].copy_(x[:, :-1].flip(1))),
    "norms are twice as large": norms(2.0),
    "norms are half as large": norms(0.5),
    "norms are a thousandth larger": norms(1.001),
    "norms are zero": norms(0.0),
    "norms are not numbers": norms(torch.nan),
    "norms are negative": norms(-1.0),
    "bands are twice as large": bands(2.0),
}
CASES = [
    *((payload, name, damage) for payload in PAYLOADS for name, damage in FALSE.items()),
    *((payload, name, damage) for payload in PAYLOADS[:2] for name, damage in FALSE_CODES.items()),
    *(("float16", name, damage) for name, damage in FALSE_BANDS.items()),
]


@pytest.mark.parametrize(("payload", "damage"), [(payload, damage) for payload, _, damage in CASES],
                         ids=[f"{payload}: {name}" for payload, name, _ in CASES])  # fmt: skip
def test_a_shard_that_was_written_false_certifies_nothing(payload: str, damage: Damage) -> None:
    with pytest.raises(DamagedError, match=r"^No match can be certified: [\d,]+ of 700 patches of this index .*\.$"):
        find(damaged(build(payload), damage), clustered(40, CHANNELS, clusters=30, seed=5), SearchConfig(certify=True))


@pytest.mark.parametrize("payload", PAYLOADS)
@pytest.mark.parametrize("factor", [1.001, 1.5])
def test_bounds_that_are_too_large_prove_the_same_matches(payload: str, factor: float) -> None:
    index = damaged(build(payload), level(lambda x: x[:, -1].mul_(factor)))
    queries = clustered(40, CHANNELS, clusters=30, seed=5)
    found = find(index, queries, SearchConfig(certify=True))
    rows, scores = brute_force(index, queries, 1)
    assert found.rows.equal(rows)
    assert found.scores.equal(scores)
    assert found.certified.all()


@pytest.mark.parametrize("payload", PAYLOADS[:2])
def test_the_coordinates_of_a_coded_patch_are_the_patch_so_that_others_make_another_index(payload: str) -> None:
    index = damaged(build(payload), level(lambda x: x[:, :-1].copy_(x[:, :-1].flip(1))))
    queries = clustered(40, CHANNELS, clusters=30, seed=5)
    assert find(index, queries, SearchConfig(certify=True)).rows.equal(brute_force(index, queries, 1)[0])


@pytest.mark.parametrize("payload", PAYLOADS)
def test_statistics_of_leaves_may_be_wrong_since_no_proof_uses_them(payload: str) -> None:
    whole = build(payload)
    index = damaged(whole, lambda shard: replace(shard, leaf_means=shard.leaf_means.flip(0)))
    queries = clustered(40, CHANNELS, clusters=30, seed=5)
    rows, _ = brute_force(whole, queries, 1)
    assert find(index, queries, SearchConfig(certify=True)).rows.equal(rows)


@pytest.mark.parametrize("change", [lambda x: x * 0.5, lambda x: x * 1.001, lambda x: x * torch.nan, torch.zeros_like])
def test_directions_that_are_not_orthonormal_certify_nothing(change: Callable[[Tensor], Tensor]) -> None:
    index = build("float16")
    index = Index(replace(index.tree, directions=change(index.tree.directions)), index.shards)
    with pytest.raises(DamagedError, match=r"^No match can be certified: the directions .*\.$"):
        Search(index, SearchConfig(certify=True))


def test_probing_all_leaves_certifies_and_so_checks_too() -> None:
    index = damaged(build("4bit"), FALSE["the first level is zero"])
    queries = clustered(10, CHANNELS, clusters=30, seed=5)
    with pytest.raises(DamagedError, match="No match can be certified"):
        find(index, queries, SearchConfig(probes=10**6))
    assert not find(index, queries, SearchConfig(probes=1)).certified.any()


@pytest.mark.parametrize("space", ["raw", "centred"])
@pytest.mark.parametrize("payload", PAYLOADS)
@pytest.mark.parametrize("channels", [2, 8, 128, 256])
@pytest.mark.parametrize("brightness", [1e-3, 1, 300])
def test_an_index_as_it_is_written_is_sound(space: str, payload: str, channels: int, brightness: float) -> None:
    zero, flat = torch.zeros(2, 4, channels), torch.ones(3, 4, channels) * torch.tensor([1.0, 2, 3])[:, None, None]
    axes = torch.eye(4 * channels)[:9].view(-1, 4, channels)  # their rest has next to no length, or all of it
    cells = torch.cat([clustered(300, channels) * brightness, zero, flat, axes])
    config = IndexConfig.model_validate({"max_leaf": 64, "merge": 1.0, "payload": payload, "match_space": space})
    check_bounds(index_of(cells, config))
    check_bounds(sharded_index_of(cells, config, shards=3))
