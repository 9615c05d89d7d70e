"""The memory limit of a process, after control groups written by hand."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kt_batch.memory import memory_limit

MACHINE = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
MIB = 2**20
V1_UNLIMITED = 9223372036854771712


def process(folder: Path, groups: str, mounts: str, limits: dict[str, object]) -> Path:
    """Write a process's entries of /proc and the limits of its groups; `{}` in mounts stands for the folder."""
    for name, limit in limits.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"{limit}\n")
    (folder / "self").mkdir()
    (folder / "self/cgroup").write_text(groups)
    (folder / "self/mounts").write_text(mounts.replace("{}", str(folder)))
    return folder / "self"


V2 = "cgroup2 {}/unified cgroup2 rw,nosuid 0 0\n"
V1 = "cgroup {}/cpu cgroup rw,cpu 0 0\ncgroup {}/mem cgroup rw,memory 0 0\n"


@pytest.mark.parametrize(
    ("groups", "mounts", "limits", "expected"),
    [
        pytest.param(
            "0::/\n", V2, {"unified/memory.max": 64 * MIB}, 64 * MIB, id="a container that sees its group as the root"
        ),
        pytest.param("0::/a/b\n", V2, {"unified/a/b/memory.max": 64 * MIB}, 64 * MIB, id="a group below the root"),
        pytest.param(
            "0::/a/b\n",
            V2,
            {"unified/a/b/memory.max": "max", "unified/a/memory.max": 32 * MIB},
            32 * MIB,
            id="the group around it is smaller",
        ),
        pytest.param(
            "0::/a/b\n",
            V2,
            {"unified/a/b/memory.max": 16 * MIB, "unified/a/memory.max": 32 * MIB},
            16 * MIB,
            id="the group within is smaller",
        ),
        pytest.param(
            "0::/../../x\n", V2, {"unified/memory.max": 64 * MIB}, 64 * MIB, id="a group outside the mounted root"
        ),
        pytest.param("0::/\n", V2, {"unified/memory.max": "max"}, MACHINE, id="unlimited"),
        pytest.param(
            "3:cpu:/\n2:memory:/docker/x\n",
            V1,
            {"mem/memory.limit_in_bytes": 48 * MIB, "cpu/memory.limit_in_bytes": 1},
            48 * MIB,
            id="version 1, mounted at the group",
        ),
        pytest.param(
            "2:cpu,memory:/a\n",
            V1,
            {"mem/a/memory.limit_in_bytes": 48 * MIB},
            48 * MIB,
            id="version 1, two controllers in one hierarchy",
        ),
        pytest.param(
            "2:memory:/\n", V1, {"mem/memory.limit_in_bytes": V1_UNLIMITED}, MACHINE, id="version 1, unlimited"
        ),
        pytest.param(
            "2:memory:/a\n0::/\n",
            V1 + V2,
            {"mem/a/memory.limit_in_bytes": 48 * MIB, "unified/memory.max": 40 * MIB},
            40 * MIB,
            id="both versions",
        ),
        pytest.param("0::/\n", V2, {"unified/memory.max": 2**62}, MACHINE, id="more than the machine has"),
        pytest.param("nonsense\n\n", "nonsense\n", {}, MACHINE, id="entries that say nothing"),
    ],
)
def test_the_least_limit_counts(
    tmp_path: Path, groups: str, mounts: str, limits: dict[str, object], expected: int
) -> None:
    assert memory_limit(process(tmp_path, groups, mounts, limits)) == expected


def test_a_mount_point_with_a_space_is_read(tmp_path: Path) -> None:
    folder = process(tmp_path, "0::/\n", r"cgroup2 {}/my\040groups cgroup2 rw 0 0", {"my groups/memory.max": MIB})
    assert memory_limit(folder) == MIB


def test_without_entries_the_machine_decides(tmp_path: Path) -> None:
    assert memory_limit(tmp_path / "no such process") == MACHINE


def test_this_process_has_some_memory_and_no_more_than_the_machine() -> None:
    assert 0 < memory_limit() <= MACHINE
