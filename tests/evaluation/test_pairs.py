"""Evaluation of pairs of edits."""

import dataclasses
import json

import numpy as np
import pytest

from kt_batch.errors import UsageError
from kt_batch.evaluation.colour_maps import (
    affine_map,
    match_histograms,
    nearest_map,
    quadratic_map,
    reinhard,
    target_statistics,
)
from kt_batch.evaluation.learning_curve import learning_curve, pixel_sample
from kt_batch.evaluation.likeness import detail_kept, likeness, psnr
from kt_batch.evaluation.pairs import Observed, PairsReport, evaluate_fold, evaluate_pairs, folds, gain, observe
from kt_batch.kernels.clipping import newly_clipped
from kt_batch.kernels.descriptors import describe
from kt_batch.kernels.lab import lab
from kt_batch.kernels.quadratic import IDENTITY, apply_map, moments, reference_map
from kt_batch.methods.retouch.config import FitConfig
from kt_batch.methods.retouch.fit import PairTable

METHODS = [
    "no edit",
    "Reinhard",
    "histogram matching",
    "global affine",
    "global quadratic",
    "nearest five pairs",
    "global quadratic with ridge",
    "retouch",
]


def picture(seed: int, height: int = 24, width: int = 30) -> np.ndarray:
    """Return a smooth picture whose values lie in [0.1, 0.9]."""
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:height, 0:width] / width
    waves = [np.sin(9 * random.random() * rows + 9 * random.random() * columns + 6 * random.random()) for _ in range(3)]
    middle = random.uniform(0.3, 0.7)
    found: np.ndarray = middle + 0.2 * np.stack(waves, axis=-1)
    return found.astype(np.float32)


def brighter(pixels: np.ndarray) -> np.ndarray:
    return (0.1 + 0.9 * pixels).astype(np.float32)


Pairs = dict[str, tuple[np.ndarray, np.ndarray]]


def pairs_of(count: int) -> Pairs:
    pictures = {f"{seed:016x}": picture(seed) for seed in range(count)}
    return {pair_id: (before, brighter(before)) for pair_id, before in pictures.items()}


def table_of(pairs: Pairs) -> PairTable:
    measured = [moments(before, after) for before, after in pairs.values()]
    return PairTable.sorted_by_id(
        list(pairs),
        np.array([describe(before) for before, _ in pairs.values()]),
        np.array([each.gram for each in measured]),
        np.array([each.cross for each in measured]),
        np.array([each.power for each in measured]),
        np.array([newly_clipped(before, after) for before, after in pairs.values()]),
    )


@pytest.fixture(scope="module")
def report() -> PairsReport:
    pairs = pairs_of(6)
    return evaluate_pairs(table_of(pairs), pairs.__getitem__, FitConfig())


# ---- the report ------------------------------------------------------------------------------------------------------


def test_the_report_has_a_line_for_each_method_and_a_result_for_each_pair(report: PairsReport) -> None:
    assert list(report.methods) == METHODS
    assert [result.id for result in report.results] == [f"{seed:016x}" for seed in range(6)]
    assert (report.pairs, report.photographs, report.folds, report.warning) == (6, 6, 6, None)
    assert report.sentence == "With 6 pairs, edits are closer to yours than no edit on 6 of 6 photographs."


def test_a_hand_that_is_one_affine_map_is_found_by_affine_and_quadratic_maps(report: PairsReport) -> None:
    assert report.methods["global affine"].psnr > 60
    assert report.methods["global affine"].ciede2000 < 0.1
    assert report.methods["global quadratic"].psnr > 60
    # A tenth of no edit remains in every edit: an error of a tenth is 20 dB.
    assert report.methods["no edit"].psnr + 10 < report.methods["retouch"].psnr < report.methods["no edit"].psnr + 20


def test_summaries_are_means_and_counts_of_the_results(report: PairsReport) -> None:
    own = [result.likeness["Reinhard"] for result in report.results]
    summary = report.methods["Reinhard"]
    assert summary.psnr == pytest.approx(np.mean([each.psnr for each in own]))
    assert summary.psnr_median == pytest.approx(np.median([each.psnr for each in own]))
    none = [result.likeness["no edit"].psnr for result in report.results]
    assert summary.much_worse == sum(a.psnr < b - 1 for a, b in zip(own, none, strict=True))
    assert report.methods["no edit"].much_worse == 0


def test_a_report_is_plain_values_for_json(report: PairsReport) -> None:
    again = json.loads(json.dumps(dataclasses.asdict(report), allow_nan=False))
    assert again["methods"]["retouch"]["psnr"] == report.methods["retouch"].psnr
    assert again["gains"][0]["over"] == "no edit"


def test_the_same_pairs_give_the_same_report(report: PairsReport) -> None:
    pairs = pairs_of(6)
    assert evaluate_pairs(table_of(pairs), pairs.__getitem__, FitConfig()) == report


def test_other_methods_are_compared_too() -> None:
    pairs = pairs_of(3)
    cheat = {"oracle": lambda pair_id, before: pairs[pair_id][1]}
    found = evaluate_pairs(table_of(pairs), pairs.__getitem__, FitConfig(), cheat)
    assert found.methods["oracle"].psnr == pytest.approx(120)
    assert found.methods["oracle"].better == 3


def test_pairs_of_one_photograph_are_too_few() -> None:
    pairs = pairs_of(1)
    before, after = pairs[f"{0:016x}"]
    pairs[f"{1:016x}"] = (before, np.sqrt(after))
    with pytest.raises(UsageError, match="at least 2 photographs; those here show 1"):
        evaluate_pairs(table_of(pairs), pairs.__getitem__, FitConfig())


def test_two_photographs_give_finite_figures_and_a_warning() -> None:
    pairs = pairs_of(2)
    found = evaluate_pairs(table_of(pairs), pairs.__getitem__, FitConfig())
    json.dumps(dataclasses.asdict(found), allow_nan=False)
    assert found.warning is not None
    assert found.warning.startswith("2 photographs are too few to learn from")
    assert found.curve == ()


# ---- several pairs of one photograph ---------------------------------------------------------------------------------


def test_pairs_of_one_photograph_are_left_out_together() -> None:
    pairs = pairs_of(5)
    odd = picture(2)
    negative = (1 - odd).astype(np.float32)
    pairs[f"{2:016x}"] = (odd, negative)
    alone = evaluate_pairs(table_of(pairs), pairs.__getitem__, FitConfig())
    pairs[f"{9:016x}"] = (odd, (0.9 * negative).astype(np.float32))  # another edit of the same photograph
    doubled = evaluate_pairs(table_of(pairs), pairs.__getitem__, FitConfig())
    assert doubled.results[2] == alone.results[2]  # nothing is learned from its double
    assert (doubled.pairs, doubled.photographs, doubled.folds) == (6, 5, 5)
    assert doubled.sentence.startswith("With 6 pairs of 5 photographs, edits are closer to yours than no edit on ")
    assert doubled.sentence.endswith(" of 6 pairs.")


def test_the_learning_curve_has_one_pair_of_each_photograph() -> None:
    pairs = pairs_of(4)
    curve = evaluate_pairs(table_of(pairs), pairs.__getitem__, FitConfig()).curve
    before, after = pairs[f"{0:016x}"]
    doubles = {f"{number:016x}": (before, (after * (1 - number / 100)).astype(np.float32)) for number in range(5, 9)}
    pairs |= doubles
    assert evaluate_pairs(table_of(pairs), pairs.__getitem__, FitConfig()).curve == curve


# ---- folds -----------------------------------------------------------------------------------------------------------


def ids(count: int) -> tuple[str, ...]:
    return tuple(f"{number:016x}" for number in range(count))


def test_up_to_200_photographs_each_is_left_out_alone() -> None:
    assert folds(ids(200), np.arange(200)) == [[position] for position in range(200)]
    assert folds(ids(4), np.array([0, 1, 0, 1])) == [[0, 2], [1, 3]]


def test_more_are_left_out_in_ten_folds_that_depend_on_ids_alone() -> None:
    divided = folds(ids(201), np.arange(201))
    assert len(divided) == 10
    assert sorted(position for fold in divided for position in fold) == list(range(201))
    grown = folds(ids(400), np.arange(400))
    together = [[position for position in fold if position < 201] for fold in grown]
    assert together == divided


def test_pairs_of_one_photograph_are_in_one_of_the_ten_folds() -> None:
    photographs = np.arange(600) % 300  # pair n and pair n + 300 show one photograph
    found = {position: number for number, fold in enumerate(folds(ids(600), photographs)) for position in fold}
    assert len(found) == 600
    assert all(found[position] == found[position + 300] for position in range(300))


def test_no_pair_is_edited_by_a_fit_that_saw_it() -> None:
    pairs = pairs_of(5)
    odd = picture(2)
    pairs[f"{2:016x}"] = (odd, (1 - odd).astype(np.float32))  # one negative among brightened pictures
    seen = observe(pairs, pairs.__getitem__)
    [result] = evaluate_fold(table_of(pairs), [2], pairs.__getitem__, FitConfig(), seen.targets, {})
    assert result.likeness["global affine"].psnr == pytest.approx(psnr(brighter(odd), 1 - odd), abs=0.01)


def test_pictures_are_seen_once_before_the_folds() -> None:
    pairs, asked = pairs_of(3), []

    def pictures(pair_id: str) -> tuple[np.ndarray, np.ndarray]:
        asked.append(pair_id)
        return pairs[pair_id]

    seen = observe(pairs, pictures)
    assert isinstance(seen, Observed)
    assert asked == list(pairs) == list(seen.samples)


# ---- likeness --------------------------------------------------------------------------------------------------------


def test_equal_pictures_are_as_like_as_can_be() -> None:
    same = picture(1)
    found = likeness(same, same, same)
    assert [found.psnr, found.ssim, found.ciede2000, found.detail] == pytest.approx([120, 1, 0, 1])


def test_an_error_of_a_tenth_is_twenty_decibels() -> None:
    assert psnr(np.full((4, 4, 3), 0.6), np.full((4, 4, 3), 0.5)) == pytest.approx(20)


def test_a_picture_smaller_than_the_window_of_ssim_can_be_compared() -> None:
    tiny = picture(1, 3, 5)
    assert likeness(tiny, tiny, brighter(tiny)).ssim == 1


def noisy(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0.2, 0.8, (40, 50, 3)).astype(np.float32)


def test_changes_of_tone_keep_all_detail() -> None:
    grey = np.repeat(noisy()[..., :1], 3, axis=2)
    assert detail_kept(grey, 0.1 + 0.6 * grey) == pytest.approx(1, abs=1e-9)
    assert detail_kept(grey, 1 - grey) == pytest.approx(1, abs=1e-9)
    smooth = np.repeat(picture(4, 60, 60)[..., :1], 3, axis=2)
    assert detail_kept(smooth, smooth**2) > 0.995


def test_blur_noise_and_a_shift_lose_detail() -> None:
    before = noisy()
    blurred = (before + np.roll(before, 1, 0) + np.roll(before, 1, 1) + np.roll(before, -1, 0)) / 4
    assert detail_kept(before, blurred) < 0.9
    assert detail_kept(before, before + 0.1 * (noisy(1) - 0.5)) < 0.999
    assert detail_kept(before, np.roll(before, 1, 1)) < 0.5


def test_clipped_pixels_are_not_judged() -> None:
    before = np.repeat(np.linspace(0.2, 0.8, 40, dtype=np.float32)[None, :, None], 20, axis=0).repeat(3, axis=2)
    half = before.copy()
    half[:, 20:] = 1
    half[:, 15:20] = before[:, 15:20]
    assert detail_kept(before[:, :15], half[:, :15]) == pytest.approx(1)
    assert detail_kept(before, np.ones_like(before)) == 1


@pytest.mark.parametrize("shape", [(1, 1), (1, 30), (30, 1)])
def test_a_picture_of_one_row_or_column_has_a_detail(shape: tuple[int, int]) -> None:
    assert detail_kept(picture(3, *shape), brighter(picture(3, *shape))) == pytest.approx(1)


# ---- baselines -------------------------------------------------------------------------------------------------------


def test_reinhard_gives_the_mean_and_deviation_of_the_targets() -> None:
    target = picture(1)
    edited = reinhard(picture(2) * 0.2 + 0.4, [target_statistics(target)])
    # Out of gamut values would be clipped; the pictures here stay inside, up to rounding.
    assert lab(edited).mean((0, 1)) == pytest.approx(lab(target).mean((0, 1)), abs=1.5)


def test_reinhard_of_a_constant_picture_is_the_mean_of_the_targets() -> None:
    target = np.full((4, 4, 3), 0.5, np.float32)
    edited = reinhard(np.full((4, 4, 3), 0.2, np.float32), [target_statistics(target)])
    assert edited == pytest.approx(target, abs=1e-3)


def test_matched_to_its_own_histogram_a_picture_stays_as_it_is() -> None:
    own = picture(5)
    assert match_histograms(own, [target_statistics(own)]) == pytest.approx(own, abs=1 / 255)


def test_histogram_matching_takes_the_levels_of_the_targets() -> None:
    before = np.repeat(np.array([0.2, 0.4], np.float32), 8).reshape(4, 4)[..., None].repeat(3, axis=2)
    target = np.repeat(np.array([0.6, 1.0], np.float32), 8).reshape(4, 4)[..., None].repeat(3, axis=2)
    assert match_histograms(before, [target_statistics(target)]) == pytest.approx(target, abs=1 / 255)


def test_global_maps_find_the_map_that_made_the_pairs() -> None:
    hidden = IDENTITY.copy()
    hidden[0], hidden[4, 0], hidden[8, 2] = 0.05, -0.1, 0.07
    pairs = {f"{seed:016x}": (picture(seed), apply_map(picture(seed), hidden)) for seed in range(4)}
    assert quadratic_map(table_of(pairs)) == pytest.approx(hidden, abs=1e-3)
    assert affine_map(table_of(pairs_of(4)))[:4] == pytest.approx(np.vstack([[0.1] * 3, 0.9 * np.eye(3)]), abs=1e-3)
    assert (affine_map(table_of(pairs))[4:] == 0).all()


def test_the_nearest_five_pairs_make_the_map() -> None:
    dark = {f"{seed:016x}": picture(seed) * 0.3 for seed in range(5)}
    bright = {f"{seed:016x}": picture(seed) * 0.3 + 0.6 for seed in range(5, 10)}
    hands = {pair_id: (before, brighter(before)) for pair_id, before in dark.items()}
    hands |= {pair_id: (before, before) for pair_id, before in bright.items()}
    new = picture(20) * 0.3
    near = reference_map(new, nearest_map(table_of(hands), describe(new)))
    assert near == pytest.approx(brighter(new), abs=0.01)


# ---- statistics ------------------------------------------------------------------------------------------------------


def test_the_interval_of_a_constant_gain_is_that_gain() -> None:
    found = gain("no edit", np.full(9, 2.0))
    assert (found.mean, found.low, found.high, found.better) == (2, 2, 2, 9)


def test_the_interval_is_that_of_the_mean() -> None:
    differences = np.random.default_rng(3).normal(1, 2, 400)
    found = gain("no edit", differences)
    assert found == gain("no edit", differences)
    assert found.low == pytest.approx(differences.mean() - 1.96 * differences.std() / 20, abs=0.02)
    assert found.high == pytest.approx(differences.mean() + 1.96 * differences.std() / 20, abs=0.02)


def test_the_learning_curve_has_the_sizes_below_the_number_of_pairs() -> None:
    pairs = pairs_of(12)
    samples = {pair_id: pixel_sample(*pair) for pair_id, pair in pairs.items()}
    curve = learning_curve(table_of(pairs), samples, FitConfig(), draws=2)
    assert [point.pairs for point in curve] == [3, 5, 10]
    assert all(point.retouch > point.none for point in curve)
    assert curve[0].gain == pytest.approx(curve[0].retouch - curve[0].ridge)


def test_sampled_pixels_of_before_and_after_belong_together() -> None:
    before = picture(1, 300, 300)
    sample = pixel_sample(before, brighter(before))
    assert 4096 <= len(sample.before) < 8192
    assert sample.after == pytest.approx(brighter(sample.before))
