"""Photographs are gathered into series, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from kt_batch.kernels.descriptors import DESCRIPTORS
from kt_batch.kernels.likeness import ALIKE, DEVIATIONS, distance, distances
from kt_batch.methods.retouch.series import (
    Gathered,
    Photograph,
    colour_step,
    gather_bursts,
    gather_folders,
    moment,
    series_name,
)


def photograph(image: int, taken: str, brightness: float = 0.0, folder: str = "day") -> Photograph:
    """Return a photograph; two are as far apart as their brightness."""
    time = f"2026-06-01T{taken}" if taken else ""
    return Photograph(f"{image:016x}", folder, time, brightness * DEVIATIONS)


def bursts(*photographs: Photograph, known: tuple[Gathered, ...] = ()) -> list[list[int]]:
    """Return the numbers of the photographs of each series, in order of time."""
    return [[int(each.image_id, 16) for each in group.members] for group in gather_bursts(known, photographs)[0]]


def test_there_is_a_deviation_for_each_descriptor_and_a_distance_of_one_is_one_deviation_of_each() -> None:
    assert DEVIATIONS.shape == (len(DESCRIPTORS),)
    assert distance(DEVIATIONS, 2 * DEVIATIONS) == pytest.approx(1)


def test_a_picture_of_other_colours_and_equal_tones_is_as_far_as_its_colours_are() -> None:
    coloured = np.zeros(33)
    coloured[DESCRIPTORS.index("red_minus_green") : DESCRIPTORS.index("centre_minus_mean")] = 1
    assert distance(coloured * DEVIATIONS, np.zeros(33)) == pytest.approx(1)


def test_photographs_within_five_seconds_of_another_are_a_series_however_long_it_becomes() -> None:
    assert bursts(
        photograph(1, "10:00:00"), photograph(2, "10:00:05"), photograph(3, "10:00:10"), photograph(4, "10:00:15.01")
    ) == [[1, 2, 3], [4]]


def test_a_thousand_unlike_photographs_of_one_second_are_a_thousand_series() -> None:
    """As of scans that all carry one date."""
    scans = [photograph(number, "00:00:00", brightness=float(number)) for number in range(1000)]
    assert bursts(*scans) == [[number] for number in range(1000)]
    assert bursts(*scans, photograph(1000, "00:00:01", brightness=500.1))[500] == [500, 1000]


def test_distances_from_several_photographs_are_those_from_each_to_the_last_bit() -> None:
    several = np.random.default_rng(1).normal(size=(50, 33))
    assert distances(several, several[0]).tolist() == [distance(each, several[0]) for each in several]


def test_the_order_in_which_photographs_are_given_counts_for_nothing() -> None:
    three = [photograph(2, "10:00:01"), photograph(3, "10:00:04"), photograph(1, "10:00:07")]
    assert bursts(*three) == bursts(*reversed(three)) == [[2, 3, 1]]


def test_photographs_of_one_moment_come_by_their_ids() -> None:
    assert bursts(photograph(2, "10:00:00"), photograph(1, "10:00:00")) == [[1, 2]]


def test_the_first_photograph_decides_what_is_alike_so_that_a_series_does_not_drift() -> None:
    assert bursts(photograph(1, "10:00:00", 0.0), photograph(2, "10:00:01", 0.3), photograph(3, "10:00:02", 0.6)) == [
        [1, 2],
        [3],
    ]
    assert ALIKE == 0.45


def test_a_burst_goes_on_after_an_unlike_picture_within_it() -> None:
    assert bursts(
        photograph(1, "10:00:00"),
        photograph(2, "10:00:01", 3.0),
        photograph(3, "10:00:02"),
        photograph(4, "10:00:03", 3.0),
    ) == [[1, 3], [2, 4]]


def test_of_several_series_a_photograph_joins_the_most_similar_one() -> None:
    assert bursts(photograph(1, "10:00:00", 0.0), photograph(2, "10:00:00", 0.5), photograph(3, "10:00:01", 0.3)) == [
        [1],
        [2, 3],
    ]


def test_other_folders_are_other_series() -> None:
    assert bursts(photograph(1, "10:00:00"), photograph(2, "10:00:00", folder="night")) == [[1], [2]]


def test_photographs_without_a_time_stand_alone() -> None:
    gathered, alone = gather_bursts([], [photograph(1, "10:00:00"), photograph(2, "")])
    assert [each.image_id for each in alone] == [f"{2:016x}"]
    assert len(gathered) == 1


def test_offsets_count_and_times_without_one_are_near_none_that_have_one() -> None:
    assert bursts(
        photograph(1, "10:00:00+02:00"), photograph(2, "09:00:01+01:00"), photograph(3, "10:00:00"),
    ) == [[3], [1, 2]]  # fmt: skip


@pytest.mark.parametrize(
    ("taken", "expected"),
    [
        ("1970-01-01T00:00:01", (False, 1_000_000)),
        ("1970-01-01T00:00:01.5", (False, 1_500_000)),
        ("1970-01-01T01:00:00.25+01:00", (True, 250_000)),
        ("1970-01-01T00:00:00.123456789", (False, 123_456)),
        ("0001-01-01T00:00:00+14:00", (True, -62_135_647_200_000_000)),
    ],
)
def test_a_time_is_microseconds(taken: str, expected: tuple[bool, int]) -> None:
    assert moment(taken) == expected


def test_a_late_photograph_joins_a_known_series_near_any_of_its_members() -> None:
    known = Gathered("00" * 8, "day", np.zeros(33), ("2026-06-01T10:00:00", "2026-06-01T10:00:04"))
    late = [photograph(7, "10:00:08"), photograph(8, "10:00:20"), photograph(9, "09:59:55", 0.1)]
    groups = gather_bursts([known], late)[0]
    assert [(group.frozen, [int(each.image_id, 16) for each in group.members]) for group in groups] == [
        (True, [9, 7]),
        (False, [8]),
    ]
    assert groups[0].series == "00" * 8


def test_a_folder_is_one_series_and_later_photographs_join_it() -> None:
    first = gather_folders([], [photograph(2, ""), photograph(1, "", 9.0), photograph(3, "", folder="night")])
    assert [[int(each.image_id, 16) for each in group.members] for group in first] == [[1, 2], [3]]
    assert first[0].series == series_name([f"{2:016x}", f"{1:016x}"])
    (later,) = gather_folders(first, [photograph(4, "", 5.0)])
    assert (later.series, later.frozen) == (first[0].series, True)


@pytest.mark.parametrize(("members", "step"), [(1, 1), (64, 1), (65, 2), (128, 2), (6400, 100)])
def test_the_guard_looks_at_fewer_colours_of_each_photograph_in_a_large_series(members: int, step: int) -> None:
    assert colour_step(members) == step
