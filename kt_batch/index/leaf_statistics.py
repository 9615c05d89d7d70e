"""Statistics by which a search chooses the nearest leaves, in memory or in a file that is mapped.

The file `leaves.safetensors` of an index of m leaves holds

    lengths          (m,) float32      of the mean coordinates of each leaf
    rests            (m,) float32      mean length of the rest
    variances        (m, r) float32    of the r strongest coordinates

and, of less than GROUPED leaves,

    directions       (m, d) float32    of the mean coordinates, in fixed point (kernels.fixed_point)

or else these in groups (index.leaf_groups), in fixed point too, which no process has to make again:

    group_directions (m + WIDTH, d + 1) float32
    group_leaves     (m,) int64
    group_centres    (d + 1, G) float32
    group_sizes      (G,) int64
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from kt_batch.errors import DamagedError
from kt_batch.index.leaf_groups import GROUPED, WIDTH, LeafGroups, group_leaves
from kt_batch.index.tensors import Layout, check_between, check_tensors, map_tensors
from kt_batch.kernels.fixed_point import round_

LEAVES = "The file of the leaves of this index"  # in errors
SHORTEST = 1e-12  # length by which a mean is divided

_COMMON: Layout = {
    "lengths": (torch.float32, ("leaves",)),
    "rests": (torch.float32, ("leaves",)),
    "variances": (torch.float32, ("leaves", "variances")),
}
_ALL: Layout = {"directions": (torch.float32, ("leaves", "coordinates"))}
_IN_GROUPS: Layout = {
    "group_directions": (torch.float32, ("rows", "values")),
    "group_leaves": (torch.int64, ("leaves",)),
    "group_centres": (torch.float32, ("values", "groups")),
    "group_sizes": (torch.int64, ("groups",)),
}
_VALUES = {
    "lengths": (0, 4),
    "rests": (-2, 2),
    "variances": (0, 4),
    "directions": (-2, 2),
    "group_directions": (-2, 2),
    "group_centres": (-2, 2),
}


@dataclass(frozen=True)
class LeafStatistics:
    """Statistics of m leaves.

    lengths, rests: `(m,)` float32.
    variances: `(m, r)` float32.
    own_directions: `(m, d)` float32, unit vectors or zero in fixed point; None where they are in `own_groups`.
    own_groups: The leaves in groups; None where they are made when they are first needed.
    """

    lengths: Tensor
    rests: Tensor
    variances: Tensor
    own_directions: Tensor | None
    own_groups: LeafGroups | None = None

    @classmethod
    def of(cls, means: Tensor, variances: Tensor) -> LeafStatistics:
        """Take the mean first levels `(m, d + 1)` of leaves and their variances `(m, r)`."""
        lengths = means[:, :-1].norm(dim=1).clamp(min=SHORTEST)
        return cls(lengths, means[:, -1].clone(), variances, round_(means[:, :-1] / lengths[:, None]))

    @property
    def coordinates(self) -> int:
        """Coordinates of a direction."""
        if self.own_directions is None:
            return self.groups.directions.shape[1] - 1
        return self.own_directions.shape[1]

    @cached_property
    def directions(self) -> Tensor:
        """The directions of the leaves in fixed point, `(m, d)` float32."""
        if self.own_directions is not None:
            return self.own_directions
        groups = self.groups
        directions = groups.directions.new_empty(len(groups.leaves), groups.directions.shape[1] - 1)
        return directions.index_copy_(0, groups.leaves, groups.directions[: len(groups.leaves), :-1])

    @cached_property
    def groups(self) -> LeafGroups:
        """The leaves in groups of alike directions."""
        return self.own_groups or group_leaves(self.directions)


def write_leaves(path: Path, statistics: LeafStatistics) -> None:
    """Write the file of the leaves of an index; GROUPED leaves and more are written in groups."""
    kept = {name: getattr(statistics, name) for name in _COMMON}
    if len(statistics.lengths) < GROUPED:
        kept["directions"] = statistics.directions
    else:
        groups = statistics.groups
        kept |= {"group_directions": groups.directions, "group_leaves": groups.leaves}
        kept |= {"group_centres": groups.centres, "group_sizes": groups.size}
    save_file({name: tensor.contiguous() for name, tensor in kept.items()}, path)


def map_leaves(path: Path) -> LeafStatistics:
    """Map the file of the leaves of an index, whose values `check_leaves` has found sound; groups' centres are copied.

    Raises:
        DamagedError: It is no such file.
    """
    tensors = map_tensors(path, LEAVES)
    if "group_sizes" not in tensors:
        check_tensors(tensors, _COMMON | _ALL, LEAVES)
        return LeafStatistics(tensors["lengths"], tensors["rests"], tensors["variances"], tensors["directions"])
    sizes = check_tensors(tensors, _COMMON | _IN_GROUPS, LEAVES)
    group_sizes, centres = tensors["group_sizes"].clone(), tensors["group_centres"].clone()
    whole = bool(((group_sizes >= 1) & (group_sizes <= sizes["leaves"])).all()) and sizes["groups"] <= sizes["leaves"]
    if not whole or int(group_sizes.sum()) != sizes["leaves"] or sizes["rows"] != sizes["leaves"] + WIDTH:
        raise DamagedError(
            f"{LEAVES} cannot be read: its groups do not hold each of its {sizes['leaves']} leaves once."
        )
    groups = LeafGroups(centres, group_sizes, tensors["group_leaves"], tensors["group_directions"])
    return LeafStatistics(tensors["lengths"], tensors["rests"], tensors["variances"], None, groups)


def check_leaves(path: Path) -> None:
    """Read the whole file of the leaves of an index once.

    Raises:
        DamagedError: It is no such file, holds NaN, infinity or absurd values, or a leaf is in no group or in two.
    """
    statistics, tensors = map_leaves(path), map_tensors(path, LEAVES)
    for name in tensors.keys() & _VALUES.keys():
        check_between(tensors[name], *_VALUES[name], f"{LEAVES} has {name}")
    if statistics.own_groups:
        ordered = tensors["group_leaves"].sort().values
        if not ordered.equal(torch.arange(len(ordered), device=ordered.device)):
            raise DamagedError(f"{LEAVES} has leaves that are in no group or in several; allowed is one.")
