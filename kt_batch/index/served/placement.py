"""The division of shards among owners."""

from __future__ import annotations

from collections.abc import Sequence


def divide_shards(sizes: Sequence[int], most: int) -> list[list[int]]:
    """Divide shards among as few owners as hold at most `most` bytes each.

    The largest shard comes first, and goes to the owner that holds least; of equal shards or owners the first one.

    Args:
        sizes: Bytes of each shard.
        most: At least the bytes of every shard.

    Returns:
        The shards of each owner, ascending.
    """
    if max(sizes) > most:
        raise ValueError(f"A shard of {max(sizes)} bytes does not fit in {most}.")
    owners = max(1, -(-sum(sizes) // most))
    parts = _divided(sizes, owners)
    while max(sum(sizes[shard] for shard in part) for part in parts) > most:
        owners += 1
        parts = _divided(sizes, owners)
    return parts


def _divided(sizes: Sequence[int], owners: int) -> list[list[int]]:
    held, parts = [0] * owners, [list[int]() for _ in range(owners)]
    for shard in sorted(range(len(sizes)), key=lambda shard: (-sizes[shard], shard)):
        owner = min(range(owners), key=lambda owner: (held[owner], owner))
        held[owner] += sizes[shard]
        parts[owner].append(shard)
    return [sorted(part) for part in parts]
